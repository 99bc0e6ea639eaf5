"""Fetching on a real SLURM: as jobs of the cluster, or beside it while a pipeline uses it."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from faults import serve_faults
from helpers import (
    HOST,
    REPO,
    ROOT_FILES,
    complaints,
    copy_clone,
    count_aws,
    expected_tree,
    list_all,
    read_tree,
    run_command,
    run_snakemake,
    sandbox,
    wrap_aws,
)
from slurm import Job, Slurm, find_slurm, run_slurm

from laion_fmri.download import download

REASON = find_slurm()
pytestmark = [
    pytest.mark.cold,
    pytest.mark.faults,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

#: What this SLURM needs, which has no accounting, and what spares the tests their waiting.
OWN = {
    "slurm-status-command": "squeue",
    "slurm-init-seconds-before-status-checks": 7,
    "default-resources": {"mem_mb": 100, "runtime": 5, "slurm_account": "tests"},
}
#: Submissions that a scheduler sees of one subject, at most.
FEW = 10


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    """Run SLURM for all tests of this module."""
    with run_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """Copy the profile that is shipped, fitted to this SLURM as users fit it to theirs."""
    folder = tmp_path_factory.mktemp("profiles") / "tests"
    shutil.copytree(REPO / "profiles" / "slurm", folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["executor"] == "slurm"
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | OWN))
    return folder


class Fetched(NamedTuple):
    """What one run did."""

    done: subprocess.CompletedProcess[str]
    tree: dict[str, bytes]
    #: What was submitted to SLURM.
    jobs: list[Job]
    #: What each aws was started with, after the number of the job of SLURM that it ran in.
    calls: list[str]
    #: Listings by a dry run, and by this run without those that aws itself makes.
    listings: tuple[int, int]


@pytest.fixture(scope="module", params=["command", "snakemake"])
def fetched(request, slurm, profile, server, tmp_path_factory) -> Fetched:
    """Fetch a subject on the cluster, by the command and by plain ``snakemake`` in a clone."""
    folder = tmp_path_factory.mktemp("fetched")
    data_dir, log = folder / "data", folder / "log"
    data_dir.mkdir()
    copy_clone(folder / "clone", subject="sub-03", data_dir=str(data_dir))
    words = ["download", "--subject", "sub-03", "--data-dir", data_dir]

    def start(*options: object) -> subprocess.CompletedProcess[str]:
        if request.param == "command":
            return run_command(*words, *options)
        return run_snakemake(folder / "clone", *options)

    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url) as patch:
        patch.setenv("LAION_FMRI_AWS", str(count_aws(folder, log)))
        server.clear_requests()
        assert start("--dry-run").returncode == 0
        expected, last = len(server.listings()), slurm.last()
        server.clear_requests()
        done = start("--profile", profile)
    lines = log.read_text().splitlines() if log.exists() else []
    calls = [line.partition(" ")[2] for line in lines]
    by_aws = sum(" --recursive " in call for call in calls)
    return Fetched(
        done,
        read_tree(data_dir),
        slurm.jobs(after=last),
        calls,
        (expected, len(server.listings()) - by_aws),
    )


def test_a_subject_arrives_through_the_cluster(fetched, objects):
    """Every file of the subject has the content that the bucket has."""
    assert fetched.done.returncode == 0, fetched.done.stderr
    assert expected_tree(objects, "sub-03") == fetched.tree


def test_the_scheduler_sees_few_jobs_that_fetch_everything(fetched):
    """Ten jobs at most fetch all; what lies at the root of the bucket may come without one."""
    assert {"COMPLETED"} == {job.state for job in fetched.jobs}
    assert len(fetched.jobs) <= FEW
    places = {call.partition(" ")[0] for call in fetched.calls}
    assert {str(job.id) for job in fetched.jobs} == places - {"none"}
    elsewhere = [call for call in fetched.calls if call.startswith("none ")]
    assert {
        re.search(r" s3://[^/]+/(.*?) (?:/proc/self/fd/\d+/)?object", call)[1] for call in elsewhere
    } <= ROOT_FILES


def test_no_job_lists_the_bucket(fetched):
    """The bucket is listed by the main process alone, as often as a dry run does it."""
    expected, seen = fetched.listings
    assert expected == seen


def test_python_gets_the_report(slurm, profile, tiny, tiny_objects, tmp_path):
    """``download(profile=...)`` runs on the cluster and returns what it did."""
    last = slurm.last()
    report = download("sub-03", data_dir=tmp_path, profile=profile)
    assert dict.fromkeys(tiny_objects, "fetched") == dict(
        zip(report["key"], report["outcome"], strict=True)
    )
    assert tiny_objects == read_tree(tmp_path)
    assert {"COMPLETED"} == {job.state for job in slurm.jobs(after=last)}


GENERIC = "snakemake_executor_plugin_cluster_generic"


# Without the plugin Snakemake does not know the profile's options.
@pytest.mark.skipif(importlib.util.find_spec(GENERIC) is None, reason=f"{GENERIC} is missing")
def test_profile_for_any_scheduler_has_commands_that_slurm_knows(
    slurm, tiny, tiny_objects, tmp_path
):
    """As it is shipped, but for the waits; a job that is cancelled is seen and sent again."""
    (tmp_path / "data").mkdir()
    profile = tmp_path / "profile"
    shutil.copytree(REPO / "profiles" / "cluster-generic", profile)
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    settings |= {"seconds-between-status-checks": 1}
    (profile / "config.yaml").write_text(yaml.safe_dump(settings))
    # The first job is cancelled before it fetches.
    once = f"mkdir '{tmp_path}/once' 2> /dev/null && scancel $SLURM_JOB_ID && sleep 60"
    words = ["--subject", "sub-03", "--data-dir", tmp_path / "data", "--profile", profile]
    last = slurm.last()
    done = run_command("download", *words, LAION_FMRI_AWS=wrap_aws(tmp_path, once))
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path / "data") == tiny_objects
    states = [job.state for job in slurm.jobs(after=last)]
    assert (states.count("CANCELLED"), set(states)) == (1, {"CANCELLED", "COMPLETED"})


ANALYSIS = (
    HOST
    + """
rule analyse:
    default_target: True
    input: config["inputs"]
    output: "results/count.txt"
    shell: "ls {{input:q}} | wc -l | tr -d ' ' > {{output}}; echo $SLURM_JOB_ID >> {{output}}"
"""
)


def test_pipeline_on_the_cluster_fetches_on_the_submit_host(slurm, bucket, objects, tmp_path):
    """A host's rules go to SLURM, the fetches do not, and no more of them run than it says."""
    data_dir, host, log = tmp_path / "data", tmp_path / "host", tmp_path / "log"
    data_dir.mkdir()
    host.mkdir()
    (host / "Snakefile").write_text(ANALYSIS.format(workflow=REPO / "workflow" / "Snakefile"))
    expected = expected_tree(objects, "sub-03", ses="ses-01")
    laion = {"subject": "sub-03", "ses": "ses-01", "data_dir": str(data_dir), "fetch_workers": 2}
    inputs = [f"{data_dir}/{key}" for key in sorted(expected)]
    (host / "config.yaml").write_text(yaml.safe_dump({"laion": laion, "inputs": inputs}))
    last = slurm.last()
    options = ["--executor", "slurm", "--jobs", "12"]
    for name, value in OWN.items():
        values = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [value]
        options += [f"--{name}", *map(str, values)]
    aws = count_aws(tmp_path, log, before="sleep 0.5")
    done = run_snakemake(host, *options, LAION_FMRI_AWS=aws)
    assert done.returncode == 0, done.stderr
    assert expected == read_tree(data_dir)
    (job,) = slurm.jobs(after=last)
    assert job.comment == "rule_analyse"
    assert (host / "results" / "count.txt").read_text() == f"{len(expected)}\n{job.id}\n"
    calls = [line.split()[:2] for line in log.read_text().splitlines()]
    assert len(calls) > 2
    assert max(int(running) for running, _ in calls) == 2
    assert {"none"} == {job for _, job in calls}


@pytest.fixture
def start(slurm, profile, tiny, tmp_path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Return what starts the command on the cluster, and returns once every job hangs in aws.

    A file ``go`` makes the aws of later jobs work.
    """
    (tmp_path / "data").mkdir()
    log = tmp_path / "log"
    log.touch()
    aws = count_aws(tmp_path, log, f"[ -e '{tmp_path}/go' ] || exec sleep 300")
    command = [sys.executable, "-m", "laion_fmri", "download", "--subject", "sub-03"]
    command += ["--data-dir", str(tmp_path / "data"), "--profile", str(profile)]
    processes = []

    def start_command() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env=os.environ | {"LAION_FMRI_AWS": str(aws)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)

        def hangs() -> bool:
            assert process.poll() is None, process.communicate()[1]
            return 0 < len(slurm.unfinished()) == len(log.read_text().splitlines())

        slurm.wait(hangs)
        return process

    yield start_command
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    slurm.cancel(*[job.id for job in slurm.unfinished()])


def test_jobs_that_are_killed_are_made_good(start, slurm, tiny_objects, tmp_path):
    """Whether the cluster kills a job or somebody cancels it, the same run has it done again."""
    process = start()
    killed, *cancelled = slurm.unfinished()
    (tmp_path / "go").touch()
    slurm.kill(killed.id)
    slurm.cancel(*[job.id for job in cancelled])
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert tiny_objects == read_tree(tmp_path / "data")
    ended = {job.id: job.state for job in slurm.jobs(after=killed.id - 1)}
    assert {"CANCELLED"} == {ended.pop(job.id) for job in (killed, *cancelled)}
    assert cancelled
    assert ["COMPLETED"] * (1 + len(cancelled)) == list(ended.values())


def test_interrupt_cancels_the_jobs(start, slurm, tmp_path):
    """Ctrl-C leaves no job behind, and ends with 130."""
    process = start()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    slurm.wait(lambda: slurm.unfinished() == [], 10)
    assert read_tree(tmp_path / "data") == {}


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_unknown_profile_gets_one_clear_line(name, bucket, tmp_path):
    """A profile that does not exist, or is none, is named before anything starts."""
    for folder in ("data", "empty"):
        (tmp_path / folder).mkdir()
    given = tmp_path / name
    done = run_command(
        "download", "--subject", "03", "--data-dir", tmp_path / "data", "--profile", given
    )
    assert done.returncode == 2
    (line,) = complaints(done)
    assert re.match("error: .*profile", line)
    assert str(given) in line
    assert list_all(tmp_path / "data") == []
    assert bucket.requests == []


def test_the_profile_that_is_shipped_has_a_name(tiny, tmp_path):
    """``--profile slurm`` means ours, wherever one is."""
    done = run_command(
        "download", "--subject", "03", "--data-dir", tmp_path, "--profile", "slurm", "--dry-run"
    )
    assert (done.returncode, complaints(done)) == (0, [])


def test_a_job_at_its_time_limit_goes_on_inside_a_file(slurm, server, tmp_path, monkeypatch):
    """Submitted again, it fetches what is missing, and no more."""
    key = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_statmap.nii.gz"
    content = random.Random(0).randbytes(64 * 2**20)
    server.add_bucket("limit", {key: content})
    data_dir = tmp_path / "data"
    kept_in = data_dir / ".laion_fmri" / "unfinished"
    words = [sys.executable, "-m", "laion_fmri", "download", "--subject", "sub-03"]
    script = tmp_path / "download.sh"
    script.write_text(f"#!/bin/sh\nexec {shlex.join([*words, '--data-dir', str(data_dir)])}\n")
    with serve_faults(server) as bench:
        monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", bench.endpoint_url)
        monkeypatch.setenv("LAION_FMRI_BUCKET", "limit")
        # By four connections, half of it in a minute, which is the shortest limit of SLURM.
        bench.break_("slow", key, rate=2**17)
        options = (f"--output={tmp_path}/first", f"--chdir={tmp_path}")
        first = slurm.submit(script, "--time=1", *options)
        slurm.wait(lambda: not slurm.unfinished(), 180)
        states = {job.id: job.state for job in slurm.jobs()}
        assert states[first] == "TIMEOUT"
        bench.mend()
        bench.clear()
        kept = sum(file.stat().st_blocks * 512 for file in kept_in.iterdir())
        assert kept > len(content) / 4
        second = slurm.submit(script, "--time=5", *options)
        slurm.wait(lambda: not slurm.unfinished(), 120)
        assert {job.id: job.state for job in slurm.jobs()}[second] == "COMPLETED"
        assert (data_dir / key).read_bytes() == content
        assert kept + bench.sent[key] <= 1.06 * len(content)
        assert list(kept_in.iterdir()) == []
