"""How far a run is: what its transfers have recorded, and what they have on disk by now."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from laion_fmri.base.bids import parse_key
from laion_fmri.fetch.arrival import SCRATCH
from laion_fmri.fetch.job import Job
from laion_fmri.fetch.outcomes import WAITING, OutcomeReader
from laion_fmri.folder import unfinished
from laion_fmri.folder.staging import list_files, open_own
from laion_fmri.run.run_folder import RunFolder
from laion_fmri.selection.overview import name_sessions, order_session
from laion_fmri.selection.table import Row


class Running(NamedTuple):
    """A transfer under way: its object or batch, and its own bytes, and files if it is a batch."""

    name: str
    bytes: int
    total_bytes: int
    files: int = 0
    total_files: int = 1


class Staged(NamedTuple):
    """What transfers of a job have on disk: bytes, and the name of the file in hand, if any."""

    bytes: int
    newest: str


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
    lost_bytes: int = 0  # of what has failed, which is not waited for
    kept: str = ""  # in words, what of unfinished files outlives a run that is stopped


class Monitor:
    """Measures a run again and again, reading only what its transfers have added meanwhile.

    The `rows` are those that are not complete yet.
    """

    def __init__(self, folder: RunFolder, rows: Sequence[Row]) -> None:
        self._folder = folder
        self._sizes = {row.key: row.size for row in rows}
        self._total = sum(self._sizes.values())
        self._large = [row.key for row in rows if row.size >= unfinished.LEAST]
        self._jobs = {job.name: job for job in folder.jobs}
        self._places: dict[str, str] = {}  # in words, of the batches that have been under way
        self._homes = {key: job.name for job in folder.jobs for key, _ in job.objects}
        self._outcomes: dict[str, str] = {}
        self._reader = OutcomeReader(Path(folder.path, "outcomes"))
        self._files: Counter[str] = Counter()  # fetched, by job
        self._bytes: Counter[str] = Counter()
        self._failed = self._lost = 0
        self._waiting: set[str] = set()

    def measure(self) -> State:
        """Look at the disk and return how far the run is."""
        for key, said in self._reader.read():
            self._note(key, said.outcome)
        staged = look_at_staged(self._folder)
        running = [
            self._describe(self._jobs[name], found)
            for name, found in staged.items()
            if name in self._jobs
        ]
        done = self._bytes.total() + sum(found.bytes for found in staged.values())
        return State(
            self._files.total(),
            len(self._sizes),
            min(done, self._total),
            self._total,
            self._failed,
            tuple(running),
            len(self._waiting),
            self._lost,
            unfinished.explain(self._folder.data_dir, self._large) if self._large else "",
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
        more = (outcome != "fetched") - (before not in (None, WAITING, "fetched"))
        self._failed += more
        self._lost += more * self._sizes[key]

    def _describe(self, job: Job, staged: Staged) -> Running:
        name = job.objects[0][0].rpartition("/")[2]
        if job.prefix is not None:
            place = self._places.get(job.name) or name_places(job)
            self._places[job.name] = place
            file = SCRATCH.sub("", staged.newest)
            name = f"{place}: {file}" if file else place
        done = min(self._bytes[job.name] + staged.bytes, job.bytes)
        return Running(name, done, job.bytes, self._files[job.name], len(job.objects))


def name_places(job: Job) -> str:
    """Return the subject and the sessions of a batch in words, or else its folder."""
    items = [parse_key(key) for key, _ in job.objects]
    subjects = sorted({item.sub for item in items if item.sub})
    if not subjects:
        return job.prefix or "root files"
    if len(subjects) > 1:
        return f"{len(subjects):,} subjects"
    sessions = sorted({item.ses for item in items if item.ses}, key=order_session)
    return " ".join(filter(None, [f"sub-{subjects[0]}", name_sessions(sessions)]))


def look_at_staged(folder: RunFolder) -> dict[str, Staged]:
    """Return what the transfers under way have on disk, by the name of their job."""
    run = f"{Path(folder.path).name}-"
    staged: dict[str, Staged] = {}
    for staging, _, name in open_own(folder.data_dir, run):
        job = name.removeprefix(run).rpartition("-")[0]
        files = list_files(staging)
        # Parts arrive out of order, so the length alone would promise too much.
        count = sum(min(stat.st_size, stat.st_blocks * 512) for stat in files.values())
        newest = max(files, key=lambda file: files[file].st_mtime_ns, default="")
        before = staged.get(job, Staged(0, ""))
        staged[job] = Staged(before.bytes + count, newest.rpartition("/")[2] or before.newest)
    return staged
