"""``download()``: the front door of the Python interface, and the run behind every way in."""

from __future__ import annotations

import logging
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri import dataset
from laion_fmri.aws import find_aws_command
from laion_fmri.bucket import Bucket
from laion_fmri.config import (
    StrPath,
    check_data_dir,
    clean_config,
    get_data_dir,
    is_writable,
    not_writable,
    state_dir,
)
from laion_fmri.errors import DownloadError
from laion_fmri.filters import Selection
from laion_fmri.keys import Row, Table, compare, find_keys
from laion_fmri.licenses import accept_licenses as accept_licenses
from laion_fmri.licenses import check_licenses
from laion_fmri.opening import make_targets, read_max_bandwidth
from laion_fmri.profiles import find_profile
from laion_fmri.runner import Outcome, Snakemake, run_workflow
from laion_fmri.targets import Targets
from laion_fmri.transfer import restore_kept

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("laion_fmri")

Values = str | Iterable[str] | None
Watch = Callable[[Targets, list[Row]], AbstractContextManager[Callable[[], None]]]


@dataclass
class Report:
    """What happened to each row of a selection.

    Attributes
    ----------
    rows : list of Row
        The key table, compared with the disk after the run.
    outcomes : list of str or None
        ``fetched``, ``present``, ``failed`` or ``denied``; None where nothing was tried (dry run).
    reasons : list of str
        Why a row failed or was denied, else empty.
    """

    rows: list[Row]
    outcomes: list[str | None]
    reasons: list[str]
    log: Path | None = None

    def to_frame(self) -> pd.DataFrame:
        """Return the key table with the columns ``outcome`` and ``reason``."""
        frame = Table(self.rows).to_frame()
        frame["outcome"] = self.outcomes
        frame["reason"] = self.reasons
        return frame

    def failures(self) -> list[tuple[Row, str]]:
        """Return the rows that are not in place after the run, each with its reason."""
        return [
            (row, reason)
            for row, outcome, reason in zip(self.rows, self.outcomes, self.reasons, strict=True)
            if outcome in ("failed", "denied")
        ]

    def explain_failures(self, limit: int = 10) -> str:
        """Say in one line how many files are not in place, which, and what to do."""
        failures = self.failures()
        named = "; ".join(f"{row.key}: {reason}" for row, reason in failures[:limit])
        more = f"; and {len(failures) - limit} more" if len(failures) > limit else ""
        return (
            f"{len(failures)} of {len(self.rows)} files could not be fetched: {named}{more}. "
            "Everything else is in place; run the same again to fetch what is missing"
        )


class Run:
    """One download: the selection found on creation, planned and fetched by :meth:`fetch`.

    To be used in a ``with`` statement, which ends what may have been started ahead of time.

    Parameters
    ----------
    config : mapping
        The configuration of the workflow; see ``workflow/schemas/config.schema.yaml``.
    n_jobs : int
        How many ``aws s3 cp`` processes run at once.
    dry_run : bool
        Whether :meth:`fetch` is only to report what is here.
    profile : str or path, optional
        A Snakemake profile that sends the jobs to a cluster, see :func:`download`.

    Raises
    ------
    LaionFmriError
        If the input is bad, the data directory unusable, or the bucket cannot be listed.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        n_jobs: int,
        *,
        dry_run: bool = False,
        profile: StrPath | None = None,
    ) -> None:
        self.dry_run = dry_run
        self.profile = None if profile is None else find_profile(profile)
        self.n_jobs = self.profile.jobs if self.profile and n_jobs == 1 else n_jobs
        read_max_bandwidth(config)  # complains before anything is listed
        selection = Selection.from_config(config)
        self.data_dir = get_data_dir(config.get("data_dir"))
        check_data_dir(self.data_dir)
        check_licenses(selection.include_stimuli, self.data_dir)
        self.config = clean_config(config) | selection.to_config()
        self.config["data_dir"] = str(self.data_dir)
        if self.profile:
            self.config["fetch_on"] = "cluster"
        self.bucket = Bucket.from_config(config)
        # The first run in a directory will fetch something: let Snakemake load meanwhile.
        is_first = not state_dir(self.data_dir).exists()
        starts = is_first and not dry_run and is_writable(self.data_dir)
        if not dry_run:
            restore_kept(self.data_dir)
        self._snakemake = Snakemake() if starts else None
        try:
            self.table = find_keys(selection, self.bucket, self.data_dir)
        except BaseException:
            self.close()
            raise
        if is_first:
            self.table.notes.append(dataset.BRAIN_LICENSE)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End a Snakemake that is running or waiting."""
        if self._snakemake:
            self._snakemake.close()

    def plan(self) -> Targets:
        """Return the targets and the jobs that fetch them; check that they can be fetched."""
        if not is_writable(self.data_dir):
            raise not_writable(self.data_dir)
        find_aws_command()
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        run_dir = state_dir(self.data_dir) / "runs" / f"{started}-{os.getpid()}"
        while run_dir.exists():  # two runs of one process in one second
            run_dir = run_dir.with_name(run_dir.name + "x")
        targets = make_targets(
            self.table,
            self.config,
            self.bucket,
            str(self.data_dir),
            run_dir,
            workers=self.n_jobs,
            on_cluster=self.profile is not None,
        )
        targets.write()
        targets.write_stamp(self.table.partial_paths())
        return targets

    def fetch(self, watch: Watch | None = None) -> Report:
        """Fetch what is not complete, and return what happened to each row.

        Without anything to do, nothing is written. `watch` gets the targets and the rows to fetch,
        and its context what is to be called while the run lasts.
        """
        if self.dry_run or not self.table.incomplete():
            rows = self.table.rows
            done = [("present" if row.status == "complete" else None) for row in rows]
            return Report(rows, done, [""] * len(rows))
        said = {key: Outcome("failed", why) for key, why in self.table.obstacles.items()}
        report = Report([], [], [])
        wanted = [row for row in self.table.incomplete() if row.key not in said]
        if wanted:
            targets = self.plan()
            report.log = Path(targets.run_dir, "snakemake.log")
            watching = watch(targets, wanted) if watch else nullcontext(_do_nothing)
            with watching as on_tick:
                self._snakemake = self._snakemake or Snakemake()
                said |= run_workflow(
                    self._snakemake, self.config, targets, self.n_jobs, self.profile, on_tick
                )
        for row in self.table.rows:
            now = row._replace(status=compare(row.path, row.size))
            outcome, reason = said.get(row.key, ("failed", f"not tried; see {report.log}"))
            if now.status == "complete":
                outcome, reason = ("present" if row.status == "complete" else "fetched"), ""
            elif outcome == "fetched":
                outcome, reason = "failed", "changed on disk while the run lasted"
            report.rows.append(now)
            report.outcomes.append(outcome)
            report.reasons.append(reason)
        return report


def download(
    subject: str | Iterable[str],
    ses: Values = None,
    task: Values = None,
    space: Values = None,
    desc: Values = None,
    stat: Values = None,
    suffix: Values = None,
    extension: Values = None,
    include_stimuli: bool = False,
    n_jobs: int = 1,
    *,
    data_dir: StrPath | None = None,
    dry_run: bool = False,
    max_bandwidth: float | None = None,
    profile: StrPath | None = None,
) -> pd.DataFrame:
    """Fetch every selected file that is not already complete on disk.

    Parameters
    ----------
    subject : str or list of str
        ``"sub-03"`` or ``"03"``, a list of them, or ``"all"``.
    ses, task, space, desc, stat, suffix, extension : str or list of str, optional
        Filters, see :func:`laion_fmri.keys.key_table`. ``ses="averages"`` selects the files
        without a session; naming sessions brings the mean-R2 map along.
    include_stimuli : bool
        Also mirror ``stimuli/``. Their licence has to be accepted once per data directory, see
        :func:`accept_licenses`.
    n_jobs : int
        ``aws s3 cp`` processes at once, each of which opens about 10 connections, or 20 for small
        objects, which mostly wait. A value that makes no sense is replaced, with a warning.
    data_dir : path, optional
        Where the files go; the chosen data directory by default.
    dry_run : bool
        Only find out what would be fetched; write nothing.
    max_bandwidth : float, optional
        What the whole run may take of the line, in MB/s; no limit by default.
    profile : str or path, optional
        A Snakemake profile whose executor takes the jobs: ``"slurm"`` is ours, anything else the
        name or the folder of yours. An `n_jobs` above 1 then takes the place of its ``jobs``.

    Returns
    -------
    pandas.DataFrame
        The key table (see :func:`laion_fmri.keys.key_table`), compared with the disk after the
        run, with the columns ``outcome`` (``fetched`` or ``present``; missing in a dry run where
        a file would be fetched) and ``reason``.

    Raises
    ------
    DownloadError
        If files failed or were denied. Everything else has arrived; the error's ``report`` is the
        whole table, with ``outcome`` and ``reason`` of each row.
    SubjectNotFoundError, SelectionError, TypeError
        If the selection is malformed or selects nothing.
    ConfigError
        If `max_bandwidth` is no number above 0, or there is no such profile.
    DataDirNotSetError, DataDirError
        If no data directory is chosen, or it cannot be used.
    LicenseNotAcceptedError
        If stimuli are asked for and their licence has not been accepted.
    BucketError
        If the bucket cannot be listed.
    AwsNotFoundError
        If something is to be fetched and there is no AWS CLI.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing, or names a held-out session.
    UserWarning
        If `n_jobs` is replaced.
    """
    given = locals()
    settings = {name: given[name] for name in given if name not in ("n_jobs", "dry_run", "profile")}
    with Run(settings, read_n_jobs(n_jobs), dry_run=dry_run, profile=profile) as run:
        run.table.announce()
        report = run.fetch()
    if report.failures():
        raise DownloadError(report.explain_failures(), report.to_frame())
    return report.to_frame()


def _do_nothing() -> None:
    pass


def read_n_jobs(value: object) -> int:
    """Return a number of jobs that works; warn if it is not `value`.

    Nonsense becomes 1, and too many as many as this machine can use: four for each CPU, since a
    transfer mostly waits, and no fewer than 8.
    """
    cap = max(8, 4 * (os.cpu_count() or 1))
    try:
        wanted = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        wanted = 0
    used = min(wanted, cap) if wanted > 0 else 1
    if used != wanted or isinstance(value, bool):
        expected = f"at most {cap} on this machine" if wanted > cap else "a whole number from 1 on"
        warnings.warn(
            f"n_jobs={value!r} should be {expected}; using {used}", UserWarning, stacklevel=3
        )
    return used
