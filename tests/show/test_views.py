"""What a person sees of a run: before it, while it lasts, and after; on screens and in logs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import select
import shlex
import struct
import sys
import termios
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyte
import pytest
from faults import FaultServer, serve_faults
from helpers import (
    DERIVATIVES,
    copy_clone,
    read_tree,
    run,
    run_command,
    run_script,
    run_snakemake,
    sandbox,
    start_on_terminal,
    write_tree,
)
from rich.cells import cell_len

from laion_fmri.base.bids import parse_key
from laion_fmri.base.text import format_seconds, format_share, format_size, shorten
from laion_fmri.bucket.listing import ListedObject
from laion_fmri.commands.download import group_rows
from laion_fmri.fetch.job import Job
from laion_fmri.fetch.outcomes import Outcome, record_outcome
from laion_fmri.run.monitor import Monitor, Running, State, name_places
from laion_fmri.selection.overview import name_sessions
from laion_fmri.selection.table import Row
from laion_fmri.show.live import make_screen
from laion_fmri.show.pace import Pace, find_pause, format_left, make_sentence

FUNC = f"{DERIVATIVES}/sub-03/ses-01/func/sub-03_ses-01_task-images_desc"
#: Takes some seconds: it is large enough for its bytes to be seen on disk before it has arrived.
SLOW = "README"
RATE = 2_000_000.0
SIZES = {SLOW: 6_000_000, f"{FUNC}-A_trials.tsv": 400_000, f"{FUNC}-B_trials.tsv": 300_000}
DENIED = f"{FUNC}-B_trials.tsv"


@pytest.fixture(scope="module")
def slow(server) -> Iterator[FaultServer]:
    """Serve the bucket ``slow``, of which one object comes slowly; and ``slow-denying``."""
    dice = random.Random(0)
    objects = {key: dice.randbytes(size) for key, size in SIZES.items()}
    server.add_bucket("slow", objects)
    server.add_bucket("slow-denying", {**objects, SLOW: b"read"}, denied=[DENIED])
    with serve_faults(server) as bench:
        bench.break_("slow", SLOW, rate=RATE)
        yield bench


@pytest.fixture
def slowly(slow, monkeypatch) -> FaultServer:
    """Point the package at the bucket ``slow``."""
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", slow.endpoint_url)
    monkeypatch.setenv("LAION_FMRI_BUCKET", "slow")
    return slow


# On a terminal.


class Frame(NamedTuple):
    """A screen as a person sees it, and the line and column of the cursor."""

    lines: list[str]
    cursor: tuple[int, int]


class Watched(NamedTuple):
    """A command on a terminal: its status, what it sent, and the screens, the last at its end."""

    status: int
    sent: str
    frames: list[Frame]


def watch(*arguments: object, columns: int, rows: int = 30, resize: int = 0, **settings: object):
    """Run the command on a terminal of that size; `resize` makes it that wide on the way."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    settings = {"NO_COLOR": None, **settings}
    process, master = start_on_terminal(*arguments, columns=columns, rows=rows, **settings)
    sent, frames = b"", []
    deadline = time.monotonic() + 120
    with contextlib.suppress(OSError):  # the terminal is gone when the command is
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                chunk = os.read(master, 65536)
                if not chunk:
                    break
                sent += chunk
                stream.feed(chunk)
            else:  # it has said all that it has to say for now: this is what a person sees
                frames.append(_take(screen))
            if resize and frames and find_live(frames[-1]):
                screen.resize(rows, resize)
                fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, resize, 0, 0))
                resize = 0
    os.close(master)
    return Watched(process.wait(60), sent.decode(), [*frames, _take(screen)])


def _take(screen: pyte.Screen) -> Frame:
    lines = [line.rstrip() for line in screen.display]
    return Frame(lines, (screen.cursor.y, screen.cursor.x))


def find_live(frame: Frame) -> list[str]:
    """Return the lines of the live view: that of all, and those below it."""
    first = next(
        (i for i, line in enumerate(frame.lines) if re.match(r"\d+/\d+ files\b", line)), -1
    )
    return [line for line in frame.lines[first:] if line] if first >= 0 else []


def run_on_screen(data_dir: Path, columns: int, **more: object) -> Watched:
    """Download the bucket ``slow`` on a terminal."""
    words = ["download", "--subject", "03", "--n-jobs", "3", "--data-dir", data_dir]
    return watch(*words, columns=columns, **more)


@pytest.fixture(scope="module", params=[(80, {}), (200, {"NO_COLOR": "1"})], ids=["80", "200"])
def watched(slow, request, tmp_path_factory) -> tuple[int, Watched]:
    """Run once on a narrow terminal with colours, and once on a wide one without."""
    columns, settings = request.param
    home = tmp_path_factory.mktemp("home")
    data_dir = tmp_path_factory.mktemp("data")
    with sandbox(home, slow.endpoint_url) as patch:
        patch.setenv("LAION_FMRI_BUCKET", "slow")
        seen = run_on_screen(data_dir, columns, **settings)
    assert seen.status == 0, seen.sent
    assert {k: len(v) for k, v in read_tree(data_dir).items()} == SIZES
    return columns, seen


def test_terminal_shows_all_and_each_transfer(watched):
    """One line of all: files, bytes, rate, time left; and one for the slow object, by its name."""
    columns, seen = watched
    live = [lines for frame in seen.frames if (lines := find_live(frame))]
    busy = [lines for lines in live if any(SLOW in line for line in lines) and "/s" in lines[0]]
    assert busy, live[-3:]
    for lines in busy:
        assert re.fullmatch(
            r"\d/3 files  \d\.\d/6\.7 MB  [━─]+  [\d.]+ [kM]B/s(  \d+ s left)?", lines[0]
        ), lines[0]
        own = next(line for line in lines if SLOW in line)
        assert re.fullmatch(rf"  {SLOW} +\d\.\d/6\.0 MB +\d+%", own), own
        assert len(lines) <= 1 + 3 + 1
        assert max(map(len, lines)) < columns
    kept = r"  \d\.\d MB of 1 unfinished file is kept if you stop \(Ctrl-C\)"
    assert any(re.fullmatch(kept, lines[-1]) for lines in busy), busy
    counts = [float(re.search(r"([\d.]+)/6\.0 MB", "\n".join(lines))[1]) for lines in busy]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2


def test_cursor_rests_where_the_view_begins(watched):
    """Whatever a resized terminal does to lines below the cursor, the next frame removes it."""
    _, seen = watched
    frames = [frame for frame in seen.frames if find_live(frame)]
    assert frames
    for frame in frames:
        row, column = frame.cursor
        assert (frame.lines[row], column) == (find_live(frame)[0], 0)


def test_nothing_is_left_of_the_view_but_the_summary(watched):
    """The end of the screen: the plan, the summary right below it, and the next command."""
    _, seen = watched
    lines = [line for line in seen.frames[-1].lines if line]
    assert find_live(seen.frames[-1]) == []
    place = next(i for i, line in enumerate(lines) if line.startswith("fetched 3 files, 6.7 MB in"))
    assert lines[place - 1].startswith("free on that disk: ")
    said = " ".join(map(str.strip, lines[place + 1 :]))
    assert said.startswith("to check their content: laion-fmri verify")


def test_colours_are_left_out_where_they_are_not_wanted(watched):
    """NO_COLOR takes the colours away, and not the view."""
    columns, seen = watched
    colours = set(re.findall(r"\x1b\[(?:\d+;)*(3[0-7])(?:;\d+)*m", seen.sent))
    assert bool(colours) == (columns == 80)


def test_terminal_that_is_resized(slowly, tmp_path):
    """Narrower on the way: the lines fit again, and still nothing is left over."""
    seen = run_on_screen(tmp_path, 120, resize=50)
    assert seen.status == 0
    assert max(len(line) for frame in seen.frames[-8:] for line in find_live(frame) or [""]) < 50
    last = "\n".join(seen.frames[-1].lines)
    assert last.count("fetched 3 files") == 1
    assert not re.search(r"\d/3 files|━|  README", last)


NAME = "sub-03_ses-01_task-images_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"


@pytest.mark.parametrize("width", [20, 40, 79, 119, 199])
@pytest.mark.parametrize("height", [2, 5, 24])
@pytest.mark.parametrize("count", [0, 1, 8, 40])
def test_view_fits_every_terminal(width, height, count):
    """No line is wider than the terminal, and there are no more than it has."""
    running = tuple(Running(f"{'脳' * n}{NAME}", 10**n, 10**12, n, n + 1) for n in range(count))
    kept = "1.1 GB of 3 unfinished files are kept" if count != 1 else ""
    now = State(1234, 56_789, 10**11, 10**13, 12, running[:12] + running[:28], kept=kept)
    pace = Pace()
    pace.add(10**10, now=0.0)
    pace.add(10**11, now=5.0)
    lines = make_screen(now, pace, width, height)
    assert max(cell_len(line.plain) for line in lines) <= width
    assert len(lines) <= height
    assert lines[0].plain.startswith("1,234/56,789 files"[:width])
    assert bool(kept and height > 2) == ("(Ctrl-C)" in lines[-1].plain)


def test_long_names_lose_their_middle():
    """The end of a name tells files apart, so it stays."""
    now = State(0, 1, 0, 5_000_000, running=(Running(NAME, 1_000_000, 5_000_000),))
    line = make_screen(now, Pace(), 79, 24)[1].plain
    assert "…" in line
    assert "sub-03_ses-01" in line
    assert "SingletrialBetas_statmap.nii.gz" in line
    assert line.endswith("1.0/5.0 MB  20%")


def test_transfers_beyond_the_screen_are_counted():
    """Eight of them on a terminal of five lines: the last line says how many there are more."""
    running = tuple(Running(f"file-{n}", 0, 10) for n in range(8))
    lines = make_screen(State(0, 8, 0, 80, running=running), Pace(), 79, 5)
    shown = [line.plain.split()[0] for line in lines[1:-1]]
    assert shown == ["file-0", "file-1", "file-2"]
    assert lines[-1].plain.strip() == "and 5 more"


# In logs.


def test_lines_become_rarer():
    """The first after 10 s, then every 30 s, after ten minutes every 2, after an hour every 10."""
    assert [find_pause(s) for s in (0, 10, 599, 600, 3599, 3600)] == [10, 30, 30, 120, 120, 600]


def test_pipe_gets_plain_lines(slowly, tmp_path):
    """Piped, there is a line now and then, the last of which counts what is left; no escapes."""
    script = "from laion_fmri.commands import cli; from laion_fmri.show import pace; "
    script += "pace.INTERVAL = 0.8; "
    script += f"cli.main(['download', '--subject', '03', '--data-dir', {str(tmp_path)!r}])"
    done = run([sys.executable, "-c", script])
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(
            r"\d of 3 files, [\d.]+ \w+ of 6\.7 MB, "
            r"(nothing has arrived yet|[\d.]+ [kM]B/s(, about \d+ s left)?)",
            line,
        ), line
    assert "fetched 3 files, 6.7 MB" in done.stdout


SCRIPT = """
import logging
from laion_fmri.show import pace
from laion_fmri.download import download
pace.INTERVAL = 0.3
{setup}
report = download("03", n_jobs=3, data_dir={data_dir!r})
print(len(report))
"""


def test_script_logs_how_far_it_is(slowly, tmp_path):
    """``download()`` in a script: lines of the level INFO to the logger of the package."""
    setup = "logging.basicConfig(level='INFO', format='%(name)s %(levelname)s %(message)s')"
    done = run_script(SCRIPT.format(setup=setup, data_dir=str(tmp_path)))
    assert (done.returncode, done.stdout) == (0, "3\n")
    lines = [line for line in done.stderr.splitlines() if line.startswith("laion_fmri INFO ")]
    told = [line.removeprefix("laion_fmri INFO ") for line in lines]
    assert "fetching 3 files, 6.7 MB" in told
    assert re.fullmatch(r"3 of 3 files, 6\.7 MB in [\d.]+ s", told[-1])
    assert any(re.match(r"\d of 3 files, [\d.]+ MB of 6\.7 MB, [\d.]+ [kM]B/s", x) for x in told)


def test_script_without_logging_says_nothing(tiny, tmp_path):
    """A library does not print."""
    setup = "pace.INTERVAL = 0.0"
    done = run_script(SCRIPT.format(setup=setup, data_dir=str(tmp_path)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


# In a notebook.


def run_notebook(code: str, seen: list[dict]) -> list[dict]:
    """Run `code` in a real kernel; return the outputs, and keep what was displayed in `seen`."""
    import nbclient
    import nbformat

    class Client(nbclient.NotebookClient):
        """Keeps each state of what is displayed; a notebook holds the last one."""

        def process_message(self, msg, cell, cell_index):
            if msg["msg_type"] in ("display_data", "update_display_data"):
                seen.append(msg["content"]["data"])
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    Client(notebook, timeout=120, kernel_name="python3").execute()
    return notebook.cells[0].outputs


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_notebook_has_a_bar(slowly, tmp_path, monkeypatch):
    """A bar that moves while the cell runs, and one line in its place at the end; no stderr."""
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    seen: list[dict] = []
    code = "from laion_fmri.download import download\n"
    code += f"len(download('03', n_jobs=3, data_dir={str(tmp_path)!r}))"
    outputs = run_notebook(code, seen)
    assert [output.output_type for output in outputs] == ["display_data", "execute_result"]
    assert outputs[1].data["text/plain"] == "3"
    assert re.fullmatch(r"3 of 3 files, 6\.7 MB in [\d.]+ s", outputs[0].data["text/plain"])
    assert "<progress" not in outputs[0].data["text/html"]
    values = [re.search(r'<progress value="(\d+)" max="6700000"', x["text/html"]) for x in seen]
    counts = [int(value[1]) for value in values if value]
    assert counts[0] == 0
    assert len(set(counts)) > 2
    assert values[-1] is None
    assert any(re.search(r"[kM]B/s, about \d+ s left", x["text/plain"]) for x in seen)


# Before.

GLM = "derivatives/glmsingle-tedana"


def make_row(key: str, size: int = 1000, status: str = "missing") -> Row:
    """Make a row of the key table, with the subject and the session that its key names."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return Row(ListedObject(key, size, "", when), parse_key(key), f"/data/{key}", status)


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["01"], "ses-01"),
        (["01", "02"], "ses-01, 02"),
        (["01", "02", "03", "05"], "ses-01 to 03, 05"),
        (["09", "10", "11", "averages"], "ses-09 to 11, averages"),
        (["1", "02", "x"], "ses-1, 02, ses-x"),
        (["averages"], "averages"),
    ],
)
def test_sessions_are_named_in_ranges(labels, named):
    """Three and more in a row are a range."""
    assert named == name_sessions(labels)


def test_all_subjects_are_a_line_each():
    """Five subjects of 34 sessions are five lines, and not 170."""
    keys = [f"{GLM}/sub-0{s}/ses-{n:02}/x.tsv" for s in (1, 3, 5, 6, 7) for n in range(1, 35)]
    others = ("README", "stimuli/a.jpg", "derivatives/rois/sub-03/z", "sub-05/ses-01/x")
    rows = [make_row(key) for key in (*keys, f"{GLM}/sub-03/y.tsv", *others)]
    shown = [(*place, len(group)) for *place, group in group_rows(rows)]
    assert shown == [
        ("sub-01", "glmsingle-tedana", "ses-01 to 34", 34),
        ("sub-03", "glmsingle-tedana", "ses-01 to 34, averages", 35),
        *((f"sub-0{n}", "glmsingle-tedana", "ses-01 to 34", 34) for n in (5, 6, 7)),
        ("sub-03", "rois", "", 1),
        ("sub-05", "raw", "ses-01", 1),
        ("stimuli", "", "", 1),
        ("root files", "", "", 1),
    ]


def test_one_subject_has_a_line_for_each_session():
    """In their order; what has no session comes last."""
    keys = [f"{GLM}/sub-03/{name}.tsv" for name in ("y", "ses-01/x", "ses-02/x", "ses-02/z")]
    shown = [(sessions, len(group)) for _, _, sessions, group in group_rows(map(make_row, keys))]
    assert shown == [("ses-01", 1), ("ses-02", 2), ("averages", 1)]


def read_cells(text: str, *names: str) -> list[str]:
    """Return the cells of the line of a table that begins with `names`."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    (found,) = [row for row in rows if list(names) == row[: len(names)]]
    return found[len(names) :]


def test_plan_counts_what_is_here_and_what_is_to_come(tiny, tiny_objects, tmp_path):
    """A dry run: files and bytes by session, and the room on the disk."""
    here = next(key for key in tiny_objects if "desc-A" in key)
    write_tree(tmp_path, {here: tiny_objects[here]})
    done = run_command("download", "--subject", "03", "--dry-run", "--data-dir", tmp_path)
    assert done.returncode == 0
    size = {key: len(content) for key, content in tiny_objects.items()}
    missing = {key: count for key, count in size.items() if key != here}
    groups = {
        ("sub-03", "glmsingle-tedana", "ses-01"): [key for key in size if "ses-01" in key],
        ("sub-03", "rois"): [key for key in size if "/rois/" in key],
        ("all",): list(size),
    }
    for names, keys in groups.items():
        wanted = [key for key in keys if key in missing]
        assert read_cells(done.stdout, *names) == [
            str(len(keys)),
            f"{sum(size[key] for key in keys)} bytes",
            str(len(keys) - len(wanted)),
            str(len(wanted)),
            f"{sum(size[key] for key in wanted)} bytes",
        ]
    assert re.search(r"^free on that disk: [\d.,]+ [MGTP]B$", done.stdout, re.MULTILINE)


def test_a_plan_with_nothing_to_fetch_is_one_line(tiny, tiny_objects, tmp_path):
    """No table, no disk, no next command: nothing is to be decided."""
    write_tree(tmp_path, tiny_objects)
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path)
    assert done.returncode == 0
    said = [line for line in done.stdout.splitlines() if "CC0" not in line]
    total = sum(map(len, tiny_objects.values()))
    assert said == [
        f"4 files, {total} bytes: 4 here already, 0 to fetch, 0 bytes, into {tmp_path}",
        "nothing to do: everything is here",
    ]


def test_a_batch_is_named_by_its_sessions_and_the_file_in_hand(tmp_path):
    """And by its folder only where it belongs to no subject."""
    keys = [f"{GLM}/sub-03/ses-{n}/func/sub-03_ses-{n}_trials.tsv" for n in ("01", "02", "03")]
    assert name_places(make_batch(*keys)) == "sub-03 ses-01 to 03"
    assert name_places(make_batch(f"{GLM}/sub-03/a", f"{GLM}/sub-05/b")) == "2 subjects"
    assert name_places(make_batch("stimuli/a.csv", "stimuli/b.csv")) == "stimuli/"


def make_batch(*keys: str) -> Job:
    """Return a batch of objects of one byte."""
    prefix = os.path.commonpath(keys) + "/"
    return Job("batch_1", prefix, ("*",), tuple((key, 1) for key in keys))


def test_what_has_failed_is_not_waited_for():
    """The time left is that of what can still arrive."""
    pace = Pace()
    pace.add(10, now=0.0)
    pace.add(1_000_010, now=1.0)
    now = State(1, 3, 1_000_010, 10_000_010, failed=1, lost_bytes=8_000_000)
    assert format_left(now, pace) == "1 s left"
    assert format_left(now._replace(bytes=2_000_010), pace) == ""


# After.


def test_next_command_checks_what_was_selected(tiny, tmp_path):
    """It can be pasted, and says that all is right. A terminal without a cursor gets plain text."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    words = ["--subject", "03", "--ses", "ses-01", "averages", "--data-dir", folder]
    seen = watch("download", *words, columns=200, TERM="dumb")
    assert seen.status == 0
    assert "\x1b" not in seen.sent
    command = seen.sent.splitlines()[-1].removeprefix("to check their content: laion-fmri ")
    assert command == f"verify --subject 03 --ses ses-01 averages --data-dir '{folder}'"
    checked = run_command(*shlex.split(command))
    assert checked.returncode == 0, checked.stderr
    assert "4 ok" in checked.stdout


def test_denied_files_are_not_asked_for_again(slow, bucket, tmp_path, monkeypatch):
    """The key, why, where to ask, and the log: no advice to try in vain, and no stack."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "slow-denying")
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path)
    assert done.returncode == 1
    error, advice = done.stderr.splitlines()
    assert error == f"error: {DENIED}: access denied (403)"
    assert advice.startswith(
        "ask for access to denied files at https://laion-fmri.hebartlab.com/request; the log is "
    )
    assert Path(advice.rpartition(" is ")[2]).is_file()
    assert re.search("^fetched 2 files, .* 0 were here, 1 failed$", done.stdout, re.MULTILINE)


def test_plain_snakemake_reads_well(slow, bucket, tmp_path, monkeypatch):
    """From a clone: a line for each job with its name and size; only a dry run names every file."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "slow")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    clone = copy_clone(tmp_path / "clone", subject="sub-03", data_dir=str(data_dir))
    dry = run_snakemake(clone, "-n")
    assert f"  {FUNC}-A_trials.tsv (400.0 kB)" in (dry.stdout + dry.stderr).splitlines()
    done = run_snakemake(clone, "--cores", 3)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    func = FUNC.rpartition("/")[0]
    assert f"fetch {SLOW} (6.0 MB)" in said
    assert f"fetch 2 objects below {func}/ (700.0 kB)" in said
    assert "desc-A_trials" not in said
    assert "Reason:" not in said
    assert "Platform:" not in said


# The parts.


class Stub(NamedTuple):
    """What a monitor asks of targets."""

    data_dir: str
    path: str
    jobs: list


def test_monitor_reads_what_is_added(tmp_path):
    """Outcomes count once each, the latest for a key; a line that is being written waits."""
    from laion_fmri.run.jobs import Job

    rows = [make_row(key, 100) for key in ("a/1", "a/2", "a/3")]
    jobs = [Job("batch_1", "a/", ("*",), tuple((row.key, row.size) for row in rows))]
    run_dir = tmp_path / ".laion_fmri" / "runs" / "now"
    record = run_dir / "outcomes" / "batch_1.jsonl"
    record.parent.mkdir(parents=True)
    staging = tmp_path / ".laion_fmri" / "partial" / "now-batch_1-x"
    (staging / "objects").mkdir(parents=True)
    (staging / "objects" / "3.0a1b2c3d").write_bytes(b"x" * 30)
    monitor = Monitor(Stub(str(tmp_path), str(run_dir), jobs), rows)

    def add(key: str, outcome: str, end: str = "\n") -> None:
        with record.open("a") as file:
            file.write(json.dumps({"key": key, "outcome": outcome, "reason": ""}) + end)

    def count() -> tuple[int, ...]:
        now = monitor.measure()
        (own,) = now.running
        assert (own.bytes, own.files, own.total_files) == (now.bytes, now.files, 3)
        return now.files, now.bytes, now.failed

    assert count() == (0, 30, 0)
    add("a/1", "fetched")
    add("a/2", "failed")
    add("a/3", "fetched", end="")
    assert count() == (1, 130, 1)
    with record.open("a") as file:
        file.write("\n")
    add("a/2", "fetched")
    (staging / "objects" / "3.0a1b2c3d").unlink()
    assert count() == (3, 300, 0)
    assert count() == (3, 300, 0)


def test_waiting_for_another_run_is_said(tmp_path):
    """It is no failure, and over once the file is here."""
    from laion_fmri.run.jobs import Job

    rows = [make_row(key, 100) for key in ("a/1", "a/2")]
    jobs = [Job("batch_1", "a/", ("*",), tuple((row.key, row.size) for row in rows))]
    monitor = Monitor(Stub(str(tmp_path), str(tmp_path / "run"), jobs), rows)
    for row in rows:
        record_outcome(tmp_path / "run" / "outcomes" / "x.jsonl", row.key, Outcome("waiting", "w"))
    now = monitor.measure()
    assert (now.failed, now.waiting) == (0, 2)
    assert "2 wait for another run" in make_sentence(now, Pace())
    assert "2 wait for another run" in make_screen(now, Pace(), 100, 5)[0].plain
    record_outcome(tmp_path / "run" / "outcomes" / "x.jsonl", "a/1", Outcome("fetched", ""))
    assert monitor.measure().waiting == 1


def test_rate_is_that_of_the_last_seconds():
    """Neither the start nor what was an hour ago; what starts again is not a negative rate."""
    pace = Pace(window=10)
    for second in range(100):
        pace.add(0, now=float(second))
    assert pace.rate is None
    for second in range(1, 31):
        pace.add(1000 * second, now=99.0 + second)
    assert pace.rate == pytest.approx(1000)
    for second in range(1, 31):
        pace.add(30_000 + 5000 * second, now=129.0 + second)
    assert pace.rate == pytest.approx(5000)
    assert format_left(State(0, 1, 180_000, 280_000), pace) == "20 s left"
    pace.add(1000, now=160.0)
    assert pace.rate == 0
    assert format_left(State(0, 1, 1000, 2000), pace) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (200_000, "2 d 7 h"),
        (7, "7 s"),
    ],
)
def test_times_have_two_units(seconds, text):
    """The two that matter."""
    assert text == format_seconds(seconds)


def test_sizes_are_decimal():
    """1 MB is 1,000,000 bytes."""
    assert format_size(1_500_000) == "1.5 MB"
    assert format_share(300_000, 1_500_000) == "0.3/1.5 MB"
    assert format_share(3, 999) == "3/999 bytes"
    assert format_share(0, 0) == "0/0 bytes"


def test_names_are_shortened_by_columns():
    """Wide letters take two columns each."""
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghij", 7) == "ab…ghij"
    assert cell_len(shorten("脳" * 20, 11)) <= 11
    assert shorten("abc", 0) == ""
