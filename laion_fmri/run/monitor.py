"""How far a run is: what its transfers have recorded, and what they have on disk by now."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from laion_fmri.fetch.job import Job
from laion_fmri.fetch.outcomes import WAITING, OutcomeReader
from laion_fmri.folder.staging import list_files, open_own
from laion_fmri.run.run_folder import RunFolder
from laion_fmri.selection.table import Row


class Running(NamedTuple):
    """A transfer under way: its object or batch, and its own bytes, and files if it is a batch."""

    name: str
    bytes: int
    total_bytes: int
    files: int = 0
    total_files: int = 1


class Progress(NamedTuple):
    """Files and bytes done, and of how many."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int


class State(NamedTuple):
    """The same of a run that fetches; what has failed, is under way, and waits."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int
    failed: int = 0
    running: tuple[Running, ...] = ()
    waiting: int = 0  # files that another run is fetching


class Monitor:
    """Measures a run again and again, reading only what its transfers have added meanwhile.

    The `rows` are those that are not complete yet.
    """

    def __init__(self, folder: RunFolder, rows: Sequence[Row]) -> None:
        self._folder = folder
        self._sizes = {row.key: row.size for row in rows}
        self._total = sum(self._sizes.values())
        self._jobs = {job.name: job for job in folder.jobs}
        self._homes = {key: job.name for job in folder.jobs for key, _ in job.objects}
        self._outcomes: dict[str, str] = {}
        self._reader = OutcomeReader(Path(folder.path, "outcomes"))
        self._files: Counter[str] = Counter()  # fetched, by job
        self._bytes: Counter[str] = Counter()
        self._failed = 0
        self._waiting: set[str] = set()

    def measure(self) -> State:
        """Look at the disk and return how far the run is."""
        for key, said in self._reader.read():
            self._note(key, said.outcome)
        staged = count_staged_bytes(self._folder)
        running = [
            self._describe(self._jobs[name], count)
            for name, count in staged.items()
            if name in self._jobs
        ]
        done = self._bytes.total() + sum(staged.values())
        return State(
            self._files.total(),
            len(self._sizes),
            min(done, self._total),
            self._total,
            self._failed,
            tuple(running),
            len(self._waiting),
        )

    def _note(self, key: str, outcome: str) -> None:
        """Count the outcome of `key`; the latest one is what counts."""
        before = self._outcomes.get(key)
        if key not in self._sizes or outcome == before:
            return
        self._outcomes[key] = outcome
        if outcome == WAITING:
            self._waiting.add(key)
            return
        self._waiting.discard(key)
        step = (outcome == "fetched") - (before == "fetched")
        home = self._homes.get(key, "")
        self._files[home] += step
        self._bytes[home] += step * self._sizes[key]
        self._failed += (outcome != "fetched") - (before not in (None, WAITING, "fetched"))

    def _describe(self, job: Job, staged: int) -> Running:
        name = job.objects[0][0].rpartition("/")[2] if job.prefix is None else job.prefix
        done = min(self._bytes[job.name] + staged, job.bytes)
        return Running(name, done, job.bytes, self._files[job.name], len(job.objects))


def count_staged_bytes(folder: RunFolder) -> dict[str, int]:
    """Count the bytes on disk of the transfers that are under way, by the name of their job."""
    run = f"{Path(folder.path).name}-"
    counts: dict[str, int] = {}
    for staging, _, name in open_own(folder.data_dir, run):
        job = name.removeprefix(run).rpartition("-")[0]
        # Parts arrive out of order, so the length alone would promise too much.
        found = (min(stat.st_size, stat.st_blocks * 512) for stat in list_files(staging).values())
        counts[job] = counts.get(job, 0) + sum(found)
    return counts
