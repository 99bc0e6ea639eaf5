"""The ``laion-fmri`` command as a user types it: the contract's examples, and what it says."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import (
    ROOT_FILES,
    complaints,
    expected_keys,
    expected_tree,
    list_all,
    matched_keys,
    read_tree,
    run,
    run_command,
    run_on_terminal,
    sandbox,
    write_tree,
)

from laion_fmri.commands.cli import _Output

FLAGS = ["--subject", "--ses", "--task", "--space", "--desc", "--stat", "--suffix", "--extension"]
MORE_FLAGS = ["--run", "--include-stimuli", "--n-jobs", "--data-dir", "--dry-run", "--quiet"]
SINGLE_TRIALS = "download --subject sub-03 --ses ses-01 --desc {} --stat effect --extension nii.gz"
#: The commands of the contract, in its order.
SPEC_COMMANDS = {
    "config": "config --data-dir ./laion_fmri_data",
    "show": "config",
    "info": "info",
    "subject": "download --subject sub-03",
    "license": "license --accept-stimuli",
    "stimuli": "download --subject sub-03 --include-stimuli",
    "all": "download --subject all",
    "again": "download --subject all",
    "describe": "info --subject sub-03",
}


class Step(NamedTuple):
    """What one command did: its end, the files after it, and the objects that it fetched."""

    done: subprocess.CompletedProcess
    tree: dict[str, bytes]
    gets: Counter
    here: list[str]


@pytest.fixture(scope="module")
def steps(server, tmp_path_factory) -> dict[str, Step]:
    """Run the first command block of the contract once, from a folder of the user's."""
    here = tmp_path_factory.mktemp("here")
    taken = {}
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url):
        for name, words in SPEC_COMMANDS.items():
            server.clear_requests()
            done = run_command(*words.split(), cwd=here)
            tree = read_tree(here / "laion_fmri_data")
            taken[name] = Step(done, tree, server.gets(), [p.name for p in here.iterdir()])
    return taken


def test_config_creates_and_saves_the_data_directory(steps):
    """``config --data-dir`` makes the folder, and ``config`` shows it and where it is saved."""
    assert steps["config"].done.returncode == 0
    assert steps["config"].here == ["laion_fmri_data"]
    shown = steps["show"].done.stdout
    chosen = re.search(r"/\S+/laion_fmri_data\b", shown)
    assert chosen, f"no absolute path in: {shown}"
    assert "config.json" in shown


def count(objects, keys) -> tuple[str, str]:
    """Return the number of `keys` and their bytes as the command writes them."""
    size = sum(len(objects[key]) for key in keys)
    return str(len(keys)), f"{size / 1000:.1f} kB" if size >= 1000 else f"{size} bytes"


def read_row(text: str, *names: str) -> list[str]:
    """Return the cells of the row of a table that begins with `names`."""
    rows = [re.split(r"\s*[│┃|]\s*|\s{2,}", line.strip(" │┃|")) for line in text.splitlines()]
    found = [row for row in rows if list(names) == row[: len(names)]]
    assert len(found) == 1, f"{names} in:\n{text}"
    return found[0][len(names) :]


@pytest.mark.parametrize(
    ("scope", "subjects", "sessions"),
    [
        ("glmsingle-tedana", "sub-01, sub-03", "3"),
        ("rois", "sub-01, sub-03", ""),
        ("anatomical", "sub-01, sub-03", ""),
        ("localizers", "sub-01, sub-03", "3"),
        ("raw", "sub-01, sub-03, sub-05", "1"),
        ("stimuli", "", ""),
    ],
)
def test_info_counts_what_the_bucket_has(steps, objects, scope, subjects, sessions):
    """``info`` has a row per scope: subjects, sessions, files and bytes, and what is here."""
    assert steps["info"].done.returncode == 0
    files, size = count(objects, matched_keys(objects, "all", scope=scope))
    row = read_row(steps["info"].done.stdout, scope)
    assert row == [subjects, sessions, files, size, "0", "0 bytes"]


@pytest.mark.parametrize("ses", ["ses-01", "ses-02", "ses-04", "averages"])
def test_info_of_a_subject_counts_by_session(steps, objects, ses):
    """``info --subject`` has a row per session; after the download all of it is local."""
    keys = {
        key
        for key in matched_keys(objects, "sub-03", scope="glmsingle-tedana")
        if f"/{ses}/" in key or (ses == "averages" and "/ses-" not in key)
    }
    row = read_row(steps["describe"].done.stdout, "glmsingle-tedana", "sub-03", ses)
    assert row == [*count(objects, keys)] * 2


def test_download_subject(steps, objects):
    """``download --subject sub-03`` brings everything public of the subject."""
    assert steps["subject"].done.returncode == 0
    assert expected_tree(objects, "sub-03") == steps["subject"].tree


def test_stimuli_ask_for_nothing(steps, objects):
    """All but the images comes, and one line says how to get those; nothing else is fetched."""
    assert steps["license"].done.returncode == 0
    assert steps["stimuli"].done.returncode == 0
    expected = expected_tree(objects, "sub-03", include_stimuli=True)
    assert expected == steps["stimuli"].tree
    new = set(expected) - set(steps["subject"].tree)
    assert dict.fromkeys(new, 1) == dict(steps["stimuli"].gets)
    said = [line for line in steps["stimuli"].done.stdout.splitlines() if "stimuli.h5" in line]
    assert ["https://laion-fmri.hebartlab.com/request" in line for line in said] == [True]


def test_download_all_subjects(steps, objects):
    """``download --subject all`` brings the other subject; root files are not fetched again."""
    assert steps["all"].done.returncode == 0
    expected = expected_tree(objects, "all", include_stimuli=True)
    assert expected == steps["all"].tree
    new = {key for key in expected if "sub-01" in key}
    assert dict.fromkeys(new, 1) == dict(steps["all"].gets)


def test_download_again_has_nothing_to_do(steps):
    """A complete selection is said to be so, and nothing is fetched."""
    step = steps["again"]
    assert (step.done.returncode, step.done.stderr) == (0, "")
    assert "nothing to do" in step.done.stdout
    assert Counter() == step.gets


def test_summary_counts_files(steps, objects):
    """At the end of a download stands how many files and bytes have come, and what to do next."""
    files, size = count(objects, expected_keys(objects, "sub-03"))
    summary, advice = steps["subject"].done.stdout.splitlines()[-2:]
    assert re.search(rf"\b{files} files, {size}\b", summary), summary
    assert advice.endswith("laion-fmri verify --subject sub-03")


def test_licence_of_the_brain_data_is_said_once(steps):
    """The first download says that the brain data are CC0; the next ones do not repeat it."""
    said = [name for name in steps if "CC0" in steps[name].done.stdout and name != "license"]
    assert said == ["subject"]


def test_held_out_sessions_are_said_with_where_to_ask(steps):
    """That ses-31 is left out is said, once a run, with the address to ask at."""
    step = steps["subject"].done
    said = step.stdout + step.stderr
    assert said.count("ses-31") == 1
    assert "https://laion-fmri.hebartlab.com/request" in said


def test_output_into_pipes_is_plain(steps):
    """No escape codes, no carriage returns and no traceback where there is no terminal."""
    for step in steps.values():
        said = step.done.stdout + step.done.stderr
        assert not re.search("[\x1b\r]|Traceback", said), said


def test_nothing_is_left_in_the_working_directory(steps):
    """All state is in the data directory."""
    assert {("laion_fmri_data",)} == {tuple(step.here) for step in steps.values()}


@pytest.mark.parametrize("desc", ["singletrial", "SingletrialBetas"])
def test_single_trial_betas(bucket, objects, tmp_path, desc):
    """The contract's command, word for word: its value stands for the one that it begins."""
    write_tree(tmp_path, {key: objects[key] for key in ROOT_FILES})  # saves four starts of aws
    words = [*SINGLE_TRIALS.format(desc).split(), "--n-jobs", "4"]
    done = run_command(*words, LAION_FMRI_DATA_DIR=tmp_path)
    assert (done.returncode, complaints(done)) == (0, [])
    is_said = "desc 'singletrial' stands for 'SingletrialBetas'" in done.stdout
    assert is_said == (desc == "singletrial")
    filters = {"desc": "SingletrialBetas", "stat": "effect", "extension": "nii.gz"}
    expected = expected_tree(objects, "sub-03", ses="ses-01", **filters)
    # The betas, two pinned maps, the root files, and six masks in two resolutions.
    assert len(expected) == 3 + 4 + 6
    assert expected == read_tree(tmp_path)


def test_quiet_session_with_averages(bucket, objects, tmp_path):
    """``--ses ses-01 averages`` brings both in one call; ``--quiet`` says nothing of it."""
    write_tree(tmp_path, {key: objects[key] for key in ROOT_FILES})
    words = ["--subject", "sub-03", "--ses", "ses-01", "averages", "--quiet"]
    done = run_command("download", *words, LAION_FMRI_DATA_DIR=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert expected_tree(objects, "sub-03", ses=["ses-01", "averages"]) == read_tree(tmp_path)


def test_denied_object_is_named_with_its_reason(server, tiny, tiny_objects, tmp_path):
    """Exit 1, the key and why; no traceback; the rest arrives."""
    key = sorted(tiny_objects)[3]
    server.add_bucket("denying-command", tiny_objects, denied=[key])
    done = run_command(
        "download", "--subject", "03", "--data-dir", tmp_path, LAION_FMRI_BUCKET="denying-command"
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if key in line]
    assert len(lines) == 1
    assert "403" in lines[0]
    assert "Traceback" not in done.stderr
    assert {k: v for k, v in tiny_objects.items() if k != key} == read_tree(tmp_path)


def test_dry_run_names_what_is_missing(tiny, tiny_objects, tmp_path):
    """``--dry-run`` names the missing keys, and neither fetches nor writes."""
    here, *missing = sorted(tiny_objects)
    write_tree(tmp_path, {here: tiny_objects[here]})
    before = list_all(tmp_path)
    done = run_command("download", "--subject", "03", "--dry-run", "--data-dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert missing == [key for key in sorted(tiny_objects) if key in done.stdout]
    assert before == list_all(tmp_path)
    assert Counter() == tiny.gets(bucket="tiny")


def test_terminal_shows_files_and_bytes(tiny, tiny_objects, tmp_path):
    """On a terminal the run is shown live: files and bytes of the total."""
    status, seen = run_on_terminal("download", "--subject", "03", "--data-dir", tmp_path)
    assert status == 0
    assert "\x1b[" in seen
    assert "4/4 files" in seen
    total = sum(map(len, tiny_objects.values()))
    assert f"{total}/{total} bytes" in seen
    assert re.search(r"fetched 4 files, .* in [\d.]+ s", seen)
    assert tiny_objects == read_tree(tmp_path)


@pytest.fixture(scope="module")
def pictures(server) -> dict[str, bytes]:
    """Serve a bucket with one brain file and one stimulus."""
    made = {
        "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz": b"V1",
        "stimuli/a b.jpg": b"picture",
    }
    server.add_bucket("pictures", made)
    return made


def test_config_prefers_argument_then_environment(tiny, tiny_objects, tmp_path):
    """The data directory: argument, then environment, then the saved choice; each is named."""
    for name in ("argument", "environment", "saved"):
        write_tree(tmp_path / name, tiny_objects)
    assert run_command("config", "--data-dir", "saved", cwd=tmp_path).returncode == 0
    file = Path(os.environ["XDG_CONFIG_HOME"], "laion_fmri", "config.json")
    assert json.loads(file.read_text())["data_dir"] == str(tmp_path / "saved")
    assert f"{tmp_path}/saved" in run_command("config").stdout
    settings = {"LAION_FMRI_DATA_DIR": tmp_path / "environment"}
    shown = run_command("config", **settings).stdout
    assert f"{tmp_path}/environment" in shown
    assert "LAION_FMRI_DATA_DIR" in shown
    words = ["download", "--subject", "03", "--data-dir", tmp_path / "argument"]
    assert f"{tmp_path}/argument" in run_command(*words, **settings).stdout


def test_helps_name_every_flag_with_an_example(tmp_path):
    """``--help`` names the commands; ``download --help`` every flag, an example, the units."""
    script = Path(sys.executable).with_name("laion-fmri")
    overall = run([script, "--help"])
    module = run_command("--help")
    assert overall.returncode == 0
    assert overall.stdout == module.stdout
    for name in ("config", "info", "download", "license", "demo"):
        assert re.search(rf"^\s+{name}\s", overall.stdout, re.MULTILINE)
    detail = run_command("download", "--help").stdout
    for flag in FLAGS + MORE_FLAGS:
        assert re.search(rf"^\s+{flag}\b", detail, re.MULTILINE), flag
    assert "laion-fmri download --subject" in " ".join(detail.split())
    assert "bytes" in detail


def test_reader_that_stops_reading_is_not_an_error(tiny, tmp_path):
    """A pipe into ``head`` closes early; that is not worth a traceback."""
    done = run(
        ["sh", "-c", f"'{sys.executable}' -m laion_fmri info | true"],
        LAION_FMRI_DATA_DIR=tmp_path,
    )
    assert done.stderr == ""


def test_what_a_terminal_that_is_gone_has_not_taken_is_dropped(monkeypatch):
    """Python would try once more at its end, fail, and exit with a status of its own, 120."""
    screen, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        output = _Output("stdout")
        output.write("half a line")
        os.close(screen)
        assert output.close() == ""
        assert sys.stdout is stream
        stream.flush()
