"""Runs that are killed or stopped: the next one completes, with nothing to clear up before."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from faults import FaultServer
from helpers import read_tree, stat_all, write_tree
from runs import (
    WAYS,
    Started,
    find_complete,
    finish,
    list_leftovers,
    make_objects,
    signal_group,
    start,
    wait_until,
)

from laion_fmri.download import download
from laion_fmri.folder.presence import Presence

OBJECTS = make_objects()
#: Patterns of the objects that do not arrive before a run is stopped: some of each batch.
HELD = ("*-1*_trials.tsv", "*/V[0-3].nii.gz")
ARRIVE = sorted(key for key in OBJECTS if not any(fnmatchcase(key, held) for held in HELD))
pytestmark = [pytest.mark.cold, pytest.mark.faults]
#: Bytes per second of one object, so that a run takes some seconds.
RATE = 1000
#: Moments at which each kind of process is killed; fewer where there is little time.
MOMENTS = int(os.environ.get("LAION_FMRI_TEST_MOMENTS", "20"))
#: Seconds in which a stopped run has to be gone, and in which nothing is left of a killed one.
STOPPED, KILLED = 30.0, 30.0


@pytest.fixture(scope="module")
def lengths():
    """Return how long runs by the ways in take, in seconds, as far as that is known."""
    return {}


@pytest.fixture
def measure(bench, lengths, tmp_path):
    """Return a function that says how long an undisturbed run by a way in takes, in seconds."""

    def run(way: str) -> float:
        if way not in lengths:
            begun = time.monotonic()
            finish(way, tmp_path / "measured", tmp_path / "measured-place")
            lengths[way] = time.monotonic() - begun
        return lengths[way]

    return run


def check_next_run(way: str, data_dir: Path, folder: Path, bench: FaultServer) -> None:
    """What is there stays as it is, the rest arrives, and nothing is left behind."""
    bench.mend()
    bench.clear()
    finished = find_complete(data_dir, OBJECTS)
    before = stat_all(data_dir, finished)
    finish(way, data_dir, folder)
    assert read_tree(data_dir) == OBJECTS
    assert before == stat_all(data_dir, finished)
    assert dict.fromkeys(finished, 0) == {key: bench.gets(key) for key in finished}
    assert list_leftovers(data_dir) == []


@pytest.fixture
def hold(bench):
    """Hold some objects back."""
    for pattern in HELD:
        bench.break_("hold", pattern)
    return bench


def wait_for_rest(run: Started, data_dir: Path) -> None:
    """Wait until all objects that are not held back have arrived."""
    assert wait_until(lambda: sorted(find_complete(data_dir, OBJECTS)) == ARRIVE), run.said()


CASES = [
    (way, victim, number)
    for victim in ("everything", "snakemake", "aws", "starter")
    for number in range(MOMENTS)
    for way in [WAYS[number % 3]]
    # Plain Snakemake is its own starter; what ends with the others takes fewer moments to show.
    if victim != "starter" or (way != "snakemake" and number % 5 == 2)
]


@pytest.mark.parametrize(("way", "victim", "number"), CASES)
def test_killed_at_any_moment(way, victim, number, bench, measure, tmp_path):
    """No process lives on, and the next run fetches what is missing, and nothing else."""
    bench.break_("slow", rate=RATE)
    data_dir, folder = tmp_path / "data", tmp_path / "place"
    dice = random.Random(f"{victim} {number}")
    moment = measure(way) * (number + dice.random()) / MOMENTS
    with start(way, data_dir, folder) as run:
        time.sleep(moment)
        wait_until(lambda: run.find(victim) or not run.is_running())
        run.kill(victim, dice)
        if victim == "aws":  # it is started again
            assert run.wait() == 0, run.said()
        assert run.is_gone(KILLED), run.list_processes()
    check_next_run(way, data_dir, folder, bench)


@pytest.mark.parametrize(
    ("way", "victim"),
    [
        ("download", "starter"),
        ("command", "snakemake"),
        ("download", "everything"),
        ("snakemake", "snakemake"),
    ],
)
def test_killed_halfway(way, victim, hold, tmp_path):
    """Some files of each batch have arrived, and others are under way."""
    data_dir, folder = tmp_path / "data", tmp_path / "place"
    with start(way, data_dir, folder) as run:
        wait_for_rest(run, data_dir)
        run.kill(victim)
        assert run.is_gone(KILLED), run.list_processes()
    assert sorted(find_complete(data_dir, OBJECTS)) == ARRIVE
    check_next_run(way, data_dir, folder, hold)


@pytest.mark.parametrize("is_alone", [True, False])
def test_leftovers_with_nothing_to_do(is_alone, bench, tmp_path):
    """What the killed have left goes even if all is here; not what may be of a run that lives."""
    write_tree(tmp_path, OBJECTS)
    left = ["partial/a/lock", "partial/a/object", "alive/alive-dead"]
    doubtful = ["kept/README"]
    write_tree(tmp_path / ".laion_fmri", dict.fromkeys([*left, *doubtful], b"x"))
    (tmp_path / ".laion_fmri" / "partial" / "a").chmod(0o700)
    living = Presence(tmp_path)
    if is_alone:
        living.close()
    assert set(download("sub-03", data_dir=tmp_path)["outcome"]) == {"present"}
    name = f"alive/{living.name}"
    assert list_leftovers(tmp_path) == ([] if is_alone else sorted([*doubtful, name]))
    living.close()


def interrupt(run: Started) -> None:
    """Press Ctrl-C."""
    run.type("\x03")


def terminate(run: Started) -> None:
    """Ask it to end, as a batch system asks all processes of a job."""
    signal_group(run, signal.SIGTERM)


def hang_up(run: Started) -> None:
    """Close the terminal."""
    run.close_terminal()


THERE = f"{len(ARRIVE)} of {len(OBJECTS)} files"
COUNTED = rf"{THERE} \([^()]+\) are in place; the same command goes on there"


@pytest.mark.parametrize(
    ("way", "stop", "status", "said"),
    [
        ("command", hang_up, 130, f"interrupted; {COUNTED}"),
        ("download", interrupt, -signal.SIGINT, f"KeyboardInterrupt\n{COUNTED}"),
        ("snakemake", terminate, 1, f"{THERE} have arrived; run the same again"),
        ("command", interrupt, 130, f"interrupted; {COUNTED}"),
        ("command", terminate, 130, f"interrupted; {COUNTED}"),
        ("download", terminate, -signal.SIGTERM, ""),
        ("download", hang_up, -signal.SIGHUP, ""),
        ("snakemake", interrupt, 1, f"{THERE} have arrived; run the same again"),
        ("snakemake", hang_up, -signal.SIGHUP, ""),
    ],
    ids=lambda value: getattr(value, "__name__", value if value in WAYS else ""),
)
def test_stopped(way, stop, status, said, hold, tmp_path):
    """It ends soon, says how much is there and how to go on, and then goes on."""
    data_dir, folder = tmp_path / "data", tmp_path / "place"
    with start(way, data_dir, folder, on_terminal=True) as run:
        wait_for_rest(run, data_dir)
        stop(run)
        assert (status, True) == (run.wait(STOPPED), bool(re.search(said, run.said()))), run.said()
        assert run.is_gone(STOPPED), run.list_processes()
    assert sorted(find_complete(data_dir, OBJECTS)) == ARRIVE
    check_next_run(way, data_dir, folder, hold)


def test_hang_up_of_the_terminal_that_it_writes_to(hold, tmp_path):
    """Nobody hears what it says then, and it ends in the same way."""
    data_dir, folder = tmp_path / "data", tmp_path / "place"
    with start("command", data_dir, folder, on_terminal=True, says_there=True) as run:
        wait_for_rest(run, data_dir)
        hang_up(run)
        assert run.wait(STOPPED) == 130
        assert run.is_gone(STOPPED), run.list_processes()
    check_next_run("command", data_dir, folder, hold)
