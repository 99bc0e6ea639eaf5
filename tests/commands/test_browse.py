"""``ls`` and ``entities``: what is shown before a download, on terminals and in pipes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from itertools import count

import pandas as pd
import pytest
from helpers import (
    REFUSED,
    ROOT_FILES,
    expected_keys,
    run,
    run_command,
    run_on_terminal,
    write_tree,
)

from laion_fmri.commands.cli import main
from laion_fmri.discovery import list_entities
from laion_fmri.errors import SelectionError, SelectionWarning, SubjectNotFoundError

FIRST = ["sub", "ses", "task", "space", "desc", "stat", "suffix", "extension"]
#: Those that came later stand behind the status.
LATER = ["run", "echo", "part", "hemi", "res", "label", "contrast"]
ENTITIES = FIRST + LATER
COLUMNS = ["key", "size", "etag", "last_modified", *FIRST, "path", "status", *LATER, "scope"]
ESCAPE = re.compile("\x1b\\[[0-9;]*m")
#: An escape that sets a colour of the text or of its ground.
COLOUR = re.compile("\x1b\\[(?:[0-9]+;)*(?:3[0-7]|38|4[0-7]|48|9[0-7])(?:;[0-9]+)*m")
#: What a terminal can be, and whether it may show colours and other escapes.
TERMINALS = {
    "colour": ({"NO_COLOR": None}, True, True),
    "no colour": ({"NO_COLOR": "1"}, False, False),
    "dumb": ({"NO_COLOR": None, "TERM": "dumb"}, False, False),
}
GLM, ROIS = "derivatives/glmsingle-tedana", "derivatives/rois"
_numbers = count()


@pytest.fixture
def say(bucket, capsys):
    """Return a function that runs the command in this process: its status, stdout and stderr."""

    def say(*words: object) -> tuple[int, str, str]:
        # In a context of its own, as a process would have: what a command keeps ends with it.
        status = copy_context().run(main, [str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return say


@pytest.fixture
def make_bucket(bucket, monkeypatch):
    """Return a function that serves keys in a new bucket and points the package at it."""

    def make(*keys: str) -> None:
        name = f"browse-{next(_numbers)}"
        bucket.add_bucket(name, {key: key.encode() for key in keys})
        monkeypatch.setenv("LAION_FMRI_BUCKET", name)

    return make


def format_total(objects: Mapping[str, bytes], keys: Iterable[str]) -> str:
    """Return the number of `keys` and their bytes as the command writes them."""
    sizes = [len(objects[key]) for key in keys]
    return f"{len(sizes)} files, {sum(sizes) / 1000:.1f} kB"


def read_files(text: str) -> list[str]:
    """Put together the keys of a table of files, from folders and folded names."""
    keys: list[str] = []
    folder = ""
    for line in text.splitlines()[1:]:
        name = re.split(" {2,}", line.strip())[0]
        if not line.startswith(" "):
            folder = "" if line == "(root)" else line
        elif line.startswith("    "):
            keys[-1] += name
        else:
            keys.append(folder + name)
    return keys


def test_a_pipe_gets_bare_keys(bucket, objects):
    """By default all subjects, one key a line, and on stderr what is left out and the total."""
    done = run_command("ls")
    keys = sorted(expected_keys(objects, "all"))
    assert (0, keys) == (done.returncode, done.stdout.splitlines())
    left_out, total = done.stderr.splitlines()
    assert "ses-31" in left_out
    assert "https://laion-fmri.hebartlab.com/request" in left_out
    assert format_total(objects, keys) == total


@pytest.mark.parametrize(
    ("words", "filters"),
    [
        ("--subject 03", {}),
        ("--subject sub-03 --ses ses-01 averages", {"ses": ["01", "averages"]}),
        ("--subject 03 --ses 02 --desc desc-R2", {"ses": "02", "desc": "R2"}),
        ("--subject 03 --suffix trials statmap --extension .nii.gz", None),
    ],
)
def test_the_filters_are_those_of_download(say, objects, words, filters):
    """What is listed is what a download would bring."""
    if filters is None:
        filters = {"suffix": ["trials", "statmap"], "extension": "nii.gz"}
    status, out, _ = say("ls", *words.split())
    assert (0, sorted(expected_keys(objects, "03", **filters))) == (status, out.splitlines())


def test_stimuli_are_listed_without_a_licence(say, objects):
    """Looking at what there is takes no acceptance, and no data directory."""
    status, out, _ = say("ls", "--subject", "03", "--include-stimuli", "--keys")
    expected = sorted(expected_keys(objects, "03", include_stimuli=True))
    assert (0, expected) == (status, out.splitlines())
    assert any(key.startswith("stimuli/") for key in expected)


@pytest.fixture
def some_here(objects, tmp_path) -> tuple[str, str]:
    """Put two files of a session in the data directory, the second cut short; return their keys."""
    whole, cut = sorted(expected_keys(objects, "03", ses="01", suffix="trials"))[-2:]
    write_tree(tmp_path, {whole: objects[whole], cut: objects[cut][:-1]})
    return whole, cut


def test_json_has_all_columns(say, objects, tmp_path, some_here):
    """Every column of the key table, with times in ISO 8601 and what is here of each file."""
    whole, cut = some_here
    words = ["ls", "--subject", "03", "--ses", "01", "--json", "--data-dir"]
    status, out, err = say(*words, tmp_path)
    rows = json.loads(out)
    keys = sorted(expected_keys(objects, "03", ses="01"))
    assert (0, keys) == (status, [row["key"] for row in rows])
    assert {tuple(COLUMNS)} == {tuple(row) for row in rows}
    for row in rows:
        content = objects[row["key"]]
        digest = hashlib.md5(content).hexdigest()
        assert (len(content), digest) == (row["size"], row["etag"])
        assert datetime.fromisoformat(row["last_modified"]).tzinfo == UTC
        assert str(tmp_path / row["key"]) == row["path"]
    expected = dict.fromkeys(keys, "missing") | {whole: "complete", cut: "partial"}
    assert expected == {row["key"]: row["status"] for row in rows}
    trials = next(row for row in rows if row["key"].endswith("_trials.tsv"))
    entities = ["03", "01", "images", None, "SingletrialBetas", None, "trials", "tsv"]
    assert entities == [trials[name] for name in COLUMNS[4:12]]
    missing = len(keys) - 2
    assert err.splitlines()[-1].endswith(f"here: 1 complete, 1 partial, {missing} missing")


@pytest.mark.parametrize("with_data_dir", [True, False])
def test_tsv_says_the_same(say, tmp_path, some_here, with_data_dir):
    """A header and the same rows, with nothing where JSON has null."""
    words = ["ls", "--subject", "03", "--ses", "01", "averages"]
    words += ["--data-dir", str(tmp_path)] if with_data_dir else []
    rows = json.loads(say(*words, "--json")[1])
    _, out, _ = say(*words, "--tsv")
    header, *lines = csv.reader(io.StringIO(out), "excel-tab")
    assert header == COLUMNS
    as_text = [["" if value is None else str(value) for value in row.values()] for row in rows]
    assert as_text == lines


def test_nobody_says_what_is_here_without_a_data_directory(say):
    """Without one, neither a path nor a state is made up."""
    status, out, err = say("ls", "--subject", "03", "--json")
    assert status == 0
    assert {(None, None)} == {(row["path"], row["status"]) for row in json.loads(out)}
    assert "missing" not in err


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("kind", TERMINALS)
def test_ls_on_a_terminal(bucket, objects, tmp_path, some_here, columns, kind):
    """A table by folder that fits, with whole names, and colours only where they are wanted."""
    settings, colours, escapes = TERMINALS[kind]
    words = ["ls", "--subject", "03", "--ses", "ses-01", "averages", "--data-dir", tmp_path]
    status, seen = run_on_terminal(*words, columns=columns, **settings)
    assert (0, colours, escapes) == (status, bool(COLOUR.search(seen)), "\x1b" in seen)
    *table, total = ESCAPE.sub("", seen).splitlines()
    assert max(map(len, [*table, total])) <= columns
    keys = expected_keys(objects, "03", ses=["01", "averages"])
    assert sorted(keys) == sorted(read_files("\n".join(table)))
    assert table[0].split() == ["file", "size", "here", "modified"]
    (cut,) = [line for line in table if "partial" in line]
    assert f"{len(objects[some_here[1]])} bytes" in cut
    assert format_total(objects, keys) in total
    assert f"1 complete, 1 partial, {len(keys) - 2} missing" in total
    if columns == 200:
        assert len(keys) + len({key.rpartition("/")[0] for key in keys}) + 1 == len(table)


def test_ls_on_a_terminal_without_a_data_directory(bucket, objects):
    """Then there is no column for what is here."""
    status, seen = run_on_terminal("ls", "--subject", "03", "--ses", "averages", columns=80)
    heading = ESCAPE.sub("", seen).splitlines()[0]
    assert (status, heading.split()) == (0, ["file", "size", "modified"])


def test_names_that_look_like_marks_are_shown_as_they_are(make_bucket):
    """Nothing in a key is taken for colours or signs; what is too long is folded, and all there."""
    names = ["[red]a[/red]", ":smile:", "x" * 150, "脑" * 60]
    keys = [f"{GLM}/sub-03/{name}_trials.tsv" for name in names]
    make_bucket(*keys)
    status, seen = run_on_terminal("ls", columns=80, NO_COLOR="1")
    assert (0, sorted(keys)) == (status, sorted(read_files(ESCAPE.sub("", seen))))


@pytest.mark.parametrize("command", ["ls", "entities"])
@pytest.mark.parametrize("form", ["json", "tsv"])
def test_a_form_that_is_asked_for_is_given_on_a_terminal(bucket, command, form):
    """What is asked for goes before what a terminal would get."""
    status, seen = run_on_terminal(command, "--subject", "03", f"--{form}", columns=80)
    assert (status, "\x1b" in seen) == (0, False)
    assert seen.startswith("[" if form == "json" else ("key\t", "entity\t"))


def test_a_reader_that_stops_reading_is_not_an_error(bucket):
    """A pipe into ``head`` closes early; that is not worth a traceback."""
    done = run(["sh", "-c", f"'{sys.executable}' -m laion_fmri ls | head -n 1"])
    assert done.stdout == "README\n"
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.parametrize("command", ["ls", "entities"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--subject 99", r"'sub-99' is not in .*; there is: sub-01, sub-03"),
        ("--desc trialbetas --suffix trials --ses 01", "did you mean 'SingletrialBetas'"),
        ("--scope roi", "scope 'roi' is not in .*; did you mean 'rois'[?] there is: glmsingle-"),
        ("--scope Freesurfer", "did you mean 'freesurfer'"),
        ("--scope raw --subject 99", r"'sub-99' is not in raw of .*: sub-01, sub-03, sub-05$"),
        ("--subject sub-05", r"there is: sub-01, sub-03; sub-05 is in: raw"),
        ("--scope raw --run 1", "did you mean '01'"),
        ("--run 01", "there is: none at all; scopes that have it: tedana, localizers, raw"),
        ("--label FFA2", "label 'FFA2' matches nothing.*did you mean 'FFA1'"),
        ("--subject sub_03", "write 'sub-03'"),
        ("--ses ses-", "has no value; leave it out"),
    ],
)
def test_bad_input_gets_one_line(say, command, words, told):
    """What is wrong, and what to write instead; the status is that of bad usage."""
    status, out, err = say(command, *words.split())
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert re.search(told, err), err


@pytest.mark.parametrize("words", ["ls --json --keys", "entities --tsv --json"])
def test_two_forms_at_once_are_refused(words):
    """One output has one form."""
    done = run_command(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "not allowed with argument" in done.stderr.splitlines()[-1]


def test_a_bucket_that_is_not_there(bucket, monkeypatch, say):
    """The error names the bucket, and the status is that of failure."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "no-such-bucket")
    status, out, err = say("ls")
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "no-such-bucket" in err


def test_a_value_that_matches_nothing_is_warned_of(say, objects):
    """Others of the same filter do, so the list is shown, and the near miss as well."""
    status, out, err = say("ls", "--subject", "03", "--desc", "R2", "trialbetas")
    expected = sorted(expected_keys(objects, "03", desc="R2"))
    assert (0, expected) == (status, out.splitlines())
    assert "warning: desc 'trialbetas' matches nothing" in err
    assert "did you mean 'SingletrialBetas'" in err


def test_a_value_that_is_begun_stands_for_the_whole(say, objects):
    """The one existing value that it begins is meant, and that is said."""
    status, out, err = say("ls", "--subject", "03", "--desc", "singletrial")
    expected = sorted(expected_keys(objects, "03", desc="SingletrialBetas"))
    assert (0, expected) == (status, out.splitlines())
    assert "desc 'singletrial' stands for 'SingletrialBetas'" in err


def value_of(key: str, name: str) -> str:
    """Read the value of an entity from the text of a key, or what is shown without one."""
    stem, _, extension = key.rpartition("/")[2].partition(".")
    if name == "extension":
        return extension or "(none)"
    if name == "suffix":
        return stem.split("_")[-1]
    found = re.findall(f"[/_]{name}-([A-Za-z0-9-]+)", key)
    if found and name == "label":
        return found[-1].replace("-", "")
    return found[-1] if found else "averages" if name == "ses" else "(none)"


def count_values(objects: Mapping[str, bytes], pattern: str, keep: str = "") -> set[tuple]:
    """Count files and bytes of each value of the keys of brain data that match `pattern`."""
    brain = [k for k in objects if k.startswith((f"{GLM}/", f"{ROIS}/"))]
    brain += [k for k in objects if keep and k.startswith(keep)]
    rows = set()
    for name in ENTITIES[1:]:
        files: dict[bool, Counter] = {True: Counter(), False: Counter()}
        sizes: dict[bool, Counter] = {True: Counter(), False: Counter()}
        for key in brain:
            if name == "ses" and not key.startswith(f"{GLM}/"):
                continue
            is_roi = key.startswith(f"{ROIS}/") and re.search(pattern.split("/ses-")[0], key)
            if is_roi or re.search(pattern, key) or (keep and key.startswith(keep)):
                refused = bool(REFUSED.search(key))
                files[refused][value_of(key, name)] += 1
                sizes[refused][value_of(key, name)] += len(objects[key])
        for value in {*files[True], *files[False]}:
            hidden = value not in files[False]
            rows.add((name, value, files[hidden][value], sizes[hidden][value], hidden))
    return rows


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ({}, "/sub-0[13]/"),
        ({"subject": "sub-03"}, "/sub-03/"),
        ({"subject": "01", "ses": "02"}, "/sub-01/ses-02/"),
        ({"subject": "03", "ses": ["ses-31", "averages"]}, "/sub-03/(?:(?=ses-31/)|(?!ses-))"),
        ({"subject": "03", "desc": "R2"}, "/sub-03/(?!.*_desc-(?!R2_))"),
    ],
)
def test_entities_are_counted(bucket, objects, arguments, pattern):
    """Files and bytes of each value; what is held out is marked, and does not count elsewhere."""
    frame = list_entities(**arguments)
    assert list(frame.columns) == ["entity", "value", "files", "bytes", "held_out"]
    assert count_values(objects, pattern) == set(frame.itertuples(index=False, name=None))


def test_entities_of_stimuli(bucket, objects):
    """They count where they are asked for; the one that is not public is not among them."""
    frame = list_entities("03", ses="averages", include_stimuli=True)
    expected = count_values(objects, "/sub-03/(?!ses-)", keep="stimuli/")
    assert expected == set(frame.itertuples(index=False, name=None))
    assert ("suffix", "stimuli", 1) in set(
        frame[frame.held_out].iloc[:, :3].itertuples(index=False, name=None)
    )


def test_entities_are_in_order(bucket):
    """By the order of the filters, the values sorted, those without one last."""
    frame = list_entities("03")
    order = ENTITIES[1:]
    assert order == list(dict.fromkeys(frame.entity))
    sessions = list(frame.value[frame.entity == "ses"])
    assert sessions == ["01", "02", "04", "31", "averages"]
    assert {"(none)"} == {
        group.value.iloc[-1] for n, group in frame.groupby("entity") if n in ("task", "desc")
    }


def test_entities_are_checked_like_a_selection(bucket):
    """A wrong value is warned of if others match, and else an error, as is an unknown subject."""
    with pytest.warns(SelectionWarning, match="did you mean 'SingletrialBetas'"):
        list_entities("03", desc=["R2", "trialbetas"])
    with pytest.raises(SelectionError, match="matches nothing"):
        list_entities("03", ses="01", desc="trialbetas", suffix="trials")
    with pytest.raises(SubjectNotFoundError, match="sub-99"):
        list_entities("99")
    with pytest.raises(TypeError, match=r"ses=1\.5 is not a string"):
        list_entities("03", ses=1.5)


def test_entities_in_a_pipe(bucket, objects):
    """Tab-separated values by default, which pandas reads as they are."""
    done = run_command("entities", "--subject", "03")
    assert (done.returncode, done.stderr) == (0, "")
    frame = pd.read_csv(io.StringIO(done.stdout), sep="\t", dtype={"value": str})
    expected = count_values(objects, "/sub-03/")
    assert expected == set(frame.itertuples(index=False, name=None))


def test_entities_as_json(say, objects):
    """A list of objects with the columns of the table."""
    status, out, err = say("entities", "--json")
    assert (status, err) == (0, "")
    rows = {tuple(row.values()) for row in json.loads(out)}
    assert count_values(objects, "/sub-0[13]/") == rows


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("kind", TERMINALS)
def test_entities_on_a_terminal(bucket, objects, columns, kind):
    """A table that fits, in which what is held out is marked, and where to ask for it."""
    settings, colours, escapes = TERMINALS[kind]
    status, seen = run_on_terminal("entities", "--subject", "03", columns=columns, **settings)
    assert (0, colours, escapes) == (status, bool(COLOUR.search(seen)), "\x1b" in seen)
    *table, ask = ESCAPE.sub("", seen).splitlines()
    assert max(map(len, table)) <= min(columns, 80)
    assert "https://laion-fmri.hebartlab.com/request" in ask
    entity, shown = "", set()
    for line in table:
        cells = [cell.strip() for cell in re.split("[│┃|]", line)[1:-1]]
        if len(cells) == 5 and cells[2].isdigit():
            entity = cells[0] or entity
            shown.add((entity, cells[1], int(cells[2]), cells[4] == "held out"))
    assert {(e, v, n, hidden) for e, v, n, _, hidden in count_values(objects, "/sub-03/")} == shown


def test_root_files_and_maps_that_come_along_are_not_counted(bucket, objects):
    """They come with a download of a session, but have nothing to do with its values."""
    frame = list_entities("03", ses="01")
    assert {"01"} == set(frame.value[frame.entity == "ses"])
    listed = set(frame.value[frame.entity == "suffix"])
    assert not {value_of(key, "suffix") for key in ROOT_FILES} & listed
