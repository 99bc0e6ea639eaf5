"""``verify()``: is what is on disk what the bucket, or a manifest, has?

For a download, a file is complete when its size is right. That says nothing of its content, and
neither does the AWS CLI, which does not compare an object that comes in parts. This does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laion_fmri.check.content_check import OUTCOMES, Checker, Finding, Outcome
from laion_fmri.check.etags import Hasher
from laion_fmri.check.inventory import take_inventory
from laion_fmri.config import StrPath, check_data_dir, get_data_dir
from laion_fmri.download import read_n_jobs
from laion_fmri.errors import list_some
from laion_fmri.run.run import Watch
from laion_fmri.selection.filters import Values
from laion_fmri.show.progress import Progress, show
from laion_fmri.units import format_size

if TYPE_CHECKING:
    import pandas as pd

#: The outcomes of a file that is not what it should be.
FAILURES: tuple[Outcome, ...] = ("corrupt", "partial", "unreadable", "missing")
#: Those of them that a repair fetches again.
BROKEN: tuple[Outcome, ...] = ("corrupt", "partial")
#: Most aws processes of a repair: each has ten connections.
FETCHERS = 4


@dataclass
class Verification:
    """What a check has found.

    Attributes
    ----------
    findings : list of Finding
        One for each file, sorted by key.
    elsewhere : int
        Objects of the bucket that are not here and need not be.
    source : str
        ``bucket`` or ``manifest``: what the files were compared with.
    """

    findings: list[Finding]
    elsewhere: int
    source: str

    def to_frame(self) -> pd.DataFrame:
        """Return the findings as a DataFrame with the columns of :func:`verify`."""
        import pandas as pd

        return pd.DataFrame(self.findings, columns=list(Finding._fields))

    def select(self, *outcomes: Outcome) -> list[Finding]:
        """Return the findings with one of these outcomes."""
        return [finding for finding in self.findings if finding.outcome in outcomes]

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


@contextmanager
def show_check() -> Iterator[Callable[[Progress], None]]:
    """Show how far a check is, in what the function in hand is called with; on stderr."""
    latest = Progress(0, 0, 0, 0)
    with show(lambda: latest) as on_tick:

        def progress(now: Progress) -> None:
            nonlocal latest
            latest = now
            on_tick()

        yield progress


def read_threads(n_jobs: object) -> int:
    """Return a number of threads that works, as `read_n_jobs` does; for None as many as CPUs."""
    return (os.cpu_count() or 1) if n_jobs is None else read_n_jobs(n_jobs)


def spell(key: str) -> str:
    """Return `key` as a line of output can hold it: names on disk may have anything in them."""
    return key if key.isprintable() else repr(key)


class Check:
    """One check of a data directory: :meth:`run` it, then :meth:`repair` what is broken.

    To be used in a ``with`` statement, which ends its threads and lets go of the data directory.

    Parameters
    ----------
    config : mapping
        ``data_dir``, ``subject``, the filters and ``include_stimuli``; any may be absent.
    n_jobs : int
        Threads that hash; a repair has as many aws processes, up to `FETCHERS`.
    manifest : path, optional
        What to compare with instead of the bucket.
    repairs : bool
        Whether :meth:`repair` is to follow. What an earlier one has left aside is put back first.

    Raises
    ------
    LaionFmriError, TypeError
        If the input is bad, the data directory unusable, or the bucket cannot be listed.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        n_jobs: int,
        *,
        manifest: StrPath | None = None,
        repairs: bool = False,
    ) -> None:
        self.data_dir = get_data_dir(config.get("data_dir"))
        self.n_jobs = n_jobs
        self.source = "bucket" if manifest is None else "manifest"
        check_data_dir(self.data_dir)
        with ExitStack() as stack:
            if repairs:
                from laion_fmri.check.repair import prepare_repair

                stack.enter_context(prepare_repair(self.data_dir))
            self.inventory = take_inventory(config, self.data_dir, manifest)
            hasher = stack.enter_context(Hasher(n_jobs))
            self._checker = Checker(hasher, self.inventory.bucket, self.data_dir)
            self._stack = stack.pop_all()

    def __enter__(self) -> Check:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def run(self, progress: Callable[[Progress], object] | None = None) -> Verification:
        """Check all files; call `progress` four times a second, and at the end."""
        try:
            findings = self._checker.check_all(self.inventory.expected, self.n_jobs, progress)
        except KeyboardInterrupt as stop:
            stop.add_note("nothing has been changed; the next check begins at the start")
            raise
        for key in self.inventory.extras:
            path = self.data_dir / key
            size = path.lstat().st_size if os.path.lexists(path) else 0
            reason = f"the {self.source} does not have it"
            findings.append(Finding(key, str(path), size, "extra", reason))
        return Verification(sorted(findings), self.inventory.elsewhere, self.source)

    def repair(self, verification: Verification, watch: Watch | None = None) -> Verification:
        """Fetch again what is corrupt or partial, and return the findings after that.

        See :func:`laion_fmri.check.repair.repair`; `watch` as in :meth:`Run.fetch`.
        """
        from laion_fmri.check.repair import repair

        found = {finding.key: finding for finding in verification.select(*BROKEN)}
        broken = [(item, found[item.key]) for item in self.inventory.expected if item.key in found]
        n_jobs = min(self.n_jobs, FETCHERS)
        changed = repair(broken, self.data_dir, n_jobs, self._checker.check, watch)
        findings = [changed.get(finding.key, finding) for finding in verification.findings]
        return Verification(findings, verification.elsewhere, verification.source)


def verify(
    subject: Values = None,
    ses: Values = None,
    task: Values = None,
    space: Values = None,
    desc: Values = None,
    stat: Values = None,
    suffix: Values = None,
    extension: Values = None,
    include_stimuli: bool = False,
    n_jobs: int | None = None,
    *,
    data_dir: StrPath | None = None,
    manifest: StrPath | None = None,
    repair: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> pd.DataFrame:
    """Compare the files on disk with the bucket, or with a manifest: their sizes and their content.

    Without a subject, the question is "is what I have right?": all that is here is checked, all of
    it or what the filters let pass, and what is not here is no failure. With one it is "do I have
    what I name, and is it right?": a selected file that is not here is missing, and so is one of
    a manifest, which is a list of what should be here.

    Parameters
    ----------
    subject, ses, task, space, desc, stat, suffix, extension, include_stimuli
        As for :func:`laion_fmri.download.download`, but that `subject` may be left out.
    n_jobs : int, optional
        Threads that hash, by default as many as CPUs; a repair has as many aws processes, up to
        four.
    data_dir : path, optional
        The chosen data directory by default.
    manifest : path, optional
        A manifest to compare with instead of the bucket. Then the network is not used, except by
        a repair. The SHA-256 of a file decides where the manifest has it.
    repair : bool
        Whether to fetch corrupt and partial files again, and check them once more. The old file is
        kept until then, and put back if the fetch fails. Files that are missing are for a download.
    progress : callable, optional
        Called four times a second, and at the end, with the `Progress`: files and bytes done.

    Returns
    -------
    pandas.DataFrame
        One row for each file, sorted by key: ``key``, ``path``, ``size`` (bytes that it should
        have; of an extra one, those that it has), ``outcome`` and ``reason`` (empty if it is ok).
        The outcomes:

        - ``ok``: size and content are right;
        - ``repaired``: the same, now that it has been fetched again; the reason tells what it was;
        - ``unverified``: the size is right, and nothing is known of the content;
        - ``corrupt``: the size is right, and the content is not;
        - ``partial``: the size is wrong;
        - ``unreadable``: the system refuses to read it;
        - ``missing``: it should be here and is not;
        - ``extra``: it is here, and the bucket or the manifest does not have it. Such files are
          looked for where the selection looks, and never touched.

    Raises
    ------
    ManifestError
        If the manifest cannot be read.
    SubjectNotFoundError, SelectionError, TypeError
        If the selection is malformed or selects nothing.
    DataDirNotSetError, DataDirError
        If no data directory is chosen, or it cannot be used.
    BucketError
        If the bucket cannot be listed.
    AwsNotFoundError
        If `repair` is asked for and there is no AWS CLI.

    Notes
    -----
    What is known of the content is the object's ETag. If it was uploaded at once, that is its MD5.
    If it was uploaded in parts, it is the MD5 of their MD5s, and part sizes are tried until one
    explains it, see ``Checker``. If none does, the file is corrupt, or its
    parts are unusual: it is called corrupt only where the bucket or other files prove the part
    size, and is else unverified. A mirror that encrypts with keys of its own (SSE-KMS, SSE-C) has
    ETags that say nothing of the content: its files would all be called corrupt. If a repair
    brings the same content once more, it is what the bucket has, and is called unverified.
    """
    given = locals()
    names = ("n_jobs", "manifest", "repair", "progress")
    config = {name: given[name] for name in given if name not in names}
    with Check(config, read_threads(n_jobs), manifest=manifest, repairs=repair) as check:
        found = check.run(progress)
        return (check.repair(found) if repair else found).to_frame()
