"""``download()``: the front door of the Python interface."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from laion_fmri.config import StrPath
from laion_fmri.errors import DownloadError
from laion_fmri.folder.licences import accept_licenses as accept_licenses
from laion_fmri.run.run import Run
from laion_fmri.selection.filters import Values
from laion_fmri.show.progress import report_progress

if TYPE_CHECKING:
    import pandas as pd


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
    manifest: StrPath | None = None,
    save_manifest: StrPath | None = None,
    checksums: bool = False,
    space_check: bool = True,
    stall_timeout: float | None = None,
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
    manifest : path, optional
        Fetch what this manifest names, in exactly these versions: `subject` ``"all"`` and no
        filters is all of it, stimuli included. What the bucket has changed since, or no longer
        has, is not fetched and has failed.
    save_manifest : path, optional
        Keep what is selected as a manifest: key, size, ETag and time of change of each object. It
        is written before anything is fetched, and in a dry run, too.
    checksums : bool
        After the run, add the SHA-256 of each complete file to the manifest that is kept.
    space_check : bool
        Whether to refuse to begin what the disk has no room for.
    stall_timeout : float, optional
        Seconds without a byte after which a transfer is given up and tried again, twice; 60 by
        default.

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
        If `max_bandwidth` or `stall_timeout` is no number above 0, there is no such profile, a
        manifest is no path, or `checksums` have no manifest to be written to.
    ManifestError
        If `manifest` cannot be read or is none, or `save_manifest` cannot be written.
    DataDirNotSetError, DataDirError
        If no data directory is chosen, or it cannot be used.
    LicenseNotAcceptedError
        If stimuli are asked for and their licence has not been accepted.
    BucketError
        If the bucket cannot be listed.
    NoSpaceError
        If the disk has no room for what is to be fetched.
    AwsNotFoundError
        If something is to be fetched and there is no AWS CLI.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing, or names a held-out session; if a file that is complete
        has changed in the bucket since `manifest` was written, or this was for another bucket.
    UserWarning
        If `n_jobs` is replaced.
    """
    given = locals()
    options = {name: given.pop(name) for name in ("dry_run", "profile", "checksums")}
    del given["n_jobs"]
    with Run(given, read_n_jobs(n_jobs), **options) as run:
        run.table.announce()
        report = run.fetch(report_progress)
        run.finish(report)
    if report.failures():
        raise DownloadError(report.explain_failures(), report.to_frame())
    return report.to_frame()


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
