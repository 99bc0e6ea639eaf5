"""What is here of a selection: the table, the grid on terminals, and the page in a browser."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyte
import pytest
from browser import browse, look_at, needs_chromium
from helpers import (
    ESCAPE,
    REFUSED,
    REPO,
    complaints,
    drop_capabilities,
    expected_keys,
    list_all,
    on_terminal,
    run,
    run_command,
    stat_all,
    write_tree,
)

from laion_fmri.errors import (
    DataDirError,
    DataDirNotSetError,
    SelectionError,
    SelectionWarning,
    SubjectNotFoundError,
)
from laion_fmri.status import status

GLM = "derivatives/glmsingle-tedana/sub-03"
BETAS = f"{GLM}/ses-02/func/sub-03_ses-02_task-images_desc-SingletrialBetas_trials.tsv"
#: Set it to a folder for the picture of the documentation: ``status.png`` is written there.
PICTURES = os.environ.get("LAION_FMRI_PICTURES")


def show(text: str, columns: int) -> list[str]:
    """Return the lines of the screen of a terminal that has got `text`."""
    screen = pyte.Screen(columns, 200)
    pyte.Stream(screen).feed(text)
    return [line.rstrip() for line in screen.display]


def cells_of(keys: set[str]) -> dict[tuple[str, str], set[str]]:
    """Group keys of brain data by subject and session, from their folders alone."""
    cells: dict[tuple[str, str], set[str]] = {}
    for key in keys:
        if tree := re.match(f"{GLM[:-7]}/sub-([^/]+)/(?:ses-([^/]+)/)?", key):
            cells.setdefault((tree[1], tree[2] or "averages"), set()).add(key)
    return cells


@pytest.fixture
def data(bucket, objects, tmp_path, monkeypatch) -> Path:
    """Have all of sub-03 but ses-04, of ses-02 one file too short, and nothing of sub-01."""
    keys = {key for key in expected_keys(objects, "sub-03") if "/ses-04/" not in key}
    write_tree(tmp_path / "data", {key: objects[key] for key in keys})
    (tmp_path / "data" / BETAS).write_bytes(objects[BETAS][:-1])
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


#: What the data above look like, by the eye.
STATES = {
    ("01", "01"): "missing",
    ("01", "02"): "missing",
    ("01", "04"): "missing",
    ("01", "31"): "held out",
    ("01", "averages"): "missing",
    ("03", "01"): "complete",
    ("03", "02"): "partial",
    ("03", "04"): "missing",
    ("03", "31"): "held out",
    ("03", "averages"): "complete",
}
GRID = """
glmsingle-tedana
        01 02 04 31  averages
sub-01   .  .  .  x      .
sub-03   #  +  .  x      #

        rois
sub-01     .
sub-03     #
""".strip("\n")
NARROW = """
glmsingle-tedana
        0003
        1241 averages
sub-01  ...x     .
sub-03  #+.x     #
""".strip("\n")


def read_states(frame) -> dict[tuple[str, str], str]:
    """Return the state of each subject and session of a frame."""
    frame = frame[frame["scope"] == "glmsingle-tedana"]
    return dict(zip(zip(frame["sub"], frame["ses"], strict=True), frame["state"], strict=True))


# The table.


def test_each_session_has_its_state(data):
    """Complete, partial, missing, and held out, for each subject and session."""
    assert read_states(status()) == STATES


def test_files_and_bytes_are_counted(data, objects):
    """In the bucket and here; a file of the wrong size is here, and does not count as complete."""
    cells = cells_of(expected_keys(objects, "all"))
    frame = status()
    frame = frame[frame["scope"] == "glmsingle-tedana"].set_index(["sub", "ses"])
    for place, keys in cells.items():
        here = {key for key in keys if (data / key).exists()} - {BETAS}
        counted = frame.loc[place, ["files", "bytes", "local_files", "local_bytes"]]
        sizes = [sum(len(objects[key]) for key in some) for some in (keys, here)]
        assert [len(keys), sizes[0], len(here), sizes[1]] == list(counted)
    assert {place: int(place == ("03", "02")) for place in cells} == {
        place: frame.loc[place, "partial_files"] for place in cells
    }


def test_filters_are_those_of_a_download(data, objects):
    """A session brings the pinned maps along, and the files of the root."""
    frame = status("sub-03", ses="ses-01", desc="SingletrialBetas")
    keys = expected_keys(objects, "sub-03", ses="ses-01", desc="SingletrialBetas")
    assert len(keys) == frame["files"].sum()
    assert read_states(frame) == {("03", "01"): "complete", ("03", "averages"): "complete"}
    assert list(frame[frame["sub"].isna()]["ses"]) == ["root"]


def test_stimuli_are_counted_when_asked_for(data, objects):
    """Without what needs an agreement of its own."""
    frame = status("sub-03", include_stimuli=True).set_index("ses")
    wanted = [key for key in objects if key.startswith("stimuli/") and not REFUSED.search(key)]
    assert (len(wanted), "missing") == tuple(frame.loc["stimuli", ["files", "state"]])


def test_a_session_that_is_held_out_can_be_named(data):
    """It is shown as what it is."""
    assert read_states(status("sub-03", ses="ses-31"))["03", "31"] == "held out"


def test_held_out_files_that_are_here_stay_held_out(data, objects):
    """Who has been given access sees them counted."""
    held = {key: objects[key] for key in objects if "tedana/sub-03/ses-31/" in key}
    held = {key: content for key, content in held.items() if "glmsingle" in key}
    write_tree(data, held)
    frame = status("sub-03").set_index("ses")
    assert (len(held), "held out") == tuple(frame.loc["31", ["local_files", "state"]])


def test_nothing_is_written(data):
    """Neither a folder of our own nor a time is changed."""
    before = list_all(data), stat_all(data, ["", *list_all(data)])
    status()
    assert run_command("status", "--json").returncode == 0
    assert before == (list_all(data), stat_all(data, ["", *list_all(data)]))


def test_a_read_only_directory_will_do(data):
    """Also for a user who may not write there."""
    data.chmod(0o555)
    program = [*drop_capabilities(), sys.executable, "-m", "laion_fmri", "status"]
    done = run(program)
    data.chmod(0o755)
    assert (done.returncode, complaints(done)) == (0, [])
    assert GRID in done.stdout


def test_an_empty_directory_is_all_missing(bucket, tmp_path):
    """Nothing is here, and that is not an error."""
    states = read_states(status(data_dir=tmp_path))
    assert {"missing", "held out"} == set(states.values())


def test_a_folder_that_may_not_be_looked_into_is_named(data):
    """Its files count as missing, and a warning says why."""
    (data / GLM / "ses-01" / "func").chmod(0)
    program = [*drop_capabilities(), sys.executable, "-m", "laion_fmri", "status"]
    done = run(program)
    (data / GLM / "ses-01" / "func").chmod(0o755)
    warning = next(line for line in complaints(done) if line.startswith("warning: "))
    assert f"cannot look into {GLM}/ses-01/func" in warning
    assert "change the permissions" in warning


def test_bad_input_has_its_error(data, tmp_path, monkeypatch):
    """The classes are those of a download."""
    with pytest.raises(SubjectNotFoundError):
        status("sub-09")
    with pytest.raises(SelectionError):
        status("sub-03", desc="nothing", ses="ses-99")
    with pytest.warns(SelectionWarning, match="trialbetas"):
        status("sub-03", desc=["R2", "trialbetas"])
    with pytest.raises(TypeError, match="in quotes"):
        status("sub-03", ses=1.0)
    with pytest.raises(DataDirError, match="does not exist; "):
        status(data_dir=tmp_path / "nowhere")
    monkeypatch.delenv("LAION_FMRI_DATA_DIR")
    with pytest.raises(DataDirNotSetError):
        status()


# The command.


def test_piped_it_is_plain(data):
    """Signs, no colour, not even where colour is forced, and the labels written out."""
    done = run_command("status", FORCE_COLOR=1)
    assert (done.returncode, complaints(done)) == (0, [])
    assert GRID in done.stdout
    assert ESCAPE not in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("settings", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_shows_the_grid(data, columns, settings):
    """The same signs, in colour only where colour is wanted and can be shown."""
    code, sent = on_terminal("status", columns=columns, **settings)
    assert code == 0
    assert bool(settings) != (f"{ESCAPE}1;32m#" in sent)
    assert bool(settings) != (ESCAPE in sent)
    assert GRID in "\n".join(show(sent, columns))


def test_next_command_names_the_bytes_that_it_fetches(whole):
    """Those of what is public and not here, in words and, in JSON, as a number."""
    public = {key: text for key, text in WHOLE.items() if not re.search("/ses-3[1-4]/", key)}
    here = [key for key in public if (whole / key).exists()]
    size = sum(map(len, public.values())) - sum(len(public[key]) for key in here)
    said = run_command("status").stdout
    assert f"to fetch what is missing, {size:,} bytes:\n  laion-fmri download" in said
    assert json.loads(run_command("status", "--json").stdout)["next_bytes"] == size


#: All that the published bucket has: subjects, sessions of which four are held out, and averages.
WHOLE = {
    f"derivatives/glmsingle-tedana/sub-{sub}/{ses}sub-{sub}_desc-A_statmap.nii.gz": b"content"
    for sub in ("01", "03", "05", "06", "07")
    for ses in ("", *(f"ses-{number:02}/" for number in range(1, 35)))
}


@pytest.fixture(scope="module")
def whole_bucket(server) -> None:
    """Serve a bucket with as many sessions as the published one."""
    server.add_bucket("whole", WHOLE)


@pytest.fixture
def whole(bucket, whole_bucket, tmp_path, monkeypatch) -> Path:
    """Have the even sessions of sub-05."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "whole")
    even = {k: c for k, c in WHOLE.items() if re.search("sub-05/ses-[0-2][02468]/", k)}
    write_tree(tmp_path / "whole", even)
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(tmp_path / "whole"))
    return tmp_path / "whole"


def test_all_sessions_fit_80_columns(whole):
    """34 sessions and the averages in one row, headed by their digits."""
    code, sent = on_terminal("status", columns=80, NO_COLOR="1")
    lines = sent.replace("\r", "").splitlines()
    expected = [
        "glmsingle-tedana",
        "        00000 00001 11111 11112 22222 22223 3333",
        "        12345 67890 12345 67890 12345 67890 1234 averages",
        "sub-01  ..... ..... ..... ..... ..... ..... xxxx     .",
        "sub-03  ..... ..... ..... ..... ..... ..... xxxx     .",
        "sub-05  .#.#. #.#.# .#.#. #.#.# .#.#. #.#.. xxxx     .",
    ]
    assert code == 0
    first = lines.index(expected[0])  # a long path takes two lines
    assert expected == lines[first : first + 6]
    assert max(map(len, lines[first:])) <= 80


def test_all_sessions_are_written_out_at_200_columns(whole):
    """With room, each session has its label."""
    _, sent = on_terminal("status", columns=200, NO_COLOR="1")
    heading = "".join(f" {number:02}" for number in range(1, 35))
    assert f"       {heading}  averages" in sent.replace("\r", "").splitlines()


def test_the_page_names_sessions_in_ranges(whole, tmp_path):
    """Thirty missing sessions are a range; every other one is named."""
    assert run_command("status", "--html", tmp_path / "page.html").returncode == 0
    text = (tmp_path / "page.html").read_text()
    words = " ".join(re.sub("<[^>]*>", "", text).split())
    lacking = "sub-01, sub-03, sub-06, sub-07 glmsingle-tedana ses-01 to 30, averages"
    assert f"{lacking}: 124 files, 868 bytes" in words
    assert "sub-05 glmsingle-tedana ses-01, 03, 05" in words
    assert "27, 29 to 30" not in text
    assert "27, 29, 30, averages: 17 files" in words


def test_a_narrow_terminal_folds_the_grid(whole):
    """Rows go on in further blocks, none wider than the terminal; the totals are not cut."""
    _, sent = on_terminal("status", "--subject", "sub-05", columns=40, NO_COLOR="1")
    rows = [line for line in sent.replace("\r", "").splitlines() if re.match("sub-05  [.#x]", line)]
    assert len(rows) > 1
    assert max(map(len, rows)) <= 40
    signs = "".join(row.removeprefix("sub-05").replace(" ", "") for row in rows)
    assert signs == ".#" * 14 + ".." + "xxxx" + "."
    assert "…" not in sent


def test_the_next_command_fetches_what_is_missing(data, objects):
    """It names the subject that is not complete and the filters; after it nothing is missing."""
    words = ["--ses", "ses-01", "averages", "--desc", "R2mean", "SingletrialBetas"]
    command = run_command("status", *words).stdout.splitlines()[-1].strip()
    assert f"laion-fmri download --subject sub-01 {' '.join(words)}" == command
    assert run_command(*command.split()[1:]).returncode == 0
    again = run_command("status", *words).stdout.splitlines()[-1].strip()
    assert f"laion-fmri verify --subject all {' '.join(words)}" == again


def test_the_next_command_can_be_pasted(data, tmp_path):
    """A data directory that was given is quoted as a shell wants it."""
    data.rename(tmp_path / "my data")
    done = run_command("status", "--subject", "03", "--data-dir", tmp_path / "my data")
    last = done.stdout.splitlines()[-1].strip()
    assert f"laion-fmri download --subject sub-03 --data-dir '{tmp_path}/my data'" in (
        last,
        last.replace("--subject 03", "--subject sub-03"),
    )


def test_json_holds_all_of_it(data, objects):
    """Sessions, totals by subject, where, and what to do next."""
    done = run_command("status", "--json")
    said = json.loads(done.stdout)
    assert {(c["sub"], c["ses"]): c["state"] for c in said["sessions"] if c["sub"]} == STATES
    sizes = {s: expected_keys(objects, s) for s in ("sub-01", "sub-03")}
    for subject, keys in sizes.items():
        brain = [key for key in keys if "/" in key]
        total = said["totals"][subject]
        assert (len(brain), sum(len(objects[key]) for key in brain)) == (
            total["files"],
            total["bytes"],
        )
    assert len(expected_keys(objects, "all")) == said["totals"]["all"]["files"]
    assert str(data) == said["data_dir"]
    assert said["next"] == "laion-fmri download --subject all"


def test_a_directory_whose_name_is_not_text_can_be_shown(bucket, tmp_path):
    """Bytes that are not UTF-8 are legal in a path on Linux."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such name")
    page = tmp_path / "page.html"
    done = run_command("status", "--subject", "03", "--data-dir", folder)
    assert (done.returncode, complaints(done)) == (0, [])
    assert "odd\\xff" in done.stdout
    done = run_command("status", "--data-dir", folder, "--html", page)
    assert (done.returncode, complaints(done)) == (0, [])
    assert "odd%FF" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--subject", "sub-09"], "there is: sub-01, sub-03"),
        (["--data-dir", "/nonexistent/data"], "name another with --data-dir"),
        (["--html", "/nonexistent/page.html"], "name another FILE"),
        (["--html", "."], "name another FILE"),
        (["--html", "{data}/page.html"], "name another FILE"),
    ],
)
def test_bad_usage_is_one_line(data, arguments, advice):
    """What is wrong, and what to do."""
    before = list_all(data)
    done = run_command("status", *(word.format(data=data) for word in arguments))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert advice in done.stderr
    assert before == list_all(data)


# The page.


#: What there is to know of a page, to be run in a browser.
READ = """(frame) => {
    const page = frame.contentDocument, view = frame.contentWindow;
    const seen = [...page.querySelectorAll("[data-state]")].filter(
      (cell) => cell.getClientRects().length);
    return {
      scroll: page.documentElement.scrollWidth, width: view.innerWidth,
      cells: seen.map((cell) => [cell.dataset.place, cell.dataset.state]),
      links: [...page.querySelectorAll("a")].map(
        (link) => new URL(link.getAttribute("href"), page.baseURI).href),
      sizes: seen.map((cell) => cell.querySelector(".frame").getBoundingClientRect().width),
      covered: [...page.querySelectorAll("svg.grid > g")].flatMap((row) => {
        const boxes = [...row.querySelectorAll(".session")].map(
          (label) => [label.textContent, label.getBoundingClientRect()]);
        return boxes.slice(1).filter(([, box], index) => box.left < boxes[index][1].right);
      }).map(([text]) => text),
      broken: [...page.querySelectorAll(".word, table :is(th, td)")].filter(
        (word) => word.scrollWidth > word.clientWidth + 1).map((word) => word.textContent),
      text: page.body.innerText, paper: view.getComputedStyle(page.body).backgroundColor,
      ink: view.getComputedStyle(page.body).color,
      scripts: page.scripts.length,
      loaded: view.performance.getEntriesByType("resource").map((entry) => entry.name),
      titled: [...page.querySelectorAll("svg[role=group]")].every(
        (svg) => svg.querySelector("title") && svg.querySelector("desc")),
    };
  }"""


def open_pages(page: Path, *, dark: bool = False) -> tuple[dict, str]:
    """Open `page` in Chromium, 400 and 1100 pixels wide; return what is in it, and the console."""
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    frames = {str(width): (page.as_uri(), width) for width in (400, 1100)}
    return look_at(frames, READ, page.parent, *scheme)


@pytest.fixture
def page(data, tmp_path) -> Path:
    """Write the page of the data above."""
    done = run_command("status", "--html", tmp_path / "status.html")
    assert (done.returncode, complaints(done)) == (0, [])
    return tmp_path / "status.html"


@needs_chromium
def test_the_page_shows_the_grid_in_a_browser(page, data):
    """At both widths: each cell with its state, links to folders that are there, nothing asked."""
    found, console = open_pages(page)
    assert "CONSOLE" not in console
    names = {
        f"sub-{sub} {ses if ses == 'averages' else f'ses-{ses}'} glmsingle-tedana": state
        for (sub, ses), state in STATES.items()
    }
    names |= {"sub-01 rois": "missing", "sub-03 rois": "complete"}
    for width in ("400", "1100"):
        seen = found[width]
        assert names == dict(seen["cells"])
        assert len(names) == len(seen["cells"])
        assert (int(width), int(width)) == (seen["width"], seen["scroll"])
        assert (seen["loaded"], seen["scripts"], seen["titled"]) == ([], 0, True)
        assert BETAS in seen["text"]
        assert "ses-01, 02, 04" in seen["text"]
        folders = [unquote(urlsplit(x).path) for x in seen["links"] if x.startswith("file:")]
        assert {str(data / GLM / "ses-01/func"), str(data)} < set(folders)
        assert [folder for folder in folders if not Path(folder).is_dir()] == []
        others = {link for link in seen["links"] if not link.startswith("file:")}
        assert {"https://laion-fmri.hebartlab.com/request"} == others


def read_luminance(colour: str) -> float:
    """Return the relative luminance of ``rgb(r, g, b)``, as WCAG 2.2 defines it."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@needs_chromium
def test_the_page_has_two_colour_schemes(page):
    """Dark on light, and light on dark, each with contrast."""
    light, dark = (open_pages(page, dark=dark)[0]["400"] for dark in (False, True))
    assert read_luminance(light["paper"]) > 0.8
    assert read_luminance(dark["paper"]) < 0.05
    for seen in (light, dark):
        low, high = sorted((read_luminance(seen["paper"]), read_luminance(seen["ink"])))
        assert (high + 0.05) / (low + 0.05) > 7


def read_colours(block: str) -> dict[str, float]:
    """Return the luminance of each named colour of a part of the style."""
    named = re.findall("--([a-z]+): #([0-9a-f]{6})", block)
    return {
        name: read_luminance(",".join(str(int(code[i : i + 2], 16)) for i in (0, 2, 4)))
        for name, code in named
    }


def test_all_colours_can_be_told_from_the_paper():
    """4.5 to 1 for text and 3 to 1 for shapes (WCAG 2.2, 1.4.3 and 1.4.11), in both schemes."""
    template = (REPO / "laion_fmri/show/status.html.j2").read_text()
    style = re.search("<style>(.*)</style>", template, re.DOTALL)[1]
    for block in style.split("@media", 2)[:2]:
        colours = read_colours(block)
        for paper in (colours["paper"], colours["card"]):
            for name in ("ink", "soft", "link", "here", "some", "none", "held"):
                low, high = sorted((paper, colours[name]))
                least = 4.5 if name in ("ink", "soft", "link") else 3
                assert (high + 0.05) / (low + 0.05) >= least, name


HOSTILE = "derivatives/glmsingle-tedana/sub-03/ses-01/a&amp;\"'<script src=x_desc-<b_statmap.nii.gz"


@needs_chromium
def test_keys_and_folders_cannot_break_the_page(bucket, tmp_path, monkeypatch):
    """Text stays text, and links are quoted, whatever the names are."""
    bucket.add_bucket("hostile", {HOSTILE: b"content"})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "hostile")
    folder = tmp_path / "a #b?c%20&amp;'\"<i>é"
    write_tree(folder, {HOSTILE: b"short"})
    done = run_command("status", "--data-dir", folder, "--html", tmp_path / "page.html")
    assert done.returncode == 0
    found, console = open_pages(tmp_path / "page.html")
    assert "CONSOLE" not in console
    seen = found["1100"]
    assert (seen["loaded"], seen["scripts"]) == ([], 0)
    assert f"{HOSTILE} 5 of 7 bytes" in seen["text"]
    assert str(folder) in seen["text"]
    folders = [unquote(urlsplit(link).path) for link in seen["links"] if link.startswith("file:")]
    assert {str(folder), f"{folder}/derivatives/glmsingle-tedana/sub-03/ses-01"} == set(folders)


def test_the_page_is_written_whole_or_not_at_all(data, tmp_path):
    """The old page is replaced, with the rights of a new file; a failure leaves no scratch file."""
    place = tmp_path / "pages"
    place.mkdir()
    (place / "page.html").write_text("old")
    assert run_command("status", "--html", place / "page.html").returncode == 0
    assert list_all(place) == ["page.html"]
    text = (place / "page.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert text.rstrip().endswith("</html>")
    mask = os.umask(0)
    os.umask(mask)
    assert 0o666 & ~mask == (place / "page.html").stat().st_mode & 0o777
    place.chmod(0o555)
    program = [*drop_capabilities(), sys.executable, "-m", "laion_fmri", "status", "--html"]
    done = run([*program, place / "other.html"])
    place.chmod(0o755)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert list_all(place) == ["page.html"]


#: Kinds of files of a session, by the folder of their scope, and sizes in bytes.
KINDS = {
    "derivatives/glmsingle-tedana/": {
        "task-images_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz": 9000,
        "task-images_space-T1w_desc-GLMsingle_model.h5": 7000,
        "task-images_space-T1w_stat-rsquare_desc-R2_statmap.nii.gz": 400,
        "task-images_desc-SingletrialBetas_trials.tsv": 40,
    },
    "derivatives/tedana/": {"task-images_run-01_space-T1w_desc-optcom_bold.nii.gz": 30000},
    "": {"task-images_run-01_echo-1_part-mag_bold.nii.gz": 40000},
}
ALL_SUBJECTS = ("01", "03", "05", "06", "07")


def make_bucket_like_the_real_one(subjects=ALL_SUBJECTS, sessions=34) -> dict[str, bytes]:
    """Return all scopes of the dataset, as they are organised, with few and small files."""
    made = dict.fromkeys(("README", "participants.tsv"), b"x")
    for sub in subjects:
        for top, kinds in KINDS.items():
            for number in range(1, sessions + 1):
                stem = f"{top}sub-{sub}/ses-{number:02}/func/sub-{sub}_ses-{number:02}_"
                made |= {stem + kind: b"x" * size for kind, size in kinds.items()}
        for ses in ("4BarScreenfLoc", "MotionLocBarsSML", "31"):
            top = f"derivatives/localizers/sub-{sub}/ses-{ses}/func/sub-{sub}_ses-{ses}"
            task = "oloc" if ses == "31" else "floc"
            made[f"{top}_task-{task}_contrast-body_stat-effect_statmap.nii.gz"] = b"x" * 900
        for key, size in {
            "glmsingle-tedana/sub-{}/sub-{}_space-T1w_desc-R2mean_statmap.nii.gz": 400,
            "rois/sub-{}/face/sub-{}_space-T1w_res-1pt8_label-FFA-1_mask.nii.gz": 20,
            "anatomical/sub-{}/ses-PrismaAnat/anat/sub-{}_ses-PrismaAnat_T1w.nii.gz": 900,
            "freesurfer/sub-{}/mri/aparc+aseg.mgz": 2000,
        }.items():
            made[f"derivatives/{key.replace('{}', sub)}"] = b"x" * size
    for model in ("CLIP", "DINOv2"):
        made[f"stimuli/task-images_desc-{model}_embeddings.h5"] = b"x" * 3000
    return made


def take_some(made: dict[str, bytes]) -> dict[str, bytes]:
    """Return a part of `made` in which each state occurs, as after some weeks of work."""
    until = {"01": 30, "03": 18, "05": 9, "06": 0, "07": 0}
    here = {}
    for key, content in made.items():
        found = re.search("sub-(..)/(?:ses-([0-9]+)/)?", key)
        sub, ses = found.groups() if found else ("01", None)
        left = until[sub] - int(ses or 0)
        is_small = left == 0 and sub != "01" and len(content) < 8000
        is_wanted = not key.startswith(("sub-", "derivatives/tedana/")) or int(ses) <= 2
        if (
            until[sub]
            and int(ses or 0) < 31
            and is_wanted
            and (left > 0 or is_small or sub == "01")
        ):
            here[key] = content
    cut = next(key for key in here if "sub-03/ses-07" in key and "SingletrialBetas" in key)
    return here | {cut: here[cut][:3000]}


@pytest.fixture
def show_all(bucket, tmp_path, monkeypatch):
    """Return a function that writes the page of a bucket with some of it here."""

    def write(made: dict[str, bytes], here: dict[str, bytes], *words: str) -> Path:
        bucket.add_bucket("picture", made)
        monkeypatch.setenv("LAION_FMRI_BUCKET", "picture")
        (tmp_path / "laion-fmri").mkdir()
        write_tree(tmp_path / "laion-fmri", here)
        page = tmp_path / "status.html"
        data = ["--data-dir", tmp_path / "laion-fmri"]
        assert run_command("status", *words, *data, "--html", page).returncode == 0
        return page

    return write


ONE_SESSION = ("--subject", "sub-03", "--ses", "ses-01", "--scope", "glmsingle-tedana", "rois")


@needs_chromium
@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (ONE_SESSION, 3),  # the session, the averages, and the masks
        (("--subject", "all", "--scope", "all"), 5 * (34 + 1 + 34 + 34 + 3 + 3)),
        (("--scope", "stimuli"), 0),
    ],
    ids=["one session", "5 x 34 sessions in all scopes", "no subject"],
)
def test_cells_are_as_large_for_one_session_as_for_all(words, cells, show_all):
    """Of about 22 pixels, with a label that covers no other; nothing is wider than its place."""
    made = make_bucket_like_the_real_one()
    found, console = open_pages(show_all(made, take_some(made), *words))
    assert "CONSOLE" not in console
    for width, seen in found.items():
        assert (int(width), cells) == (seen["scroll"], len(seen["cells"]))
        assert all(19 <= size <= 23 for size in seen["sizes"]), (width, set(seen["sizes"]))
        assert (seen["covered"], seen["broken"]) == ([], [])
        assert ("Subjects and sessions" in seen["text"]) == (cells > 0)


@needs_chromium
def test_who_lacks_the_same_shares_a_line(show_all):
    """Sessions are a range, and what has no session says none."""
    made = make_bucket_like_the_real_one()
    found, _ = open_pages(show_all(made, take_some(made), "--subject", "all", "--scope", "all"))
    lines = found["1100"]["text"].splitlines()
    assert "sub-06, sub-07 rois: 2 files, 40 bytes" in lines
    assert "sub-01, sub-03, sub-05 tedana ses-03 to 30: 84 files, 2.5 MB" in lines
    names = "ses-31, ses-4BarScreenfLoc, ses-MotionLocBarsSML"
    assert f"sub-06, sub-07 localizers {names}: 6 files, 5.4 kB" in lines


@needs_chromium
def test_one_file_is_a_file(show_all):
    """And what belongs to no subject is named without one."""
    found, _ = open_pages(show_all(make_bucket_like_the_real_one(), {}, *ONE_SESSION))
    lines = found["1100"]["text"].splitlines()
    assert {"sub-03 rois: 1 file, 20 bytes", "root files: 2 files, 2 bytes"} < set(lines)


@needs_chromium
@pytest.mark.skipif(PICTURES is None, reason="set LAION_FMRI_PICTURES=docs/images to draw it")
def test_draw_the_picture_of_the_documentation(show_all):
    """A page of all subjects and sessions, some of it here."""
    made = make_bucket_like_the_real_one()
    page = show_all(made, take_some(made))
    file = (REPO / PICTURES / "status.png").absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    browse(f"--screenshot={file}", "--window-size=1200,875", page.as_uri())
    assert file.read_bytes().startswith(b"\x89PNG")
