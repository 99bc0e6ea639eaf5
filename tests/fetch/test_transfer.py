"""One fetch job as the rules run it: by path, a process of its own, with the real AWS CLI."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from fnmatch import fnmatch
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import boto3
import psutil
import pytest
from helpers import REPO, find_aws, read_tree, wrap_aws, write_tree

from laion_fmri.bucket.listing import Bucket
from laion_fmri.fetch.aws import make_environment
from laion_fmri.fetch.job import PROGRAM, Job, JobSpec
from laion_fmri.fetch.outcomes import read_outcomes
from laion_fmri.folder import staging

FOLDER = "derivatives/glmsingle-tedana/sub-03/ses-01/func/"
A, B, C = (f"{FOLDER}sub-03_ses-01_desc-{name}_trials.tsv" for name in "ABC")
ODD = f"{FOLDER}a b/$HOME/{{x}}/'-µ' [y]*?.tsv"
DASH = f"{FOLDER}-rf.tsv"
OBJECTS = {key: key.encode() * (1 + index) for index, key in enumerate([A, B, C, ODD, DASH])}
#: Waits between attempts are cut short; nothing else is changed.
QUICK = """
import sys
from laion_fmri.fetch import transfer
transfer.BACKOFF = 0.01
from laion_fmri.transfer import main
sys.exit(main(sys.argv[2:]))
"""
#: Makes a stub of aws: a program that appends to `log` what it was given.
STUB = """#!{python}
import json, os, pathlib, sys, time
log = pathlib.Path({log!r})
attempt = log.read_text().count("\\n") + 1 if log.exists() else 1
words = sys.argv[1:]
if words == ["--version"]:
    sys.exit(print("aws-cli/0.0 stub"))
source = next(index for index, word in enumerate(words) if word.startswith("s3://"))
to = pathlib.Path(words[source + 1])
with log.open("a") as file:
    said = dict(pid=os.getpid(), words=words, environ=dict(os.environ))
    said["config"] = pathlib.Path(os.environ["AWS_CONFIG_FILE"]).read_text()
    file.write(json.dumps(said) + "\\n")
{body}
"""


class Done(NamedTuple):
    """The end of a job: exit status, outcome and reason by key, and what it said."""

    status: int
    outcomes: dict[str, str]
    reasons: dict[str, str]
    stderr: str


@pytest.fixture(scope="module")
def serving(server):
    """Serve this module's objects as a bucket of its own."""
    server.add_bucket("transfer", OBJECTS, denied=[B])
    return server


@pytest.fixture
def make_job(tmp_path):
    """Return a function that describes a job; `data` is its data directory."""

    def make(keys, prefix=None, patterns=(), *, size=None, name="job", **more) -> JobSpec:
        data_dir = tmp_path / "data"
        data_dir.mkdir(exist_ok=True)
        objects = [(key, len(OBJECTS.get(key, b"")) if size is None else size) for key in keys]
        job = Job(name, prefix, tuple(patterns), tuple(objects), connections=4)
        where = (str(data_dir), f"{data_dir}/.laion_fmri/runs/r1")
        given = {"modified": {}, "etags": {}, "stall_timeout": 60.0, **more}
        return JobSpec(job, "transfer", *where, **given)

    return make


@pytest.fixture
def fetch(serving):
    """Return a function that runs a job with the real aws, or another, and reads its outcome."""
    serving.clear_requests()
    options = Bucket("transfer", "us-west-2", serving.endpoint_url).aws_options()

    def run(job, aws=None, start=(sys.executable, "-c", QUICK)) -> Done:
        aws = [aws or find_aws(), "s3", "cp", *options] if aws is None else [aws]
        words = [*start, PROGRAM, job.to_json(), "--", *map(str, aws)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        record = Path(job.run_dir, "outcomes", "job.jsonl")
        lines = record.read_text().splitlines() if record.exists() else []
        said = [json.loads(line) for line in lines if '"waiting"' not in line]
        assert list(Path(job.data_dir, ".laion_fmri", "partial").iterdir()) == []
        outcomes = {line["key"]: line["outcome"] for line in said}
        reasons = {line["key"]: line["reason"] for line in said}
        assert len(outcomes) == len(said)
        return Done(done.returncode, outcomes, reasons, done.stderr)

    return run


@pytest.fixture
def make_stub(tmp_path):
    """Return a function that writes a stub of aws, and one that reads what it was given."""
    script, log = tmp_path / "stub", tmp_path / "stub.log"

    def make(body: str) -> str:
        script.write_text(STUB.format(python=sys.executable, log=str(log), body=body))
        script.chmod(0o755)
        return str(script)

    make.calls = lambda: [json.loads(line) for line in log.read_text().splitlines()]
    return make


def requests_for(server, key: str) -> int:
    """Count the requests that named `key`."""
    return sum((r.bucket, r.key) == ("transfer", key) for r in server.requests)


def test_takes_nothing_but_the_standard_library():
    """It runs with any Python that a rule's environment brings."""
    code = "import sys; sys.argv = ['x']; sys.path[0] = 'nowhere'; import runpy\n"
    code += f"runpy.run_path({str(PROGRAM)!r}, run_name='imported')\nprint(*sys.modules)"
    words = [sys.executable, "-I", "-S", "-c", code.replace("'nowhere'", repr(str(REPO)))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    outside = {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert {"laion_fmri"} == outside - {"__main__"}


def test_a_single_object(fetch, make_job, tmp_path):
    """It lands whole at its key, whatever the key is called."""
    done = fetch(make_job([ODD]), start=[sys.executable])
    assert done[:3] == (0, {ODD: "fetched"}, {ODD: ""})
    assert {ODD: OBJECTS[ODD]} == read_tree(tmp_path / "data")


def test_a_batch_from_a_file(fetch, make_job, tmp_path, serving):
    """One listing brings all objects of a batch, over whatever had the wrong size before."""
    (tmp_path / "data" / FOLDER).mkdir(parents=True)
    (tmp_path / "data" / A).write_bytes(b"old")
    job = make_job([A, C, ODD, DASH], FOLDER, ["*A_*", "*C_*", "a b*", "[-]*"])
    (tmp_path / "job.json").write_text(job.to_json())
    options = Bucket("transfer", "us-west-2", serving.endpoint_url).aws_options()
    command = [sys.executable, PROGRAM, f"@{tmp_path}/job.json", "--"]
    aws = [find_aws(), "s3", "cp", *options]
    assert subprocess.run([*command, *aws], capture_output=True, check=False).returncode == 0
    assert {key: OBJECTS[key] for key in (A, C, ODD, DASH)} == read_tree(tmp_path / "data")
    assert len(serving.listings()) == 1


def test_a_size_that_is_not_the_listed_one(fetch, make_job, tmp_path):
    """What arrives in another size is a failure with both sizes; what was there stays."""
    (tmp_path / "data" / FOLDER).mkdir(parents=True)
    (tmp_path / "data" / A).write_bytes(b"old")
    done = fetch(make_job([A], size=len(A) + 1))
    assert done[:2] == (1, {A: "failed"})
    assert (str(len(A)) in done.reasons[A], str(len(A) + 1) in done.reasons[A]) == (True, True)
    assert read_tree(tmp_path / "data") == {A: b"old"}


def test_a_batch_that_is_cut_short(make_stub, fetch, make_job, tmp_path):
    """One that is too short, too long or not there at all costs none of its mates."""
    stub = make_stub("to.mkdir()\nfor n in range(4):\n    (to / f'{n}').write_bytes(b'z' * n)")
    keys = [f"{FOLDER}{n}" for n in range(5)]
    done = fetch(make_job(keys, FOLDER, ["*"], size=2), stub)
    assert (1, ["fetched" if n == 2 else "failed" for n in range(5)]) == (
        done.status,
        [done.outcomes[key] for key in keys],
    )
    assert {keys[2]: b"zz"} == read_tree(tmp_path / "data")


@pytest.mark.parametrize(
    ("key", "outcome", "code"), [(B, "denied", "403"), (FOLDER + "gone.tsv", "failed", "404")]
)
def test_a_refused_object(fetch, make_job, tmp_path, serving, key, outcome, code):
    """403 and 404 are final: one request, no second attempt, and nothing on disk."""
    done = fetch(make_job([key]))
    assert (1, {key: outcome}, 1) == (*done[:2], requests_for(serving, key))
    assert (code in done.reasons[key], read_tree(tmp_path / "data")) == (True, {})


def test_the_mates_of_a_denied_object(fetch, make_job, tmp_path, serving):
    """The rest of the batch arrives, each object fetched once; the denied one is asked for once."""
    done = fetch(make_job([A, B, C], FOLDER, ["*_trials.tsv"]))
    assert done[:2] == (1, {A: "fetched", B: "denied", C: "fetched"})
    assert {A: OBJECTS[A], C: OBJECTS[C]} == read_tree(tmp_path / "data")
    assert [requests_for(serving, key) for key in (A, B, C)] == [1, 1, 1]


def test_the_mates_of_a_vanished_object(fetch, make_job, tmp_path, serving):
    """What has left the bucket since the listing is looked for once more, and then named."""
    gone = FOLDER + "gone.tsv"
    done = fetch(make_job([A, gone], FOLDER, ["*A_*", "gone.tsv"]))
    assert (1, {A: "fetched", gone: "failed"}, 2) == (*done[:2], len(serving.listings()))
    assert "no longer in the bucket" in done.reasons[gone]
    assert {A: OBJECTS[A]} == read_tree(tmp_path / "data")


def test_a_directory_where_the_file_belongs(fetch, make_job, tmp_path, serving):
    """It is left alone and named in the reason; the mates arrive, and nothing is fetched twice."""
    (tmp_path / "data" / A / "mine").mkdir(parents=True)
    done = fetch(make_job([A, C], FOLDER, ["*A_*", "*C_*"]))
    assert done[:2] == (1, {A: "failed", C: "fetched"})
    assert (A in done.reasons[A], "irectory" in done.reasons[A]) == (True, True)
    assert (tmp_path / "data" / A / "mine").is_dir()
    assert serving.gets(bucket="transfer") == {A: 1, C: 1}


def test_a_file_where_a_folder_belongs(make_stub, fetch, make_job, tmp_path):
    """The file of the user's is left alone and named in the reason."""
    job = make_job([A], size=1)
    (tmp_path / "data" / "derivatives").write_bytes(b"mine")
    done = fetch(job, make_stub("to.write_bytes(b'z')"))
    assert done[:2] == (1, {A: "failed"})
    assert f"{tmp_path}/data/derivatives" in done.reasons[A]
    assert read_tree(tmp_path / "data") == {"derivatives": b"mine"}


def test_keys_that_cannot_both_be_files(make_stub, fetch, make_job, tmp_path):
    """Of an object and one below it, one is lost; their mates are not."""
    stub = make_stub(
        f"for name in {['d/x', 'e', 'z']}:\n"
        "    (to / name).parent.mkdir(parents=True, exist_ok=True)\n"
        "    (to / name).write_bytes(b'z')"
    )
    keys = [FOLDER + name for name in ("d", "d/x", "e", "e/x", "z")]
    done = fetch(make_job(keys, FOLDER, ["*"], size=1), stub)
    expected = dict(zip(keys, ["failed", "fetched", "fetched", "failed", "fetched"], strict=True))
    assert (1, expected) == done[:2]
    assert {key: b"z" for key in keys if expected[key] == "fetched"} == read_tree(tmp_path / "data")


FAIL_ONCE = """
if attempt == 1:
    sys.exit(f"download failed: s3://transfer/{key} to ../{name} {message}")
to = to / name if "--recursive" in words else to
to.parent.mkdir(parents=True, exist_ok=True)
to.write_bytes(b"z")
os.utime(to, (1, 1))  # as aws does: the time of the upload
"""


@pytest.mark.parametrize("name", ["plain.tsv", "x (404).tsv", "(403)/x.tsv"])
@pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])
def test_a_failure_that_passes(make_stub, fetch, make_job, tmp_path, name, is_batch):
    """A broken connection is tried again, whatever the key is called; the file counts as new."""
    key = FOLDER + name
    message = "Connection was closed before we received a valid response"
    body = f"key, name, message = {key!r}, {name!r}, {message!r}\n{FAIL_ONCE}"
    job = make_job([key], FOLDER, ["*"], size=1) if is_batch else make_job([key], size=1)
    done = fetch(job, make_stub(body))
    assert (0, {key: "fetched"}, 2) == (*done[:2], len(make_stub.calls()))
    assert {key: b"z"} == read_tree(tmp_path / "data")
    assert (tmp_path / "data" / key).stat().st_mtime > time.time() - 60


def test_a_second_attempt_at_a_key_with_a_dash(make_stub, fetch, make_job):
    """The pattern of a second attempt matches the key, and aws cannot take it for an option."""
    body = f"key, name, message = {DASH!r}, '-rf.tsv', 'timeout'\n{FAIL_ONCE}"
    fetch(make_job([DASH], FOLDER, ["*"], size=1), make_stub(body))
    words = make_stub.calls()[1]["words"]
    (pattern,) = words[words.index("--include") + 1 :]
    assert (pattern.startswith("-"), fnmatch("-rf.tsv", pattern)) == (False, True)


def test_a_failure_that_stays(make_stub, fetch, make_job):
    """It is given up after some attempts, and aws's own last line is the reason."""
    done = fetch(make_job([A]), make_stub("sys.exit('first line\\nfatal error: no route to host')"))
    assert done[:2] == (1, {A: "failed"})
    assert (done.reasons[A], len(make_stub.calls())) == ("fatal error: no route to host", 3)


def test_each_object_has_its_own_reason(make_stub, fetch, make_job):
    """In a batch, what aws says of one object is not taken for what it says of another."""
    said = {A: "Read timeout on endpoint", C: "No space left on device"}
    lines = [f"download failed: s3://transfer/{key} to ../x {text}" for key, text in said.items()]
    done = fetch(make_job([A, C], FOLDER, ["*"]), make_stub(f"sys.exit({chr(10).join(lines)!r})"))
    assert done[:2] == (1, {A: "failed", C: "failed"})
    for key, text in said.items():
        assert [key] == [other for other in (A, C) if text in done.reasons[other]]


def test_a_refusal_is_of_the_object_that_it_names(make_stub, fetch, make_job):
    """An object that aws says nothing of is not denied because another one is."""
    line = f"download failed: s3://transfer/{A} to ../x An error occurred (403) when calling G"
    done = fetch(make_job([A, C], FOLDER, ["*"]), make_stub(f"sys.exit({line!r})"))
    assert done[:2] == (1, {A: "denied", C: "failed"})
    assert "aws ends without an error and has not written it" in done.reasons[C]


def test_the_environment_of_aws(make_stub, fetch, make_job, monkeypatch):
    """Nothing of the user's AWS settings gets through, but what the way out of the house needs."""
    kept = {
        "HTTPS_PROXY": "http://proxy.example:3128",
        "no_proxy": "localhost",
        "AWS_CA_BUNDLE": "/etc/ssl/campus.pem",
        "SSL_CERT_FILE": "/etc/ssl/campus.pem",
        "LANG": "C.UTF-8",
    }
    lost = ["PROFILE", "DEFAULT_PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_S3", "ACCESS_KEY_ID"]
    lost += ["SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION", "DEFAULT_OUTPUT"]
    lost += ["ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_FULL_URI", "STS_X"]
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    for name in lost:
        monkeypatch.setenv(f"AWS_{name}", "wrong")
    fetch(make_job([A]), make_stub("sys.exit('An error occurred (403) when calling x')"))
    (call,) = make_stub.calls()
    given = call["environ"]
    assert kept == {name: given.get(name) for name in kept}
    assert [name for name in lost if given.get(f"AWS_{name}") == "wrong"] == []
    assert ("true", os.devnull) == (
        given["AWS_EC2_METADATA_DISABLED"],
        given["AWS_SHARED_CREDENTIALS_FILE"],
    )
    assert (os.environ["PATH"], "[default]") == (given["PATH"], call["config"].splitlines()[0])


def is_running(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition) -> bool:
    """Wait until `condition` holds, for at most 15 seconds."""
    deadline = time.monotonic() + 15
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(make_job, tmp_path, number):
    """Stopped in the middle: the real aws is gone, and so is all that it had written."""
    pid_file, data = tmp_path / "pid", tmp_path / "data"
    aws = wrap_aws(tmp_path, before=f"echo $$ > {pid_file}; exec '{find_aws()}' \"$@\"")
    with socket.create_server(("127.0.0.1", 0)) as stalled:  # accepts, and never answers
        options = ["--endpoint-url", f"http://127.0.0.1:{stalled.getsockname()[1]}"]
        words = [aws, "s3", "cp", "--no-sign-request", "--region", "us-west-2", *options]
        command = [sys.executable, PROGRAM, make_job([A]).to_json(), "--", *words]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            stalled.settimeout(15)
            connection, _ = stalled.accept()
            pid = int(pid_file.read_text())
            assert (is_running(pid), len(list(data.glob(".laion_fmri/partial/*")))) == (True, 1)
            process.send_signal(number)
            process.wait(10)
            connection.close()
    assert (process.returncode != 0, is_running(pid)) == (True, False)
    assert (list(data.glob(".laion_fmri/partial/*")), read_tree(data)) == ([], {})


def test_a_batch_that_is_stopped_keeps_what_it_has(make_stub, make_job, tmp_path):
    """What is whole moves into place while the rest is under way; a stop costs the rest alone."""
    stub = make_stub(
        "to.mkdir()\n(to / 'a').write_bytes(b'zz')\n(to / 'b').write_bytes(b'z')\ntime.sleep(60)"
    )
    job = make_job([FOLDER + "a", FOLDER + "b"], FOLDER, ["*"], size=2)
    command = [sys.executable, PROGRAM, job.to_json(), "--", stub]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        arrived = wait_for((tmp_path / "data" / FOLDER / "a").exists)
        process.terminate()
    assert (arrived, is_running(make_stub.calls()[0]["pid"])) == (True, False)
    assert read_tree(tmp_path / "data") == {FOLDER + "a": b"zz"}
    assert list((tmp_path / "data" / ".laion_fmri" / "partial").iterdir()) == []


ORPHAN = """
import pathlib, subprocess, sys, time
process = subprocess.Popen(sys.argv[2:])
while process.poll() is None and not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
"""


def test_it_ends_with_the_process_that_started_it(make_stub, make_job, tmp_path):
    """When Snakemake is killed, its transfers end by themselves, and their aws with them."""
    stub = make_stub("to.write_bytes(b'half')\ntime.sleep(60)")
    command = [sys.executable, PROGRAM, make_job([A]).to_json(), "--", stub]
    parent = [sys.executable, "-c", ORPHAN, str(tmp_path / "stub.log"), *command]
    subprocess.run(parent, check=True, stderr=subprocess.DEVNULL)
    partial = tmp_path / "data" / ".laion_fmri" / "partial"
    assert wait_for(lambda: not is_running(make_stub.calls()[0]["pid"]))
    assert wait_for(lambda: list(partial.iterdir()) == [])
    assert read_tree(tmp_path / "data") == {}


def test_leftovers_of_the_killed_are_swept_and_the_living_left_alone(make_stub, make_job, tmp_path):
    """After SIGKILL the staging folder stays, but no aws; the next run removes it, and no other."""
    stub = make_stub("to.mkdir()\n(to / 'a.1234abcd').write_bytes(b'z')\ntime.sleep(60)")
    jobs = [make_job([FOLDER + name], FOLDER, ["*"], size=2) for name in "ab"]
    words = [[sys.executable, PROGRAM, job.to_json(), "--", stub] for job in jobs]
    partial = tmp_path / "data" / ".laion_fmri" / "partial"
    with subprocess.Popen(words[0], stderr=subprocess.DEVNULL) as killed:
        assert wait_for(lambda: len(list(partial.glob("*/objects/*"))) == 1)
        with subprocess.Popen(words[1], stderr=subprocess.DEVNULL) as living:
            assert wait_for(lambda: len(list(partial.glob("*/objects/*"))) == 2)
            killed.kill()
            killed.wait()
            assert wait_for(lambda: not is_running(make_stub.calls()[0]["pid"]))
            staging.sweep_staging(tmp_path / "data")
            assert len(list(partial.iterdir())) == 1
            living.terminate()
    assert list(partial.iterdir()) == []


def test_what_another_is_fetching_is_waited_for(make_stub, make_job, tmp_path):
    """Two jobs for the same objects: each is fetched once, and both are content."""
    stub = make_stub("time.sleep(2)\nto.mkdir()\n(to / 'a').write_bytes(b'zz')")
    job = make_job([FOLDER + "a"], FOLDER, ["*"], size=2)
    words = [sys.executable, PROGRAM, job.to_json(), "--", stub]
    both = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (len(make_stub.calls()), read_tree(tmp_path / "data")) == (1, {FOLDER + "a": b"zz"})


def test_what_another_has_failed_to_fetch_is_fetched_after_all(make_stub, make_job, tmp_path):
    """The one that has waited takes over when the other is killed."""
    stub = make_stub(
        "time.sleep(60 if attempt == 1 else 0)\nto.mkdir()\n(to / 'a').write_bytes(b'zz')"
    )
    job = make_job([FOLDER + "a"], FOLDER, ["*"], size=2)
    words = [sys.executable, PROGRAM, job.to_json(), "--", stub]
    with subprocess.Popen(words) as first:
        assert wait_for(lambda: (tmp_path / "stub.log").exists())
        with subprocess.Popen(words) as second:
            time.sleep(1)
            first.kill()
    assert (second.returncode, len(make_stub.calls())) == (0, 2)
    assert read_tree(tmp_path / "data") == {FOLDER + "a": b"zz"}


def test_an_aws_that_is_silent(make_stub, fetch, make_job):
    """It is ended after a time, tried again, and then named."""
    stub = make_stub("to.with_suffix('.1234abcd').write_bytes(b'z')\ntime.sleep(60)")
    done = fetch(make_job([A], stall_timeout=1), stub)
    assert done[:2] == (1, {A: "failed"})
    assert (done.reasons[A], len(make_stub.calls())) == ("no byte has arrived for 1 s", 3)


def test_an_object_of_another_time(fetch, make_job, serving, tmp_path):
    """An object of the same size that is not the one that was listed is named, and left out."""
    job = make_job([A, C], FOLDER, ["*A_*", "*C_*"])
    listing = Bucket("transfer", "us-west-2", serving.endpoint_url).list_objects(FOLDER)
    modified = {item.key: int(item.last_modified.timestamp()) for item in listing}
    done = fetch(job._replace(modified={A: modified[A] - 10_000, C: modified[C]}))
    assert done[:2] == (1, {A: "failed", C: "fetched"})
    assert done.reasons[A].startswith("the object has been replaced in the bucket since")
    assert (requests_for(serving, A), list(read_tree(tmp_path / "data"))) == (1, [C])


def test_a_full_disk_stops_the_run(make_stub, fetch, make_job, tmp_path):
    """What needs no room any more is said with the folder and the bytes, and nothing is tried."""
    stub = make_stub("sys.exit('download failed: s3://x to y [Errno 28] No space left on device')")
    done = fetch(make_job([A, C], FOLDER, ["*"], size=1000), stub)
    reason = f"No space left on device: {tmp_path}/data needs room for 2,000 bytes more"
    assert (1, {A: reason, C: reason}) == (done.status, done.reasons)
    other = make_job([DASH], FOLDER, ["*"], name="other")
    words = [sys.executable, PROGRAM, other.to_json(), "--", stub]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 1
    assert len(make_stub.calls()) == 1


#: Has no room for the settings of aws.
FULL = QUICK.replace(
    "sys.exit(",
    "def fail(*_, **__): raise OSError(28, 'No space left on device')\n"
    "transfer.aws.make_config = fail\nsys.exit(",
)


def test_a_disk_without_room_for_our_own_files_stops_the_run(fetch, make_job, tmp_path):
    """It is the same full disk, whoever meets it first."""
    done = fetch(make_job([A], size=1000), "/no/such/aws", start=[sys.executable, "-c", FULL])
    reason = f"No space left on device: {tmp_path}/data needs room for 1,000 bytes more"
    assert (1, {A: reason}) == (done.status, done.reasons)
    stop = tmp_path / "data" / ".laion_fmri" / "runs" / "r1" / "stop"
    assert stop.read_text() == "No space left on device"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows where a descriptor leads")
def test_what_aws_says_needs_no_room_on_the_disk_of_the_data(make_stub, fetch, make_job, tmp_path):
    """Else a full disk would have no word for it."""
    place = tmp_path / "place"
    stub = make_stub(f"pathlib.Path({str(place)!r}).write_text(os.readlink('/proc/self/fd/2'))")
    fetch(make_job([A]), stub)
    assert not place.read_text().startswith(f"{tmp_path}/data")


def test_a_name_that_looks_like_a_full_disk(make_stub, fetch, make_job):
    """What a hostile key says is not taken for what the disk says."""
    key = FOLDER + "[Errno 28] No space left on device"
    stub = make_stub(f"sys.exit('download failed: s3://transfer/{key} to ../x timeout')")
    done = fetch(make_job([key], FOLDER, ["*"], size=1), stub)
    assert ("timeout" in done.reasons[key], len(make_stub.calls())) == (True, 3)


def test_a_job_that_is_tried_again_fetches_only_what_is_missing(
    fetch, make_job, make_stub, tmp_path
):
    """Snakemake removes the outputs before it tries again; what had arrived is still there."""
    bring = """
top = to / pathlib.Path("{name}")
top.parent.mkdir(parents=True, exist_ok=True)
top.write_bytes({content!r})
if attempt == 1:
    time.sleep(1)
    os.kill(os.getppid(), 9)
    sys.exit(1)
"""
    first = bring.format(name=A.removeprefix(FOLDER), content=OBJECTS[A])
    second = bring.format(name=C.removeprefix(FOLDER), content=OBJECTS[C])
    stub = make_stub(f"if attempt == 1:\n{indent(first, '    ')}\nelse:\n{indent(second, '    ')}")
    job = make_job([A, C], FOLDER, ["*A_*", "*C_*"], keeps=True)
    words = [sys.executable, PROGRAM, job.to_json(), "--", stub]
    killed = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    data = tmp_path / "data"
    assert {A: OBJECTS[A]} == read_tree(data)
    (data / A).unlink()  # as Snakemake does
    staging.sweep_staging(data)
    assert subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0
    assert {key: OBJECTS[key] for key in (A, C)} == read_tree(data)
    assert [path for path in (data / ".laion_fmri" / "kept").rglob("*") if path.is_file()] == []
    assert len(make_stub.calls()) == 2


def test_a_job_that_is_tried_again_does_not_ask_for_what_was_refused(fetch, make_job, serving):
    """A denied object is asked for once, and so are its mates, however often the job is tried."""
    job = make_job([A, B, C], FOLDER, ["*A_*", "*B_*", "*C_*"], keeps=True)
    first = fetch(job)
    assert (first.status, first.outcomes[B]) == (1, "denied")
    words = [sys.executable, PROGRAM, job.to_json(), "--", "/no/such/aws"]
    again = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, B in again.stderr) == (1, True)
    assert [requests_for(serving, key) for key in (A, B, C)] == [1, 1, 1]


@pytest.mark.parametrize("tail", ['{"key": "der', '"text"\n', '{"key": 1}\n', "\xff\n"])
def test_a_job_that_is_tried_again_reads_past_a_broken_record(fetch, make_job, serving, tail):
    """Killed while it wrote, a transfer leaves half a line; what stands before it still counts."""
    job = make_job([A, B, C], FOLDER, ["*A_*", "*B_*", "*C_*"], keeps=True)
    assert fetch(job).status == 1
    record = Path(job.run_dir, "outcomes", "job.jsonl")
    with record.open("a", encoding="latin-1") as file:
        file.write(tail)
    words = [sys.executable, PROGRAM, job.to_json(), "--", "/no/such/aws"]
    again = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, "Traceback" in again.stderr, B in again.stderr) == (1, False, True)
    assert read_outcomes(record.parent)[B].outcome == "denied"
    assert {key: done.outcome for key, done in read_outcomes(record.parent).items()} == {
        A: "fetched",
        B: "denied",
        C: "fetched",
    }
    assert [requests_for(serving, key) for key in (A, B, C)] == [1, 1, 1]


def test_an_object_that_does_not_end(make_stub, fetch, make_job, tmp_path):
    """More bytes than were listed end its transfer; its mates come by another run of aws."""
    body = f"""
to.mkdir(exist_ok=True)
if attempt == 1:
    with open(to / 'endless.1a2b3c4d', 'wb') as file:
        for _ in range(60):
            file.write(b'x' * 1_000_000)
            file.flush()
            time.sleep(0.05)
    time.sleep(20)
(to / {C.removeprefix(FOLDER)!r}).write_bytes({OBJECTS[C]!r})
"""
    endless = FOLDER + "endless"
    job = make_job([endless, C], FOLDER, ["*"])
    sizes = (endless, 500), (C, len(OBJECTS[C]))
    job = job._replace(job=job.job._replace(objects=sizes))
    done = fetch(job, make_stub(body))
    assert done.outcomes == {endless: "failed", C: "fetched"}
    assert "more bytes arrive than were listed" in done.reasons[endless]
    assert {C: OBJECTS[C]} == read_tree(tmp_path / "data")
    assert len(make_stub.calls()) == 2


def test_what_aws_says_is_spelled_and_cut(make_stub, fetch, make_job):
    """Whatever a server has it say, and however much: nothing of it moves a cursor."""
    evil = "\\x1b]0;owned\\x07\\u202e\\x9b31m"
    stub = make_stub(f"sys.stderr.write('download failed: {evil}' + 'y' * 5_000_000)\nsys.exit(1)")
    done = fetch(make_job([A]), stub)
    assert done.outcomes == {A: "failed"}
    assert done.reasons[A].isprintable()
    assert r"\x1b]0;owned\x07\u202e\x9b31m" in done.reasons[A]
    assert len(done.reasons[A]) < 600
    assert len(done.stderr) < 20_000
    assert "\x1b" not in done.stderr


def test_a_server_that_talks_of_a_full_disk(make_stub, fetch, make_job):
    """Only the system can say so: the message of S3 is the reason of one object."""
    text = "An error occurred (Odd) when calling the GetObject operation: [Errno 28] No space left"
    stub = make_stub(f"sys.stderr.write('fatal error: {text}')\nsys.exit(1)")
    done = fetch(make_job([A]), stub)
    assert "Odd" in done.reasons[A]
    assert "needs room" not in done.reasons[A]


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_empty_bundle_of_certificates_is_not_passed_on(name, value, monkeypatch, tmp_path):
    """It would turn the check of certificates off in some versions of aws."""
    monkeypatch.setenv(name, value)
    assert name not in make_environment(tmp_path)
    monkeypatch.setenv(name, "/etc/ssl/own.pem")
    assert make_environment(tmp_path)[name] == "/etc/ssl/own.pem"


def test_a_claim_that_nobody_gives_up(make_stub, fetch, make_job, tmp_path):
    """Whoever shares the folder can hold one for ever: it is said, and at last the object comes."""
    (tmp_path / "data").mkdir()
    hold = "import sys; from laion_fmri.folder.claims import Claims\n"
    hold += "print(Claims(sys.argv[1]).take(sys.argv[2:]), flush=True); sys.stdin.read()"
    quick = QUICK.replace("BACKOFF = 0.01", "QUIET, transfer.PATIENCE = 0.1, 1.5")
    command = [sys.executable, "-c", hold, str(tmp_path / "data"), A]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert A.encode() in other.stdout.readline()
        done = fetch(make_job([A]), start=(sys.executable, "-c", quick))
        other.stdin.close()
    assert (done.status, done.outcomes) == (0, {A: "fetched"})
    assert "waiting for another run that is fetching it: 1 objects" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names a folder by its descriptor")
def test_a_staging_folder_that_is_swapped_once_aws_has_started(make_stub, make_job, tmp_path):
    """aws has made its target absolute by then; what it writes stays in our folder."""
    home = tmp_path / "home"
    home.mkdir()
    stub = make_stub(f"""
to = pathlib.Path(os.path.abspath(to))
(log.parent / 'started').touch()
while not (log.parent / 'go').exists():
    time.sleep(0.02)
to.mkdir(exist_ok=True)
(to / {A.removeprefix(FOLDER)!r}).write_bytes({OBJECTS[A]!r})
""")
    job = make_job([A], FOLDER, ["*"])
    partial = tmp_path / "data" / ".laion_fmri" / "partial"
    command = [sys.executable, PROGRAM, job.to_json(), "--", stub]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as transfer:
        assert wait_for((tmp_path / "started").exists)
        (made,) = partial.iterdir()
        made.rename(partial / "away")
        made.mkdir()
        (made / "objects").symlink_to(home)
        (tmp_path / "go").touch()
        transfer.communicate(timeout=60)
    assert list(home.iterdir()) == []
    assert {A: OBJECTS[A]} == read_tree(tmp_path / "data")


def test_what_is_not_of_the_job_does_not_fill_the_disk(make_stub, fetch, make_job, tmp_path):
    """A server can show aws another listing than it showed us: aws is ended, not our own files."""
    body = """
to.mkdir(exist_ok=True)
with open(to / 'other.1a2b3c4d', 'wb') as file:
    file.truncate(100 * 2**20)
time.sleep(20)
"""
    done = fetch(make_job([A], FOLDER, ["*"]), make_stub(body))
    assert done.outcomes == {A: "failed"}
    assert len(make_stub.calls()) <= 3


def test_an_object_called_like_our_lock(make_stub, fetch, make_job, tmp_path):
    """The lock of the staging folder is never taken for it."""
    key = f"{FOLDER}lock"
    done = fetch(make_job([key, A], FOLDER, ["*"], size=3), make_stub("sys.exit(1)"))
    assert done.outcomes == {key: "failed", A: "failed"}
    assert "replaced" not in done.reasons[key]


# Reasons that are true.


@pytest.fixture
def make_archived(serving):
    """Return a function that stores an object in an archive, and one that restores it."""
    bucket = serving._store.get_bucket("transfer")

    def make(key: str, content: bytes) -> None:
        serving._store.put_object(
            "transfer", key, content, storage="GLACIER", disable_notification=True
        )

    def restore(key: str) -> None:
        bucket.keys[key].restore(1)

    make.restore = restore
    yield make
    serving.delete(f"{FOLDER}cold.tsv", "transfer")


@pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])
def test_an_archived_object(fetch, make_job, make_archived, tmp_path, is_batch):
    """It is not called gone; once it is restored, it arrives like any other."""
    key, content = f"{FOLDER}cold.tsv", b"cold"
    make_archived(key, content)
    more = (FOLDER, ["cold*", "*A_*"]) if is_batch else ()
    keys = [key, A] if is_batch else [key]
    job = make_job(keys, *more)
    objects = tuple((k, len(content if k == key else OBJECTS[k])) for k in keys)
    job = job._replace(job=job.job._replace(objects=objects))
    done = fetch(job)
    assert done.outcomes[key] == "failed"
    assert "archived (Glacier)" in done.reasons[key]
    assert done.outcomes.get(A, "fetched") == "fetched"
    make_archived.restore(key)
    Path(job.run_dir, "outcomes", "job.jsonl").unlink()
    again = fetch(job)
    assert again.outcomes[key] == "fetched"
    assert (tmp_path / "data" / key).read_bytes() == content


def etag_of(key: str) -> str:
    """Return the ETag of an object that was uploaded at once."""
    return hashlib.md5(OBJECTS[key]).hexdigest()


def test_an_object_of_another_time_with_the_same_etag(fetch, make_job, tmp_path):
    """A store, or a disk, may have times of its own: the ETag decides."""
    job = make_job([A, C], FOLDER, ["*A_*", "*C_*"], modified={A: 1000, C: 2000})
    done = fetch(job._replace(etags={A: etag_of(A), C: etag_of(C)}))
    assert done[:2] == (0, {A: "fetched", C: "fetched"})
    assert {A: OBJECTS[A], C: OBJECTS[C]} == read_tree(tmp_path / "data")


def test_an_etag_of_parts_is_asked_for(fetch, make_job, tmp_path, serving, monkeypatch):
    """It says nothing of the content here, so the bucket is asked whether it is still that one."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # of the client below
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    client = boto3.client(
        "s3",
        endpoint_url=serving.endpoint_url,
        region_name="us-west-2",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    key, content = f"{FOLDER}parts.tsv", b"parts"
    where = {"Bucket": "transfer", "Key": key}
    upload = client.create_multipart_upload(**where)["UploadId"]
    part = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=content)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    made = client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)
    etag = made["ETag"].strip('"')
    assert "-" in etag
    for known, outcome in ((etag, "fetched"), ("0" * 32 + "-1", "failed")):
        job = make_job([key], size=len(content), modified={key: 1000}, etags={key: known})
        done = fetch(job)
        assert done.outcomes == {key: outcome}
        assert ("has been replaced" in done.reasons[key]) == (outcome == "failed")
        (tmp_path / "data" / key).unlink(missing_ok=True)
        Path(job.run_dir, "outcomes", "job.jsonl").unlink()
    serving.delete(key, "transfer")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho 'pyenv: aws: command not found' >&2\nexit 127\n", "pyenv: aws: command"),
        ("#!/nonexistent/python\n", "cannot be started: No such file or directory"),
        ("#!/bin/sh\necho 'ImportError: no module' >&2; exit 1\n", "ImportError: no module"),
    ],
    ids=["shim", "interpreter", "broken"],
)
def test_an_aws_that_does_not_work(fetch, make_job, tmp_path, script, said):
    """It is named as such at once, with its own words, and is not tried again."""
    stub = tmp_path / "broken"
    stub.write_text(script)
    stub.chmod(0o755)
    started = time.monotonic()
    done = fetch(make_job([A, C], FOLDER, ["*"]), str(stub))
    assert done[:2] == (1, {A: "failed", C: "failed"})
    for key in (A, C):
        assert done.reasons[key].startswith(f"the AWS CLI {stub} ")
        assert said in done.reasons[key]
    assert time.monotonic() - started < 30


def test_an_aws_that_is_gone(fetch, make_job, tmp_path):
    """A program that a node of a cluster does not have is named, with the node."""
    done = fetch(make_job([A]), str(tmp_path / "gone"))
    assert done[:2] == (1, {A: "failed"})
    assert f"the AWS CLI {tmp_path}/gone cannot be started" in done.reasons[A]
    assert f"(on {os.uname().nodename})" in done.reasons[A]


@pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])
def test_an_aws_that_writes_elsewhere(make_stub, fetch, make_job, is_batch):
    """A container sees another disk: that is said, and not that the object is gone."""
    job = make_job([A], FOLDER, ["*"]) if is_batch else make_job([A])
    done = fetch(job, make_stub("sys.exit(0)"))
    assert done[:2] == (1, {A: "failed"})
    assert "container or a snap" in done.reasons[A]


@pytest.mark.parametrize("left", ["", "lock", "objects/a"])
def test_leftovers_of_any_moment_are_swept(left, tmp_path):
    """Killed before the folder had its lock, or while it was being removed."""
    partial = tmp_path / ".laion_fmri" / "partial"
    folder = partial / "run-job-1"
    write_tree(folder, {left: b"x"} if left else {})
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    staging.sweep_staging(tmp_path)
    assert list(partial.iterdir()) == []


def test_transfers_that_start_while_others_sweep(tmp_path):
    """Each has a folder of its own until it ends, though it is without a lock for a moment."""
    stop, lost = threading.Event(), []

    def sweep() -> None:
        while not stop.is_set():
            staging.sweep_staging(tmp_path)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    for number in range(300):
        with staging.make_staging(tmp_path, f"run-{number}") as folder:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
            if not os.fstat(folder).st_nlink:
                lost.append(number)
    stop.set()
    sweeper.join()
    assert lost == []
    staging.sweep_staging(tmp_path)
    assert list((tmp_path / ".laion_fmri" / "partial").iterdir()) == []
