"""What a strange bucket, configuration or state folder can make a run do: say so, and no more."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from helpers import complaints, copy_clone, list_all, read_tree, run_command, run_snakemake

from laion_fmri.base.files import write_atomically
from laion_fmri.errors import DataDirError
from laion_fmri.folder.guard import make_own_folder, read_own_file
from laion_fmri.manifest import Entry, write_manifest

GLM = "derivatives/glmsingle-tedana"
#: An escape, the title of a terminal, a change of direction and a C1 control.
EVIL = "\x1b[31m\x1b]0;x\x07\u202e\x9b2J"


@pytest.fixture
def strange(server, bucket, monkeypatch, tmp_path):
    """Serve a bucket whose names do everything that names can do."""
    objects = {
        f"{GLM}/sub-03/ses-01/func/sub-03_ses-01_desc-A_trials.tsv": b"a",
        f"{GLM}/sub-03/ses-01/func/sub-03_ses-01_desc-{EVIL}_trials.tsv": b"b",
        f"{GLM}/sub-03/.git/config": b"[core] fsmonitor = evil",
        f"{GLM}/sub-{EVIL}/x.tsv": b"c",
    }
    server.add_bucket("strange", objects)
    monkeypatch.setenv("LAION_FMRI_BUCKET", "strange")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize(
    "words",
    [
        ("download", "--subject", "03", "--desc", "B"),
        ("download", "--subject", "03"),
        ("download", "--subject", "99"),
        ("ls", "--subject", "03"),
        ("entities",),
        ("info",),
        ("status",),
        ("verify", "--subject", "03"),
    ],
    ids=" ".join,
)
def test_no_name_reaches_the_terminal_as_it_is(strange, words):
    """In messages, tables and lists alike."""
    place = [] if words[0] == "entities" else ["--data-dir", strange]
    done = run_command(*words, *place)
    said = (done.stdout + done.stderr).replace("\n", "").replace("\t", "")
    assert said.isprintable(), ascii(said)
    assert "Traceback" not in said


def test_what_git_would_run_does_not_come(strange):
    """It is named, and everything else arrives."""
    done = run_command("download", "--subject", "03", "--data-dir", strange)
    assert done.returncode == 0
    assert "a name that git, a shell, Python or Snakemake would run" in done.stderr
    assert [Path(name).name for name in read_tree(strange)] == ["sub-03_ses-01_desc-A_trials.tsv"]


def test_a_manifest_cannot_speak_either(bucket, tmp_path):
    """What it holds is spelled, wherever it is shown."""
    made = datetime(2026, 1, 1, tzinfo=UTC)
    file = tmp_path / "keys.tsv"
    write_manifest(file, [Entry("README", 1, EVIL, made), Entry("participants.tsv", 1, "e", made)])
    file.write_text(file.read_text().replace("participants.tsv", f"x{EVIL}"))
    done = run_command("download", "--manifest", file, "--data-dir", tmp_path)
    assert done.returncode == 2
    (line,) = complaints(done)
    assert line.isprintable()


def test_a_dry_run_of_a_strange_configuration_writes_nothing(bucket, tmp_path):
    """And a run never replaces anything but a manifest."""
    notes = tmp_path / "notes.tsv"
    notes.write_text("mine")
    config = {"subject": "03", "ses": "01", "data_dir": str(tmp_path / "data")}
    (tmp_path / "data").mkdir()
    clone = copy_clone(tmp_path / "clone", **config, save_manifest=str(tmp_path / "new.tsv"))
    assert run_snakemake(clone, "-n", "--quiet").returncode == 0
    assert not (tmp_path / "new.tsv").exists()
    (clone / "config" / "config.yaml").write_text(
        yaml.safe_dump(config | {"save_manifest": str(notes)})
    )
    done = run_snakemake(clone, "--cores", "1")
    assert done.returncode != 0
    assert "exists and is not a manifest" in done.stderr
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("key", ["table", "run_folder"])
def test_no_secret_key_of_the_configuration(bucket, tmp_path, key):
    """Nothing reads another folder because a configuration says so."""
    clone = copy_clone(tmp_path / "clone", subject="03", data_dir=str(tmp_path), **{key: "/etc"})
    done = run_snakemake(clone, "-n")
    assert done.returncode != 0
    assert f"'{key}' is not a known key" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("repair.lock", Path.mkdir),
        ("claims", Path.mkdir),
        ("partial", Path.touch),
        ("claims", os.mkfifo),
    ],
)
def test_a_state_folder_with_something_else_in_it(tiny, tmp_path, name, make):
    """Each is named in one line, and stays."""
    state = tmp_path / ".laion_fmri"
    state.mkdir()
    make(state / name)
    for words in (["download", "--subject", "03"], ["verify", "--repair"]):
        done = run_command(*words, "--data-dir", tmp_path)
        assert done.returncode == 2
        (line,) = complaints(done)
        assert f"{state / name} is a" in line
    assert list_all(tmp_path) == [".laion_fmri", f".laion_fmri/{name}"]


def test_an_old_state_folder(tiny, tiny_objects, tmp_path):
    """What an earlier version has left there, whatever it is, is in nobody's way."""
    state = tmp_path / ".laion_fmri"
    for folder in ("runs/20260101T000000-1/outcomes", "logs", "partial/old-1"):
        (state / folder).mkdir(parents=True)
    for file in ("stamp", "rate.json", "claims", "runs/20260101T000000-1/alive-x"):
        (state / file).write_text("x")
    (state / "claims").chmod(0o666)
    (state / "licenses.json").write_text("[" * 100_000)
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert tiny_objects == read_tree(tmp_path)
    assert stat.S_IMODE((state / "claims").stat().st_mode) == 0o600


def test_a_job_is_read_from_a_folder_of_the_user_alone(tmp_path):
    """A file that others can swap or write is not what this user has written."""
    folder = tmp_path / "own"
    make_own_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "job.json").write_text("{}")
    assert read_own_file(folder / "job.json") == "{}"
    folder.chmod(0o770)
    with pytest.raises(DataDirError, match="not only yours to write"):
        read_own_file(folder / "job.json")
    with pytest.raises(DataDirError, match="not only yours to write"):
        make_own_folder(folder)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(DataDirError, match="is a link, not a folder"):
        make_own_folder(tmp_path / "link")


def test_a_home_that_cannot_be_written(tiny, tiny_objects, tmp_path):
    """The folder of the run is then in the temporary folder, and belongs to the user alone."""
    (tmp_path / "home").write_text("a file")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "data").mkdir()
    settings = {"XDG_STATE_HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp"}
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path / "data", **settings)
    assert done.returncode == 0, done.stderr
    assert tiny_objects == read_tree(tmp_path / "data")
    (own,) = (tmp_path / "tmp").glob("laion_fmri-*")
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_a_scratch_file_is_never_written_through_a_link(tmp_path, monkeypatch):
    """Even if somebody could guess its name."""
    target, private = tmp_path / "keys.tsv", tmp_path / "private"
    private.write_text("secret")

    monkeypatch.setattr("os.urandom", bytes)
    (tmp_path / f"keys.tsv.{'0' * 12}.tmp").symlink_to(private)
    with pytest.raises(FileExistsError):
        write_atomically(target, "new")
    assert private.read_text() == "secret"
