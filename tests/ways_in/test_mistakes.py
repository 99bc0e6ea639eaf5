"""Mistakes of the command line: what each answers, so that a reader knows what to do next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import list_all, on_terminal, read_tree, run_command

import laion_fmri as lf
from laion_fmri.config import get_data_dir
from laion_fmri.download import download
from laion_fmri.errors import DataDirError, DataDirNotSetError, SelectionError
from laion_fmri.keys import key_table

D = "usage: laion-fmri download --subject SUBJECT"
#: The command line, its exit status, and what the answer has to contain.
MISTAKES = [
    # Nothing, and commands that there are not.
    ("", 0, ["usage: laion-fmri", "download", "config"]),
    ("help", 2, ["laion-fmri --help"]),
    ("dowload", 2, ["usage: laion-fmri COMMAND", "did you mean 'laion-fmri download'?"]),
    ("Download --subject sub-03", 2, ["did you mean 'laion-fmri download'?"]),
    ("get sub-03", 2, ["did you mean 'laion-fmri download'?"]),
    ("list", 2, ["did you mean 'laion-fmri ls'?"]),
    ("rm --subject sub-03", 2, ["did you mean 'laion-fmri remove'?"]),
    ("frobnicate", 2, ["'frobnicate' is not a command; there is: info, "]),
    ("sub-03", 2, ["'laion-fmri download --subject sub-03'"]),
    ("sub-03 --ses ses-01", 2, ["'laion-fmri download --subject sub-03 --ses ses-01'"]),
    ("--subject sub-03", 2, ["'laion-fmri download --subject sub-03'"]),
    # Options that there are not.
    ("download --subject 03 --session ses-01", 2, [D, "did you mean '--ses'?"]),
    ("download --subject 03 --sesion 1", 2, [D, "'--sesion' is not an option", "'--ses'?"]),
    ("download --subject 03 --jobs 4", 2, [D, "did you mean '--n-jobs'?"]),
    ("download --subject 03 --n_jobs 4", 2, [D, "did you mean '--n-jobs'?"]),
    ("download --subject 03 --threads=4", 2, [D, "'--threads'", "did you mean '--n-jobs'?"]),
    ("download --subject 03 --dryrun", 2, [D, "did you mean '--dry-run'?"]),
    ("download --subject 03 --output here", 2, [D, "did you mean '--data-dir'?"]),
    ("download --participant-label 03", 2, [D, "did you mean '--subject'?"]),
    ("download -subject 03", 2, [D, "did you mean '--subject'?"]),
    ("download --subject 03 --jobs 4 --sessions 1", 2, ["'--n-jobs'?", "'--ses'?"]),
    ("download --subject 03 --include", 2, [D, "--include-stimuli", "could match"]),
    (
        "download --subject 03 --colour red",
        2,
        [D, "is not an option of 'laion-fmri download'; see"],
    ),
    ("ls --jobs 4", 2, ["usage: laion-fmri ls ", "'--jobs' is not an option of 'laion-fmri ls'"]),
    ("verify --session 1", 2, ["usage: laion-fmri verify ", "did you mean '--ses'?"]),
    ("config --output here", 2, ["usage: laion-fmri config ", "did you mean '--data-dir'?"]),
    # Words that stand alone.
    ("download sub-03", 2, [D, "did you mean '--subject sub-03'?"]),
    ("download all", 2, [D, "did you mean '--subject all'?"]),
    ("download --n-jobs 4 ses-01", 2, [D, "did you mean '--ses ses-01'?"]),
    ("download -n 4", 2, [D, "did you mean '--n-jobs 4'?"]),
    ("config ./data", 2, ["did you mean '--data-dir ./data'?"]),
    ("info raw", 2, ["did you mean '--scope raw'?"]),
    (
        "license please",
        2,
        ["'please' is not an argument of 'laion-fmri license', which takes only"],
    ),
    # Options without a value, and values that there are not.
    ("download --subject", 2, [D, "--subject", "at least one argument"]),
    ("download", 2, [D, "name a --subject, such as sub-03 or all"]),
    ("download --subject 03 -j", 2, [D, "--n-jobs", "one argument"]),
    ("download --subject 03 --max-bandwidth fast", 2, ["'fast' is not a number of MB/s above 0"]),
    ("completion tcsh", 2, ["usage: laion-fmri completion SHELL", "'tcsh'", "fish"]),
    ("ls --subject 3", 2, ["'sub-3' is not in", "did you mean 'sub-03'?", "sub-01, sub-03"]),
    ("ls --subject sub3", 2, ["subject 'sub3' is not in", "did you mean 'sub-03'?"]),
    ("ls --subject Sub-03", 2, ["'Sub-03' is not a subject label; write 'sub-03'"]),
    ("ls --subject 03 --ses 1", 2, ["ses '1' matches nothing", "did you mean '01'?"]),
    ("ls --subject 03 --desc betas", 2, ["desc 'betas'", "did you mean 'SingletrialBetas'?"]),
    ("ls --subject 03 --scope roi", 2, ["scope 'roi' is not in", "did you mean 'rois'?"]),
    ("remove --subject 03 --ses all --yes", 2, ["leave ses out to remove all of a subject"]),
    ("remove --yes", 2, ["name a --subject, such as sub-03, or all"]),
]


@pytest.mark.parametrize(("line", "status", "said"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_met(bucket, tmp_path, line, status, said):
    """The answer is short, names what is wrong and what to do, and nothing has been written."""
    done = run_command(*line.split(), cwd=tmp_path)
    answer = done.stdout + done.stderr
    assert (done.returncode, [text for text in said if text not in answer]) == (status, []), answer
    assert "Traceback" not in answer
    if status:
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) <= 2
    assert list_all(tmp_path) == []


@pytest.mark.parametrize(
    ("short", "long"), [("-n", "--dry-run"), ("-j 2 -n", "--n-jobs 2 --dry-run"), ("-n -q", "-nq")]
)
def test_short_options(tiny, tmp_path, short, long):
    """They are the same as the long ones."""
    words = ["download", "--subject", "03", "--data-dir", tmp_path]
    done, same = (run_command(*words, *flags.split()) for flags in (short, long))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", same.stdout)
    assert list_all(tmp_path) == []


def test_all_sessions_are_all(bucket):
    """``--ses all`` leaves nothing out."""
    every = run_command("ls", "--subject", "03", "--keys").stdout
    assert run_command("ls", "--subject", "03", "--ses", "all", "--keys").stdout == every


def test_first_file_in_one_command(tiny, tiny_objects, tmp_path):
    """A folder that is named and has a parent is made; the choice is for this time."""
    line = "download --subject sub-03 --ses ses-01 --suffix trials --data-dir ./data"
    done = run_command(*line.split(), cwd=tmp_path)
    assert done.returncode == 0, done
    wanted = {key: text for key, text in tiny_objects.items() if key.endswith("_trials.tsv")}
    assert wanted.items() <= read_tree(tmp_path / "data").items()
    assert f"into {tmp_path}/data" in done.stdout
    assert not Path(os.environ["XDG_CONFIG_HOME"], "laion_fmri").exists()


def test_python_makes_the_folder_as_well(tiny, tiny_objects, tmp_path):
    """If its parent exists, and only once something is selected."""
    with pytest.raises(SelectionError):
        download("sub-03", ses="99", data_dir=tmp_path / "data")
    assert list_all(tmp_path) == []
    download("sub-03", data_dir=tmp_path / "data", dry_run=True)
    assert list_all(tmp_path) == []
    download("sub-03", data_dir=tmp_path / "data")
    assert tiny_objects == read_tree(tmp_path / "data")


def test_a_chosen_folder_that_is_gone_is_not_made_again(tiny, tmp_path):
    """It may be a disk that is not there now."""
    done = run_command("download", "--subject", "03", LAION_FMRI_DATA_DIR=tmp_path / "disk")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"the data directory {tmp_path}/disk does not exist" in done.stderr
    assert list_all(tmp_path) == []


@pytest.mark.parametrize("words", ["download -n --subject 03", "ls", "info", "entities"])
def test_who_only_looks_needs_no_data_directory(tiny, tmp_path, words):
    """Nothing is asked, and nothing is written."""
    done = run_command(*words.split(), cwd=tmp_path)
    assert done.returncode == 0, done
    assert list_all(tmp_path) == []
    assert "nonexistent" not in done.stdout + done.stderr


def test_a_dry_run_in_python_needs_no_data_directory(tiny, tiny_objects):
    """Where a file will be is not known."""
    report = download("sub-03", dry_run=True)
    assert sorted(tiny_objects) == list(report["key"])
    assert report["path"].isna().all()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_terminal_is_asked_once(tiny, tiny_objects, answer):
    """The proposal is in the current folder and saved on yes; on no, the ways are named."""
    here = Path(os.environ["HOME"], "laion_fmri_data")
    words = ("download", "--subject", "03")
    status, seen = on_terminal(*words, columns=200, typed=f"{answer}\n")
    assert seen.count("? [y/N] ") == 1
    if answer == "n":
        assert (status, here.exists()) == (2, False)
        assert "name one with --data-dir DIR" in seen
        return
    assert (status, get_data_dir()) == (0, here)
    assert tiny_objects == read_tree(here)
    status, seen = on_terminal(*words, columns=200)
    assert (status, "[y/N]" in seen) == (0, False)


def test_a_folder_that_cannot_be_made(tiny, tmp_path):
    """One line names it, and its parent."""
    with pytest.raises(DataDirError, match=f"{tmp_path}/a/b cannot be made, since {tmp_path}/a"):
        download("sub-03", data_dir=tmp_path / "a" / "b")


PLACE = "derivatives/glmsingle-tedana/sub-03/ses-{}/func/sub-03_ses-{}_task-images_trials.tsv"
BESIDE = (
    "README",
    "derivatives/glmsingle-tedana/sub-03/sub-03_task-images_summary.json",
    "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz",
)
OBJECTS = {key: key.encode() for key in (*(PLACE.format(s, s) for s in ("01", "2", "02")), *BESIDE)}


@pytest.fixture
def numbered(bucket, filled, monkeypatch):
    """Point the package at a bucket with the sessions 01, 02 and 2."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", filled)


@pytest.mark.parametrize("given", [1, ["02", 1], [1, "01"]], ids=str)
def test_a_session_by_its_number(numbered, tmp_path, given):
    """It means the only session with that number."""
    meant = ["01", "02"] if "02" in str(given) else "01"
    table = key_table("sub-03", ses=given, data_dir=tmp_path)
    assert list(table["key"]) == list(key_table("sub-03", ses=meant, data_dir=tmp_path)["key"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (2, r"ses=2 is not clear: write '02' or '2', in quotes"),
        (7, r"ses '7' matches nothing .*there is: 01, 02, 2"),
        (31, r"ses '31' matches nothing|ses-31 is held out"),
    ],
)
def test_a_number_of_no_session_or_of_several(numbered, tmp_path, given, said):
    """The error lists those that there are."""
    with pytest.raises(SelectionError, match=said):
        key_table("sub-03", ses=given, data_dir=tmp_path)


def test_a_number_of_a_held_out_session(bucket, tmp_path):
    """It is said to be held out."""
    with pytest.raises(SelectionError, match="ses-31 is held out"):
        key_table("sub-03", ses=31, data_dir=tmp_path)


def test_strict_leaves_out_what_comes_along(numbered, tmp_path):
    """Root files, masks and what does not carry the entity stay away, in all ways in."""
    key = PLACE.format("01", "01")
    words = ["ls", "--subject", "03", "--ses", "01", "--strict", "--keys"]
    assert run_command(*words).stdout == f"{key}\n"
    (path,) = lf.paths("sub-03", ses=1, suffix="trials", strict=True, data_dir=tmp_path)
    assert (path, path.read_bytes()) == (tmp_path / key, OBJECTS[key])
    assert [key] == list(read_tree(tmp_path))
    everything = lf.paths("sub-03", ses="01", data_dir=tmp_path)
    assert {tmp_path / key, tmp_path / "README"} < set(everything)


@pytest.mark.parametrize(
    "filters", [{}, {"ses": "averages"}, {"suffix": "trials"}, {"label": "V1"}], ids=str
)
def test_strict_keys_carry_each_filter(numbered, tmp_path, filters):
    """Whatever is named; averages are the files of scopes with sessions that have none."""
    table = key_table("sub-03", strict=True, data_dir=tmp_path, **filters)
    expected = {
        "{}": {key for key in OBJECTS if "/" in key},
        "ses": {BESIDE[1]},
        "suffix": {key for key in OBJECTS if key.endswith("_trials.tsv")},
        "label": {BESIDE[2]},
    }
    assert set(table["key"]) == expected[next(iter(filters), "{}")]


def test_paths_need_a_data_directory(tiny):
    """In a dry run as well: there is no path without one."""
    with pytest.raises(DataDirNotSetError):
        lf.paths("sub-03", dry_run=True)


def test_arguments_of_other_names(tiny, tmp_path):
    """Python says what was meant, as the command does."""
    for name, meant in {"session": "ses", "jobs": "n_jobs", "dryrun": "dry_run"}.items():
        with pytest.raises(TypeError, match=f"no argument '{name}'; did you mean '{meant}'"):
            download("sub-03", data_dir=tmp_path, **{name: "1"})
