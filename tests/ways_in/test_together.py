"""Several runs in one data directory at once: all succeed, and each object is fetched once."""

from __future__ import annotations

from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from faults import FaultServer
from helpers import copy_clone, read_tree, stat_all
from runs import Started, find_complete, list_leftovers, make_objects, start, wait_until

OBJECTS = make_objects(18, 600)
#: Patterns of the objects that are held back while another run begins: some of each batch.
HELD = ("*-1*_trials.tsv", "*/V[0-3].nii.gz")
ARRIVE = sorted(key for key in OBJECTS if not any(fnmatchcase(key, held) for held in HELD))
pytestmark = pytest.mark.faults


@pytest.fixture
def begin(tmp_path):
    """Return a function that starts a run in the one data directory, until the test ends."""
    with ExitStack() as stack:

        def run(way: str, folder: str = "", **filters: str) -> Started:
            place = tmp_path / (folder or f"{way}-{len(begun)}")
            begun.append(place)
            keys = OBJECTS if not filters else ()
            options = {"filters": filters, "keys": keys}
            return stack.enter_context(start(way, tmp_path / "data", place, **options))

        begun: list[Path] = []
        yield run


def check_success(data_dir: Path, *runs: Started) -> None:
    """All runs end well; every file is whole, and nothing is left behind."""
    for run in runs:
        assert run.wait() == 0, run.said()
    assert read_tree(data_dir) == OBJECTS
    assert list_leftovers(data_dir) == []


def check_once(bench: FaultServer) -> None:
    """Each object was asked for once."""
    assert dict.fromkeys(OBJECTS, 1) == dict(bench.gets_by_key())


@pytest.mark.parametrize(
    "ways",
    [
        ("snakemake", "command"),
        ("download", "download"),
        ("host", "command"),
        ("host", "host"),
        ("snakemake", "download"),
        ("snakemake", "snakemake"),
        ("command", "command"),
        ("host", "snakemake", "command"),
        ("download", "command", "download"),
    ],
    ids="+".join,
)
def test_started_at_once(ways, bench, begin, tmp_path):
    """By any ways in, from folders of their own: no object is fetched twice."""
    runs = [begin(way) for way in ways]
    check_success(tmp_path / "data", *runs)
    check_once(bench)


@pytest.mark.parametrize("way", ["snakemake", "download", "command"])
def test_in_one_folder(way, bench, begin, tmp_path):
    """From one working directory, where plain Snakemake's two runs are the same to us."""
    (tmp_path / "data").mkdir()
    if way == "snakemake":
        copy_clone(tmp_path / "one", subject="sub-03", data_dir=str(tmp_path / "data"))
    runs = [begin(way, "one") for _ in range(2)]
    check_success(tmp_path / "data", *runs)
    check_once(bench)


def find_arrived(data_dir: Path) -> list[str]:
    """Return the keys that have arrived, in place, or kept for the jobs of a pipeline."""
    kept = data_dir / ".laion_fmri" / "kept"
    return sorted({*find_complete(data_dir, OBJECTS), *find_complete(kept, OBJECTS)})


def is_in_the_middle(run: Started, data_dir: Path) -> bool:
    """Wait until all that is not held back has arrived, and a transfer of `run` is under way."""
    return wait_until(
        lambda: not run.is_running() or (run.find("transfer") and find_arrived(data_dir) == ARRIVE)
    )


MIDDLE = [
    ("command", "snakemake"),
    ("snakemake", "command"),
    ("download", "host"),
    ("host", "download"),
    ("snakemake", "snakemake"),
    ("host", "host"),
]


@pytest.mark.parametrize(("first", "second"), MIDDLE)
def test_started_in_the_middle_of_another(first, second, bench, begin, tmp_path):
    """The second waits for what the first is fetching, and leaves alone what is there."""
    data_dir = tmp_path / "data"
    for held in HELD:
        bench.break_("hold", held)
    runs = [begin(first)]
    assert is_in_the_middle(runs[0], data_dir), runs[0].said()
    runs.append(begin(second))
    assert is_in_the_middle(runs[1], data_dir), runs[1].said()
    here = find_complete(data_dir, OBJECTS)
    before = stat_all(data_dir, here)
    bench.mend()
    check_success(data_dir, *runs)
    check_once(bench)
    inodes = {key: inode for key, (inode, _) in before.items()}
    assert inodes == {key: inode for key, (inode, _) in stat_all(data_dir, here).items()}


@pytest.mark.parametrize(("first", "second"), MIDDLE)
def test_the_first_is_killed(first, second, bench, begin, tmp_path):
    """The second fetches what the first had not finished, and nothing else."""
    data_dir = tmp_path / "data"
    for held in HELD:
        bench.break_("hold", held)
    one = begin(first)
    assert is_in_the_middle(one, data_dir), one.said()
    two = begin(second)
    assert is_in_the_middle(two, data_dir), two.said()
    one.kill("everything")
    bench.mend()
    check_success(data_dir, two)
    gets = bench.gets_by_key()
    assert dict.fromkeys(ARRIVE, 1) == {key: gets[key] for key in ARRIVE}
    assert {2} == {gets[key] for key in OBJECTS if key not in ARRIVE}


@pytest.mark.parametrize(
    ("first", "second"),
    [("download", "command"), ("snakemake", "download")],
)
def test_selections_that_overlap(first, second, bench, begin, tmp_path):
    """What both have selected is fetched once, like all the rest."""
    runs = [begin(first, extension="tsv"), begin(second, ses="averages")]
    check_success(tmp_path / "data", *runs)
    check_once(bench)
