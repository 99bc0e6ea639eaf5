"""Sizes decide, by all ways in; and a fault costs no more than the object that it hits."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from helpers import (
    ROOT_FILES,
    complaints,
    copy_clone,
    expected_tree,
    list_all,
    list_runs,
    read_tree,
    run_command,
    run_snakemake,
    sandbox,
    stat_all,
    wrap_aws,
    write_tree,
)

from laion_fmri.download import download
from laion_fmri.errors import DownloadError

SELECTION = {"subject": "sub-03", "ses": "ses-01"}
FUTURE, PAST = 4102444800, 315532800  # 2100 and 1980, in seconds since 1970


@pytest.fixture(scope="module")
def fetched(server, objects, tmp_path_factory) -> Path:
    """Fetch one session, once; every test leaves it complete."""
    data_dir = tmp_path_factory.mktemp("fetched")
    write_tree(data_dir, {key: objects[key] for key in ROOT_FILES})  # saves four starts of aws
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url):
        download(**SELECTION, data_dir=data_dir, n_jobs=4)
    return data_dir


@pytest.fixture(scope="module")
def clone(fetched, tmp_path_factory) -> Path:
    """Copy the clone, its configuration pointing at the fetched session."""
    return copy_clone(tmp_path_factory.mktemp("clone"), data_dir=str(fetched), **SELECTION)


def use_snakemake(clone: Path, data_dir: Path) -> None:
    """Run plain ``snakemake --cores 4`` in the clone."""
    done = run_snakemake(clone, "--cores", "4")
    assert done.returncode == 0, done.stderr


def use_download(clone: Path, data_dir: Path) -> None:
    """Call ``download()``."""
    report = download(**SELECTION, data_dir=data_dir, n_jobs=2)
    assert Counter(report["outcome"]) == {"present": len(report) - 4, "fetched": 4}


def use_command(clone: Path, data_dir: Path) -> None:
    """Run ``laion-fmri download``."""
    words = ["--subject", "sub-03", "--ses", "ses-01", "--n-jobs", "2"]
    done = run_command("download", *words, "--data-dir", data_dir)
    assert (done.returncode, complaints(done)) == (0, [])
    assert "fetched 4 files" in done.stdout


WAYS = {"snakemake": use_snakemake, "download": use_download, "command": use_command}


def damage(data_dir: Path, objects: dict[str, bytes]) -> set[str]:
    """Truncate one file, enlarge another, empty a third, delete a fourth; return their keys."""
    by_end = {
        end: next(key for key in objects if key.endswith(end))
        for end in ("participants.tsv", "Betas_statmap.nii.gz", "GLMsingle_model.h5", "_trials.tsv")
    }
    truncated, enlarged, emptied, deleted = (data_dir / key for key in by_end.values())
    truncated.write_bytes(truncated.read_bytes()[:-1])
    os.utime(truncated, (FUTURE, FUTURE))
    enlarged.write_bytes(enlarged.read_bytes() + b"\0")
    os.utime(enlarged, (PAST, PAST))
    emptied.write_bytes(b"")
    deleted.unlink()
    return set(by_end.values())


@pytest.mark.parametrize("way", WAYS)
def test_exactly_the_damaged_files_are_fetched_again(way, fetched, clone, bucket, objects):
    """Four damaged files are fetched once each; of the others not even the clock moves."""
    expected = expected_tree(objects, **SELECTION)
    assert expected == read_tree(fetched)
    bad = damage(fetched, expected)
    others = set(expected) - bad
    before = stat_all(fetched, others)
    WAYS[way](clone, fetched)
    assert dict.fromkeys(bad, 1) == dict(bucket.gets())
    assert expected == read_tree(fetched)
    assert before == stat_all(fetched, others)


def test_complete_selection_costs_snakemake_no_object(fetched, clone, bucket, objects):
    """Plain or forced, and after the files' clocks went mad: nothing is fetched."""
    expected = expected_tree(objects, **SELECTION)
    for key, when in zip(sorted(expected), [FUTURE, PAST], strict=False):
        os.utime(fetched / key, (when, when))
    before = stat_all(fetched, expected)
    plain = run_snakemake(clone, "--cores", "4")
    assert plain.returncode == 0
    assert "Nothing to be done" in plain.stderr
    forced = run_snakemake(clone, "--cores", "4", "--forceall", "--rerun-triggers", "mtime", "code")
    assert forced.returncode == 0, forced.stderr
    assert Counter() == bucket.gets()
    assert before == stat_all(fetched, expected)


def test_complete_selection_costs_download_no_run(fetched, bucket):
    """``download()`` of a complete selection starts no run and changes no file."""
    before, runs = list_all(fetched), list_runs(fetched)
    assert {"present"} == set(download(**SELECTION, data_dir=fetched)["outcome"])
    assert (before, runs) == (list_all(fetched), list_runs(fetched))
    assert Counter() == bucket.gets()


def test_changed_object_is_fetched_again(server, bucket, tiny_objects, tmp_path, monkeypatch):
    """An object that has got another size in the bucket replaces the file."""
    server.add_bucket("changing", tiny_objects)
    monkeypatch.setenv("LAION_FMRI_BUCKET", "changing")
    write_tree(tmp_path, tiny_objects)
    key = min(tiny_objects)
    server.put(key, b"new content", "changing")
    report = download("sub-03", data_dir=tmp_path).set_index("key")
    assert {key: "fetched"} == report["outcome"][report["outcome"] != "present"].to_dict()
    assert tiny_objects | {key: b"new content"} == read_tree(tmp_path)


def make_link(data_dir: Path, key: str, target: Path) -> Path:
    """Put a link to `target` where the file of `key` belongs."""
    link = data_dir / key
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return link


def test_link_to_a_complete_file_is_complete(tiny, tiny_objects, tmp_path):
    """A file that is a link to shared storage counts, and stays a link."""
    write_tree(tmp_path / "shared", tiny_objects)
    links = [make_link(tmp_path / "data", key, tmp_path / "shared" / key) for key in tiny_objects]
    assert {"present"} == set(download("sub-03", data_dir=tmp_path / "data")["outcome"])
    assert all(link.is_symlink() for link in links)
    assert Counter() == tiny.gets(bucket="tiny")


def test_link_to_nowhere_is_named_and_left_alone(tiny, tiny_objects, tmp_path):
    """A link without a file behind it is not ours to follow or remove; the rest arrives."""
    broken, *others = sorted(tiny_objects)
    make_link(tmp_path, broken, tmp_path / "nowhere")
    with pytest.raises(DownloadError, match="link to nowhere") as caught:
        download("sub-03", data_dir=tmp_path)
    outcomes = dict(zip(caught.value.report["key"], caught.value.report["outcome"], strict=True))
    assert {broken: "failed"} | dict.fromkeys(others, "fetched") == outcomes
    assert (tmp_path / broken).is_symlink()
    assert {key: tiny_objects[key] for key in others} == read_tree(tmp_path)


def start_slow_download(tmp_path, delay: str, before=()) -> subprocess.Popen[bytes]:
    """Start the command with an aws that first waits, and return once an aws has started."""
    (tmp_path / "data").mkdir()
    slow = wrap_aws(tmp_path, before=f"echo $$ > '{tmp_path}/pid'; {delay}")
    command = [*before, sys.executable, "-m", "laion_fmri", "download", "--subject", "03"]
    environment = {"LAION_FMRI_DATA_DIR": str(tmp_path / "data"), "LAION_FMRI_AWS": str(slow)}
    process = subprocess.Popen(
        command, env=os.environ | environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def test_interrupt_stops_everything(tiny, tiny_objects, tmp_path):
    """An interrupt ends with 130 and kills the transfers; the same command then goes on."""
    process = start_slow_download(tmp_path, "exec sleep 60")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert read_tree(tmp_path / "data") == {}
    done = run_command("download", "--subject", "03", LAION_FMRI_DATA_DIR=tmp_path / "data")
    assert done.returncode == 0
    assert tiny_objects == read_tree(tmp_path / "data")
    assert list((tmp_path / "data" / ".laion_fmri" / "partial").iterdir()) == []


@pytest.mark.parametrize(("before", "status"), [([], 130), (["nohup"], 0)], ids=["", "nohup"])
def test_closed_terminal(tiny, tiny_objects, tmp_path, before, status):
    """It stops the run, unless the run was meant to outlive its terminal."""
    process = start_slow_download(tmp_path, "sleep 2", before)
    process.send_signal(signal.SIGHUP)
    said = process.communicate(timeout=60)[1].decode()
    assert (process.returncode, "Traceback" in said) == (status, False)
    assert (read_tree(tmp_path / "data") == tiny_objects) is (status == 0)


@pytest.fixture(scope="module")
def denied(server, tiny_objects, tmp_path_factory):
    """Download from a bucket with one denied key in the middle of a batch."""
    key = sorted(tiny_objects)[1]
    server.add_bucket("denying", tiny_objects, denied=[key])
    data_dir = tmp_path_factory.mktemp("denied")
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url) as patch:
        patch.setenv("LAION_FMRI_BUCKET", "denying")
        with pytest.raises(DownloadError) as caught:
            download("sub-03", data_dir=data_dir)
    return key, data_dir, caught.value


def test_denied_object_does_not_cost_the_others(denied, tiny_objects):
    """Everything but the denied object arrives."""
    key, data_dir, _ = denied
    assert {k: v for k, v in tiny_objects.items() if k != key} == read_tree(data_dir)


def test_download_error_names_key_and_reason(denied, tiny_objects):
    """The message names the denied key and why; the report has the outcome of each row."""
    key, _, error = denied
    assert key in str(error)
    assert "403" in str(error)
    outcomes = {k: "denied" if k == key else "fetched" for k in tiny_objects}
    assert outcomes == dict(zip(error.report["key"], error.report["outcome"], strict=True))
    reasons = dict(zip(error.report["key"], error.report["reason"], strict=True))
    assert "denied" in reasons[key]


def test_denied_object_is_not_retried(denied, server):
    """A refusal is final: one request for the object, and no more."""
    key, _, _ = denied
    asked = [r for r in server.requests if r.bucket == "denying" and r.key == key]
    assert [r.status for r in asked if r.method == "GET"] == [403]


def test_download_error_survives_pickling(denied):
    """A process pool can hand the error on, report and all."""
    _, _, error = denied
    copy = pickle.loads(pickle.dumps(error))
    assert (type(error), str(error)) == (type(copy), str(copy))
    assert error.report.equals(copy.report)


def test_object_that_goes_away_fails_alone(server, tiny_objects, bucket, tmp_path, monkeypatch):
    """An object that is deleted after the listing is a failure with a reason; the rest arrives."""
    key = sorted(tiny_objects)[2]
    server.add_bucket("shrinking", tiny_objects)
    (tmp_path / "data").mkdir()
    gate = f"touch '{tmp_path}/started'\nwhile [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done"
    monkeypatch.setenv("LAION_FMRI_AWS", str(wrap_aws(tmp_path, before=gate)))
    monkeypatch.setenv("LAION_FMRI_BUCKET", "shrinking")

    def delete() -> None:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        server.delete(key, "shrinking")
        (tmp_path / "go").touch()

    thread = threading.Thread(target=delete, daemon=True)
    thread.start()
    with pytest.raises(DownloadError) as caught:
        download("sub-03", data_dir=tmp_path / "data")
    thread.join()
    failed = caught.value.report.set_index("key").loc[key]
    assert failed["outcome"] == "failed"
    assert "no longer in the bucket" in failed["reason"]
    assert {k: v for k, v in tiny_objects.items() if k != key} == read_tree(tmp_path / "data")
