"""How far a run is: what its transfers have recorded, and what they have on disk by now."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from laion_fmri.fetch.outcomes import OutcomeReader
from laion_fmri.run.jobs import Job
from laion_fmri.run.process import count_staged_bytes
from laion_fmri.run.targets import Targets
from laion_fmri.selection.table import Row

#: Seconds before the first plain line. Later ones are rarer, see :func:`find_pause`.
INTERVAL = 10.0
#: Seconds over which the rate is taken.
WINDOW = 15.0


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
    """The same of a run that fetches; how many files have failed, and what is under way."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int
    failed: int = 0
    running: tuple[Running, ...] = ()


class Monitor:
    """Measures a run again and again, reading only what its transfers have added meanwhile.

    Parameters
    ----------
    targets : Targets
        What the run is to fetch.
    rows : sequence of Row
        The rows of it that are not complete, in bytes what is to come.
    """

    def __init__(self, targets: Targets, rows: Sequence[Row]) -> None:
        self._targets = targets
        self._sizes = {row.key: row.size for row in rows}
        self._total = sum(self._sizes.values())
        self._jobs = {job.name: job for job in targets.jobs}
        self._homes = {key: job.name for job in targets.jobs for key, _ in job.objects}
        self._outcomes: dict[str, str] = {}
        self._reader = OutcomeReader(Path(targets.run_dir, "outcomes"))
        self._files: Counter[str] = Counter()  # fetched, by job
        self._bytes: Counter[str] = Counter()
        self._failed = 0

    def measure(self) -> State:
        """Look at the disk and return how far the run is."""
        for key, said in self._reader.read():
            self._note(key, said.outcome)
        staged = count_staged_bytes(self._targets)
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
        )

    def _note(self, key: str, outcome: str) -> None:
        """Count the outcome of `key`; the latest one is what counts."""
        before = self._outcomes.get(key)
        if key not in self._sizes or outcome == before:
            return
        self._outcomes[key] = outcome
        step = (outcome == "fetched") - (before == "fetched")
        home = self._homes.get(key, "")
        self._files[home] += step
        self._bytes[home] += step * self._sizes[key]
        self._failed += (outcome != "fetched") - (before not in (None, "fetched"))

    def _describe(self, job: Job, staged: int) -> Running:
        name = job.objects[0][0].rpartition("/")[2] if job.prefix is None else job.prefix
        done = min(self._bytes[job.name] + staged, job.bytes)
        return Running(name, done, job.bytes, self._files[job.name], len(job.objects))


class Pace:
    """The rate of what arrives, in bytes per second, over the last seconds.

    Parameters
    ----------
    window : float
        Seconds that it looks back; two measurements count, however far they are apart.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self.window = window
        self.rate: float | None = None
        #: Seconds since the last byte.
        self.silence = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        self._most, self._heard = 0, 0.0

    def add(self, count: int, now: float | None = None) -> None:
        """Take note that `count` bytes are there, at `now` in seconds of a monotonic clock."""
        now = time.monotonic() if now is None else now
        if not self._seen or count != self._most:
            self._most, self._heard = count, now
        self.silence = now - self._heard
        if not count:  # the start of a run is not part of its rate
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] > self.window:
            self._seen.popleft()
        start, fewer = self._seen[0]
        seconds = now - start
        # What was given up and starts anew is no negative rate.
        self.rate = max(0, count - fewer) / seconds if seconds > 0 and self._most else None

    def left(self, now: State) -> float | None:
        """Return the seconds that the rest takes at this rate, or None if nothing tells."""
        return (now.total_bytes - now.bytes) / self.rate if self.rate else None


def find_pause(elapsed: float) -> float:
    """Return the seconds before the next plain line, `elapsed` seconds after the start.

    The first comes after `INTERVAL`, more every three of it; after ten minutes they are rarer, and
    rarer again after an hour, so that the log of a night is one to two pages.
    """
    for limit, factor in ((INTERVAL, 1), (600.0, 3), (3600.0, 12)):
        if elapsed < limit:
            return factor * INTERVAL
    return 60 * INTERVAL


@contextmanager
def show_progress(targets: Targets, rows: Sequence[Row]) -> Iterator[Callable[[], None]]:
    """Show on stderr how far the fetch of `rows` is, whenever the function in hand is called."""
    with _show(Monitor(targets, rows).measure) as on_tick:
        yield on_tick


@contextmanager
def report_progress(targets: Targets, rows: Sequence[Row]) -> Iterator[Callable[[], None]]:
    """Show the same to who calls from Python: a bar in a notebook, and else lines of the log."""
    from laion_fmri.show import views

    measure = Monitor(targets, rows).measure
    with views.show_in_notebook(measure) if views.is_notebook() else views.log(measure) as on_tick:
        yield on_tick


def show(measure: Callable[[], Progress]) -> AbstractContextManager[Callable[[], None]]:
    """Show what `measure` returns, live on a terminal and else a line now and then, when called."""
    return _show(lambda: State(*measure()))


def _show(measure: Callable[[], State]) -> AbstractContextManager[Callable[[], None]]:
    from laion_fmri.show import views

    return views.show_live(measure) if views.is_terminal() else views.show_lines(measure)
