"""A large object never starts over: what has arrived is kept, whoever ended the run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from faults import FaultServer, serve_faults
from helpers import find_aws, read_tree, run_command, stat_all
from runs import Started, find_complete, finish, list_leftovers, signal_group, start, wait_until

from laion_fmri.sample import SampleServer

pytestmark = [pytest.mark.cold, pytest.mark.faults]
MIB = 2**20
FUNC = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_task-images_desc"
BIG = f"{FUNC}-SingletrialBetas_statmap.nii.gz"
#: Bytes of the object that is cut, in 31 parts, and of those whose runs are ended, in 4.
CUT, SIZE = 496 * MIB, 64 * MIB
#: Bytes per second of one connection, where a run has to last.
RATE = 2 * MIB
#: What a run that was ended and the next one may bring together, of the object.
MOST = 1.06
#: A version 2 of aws beside the one of all other tests: as distributions have it, or another.
SECOND = os.environ.get("LAION_FMRI_TEST_SECOND_AWS", "/usr/bin/aws")


@cache
def make_content(size: int, version: int = 0) -> bytes:
    """Return bytes that no other version has anywhere."""
    dice = random.Random(version)
    return b"".join(dice.randbytes(MIB) for _ in range(size // MIB))


@cache
def find_version() -> str | None:
    """Return what the second aws says of itself; None if there is none."""
    if not shutil.which(SECOND):
        return None
    return subprocess.run([SECOND, "--version"], capture_output=True, text=True, check=False).stdout


def find_second() -> str | None:
    """Say why there is no version 2 of aws; None if there is one."""
    if (said := find_version()) is None:
        return f"there is no {SECOND}"
    return None if said.startswith("aws-cli/2") else f"{SECOND} is {said or 'broken'}"


REASON = find_second()
needs_second = pytest.mark.skipif(REASON is not None, reason=str(REASON))
by_each_aws = pytest.mark.parametrize(
    "aws", ["first", pytest.param("second", marks=needs_second)], indirect=True
)


@pytest.fixture
def aws(request, monkeypatch) -> str:
    """Let the runs use one aws or the other."""
    path = find_aws() if request.param == "first" else SECOND
    monkeypatch.setenv("LAION_FMRI_AWS", path)
    return path


@pytest.fixture
def put(server: SampleServer, monkeypatch) -> Iterator[Callable[[dict[str, bytes]], FaultServer]]:
    """Return a function that serves some objects behind a fault bench."""
    made = []

    def serve(objects: dict[str, bytes]) -> FaultServer:
        server.add_bucket("resume", objects)
        context = serve_faults(server)
        made.append(context)
        bench = context.__enter__()
        monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", bench.endpoint_url)
        monkeypatch.setenv("LAION_FMRI_BUCKET", "resume")
        return bench

    yield serve
    for context in made:
        context.__exit__(None, None, None)
    server._store.buckets.pop("resume", None)


def wait_for_bytes(data_dir: Path, run: Started, count: float) -> None:
    """Wait until so many bytes of the large object are on the disk."""
    assert wait_until(lambda: count_kept(data_dir) >= count or not run.is_running())
    assert run.is_running(), run.said()


def count_kept(data_dir: Path) -> int:
    """Count the bytes on disk of what is kept of unfinished files."""
    return sum(file.stat().st_blocks * 512 for file in list_unfinished(data_dir))


def check_rest(bench: FaultServer, data_dir: Path, place: Path, content: bytes) -> None:
    """The same command brings the rest, and no more; nothing is left over."""
    bench.mend()
    # What was sent to a process that was stopped, and never read, says nothing of ours.
    bench.clear()
    kept = count_kept(data_dir)
    finish("command", data_dir, place)
    assert (data_dir / BIG).read_bytes() == content
    assert kept + bench.sent[BIG] <= MOST * len(content)
    assert list_unfinished(data_dir) == []
    assert list_leftovers(data_dir) == []


def list_unfinished(data_dir: Path) -> list[Path]:
    """List what is kept of unfinished files."""
    return list((data_dir / ".laion_fmri" / "unfinished").glob("*"))


def kill_at(share: float, bench: FaultServer, folder: Path, way: str = "command") -> None:
    """Kill a run when so much of the large object is on the disk."""
    bench.break_("slow", BIG, rate=RATE)
    with start(way, folder / "data", folder / "place", keys=[BIG]) as run:
        wait_for_bytes(folder / "data", run, share * SIZE)
        run.kill("everything")
        assert run.is_gone()


@by_each_aws
@pytest.mark.parametrize("fault", ["short", "reset"])
def test_one_body_in_ten_is_cut(fault, aws, put, tmp_path):
    """By a clean end or a reset in the middle of a part: it arrives, with a tenth more at most."""
    content = make_content(CUT)
    bench = put({BIG: content})
    cuts = [bench.break_(fault, BIG, skip=3 + 10 * n, times=1, after=8 * MIB) for n in range(3)]
    finish("command", tmp_path / "data", tmp_path / "place")
    assert cuts[0].hits
    assert (tmp_path / "data" / BIG).read_bytes() == content
    assert bench.sent[BIG] <= 1.1 * CUT
    assert list_unfinished(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("aws", "share"),
    [("first", 0.2), ("first", 0.8), pytest.param("second", 0.5, marks=needs_second)],
    indirect=["aws"],
)
def test_killed_with_everything(share, aws, put, tmp_path):
    """The same command then brings what is missing."""
    content = make_content(SIZE)
    bench = put({BIG: content})
    kill_at(share, bench, tmp_path)
    check_rest(bench, tmp_path / "data", tmp_path / "place", content)


def interrupt(run: Started) -> None:
    """Press Ctrl-C."""
    run.type("\x03")


def terminate(run: Started) -> None:
    """Ask it to end, as a batch system asks all processes of a job."""
    signal_group(run, signal.SIGTERM)


@pytest.mark.parametrize(
    ("aws", "stop"),
    [("first", interrupt), pytest.param("second", terminate, marks=needs_second)],
    indirect=["aws"],
)
def test_stop_means_stop(stop, aws, put, tmp_path):
    """No byte more is asked for; it says what is kept, and the same command goes on there."""
    content = make_content(SIZE)
    bench = put({BIG: content})
    bench.break_("slow", BIG, rate=RATE)
    data_dir, place = tmp_path / "data", tmp_path / "place"
    with start("command", data_dir, place, on_terminal=True) as run:
        wait_for_bytes(data_dir, run, SIZE / 2)
        asked, sent = bench.gets(BIG), bench.sent[BIG]
        stop(run)
        assert run.wait() == 130
        assert run.is_gone()
        said = run.said()
    time.sleep(1)  # what is under way in the sockets
    assert bench.gets(BIG) - asked <= 1
    assert bench.sent[BIG] - sent < SIZE / 20
    assert re.search(r"MB of 1 unfinished file is kept, and the same command goes on there", said)
    assert re.search(r"MB of 1 unfinished file is kept", run_status(data_dir))
    check_rest(bench, data_dir, place, content)


def run_status(data_dir: Path) -> str:
    """Return what ``status`` says."""
    done = run_command("status", "--subject", "sub-03", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("way", ["snakemake", "download", "host"])
def test_every_way_in_goes_on(way, put, tmp_path):
    """Also inside a pipeline."""
    content = make_content(SIZE)
    bench = put({BIG: content})
    data_dir, place = tmp_path / "data", tmp_path / "place"
    kill_at(0.5, bench, tmp_path, way)
    bench.mend()
    bench.clear()
    kept = count_kept(data_dir)
    shutil.rmtree(place / ".snakemake" / "locks", ignore_errors=True)  # as --unlock does
    finish(way, data_dir, place, keys=[BIG])
    assert (data_dir / BIG).read_bytes() == content
    assert kept + bench.sent[BIG] <= MOST * SIZE
    assert list_unfinished(data_dir) == []


def test_another_run_goes_on_with_it(put, tmp_path):
    """One that waits for the first takes over, when that is killed."""
    content = make_content(SIZE)
    bench = put({BIG: content})
    bench.break_("slow", BIG, rate=RATE)
    data_dir = tmp_path / "data"
    with start("command", data_dir, tmp_path / "one") as first:
        wait_for_bytes(data_dir, first, SIZE / 4)
        with start("download", data_dir, tmp_path / "two") as second:
            wait_for_bytes(data_dir, first, SIZE / 2)
            first.kill("everything")
            assert second.wait() == 0, second.said()
    assert (data_dir / BIG).read_bytes() == content
    assert bench.sent[BIG] <= MOST * SIZE
    assert list_unfinished(data_dir) == []


def test_another_users_part_is_copied(put, tmp_path):
    """Its owner could change it later: the file is then this user's, and the part is gone."""
    content = make_content(SIZE)
    bench = put({BIG: content})
    kill_at(0.5, bench, tmp_path)
    (kept,) = list_unfinished(tmp_path / "data")
    os.chown(kept, 12345, 12345)
    check_rest(bench, tmp_path / "data", tmp_path / "place", content)
    assert (tmp_path / "data" / BIG).stat().st_uid == os.geteuid()


@by_each_aws
def test_replaced_between_two_runs(aws, put, server, tmp_path):
    """The new one arrives whole, with not one byte of the old."""
    bench = put({BIG: make_content(SIZE)})
    kill_at(0.5, bench, tmp_path)
    fresh = make_content(SIZE, 1)
    time.sleep(2)
    server.put(BIG, fresh, "resume")
    bench.mend()
    bench.clear()
    finish("command", tmp_path / "data", tmp_path / "place")
    assert (tmp_path / "data" / BIG).read_bytes() == fresh
    assert bench.sent[BIG] >= SIZE
    assert list_unfinished(tmp_path / "data") == []


def test_replaced_while_it_goes_on(put, server, tmp_path):
    """It is refused, and the next run brings the new one."""
    bench = put({BIG: make_content(SIZE)})
    kill_at(0.5, bench, tmp_path)
    bench.mend()
    fresh = make_content(SIZE, 1)
    bench.break_("call", BIG, times=1, skip=1, do=lambda: server.put(BIG, fresh, "resume"))
    with start("command", tmp_path / "data", tmp_path / "place") as run:
        assert run.wait() == 1
        assert "the object has been replaced in the bucket since it was listed" in run.said()
    finish("command", tmp_path / "data", tmp_path / "place")
    assert (tmp_path / "data" / BIG).read_bytes() == fresh
    assert list_unfinished(tmp_path / "data") == []


@by_each_aws
def test_twenty_kills(aws, put, tmp_path):
    """At random moments of a run with large and small files; finished ones are not touched."""
    dice = random.Random(20)
    objects = {f"{FUNC}-{n}_trials.tsv": dice.randbytes(3000) for n in range(20)}
    objects |= {f"{FUNC}-{n}_statmap.nii.gz": make_content(64 * MIB, n) for n in range(2)}
    bench = put(objects)
    bench.break_("slow", "*.nii.gz", rate=MIB / 2)
    data_dir, place = tmp_path / "data", tmp_path / "place"
    for _ in range(20 if aws != SECOND else 3):
        before = find_complete(data_dir, objects)
        stats = stat_all(data_dir, before)
        with start("command", data_dir, place) as run:
            time.sleep(dice.uniform(0.5, 4))
            run.kill("everything")
            assert run.is_gone()
        assert stats == stat_all(data_dir, before)
    bench.mend()
    finish("command", data_dir, place)
    assert read_tree(data_dir) == objects
    assert sum(bench.sent.values()) <= 1.3 * sum(map(len, objects.values()))
    assert (list_unfinished(data_dir), list_leftovers(data_dir)) == ([], [])


def test_what_was_tampered_with_is_not_in_the_result(put, tmp_path):
    """The whole does not give the ETag, and starts over."""
    content = make_content(SIZE)
    bench = put({BIG: content})
    kill_at(0.5, bench, tmp_path)
    (kept,) = list_unfinished(tmp_path / "data")
    with kept.open("r+b") as file:
        file.seek(MIB)
        file.write(b"\0other\0")
    bench.mend()
    finish("command", tmp_path / "data", tmp_path / "place")
    assert (tmp_path / "data" / BIG).read_bytes() == content
    assert list_unfinished(tmp_path / "data") == []


def test_remove_frees_it_and_no_room_is_said_before(put, tmp_path):
    """`remove` counts what is kept, and takes it away."""
    bench = put({BIG: make_content(SIZE)})
    kill_at(0.5, bench, tmp_path)
    words = ["remove", "--subject", "sub-03", "--yes", "--data-dir", tmp_path / "data"]
    done = run_command(*words)
    assert (done.returncode, list_unfinished(tmp_path / "data")) == (0, []), done.stderr
    assert re.search(r"removed 1 file, \d+\.\d MB", done.stdout)


def test_without_progress_it_is_given_up_and_named(put, tmp_path):
    """After three tries that bring nothing, with how much is kept."""
    bench = put({BIG: make_content(SIZE)})
    kill_at(0.5, bench, tmp_path)
    bench.mend()
    bench.break_("reset-at-once", BIG)
    with start("command", tmp_path / "data", tmp_path / "place") as run:
        assert run.wait() == 1
        said = run.said()
    assert re.search(rf"[\d,]+ of {SIZE:,} bytes are kept, and the same again goes on there", said)
    assert len(list_unfinished(tmp_path / "data")) == 1


def test_every_attempt_that_brings_something_is_followed_by_another(put, tmp_path):
    """A line that cuts each body after 4 MiB brings all of it."""
    content = make_content(SIZE)
    bench = put({BIG: content})
    bench.break_("reset", BIG, after=4 * MIB)
    finish("command", tmp_path / "data", tmp_path / "place")
    assert (tmp_path / "data" / BIG).read_bytes() == content
    assert list_unfinished(tmp_path / "data") == []


@by_each_aws
def test_parts_of_two_versions_are_not_mixed(aws, put, server, tmp_path):
    """An object that is replaced while it arrives: the next run brings the new one, whole."""
    old, fresh = make_content(SIZE), make_content(SIZE, 1)
    bench = put({BIG: old})
    bench.break_("call", BIG, times=1, skip=2, do=lambda: server.put(BIG, fresh, "resume"))
    with start("command", tmp_path / "data", tmp_path / "place") as run:
        status = run.wait()
        said = run.said()
    if (tmp_path / "data" / BIG).exists():
        assert (tmp_path / "data" / BIG).read_bytes() in (old, fresh)
    assert (status, "the object has been replaced in the bucket" in said) == (1, True), said
    finish("command", tmp_path / "data", tmp_path / "place")
    assert (tmp_path / "data" / BIG).read_bytes() == fresh
    assert list_unfinished(tmp_path / "data") == []


@needs_second
@pytest.mark.parametrize("aws", ["second"], indirect=True)
def test_an_old_version_is_named_once(aws, put, tmp_path):
    """With what it means, and what to do."""
    if "aws-cli/2.9." not in str(find_version()):
        pytest.skip(f"{aws} is not an old one")
    put({f"{FUNC}-{n}_statmap.nii.gz": make_content(SIZE, n) for n in range(2)})
    said = finish("command", tmp_path / "data", tmp_path / "place")
    assert said.count("does not notice by itself when an object is replaced") == 1
    assert "2.27.21 and newer need none" in said
