"""Forks, threads and processes at once; odd homes, outputs and places of aws."""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import (
    complaints,
    drop_capabilities,
    expected_keys,
    find_aws,
    read_tree,
    run,
    run_command,
    run_script,
    write_tree,
)

from laion_fmri.download import download
from laion_fmri.fetch.aws import find_aws_command

#: The parent has asked the bucket; then each worker asks for another subject, at the same time.
FORK = """
import multiprocessing, warnings
from laion_fmri import get_subjects, key_table
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads

def ask(subject):
    return subject, sorted(set(key_table(subject, scope="all", data_dir=".")["sub"].dropna()))

if __name__ == "__main__":
    get_subjects()
    with multiprocessing.get_context("fork").Pool(4, maxtasksperchild=1) as pool:
        subjects = [("01", "03", "05")[n % 3] for n in range(16)]
        for subject, found in pool.imap_unordered(ask, subjects):
            assert found == [subject], (subject, found)
    print("done")
"""


def test_forked_workers_never_share_a_socket(bucket, tmp_path):
    """Each gets the answer to its own question, in sixteen processes, four at once."""
    done = run_script(FORK, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_threads_that_download_at_once(tiny, tiny_objects, tmp_path):
    """Five runs that start in the same second have five folders, and each brings its files."""
    folders = [tmp_path / f"data-{n}" for n in range(3)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(5) as pool:
        reports = list(pool.map(lambda n: download("03", data_dir=folders[n % 3]), range(5)))
    assert [set(report["outcome"]) <= {"fetched", "present"} for report in reports] == [True] * 5
    assert [tiny_objects] * 3 == [read_tree(folder) for folder in folders]


def test_an_aws_beside_the_interpreter(monkeypatch, tmp_path):
    """An environment that is used by its path, and not activated, has its own."""
    monkeypatch.delenv("LAION_FMRI_AWS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "env").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "python"))
    program = tmp_path / "env" / "aws"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_aws_command() == str(program)
    shutil.copy(program, tmp_path / "aws")
    assert find_aws_command() == str(tmp_path / "aws")


def test_the_job_gets_the_full_path_of_aws(tiny, tiny_objects, tmp_path, monkeypatch):
    """What this process has found is what the jobs start, whatever their PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "aws").symlink_to(find_aws())
    monkeypatch.delenv("LAION_FMRI_AWS", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "data").mkdir()
    report = download("03", data_dir=tmp_path / "data")
    assert {"fetched"} == set(report["outcome"])
    (table,) = Path(os.environ["HOME"]).rglob("table.json")
    assert f'"aws": "{tmp_path}/bin/aws"' in table.read_text()


@pytest.mark.parametrize("home", ["read-only", "missing"])
def test_a_home_that_cannot_be_written(tiny, tiny_objects, tmp_path, home):
    """The run goes on with the temporary folder, and says nothing of another disk."""
    place, data = tmp_path / "home", tmp_path / "data"
    data.mkdir()
    if home == "read-only":
        place.mkdir(mode=0o555)
    settings = {"HOME": place, "XDG_STATE_HOME": None, "XDG_CACHE_HOME": None}
    program = [*drop_capabilities(), sys.executable, "-m", "laion_fmri"]
    done = run([*program, "download", "--subject", "03", "--data-dir", data], **settings)
    assert (done.returncode, complaints(done)) == (0, [])
    assert tiny_objects == read_tree(data)
    place.chmod(0o755) if place.exists() else None


def test_a_choice_that_cannot_be_saved(tmp_path):
    """One line says where, and what to do; no traceback."""
    place = tmp_path / "home"
    place.mkdir(mode=0o555)
    program = [*drop_capabilities(), sys.executable, "-m", "laion_fmri"]
    settings = {"HOME": place, "XDG_CONFIG_HOME": None}
    done = run([*program, "config", "--data-dir", tmp_path / "data"], **settings)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"error: the choice cannot be saved in {place}")
    assert "LAION_FMRI_DATA_DIR" in line


@pytest.mark.parametrize("output", ["full", "closed"])
@pytest.mark.parametrize("words", ["download --subject 03", "info", "ls --json", "status --json"])
def test_an_output_that_cannot_be_written(tiny, tiny_objects, tmp_path, output, words):
    """The files are fetched all the same; there is no traceback."""
    redirect = ">/dev/full" if output == "full" else ">&-"
    command = f"'{sys.executable}' -m laion_fmri {words} --data-dir '{tmp_path}' {redirect}"
    done = run(["sh", "-c", command])
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if words.startswith("download"):
        assert tiny_objects == read_tree(tmp_path)
    if output == "full":
        assert "No space left on device" in done.stderr


def test_a_working_directory_that_is_gone(tiny, tiny_objects, tmp_path):
    """With an absolute data directory, nothing depends on it."""
    (tmp_path / "gone").mkdir()
    command = f"cd '{tmp_path}/gone' && rmdir '{tmp_path}/gone' && "
    command += (
        f"'{sys.executable}' -m laion_fmri download --subject 03 --data-dir '{tmp_path}/data'"
    )
    (tmp_path / "data").mkdir()
    done = run(["sh", "-c", command])
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert tiny_objects == read_tree(tmp_path / "data")


def test_a_user_that_does_not_exist(tiny):
    """``~nobody-here`` is named as what it is."""
    done = run_command("download", "--subject", "03", "--data-dir", "~nobody-here/data")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "~nobody-here" in line


def test_complete_files_need_no_home(bucket, objects, tmp_path):
    """With nothing to fetch, nothing is written anywhere."""
    keys = expected_keys(objects, "03", ses="01", suffix="trials")
    write_tree(tmp_path / "data", {key: objects[key] for key in keys})
    words = ["--subject", "03", "--ses", "01", "--suffix", "trials"]
    done = run_command("download", *words, "--data-dir", tmp_path / "data", HOME="/nonexistent")
    assert (done.returncode, done.stderr) == (0, "")
