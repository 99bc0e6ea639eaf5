"""What the README promises, each with a test that is named after it.

The tests are thin: they show that it is so, on real servers and processes. That it is so in every
corner is shown by the other files of this folder.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import (
    REPO,
    copy_clone,
    count_aws,
    expected_tree,
    list_runs,
    read_tree,
    run,
    run_command,
    run_snakemake,
    stat_all,
)
from runs import start, wait_until

import laion_fmri as lf
from laion_fmri.errors import DownloadError
from laion_fmri.run.run import Run
from laion_fmri.settings import read_settings

TRIALS = (
    "derivatives/glmsingle-tedana/sub-03/ses-01/func/"
    "sub-03_ses-01_task-images_desc-SingletrialBetas_trials.tsv"
)
FUNC = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_task-images_desc"
OBJECTS = {f"{FUNC}-{name}_trials.tsv": f"{name}\n".encode() * 99 for name in "ABCDE"}
A, B, *_ = OBJECTS
HELD = f"{FUNC}-[DE]_trials.tsv"


def download(
    data_dir: Path, *words: object, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run_command("download", "--subject", "03", "--data-dir", data_dir, *words, **settings)


def test_every_promise_of_the_readme_has_a_test() -> None:
    """The first sentence of each promise is the beginning of the text of a test here."""
    readme = " ".join((REPO / "README.md").read_text().split())
    section = readme.partition("## What is promised, and what is not")[2].partition(" ## ")[0]
    promises = re.findall(r"(?:^| )- (.+?[.:;])(?= )", section)
    tests = [function.__doc__ or "" for name, function in globals().items() if name[:5] == "test_"]
    tests = [" ".join(text.split()) for text in tests]
    assert len(promises) >= 10
    assert [said for said in promises if not any(text.startswith(said) for text in tests)] == []


# The first minute.


def test_a_table_of_trials_on_the_screen_by_one_command(bucket, objects, tmp_path):
    """In under 5 CPU seconds, that of all its processes, from an empty folder."""
    text = "import laion_fmri as lf; path, = lf.paths('sub-03', ses=1, suffix='trials', "
    text += "extension='tsv', strict=True, data_dir='data'); print(path.read_text(), end='')"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(  # not warmed up, as other tests are
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stdout.encode()) == (0, objects[TRIALS]), done
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0.5 < seconds < 5


def test_the_root_files_do_not_keep_the_first_file_waiting(bucket, tmp_path):
    """What was asked for comes with the first start of aws; the root files come after it."""
    log = tmp_path / "log"
    done = download(
        tmp_path / "new", *("--ses", "01", "--suffix", "trials", "--extension", "tsv"),
        LAION_FMRI_AWS=count_aws(tmp_path, log),
    )  # fmt: skip
    assert done.returncode == 0, done
    assert (tmp_path / "new" / TRIALS).is_file()
    first, *others = log.read_text().splitlines()
    assert "derivatives/glmsingle-tedana/sub-03/" in first
    assert len(others) == 4


def test_the_same_three_ways_in_one_behaviour(bucket, objects, tmp_path):
    """The command, Python and Snakemake bring the same files."""
    expected = expected_tree(objects, "03", ses="01", suffix="trials")
    assert download(tmp_path / "a", "--ses", "01", "--suffix", "trials").returncode == 0
    lf.download("03", ses="01", suffix="trials", data_dir=tmp_path / "b")
    (tmp_path / "c").mkdir()
    config = {"subject": "03", "ses": "01", "suffix": "trials", "data_dir": str(tmp_path / "c")}
    done = run_snakemake(copy_clone(tmp_path / "clone", **config), "--cores", 2)
    assert done.returncode == 0, done
    assert [read_tree(tmp_path / name) for name in "abc"] == [expected] * 3


# What is promised.


def test_complete(tiny, tiny_objects, tmp_path):
    """A file is complete when it has exactly the size that the bucket lists.

    Such files are left alone, and others are fetched again.
    """
    lf.download("03", data_dir=tmp_path)
    broken, *whole = tiny_objects
    (tmp_path / broken).write_bytes(b"half")
    before = stat_all(tmp_path, whole)
    tiny.clear_requests()
    lf.download("03", data_dir=tmp_path)
    assert read_tree(tmp_path) == tiny_objects
    assert (stat_all(tmp_path, whole), set(tiny.gets(bucket="tiny"))) == (before, {broken})


def test_killed(bench, tmp_path):
    """Files arrive under `<data_dir>/.laion_fmri/partial/` and are moved into place whole.

    What had arrived stays, and the same command goes on.
    """
    held = bench.break_("hold", HELD)
    data_dir = tmp_path / "data"
    with start("command", data_dir, tmp_path / "run") as killed:
        assert wait_until(lambda: held.reached.is_set() and len(read_tree(data_dir)) == 3)
        killed.process.send_signal(signal.SIGKILL)
        assert killed.is_gone()
    bench.mend()
    here = read_tree(data_dir)
    assert here.items() <= OBJECTS.items()
    bench.clear()
    assert download(data_dir).returncode == 0
    assert read_tree(data_dir) == OBJECTS
    assert set(bench.gets_by_key()) == OBJECTS.keys() - here.keys()


def test_bad_connections_and_refusals(bench, tmp_path):
    """Connection errors are retried, a limited number of times; what is denied is asked once."""
    bench.break_("reset", A, times=1)
    bench.break_("403", B)
    done = download(tmp_path)
    assert done.returncode == 1
    assert f"error: {B}: access denied (403)" in done.stderr
    assert read_tree(tmp_path) == {key: OBJECTS[key] for key in OBJECTS if key != B}
    assert (bench.gets(A), bench.gets(B)) == (2, 1)


def test_without_a_network(tiny, tiny_objects, tmp_path):
    """What is asked for and complete needs no network: what is missing is named in a line."""
    assert download(tmp_path).returncode == 0
    assert download(tmp_path, LAION_FMRI_OFFLINE=1).returncode == 0
    gone = next(iter(tiny_objects))
    (tmp_path / gone).unlink()
    done = download(tmp_path, LAION_FMRI_OFFLINE=1)
    assert done.returncode == 1
    assert gone in done.stderr.splitlines()[-1]


def test_replaced(server, bucket, monkeypatch, tmp_path):
    """An object that is replaced during a run is not taken for the one that was listed, and
    versions are not mixed. The next run fetches what is new.
    """
    server.add_bucket("replaced", {A: b"old one", B: b"same"})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "replaced")
    with Run(read_settings({"subject": "03", "data_dir": tmp_path})) as planned:
        server.put(A, b"new content", "replaced")
        report = planned.fetch()
    assert [result.row.key for result in report.failures()] == [A]
    assert read_tree(tmp_path) == {B: b"same"}
    lf.download("03", data_dir=tmp_path)
    assert read_tree(tmp_path) == {A: b"new content", B: b"same"}


def test_shared(bench, tmp_path):
    """Several runs, also of several users, may share a data directory: each file comes once."""
    bench.break_("slow", rate=300)
    data_dir = tmp_path / "data"
    with (
        start("command", data_dir, tmp_path / "1") as one,
        start("command", data_dir, tmp_path / "2") as two,
    ):
        assert (one.wait(), two.wait()) == (0, 0)
    assert read_tree(data_dir) == OBJECTS
    assert set(bench.gets_by_key().values()) == {1}


def test_room(bucket, tmp_path):
    """A run that the disk has no room for does not start, unless you say so (`--no-space-check`).

    Nothing is asked for.
    """
    mount = 'mount -t tmpfs -o size=64k none "$0"'
    spaces = ["unshare", "--map-root-user", "--mount"]
    if run([*spaces, "sh", "-c", mount, tmp_path]).returncode:
        pytest.skip("no file system can be mounted here")
    words = ["download", "--subject", "03", "--ses", "01", "--data-dir"]
    command = [sys.executable, "-m", "laion_fmri", *words, tmp_path]
    done = run([*spaces, "sh", "-c", f'{mount} && exec "$@"', tmp_path, *command])
    assert (done.returncode, bucket.gets()) == (1, {})
    assert "--no-space-check" in done.stderr.splitlines()[-1]


def test_nobody_is_trusted(server, bucket, monkeypatch, tmp_path):
    """Neither the bucket nor those who share the folder are trusted ([SECURITY.md](SECURITY.md)).

    Keys that lead elsewhere are left out and named.
    """
    glm = "derivatives/glmsingle-tedana/sub-03"
    bad = [f"{glm}/../../../../out.tsv", f"{glm}/.bashrc", f"{glm}/{{a}}.tsv"]
    server.add_bucket("hostile", {A: b"good", **dict.fromkeys(bad, b"bad")})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "hostile")
    data_dir = tmp_path / "data"
    done = download(data_dir)
    assert read_tree(data_dir) == {A: b"good"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert "out.tsv" in done.stderr
    # A folder that leads out of the data directory is not gone through.
    (data_dir / A).unlink()
    (data_dir / A).parent.rmdir()
    (data_dir / A).parent.symlink_to(tmp_path)
    assert download(data_dir).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_in_the_way(tiny, tiny_objects, tmp_path):
    """Anything in the place of a file (a folder, a broken link) is named and left alone."""
    taken, *others = tiny_objects
    (tmp_path / taken).mkdir(parents=True)
    done = download(tmp_path)
    assert done.returncode == 1
    assert f"error: {taken}: " in done.stderr
    assert (tmp_path / taken).is_dir()
    assert read_tree(tmp_path).keys() == set(others)


def test_mirror(tiny, tiny_objects, tmp_path):
    """What runs share stays in `<data_dir>/.laion_fmri/`; the rest is a plain mirror."""
    assert download(tmp_path).returncode == 0
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {".laion_fmri", "derivatives"}
    assert read_tree(tmp_path) == tiny_objects
    assert len(list_runs(tmp_path)) == 1


def test_no_credentials(tiny, tiny_objects, tmp_path):
    """Your AWS profile, credentials and endpoint are not used: the bucket is public."""
    assert (os.environ["AWS_PROFILE"], os.environ["AWS_ACCESS_KEY_ID"]) == ("missing", "wrong")
    assert os.environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert download(tmp_path).returncode == 0
    assert read_tree(tmp_path) == tiny_objects


# What is not promised, and what helps.


def test_a_flipped_bit_is_found_by_verify_and_repaired(tiny, tiny_objects, tmp_path):
    """Of the right size, it passes a download."""
    lf.download("03", data_dir=tmp_path)
    key, content = next(iter(tiny_objects.items()))
    (tmp_path / key).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    words = ["verify", "--subject", "03", "--data-dir", tmp_path]
    assert run_command(*words).returncode == 1
    assert run_command(*words, "--repair").returncode == 0
    assert read_tree(tmp_path) == tiny_objects


def test_what_is_only_missing_is_no_failure_of_verify_but_with_a_manifest_it_is(tiny, tmp_path):
    """It is counted in one line, with the command that fetches it."""
    list_ = tmp_path / "keys.tsv"
    here, there = tmp_path / "here", tmp_path / "there"
    assert download(here, "--save-manifest", list_).returncode == 0
    there.mkdir()
    done = run_command("verify", "--subject", "03", "--data-dir", there)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    assert done.stderr.startswith("missing: 4 files, ")
    assert run_command("verify", "--manifest", list_, "--data-dir", there).returncode == 1


def test_a_manifest_brings_exactly_that_elsewhere(tiny, tiny_objects, tmp_path):
    """What was selected is kept, and fetched by it."""
    here, there, list_ = tmp_path / "here", tmp_path / "there", tmp_path / "keys.tsv"
    assert (
        download(here, "--suffix", "trials", "--strict", "--save-manifest", list_).returncode == 0
    )
    assert run_command("download", "--manifest", list_, "--data-dir", there).returncode == 0
    assert read_tree(here) == read_tree(there)
    assert 0 < len(read_tree(there)) < len(tiny_objects)


def test_exit_status_and_error_of_python(bench, tmp_path):
    """0 done, 1 some files failed, 2 bad usage; the error has the whole report."""
    bench.break_("403", B)
    assert download(tmp_path / "a").returncode == 1
    assert download(tmp_path / "a", "--ses", "99").returncode == 2
    with pytest.raises(DownloadError) as caught:
        lf.download("03", data_dir=tmp_path / "b")
    assert list(caught.value.report["key"]) == sorted(OBJECTS)
    bench.mend()
    assert download(tmp_path / "a").returncode == 0


def test_on_windows_a_line_names_wsl():
    """And there is no traceback."""
    text = "import sys; sys.platform = 'win32'; from laion_fmri.__main__ import run; run()"
    done = run([sys.executable, "-c", text])
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "WSL" in done.stderr
