"""One check of a data directory: what it finds, and the repair of what is broken."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from laion_fmri.base.etags import Hasher
from laion_fmri.base.text import format_size, spell
from laion_fmri.check.content_check import NOT_HERE, OUTCOMES, Checker, Finding, Outcome
from laion_fmri.check.inventory import take_inventory
from laion_fmri.check.repair import prepare_repair, repair
from laion_fmri.config import check_data_dir, get_data_dir
from laion_fmri.errors import list_some
from laion_fmri.run.monitor import Progress
from laion_fmri.run.run import Watch
from laion_fmri.settings import Settings, check_workers

if TYPE_CHECKING:
    import pandas as pd

#: The outcomes of a file that is not what it should be.
FAILURES: tuple[Outcome, ...] = ("corrupt", "partial", "unreadable", "missing")
#: Those of them that a repair fetches again.
BROKEN: tuple[Outcome, ...] = ("corrupt", "partial")
#: Most aws processes of a repair: each has ten connections.
FETCHERS = 4


@dataclass(frozen=True)
class Verification:
    """What a check has found: a finding for each file, sorted by key.

    `elsewhere` counts the objects of the bucket that are not here and need not be; `source` is what
    the files were compared with, ``bucket`` or ``manifest``.
    """

    findings: list[Finding]
    elsewhere: int
    source: str

    def to_frame(self) -> "pd.DataFrame":
        """Return the findings as a DataFrame, see :func:`laion_fmri.verify.verify`."""
        import pandas as pd

        return pd.DataFrame(self.findings, columns=list(Finding._fields))

    def select(self, *outcomes: Outcome) -> list[Finding]:
        """Return the findings with one of these outcomes."""
        return [finding for finding in self.findings if finding.outcome in outcomes]

    def select_broken(self) -> list[Finding]:
        """Return the findings of files that are not what they should be, and not only absent."""
        return [item for item in self.select(*FAILURES) if item.reason != NOT_HERE]

    def explain_missing(self) -> str | None:
        """Count and name in one line the files that are not here, if there are any."""
        absent = [item for item in self.select("missing") if item.reason == NOT_HERE]
        size = format_size(sum(item.size for item in absent))
        count = f"{len(absent):,} file{'s' if len(absent) > 1 else ''}, {size}"
        named = list_some([spell(item.key) for item in absent], 3)
        return f"missing: {count}: {named}" if absent else None

    def explain_unverified(self) -> str | None:
        """Name in one line the files of which only the size is known, if there are any."""
        named = [f"{spell(item.key)} ({item.reason})" for item in self.select("unverified")]
        return f"only the size could be checked: {list_some(named)}" if named else None

    def explain_extras(self) -> str | None:
        """Name in one line the files that are not known, if there are any."""
        named = [spell(item.key) for item in self.select("extra")]
        return f"not in the {self.source}, and left alone: {list_some(named)}" if named else None

    def summarize(self, seconds: float) -> str:
        """Count the outcomes in one line."""
        counts = Counter(finding.outcome for finding in self.findings)
        checked = [item for item in self.findings if item.outcome not in ("extra", "missing")]
        size = format_size(sum(finding.size for finding in checked))
        said = [f"{counts[outcome]:,} {outcome}" for outcome in OUTCOMES if counts[outcome]]
        line = f"checked {len(checked):,} files, {size}, in {seconds:.1f} s"
        line += f": {', '.join(said)}" if said else ""
        rest = f"; {self.elsewhere:,} other files of the bucket are not here"
        return line + rest if self.elsewhere else line


class Check:
    """One check of a data directory: :meth:`run` it, then :meth:`repair` what is broken.

    To be used in a ``with`` statement, which ends its threads and lets go of the data directory. It
    hashes in `n_jobs` threads, or as many as CPUs; with `repairs`, what an earlier repair has left
    aside is put back first.
    """

    def __init__(self, settings: Settings, n_jobs: object, *, repairs: bool = False) -> None:
        threads = (os.cpu_count() or 1) if n_jobs is None else check_workers("n_jobs", n_jobs)
        self.data_dir, self.threads = get_data_dir(settings.data_dir), threads
        self.source = "manifest" if settings.manifest else "bucket"
        check_data_dir(self.data_dir)
        with ExitStack() as stack:
            if repairs:
                stack.enter_context(prepare_repair(self.data_dir))
            self.inventory = take_inventory(settings, self.data_dir)
            hasher = stack.enter_context(Hasher(threads))
            known = self.inventory.expected.sha256
            self._checker = Checker(hasher, self.inventory.bucket, known, self.data_dir)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def run(self, progress: Callable[[Progress], object] | None = None) -> Verification:
        """Check all files; call `progress` four times a second, and at the end."""
        try:
            findings = self._checker.check_all(self.inventory.expected.rows, self.threads, progress)
        except KeyboardInterrupt as stop:
            stop.add_note("nothing has been changed; the next check begins at the start")
            raise
        for key in self.inventory.extras:
            path = self.data_dir / key
            try:
                size = path.lstat().st_size
            except OSError:  # gone by now, or in a folder that may not be looked into
                size = 0
            reason = f"the {self.source} does not have it"
            findings.append(Finding(key, str(path), size, "extra", reason))
        return Verification(sorted(findings), self.inventory.elsewhere, self.source)

    def repair(self, verification: Verification, watch: Watch | None = None) -> Verification:
        """Fetch again what is corrupt or partial, and return the findings after that."""
        found = {finding.key: finding for finding in verification.select(*BROKEN)}
        rows = self.inventory.expected.rows
        broken = [(row, found[row.key]) for row in rows if row.key in found]
        workers = min(self.threads, FETCHERS)
        changed = repair(broken, self.data_dir, workers, self._checker.check, watch)
        findings = [changed.get(finding.key, finding) for finding in verification.findings]
        return Verification(findings, verification.elsewhere, verification.source)
