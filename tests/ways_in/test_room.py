"""A disk that takes no more: real small file systems, in a mount namespace of their own."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from faults import FaultServer
from helpers import DERIVATIVES, complaints, read_tree, run, stat_all
from runs import (
    WAYS,
    Started,
    find_complete,
    finish,
    list_leftovers,
    make_objects,
    start,
    wait_until,
)

OBJECTS = make_objects(90, 60_000)
TOTAL = sum(map(len, OBJECTS.values()))
#: Connections of one worker, see "Parallelism" of the contract.
AT_ONCE = 10
#: Patterns of the objects that are held back until the disk is read-only.
HELD = "*-7[0-4]_trials.tsv"
ARRIVE = {
    key: content
    for key, content in OBJECTS.items()
    if key.endswith("_trials.tsv") and not fnmatchcase(key, HELD)
}
MIB = 2**20
HUGE = f"{DERIVATIVES}/sub-03/ses-01/func/sub-03_ses-01_task-images_statmap.nii.gz"
pytestmark = pytest.mark.faults


#: Mounts a tmpfs; in a user namespace of one's own, anyone may.
MOUNT_TMPFS = 'mount -t tmpfs -o "$2" none "$1"'
#: The same with a quota, which it has from Linux 6.6 on if that was built so; else a btrfs.
MOUNT_QUOTA = """
mount -t tmpfs -o "size=16m,usrquota,usrquota_block_hardlimit=$2" none "$1" 2> /dev/null && exit
truncate -s 120M "$1.img" && mkfs.btrfs -q "$1.img" && mount -o loop "$1.img" "$1" &&
btrfs quota enable "$1" && btrfs qgroup limit "$2" "$1"
"""
#: Lifts the quota of a btrfs; that of a tmpfs does not hold for root with all its rights.
LIFT_QUOTA = 'btrfs qgroup limit none "$0" 2> /dev/null || true'


class Disk:
    """A small file system that only its own mount namespace sees.

    Parameters
    ----------
    path : Path
    options : str
        What the file system is made with.
    mount : str
        Shell lines that mount it.

    Attributes
    ----------
    path : Path
        Where the processes of the namespace find it, which `prefix` before a command starts.
    seen : Path
        Where the tests find it.
    """

    def __init__(self, path: Path, options: str, mount: str = MOUNT_TMPFS) -> None:
        self.path = path
        own = "-m" if os.geteuid() == 0 else "-rm"
        keep = 'sh -c "$0" mount "$@" && echo && cat'
        self._keeper = subprocess.Popen(
            ["unshare", own, "sh", "-c", keep, mount, path, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if not self._keeper.stdout.readline():
            reason = self._keeper.communicate()[1].decode().strip()
            pytest.skip(f"no such file system can be made here: {reason}")
        self.seen = Path(f"/proc/{self._keeper.pid}/root{path}")
        self.prefix = ["nsenter", f"--target={self._keeper.pid}", "--mount"]
        self.prefix += [f"--wdns={path.parent}/place"]
        if own == "-rm":
            self.prefix += ["--user", "--preserve-credentials"]

    def run(self, *words: object) -> None:
        """Run a command in the namespace."""
        subprocess.run([*self.prefix, *map(str, words)], check=True, capture_output=True)

    def close(self) -> None:
        """Unmount it, with all that is on it."""
        self._keeper.communicate()


@pytest.fixture
def make_disk(tmp_path):
    """Return a function that mounts a small file system, until the test ends."""
    with ExitStack() as stack:

        def make(*how: str) -> Disk:
            for name in ("disk", "place"):
                (tmp_path / name).mkdir()
            disk = Disk(tmp_path / "disk", *how)
            stack.callback(disk.close)
            return disk

        yield make


def begin(way: str, disk: Disk, **settings: object) -> Started:
    """Start a run with its files on `disk`, one aws at a time."""
    folder = disk.path.with_name("place")
    return start(way, disk.path, folder, prefix=disk.prefix, n_jobs=1, **settings)


def check_next_run(way: str, disk: Disk, bench: FaultServer) -> None:
    """With room, the same completes; what was there stays, and nothing is left behind."""
    bench.mend()
    finished = find_complete(disk.seen, OBJECTS)
    before = stat_all(disk.seen, finished)
    folder = disk.path.with_name("place")
    finish(way, disk.path, folder, prefix=disk.prefix)
    assert read_tree(disk.seen) == OBJECTS
    assert before == stat_all(disk.seen, finished)
    assert list_leftovers(disk.seen) == []


WITHOUT_ROOM = {
    "bytes": ("size=1500k", "size=16m"),
    "inodes": ("size=16m,nr_inodes=100", "size=16m,nr_inodes=1000"),
}


@pytest.mark.parametrize(
    ("way", "lack"),
    [
        ("snakemake", "bytes"),
        ("command", "bytes"),
        ("download", "bytes"),
        ("snakemake", "inodes"),
        ("command", "inodes"),
        ("download", "inodes"),
    ],
)
def test_disk_that_fills_up(way, lack, bench, make_disk):
    """The run ends early, with the folder and the bytes that are needed; then it goes on."""
    small, large = WITHOUT_ROOM[lack]
    disk = make_disk(small)
    bench.break_("delay", delay=0.8)
    with begin(way, disk, filters={"space_check": False}) as run:
        assert run.wait() == 1, run.said()
        here = find_complete(disk.seen, OBJECTS)
        missing = TOTAL - sum(len(OBJECTS[key]) for key in here)
        assert f"{disk.path} needs room for {missing:,} bytes more" in run.said(), run.said()
    assert read_tree(disk.seen) == {key: OBJECTS[key] for key in here}
    asked = bench.gets_by_key()
    # Those under way when the first failed, and when that was noticed; of other jobs, none. Nothing
    # at all if Snakemake itself was the first to find no room.
    assert len(here) <= len(asked) <= len(here) + 3 * AT_ONCE
    assert asked["README"] == asked["participants.tsv"] == 0
    disk.run("mount", "-o", f"remount,{large}", disk.path)
    check_next_run(way, disk, bench)


@pytest.mark.parametrize("way", ["command", "download", "snakemake"])
def test_quota_that_is_used_up(way, bench, make_disk):
    """It is a full disk to us, though others may still write there."""
    if os.geteuid() != 0:
        pytest.skip("only root can set a quota")
    disk = make_disk("1500K", MOUNT_QUOTA)
    bench.break_("delay", delay=0.8)
    plain = disk.prefix
    disk.prefix = [*plain, "setpriv", "--bounding-set=-sys_resource"]  # to heed quotas
    with begin(way, disk) as run:
        assert run.wait() == 1, run.said()
        here = find_complete(disk.seen, OBJECTS)
        missing = TOTAL - sum(len(OBJECTS[key]) for key in here)
        said = f"Disk quota exceeded; {disk.path} needs room for {missing:,} bytes more"
        assert said in run.said(), run.said()
    assert read_tree(disk.seen) == {key: OBJECTS[key] for key in here}
    assert bench.gets("README") == bench.gets("participants.tsv") == 0
    disk.prefix = plain
    disk.run("sh", "-c", LIFT_QUOTA, disk.path)
    check_next_run(way, disk, bench)


@pytest.mark.parametrize("way", ["download", "command", "snakemake"])
def test_disk_that_turns_read_only(way, bench, make_disk):
    """The run ends, and names the folder; what had arrived is whole, and then it goes on."""
    disk = make_disk("size=16m")
    bench.break_("hold", HELD)
    with begin(way, disk) as run:
        wait_until(lambda: len(find_complete(disk.seen, ARRIVE)) == len(ARRIVE))
        disk.run("mount", "--bind", disk.path, disk.path)
        disk.run("mount", "-o", "remount,bind,ro", disk.path)
        bench.mend()
        assert run.wait() == 1, run.said()
        assert re.search(f"{disk.path}.* not writable|Read-only.*{disk.path}", run.said())
    # A transfer under way has opened the folders, and goes on in what is below the new mount.
    assert ARRIVE.items() <= read_tree(disk.seen).items() <= OBJECTS.items()
    assert {key.rpartition("_")[2] for key in bench.gets_by_key()} == {"trials.tsv"}
    disk.run("umount", disk.path)
    check_next_run(way, disk, bench)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=1500k", rf"{TOTAL:,} bytes are to be fetched, and the disk of (\S+) has room for "),
        (
            "size=16m,nr_inodes=90",
            rf"{len(OBJECTS):,} files are to be fetched, and the disk of (\S+) has room for ",
        ),
    ],
    ids=["bytes", "inodes"],
)
def test_too_little_room_to_begin(way, options, said, bench, make_disk):
    """Both numbers are said before anything is fetched, in one line."""
    disk = make_disk(options)
    with begin(way, disk) as run:
        assert run.wait() == 1, run.said()
        (line,) = [line for line in run.said().splitlines() if "are to be fetched" in line]
    found = re.search(rf"{said}([\d,]+)", line)
    assert found, line
    assert found[1] == str(disk.path)
    assert 0 < int(found[2].replace(",", "")) <= 1500 * 1024
    assert ("NoSpaceError: " in line) is (way == "download")
    assert dict(bench.gets_by_key()) == {}
    assert read_tree(disk.seen) == {}
    assert list_leftovers(disk.seen) == []


def test_a_disk_mounted_inside_the_data_directory(tiny, tiny_objects, tmp_path):
    """Files arrive on it, and nothing else is left there."""
    data = tmp_path / "data"
    (data / "derivatives").mkdir(parents=True)
    (data / "place").mkdir()
    disk = Disk(data / "derivatives", "size=16m")
    try:
        words = [sys.executable, "-m", "laion_fmri", "download", "--subject", "03", "--n-jobs", "2"]
        done = run([*disk.prefix, *words, "--data-dir", data])
        assert (done.returncode, complaints(done)) == (0, [])
        found = {f"derivatives/{key}": content for key, content in read_tree(disk.seen).items()}
        assert tiny_objects == found
        again = run([*disk.prefix, *words, "--data-dir", data])
        assert "nothing to do" in again.stdout
    finally:
        disk.close()


def test_what_is_kept_of_a_large_file_counts_as_room(bench, server, make_disk, monkeypatch):
    """Only the rest of it has to fit; that it does not is said before a byte is asked for."""
    content = random.Random(0).randbytes(64 * MIB)
    server.add_bucket("room", {HUGE: content})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "room")
    disk = make_disk("size=80m")
    folder = disk.seen / ".laion_fmri" / "unfinished"

    def count_kept() -> int:
        return sum(file.stat().st_blocks * 512 for file in folder.glob("*"))

    bench.break_("slow", HUGE, rate=2 * MIB)
    with begin("command", disk) as run:
        assert wait_until(lambda: count_kept() > len(content) // 2), run.said()
        run.kill("everything")
        assert run.is_gone()
    bench.mend()
    rest = len(content) - count_kept()
    room = os.statvfs(disk.seen)
    disk.run("fallocate", "-l", room.f_bavail * room.f_frsize - rest // 2, disk.path / "ballast")
    bench.clear()
    with begin("command", disk) as run:
        assert run.wait() == 1, run.said()
        assert f"{rest:,} bytes are to be fetched, and the disk of {disk.path}" in run.said()
    assert bench.sent[HUGE] == 0
    disk.run("rm", disk.path / "ballast")
    finish("command", disk.path, disk.path.with_name("place"), prefix=disk.prefix)
    assert read_tree(disk.seen) == {HUGE: content}
    assert list_leftovers(disk.seen) == []
