"""What a job still has to bring, the orders that it obeys, and how each of its objects ends.

Only the standard library.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

from laion_fmri.base.text import spell
from laion_fmri.fetch import aws
from laion_fmri.fetch.aws_process import TICK
from laion_fmri.fetch.job import JobSpec
from laion_fmri.fetch.outcomes import Outcome, record_outcome
from laion_fmri.folder.disk_space import STOP
from laion_fmri.folder.guard import remove_tree

#: Characters of a reason.
MOST_REASON = 500
#: What aws is told to write in the staging folder: a single object, or those of a batch.
OBJECT, OBJECTS = "object", "objects"


class Agenda:
    """The objects of a job, each of which is settled once: its outcome is then on record."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.job = spec.job
        self.sizes: dict[str, int] = dict(spec.job.objects)
        self.unsettled = dict.fromkeys(self.sizes, "")  # key -> what went wrong with it last
        self.wanted: dict[str, None] = {}  # those of them that are being fetched here and now
        self.data_dir = Path(spec.data_dir)
        self.run_dir = Path(spec.run_dir)
        self.record = self.run_dir / "outcomes" / f"{spec.job.name}.jsonl"
        self.staging = -1  # none is open yet
        self.failed = False
        self.parent = os.getppid()

    def _is_own(self, _key: str) -> bool:
        """Whether the job fails if `_key` does."""
        return True

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.unsettled and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(TICK, left))
            self._check_orders()

    def _check_orders(self) -> None:
        """Give up if the run has been stopped, and exit if the Snakemake above us is gone."""
        if os.getppid() != self.parent:
            raise SystemExit("the workflow that started this transfer is gone")
        with contextlib.suppress(OSError):
            self._give_up_for_disk((self.run_dir / STOP).read_text())

    def _is_full(self, error: OSError) -> bool:
        """Whether nothing more can be written; then the run is stopped."""
        if error.errno in aws.DISK_ERRORS:
            self._stop_run(os.strerror(error.errno))
        return error.errno in aws.DISK_ERRORS

    def _stop_run(self, said: str) -> None:
        """Give up, and tell the other transfers of the run to stop as well."""
        # Delete staged files first: the stop file needs space too.
        remove_tree(self.staging, OBJECTS)
        with contextlib.suppress(OSError):
            (self.run_dir / STOP).write_text(said)
        self._give_up_for_disk(said)

    def _give_up_for_disk(self, said: str) -> None:
        missing = sum(self.sizes[key] for key in self.unsettled)
        self._give_up(f"{said}: {self.data_dir} needs room for {missing:,} bytes more")

    def _give_up(self, reason: str) -> None:
        for key in self.unsettled.copy():
            self._settle(key, "failed", reason)

    def _settle(self, key: str, outcome: str, reason: str) -> None:
        """Record the outcome of `key`, which is then no longer wanted."""
        reason = spell(reason, MOST_REASON)
        del self.unsettled[key]
        self.wanted.pop(key, None)
        self.failed |= outcome != "fetched" and self._is_own(key)
        with contextlib.suppress(OSError):  # on a full disk, the run has to find out by itself
            record_outcome(self.record, key, Outcome(outcome, reason))
        if reason:
            sys.stderr.write(f"{outcome}: {spell(key)}: {reason}\n")
