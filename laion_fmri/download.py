"""``download()``: fetch a selection."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from laion_fmri.base.bids import FILTERS
from laion_fmri.errors import DownloadError
from laion_fmri.folder.licences import accept_licenses as accept_licenses
from laion_fmri.run.run import Run
from laion_fmri.settings import (
    PYTHON,
    Values,
    check_workers,
    list_options,
    read_settings,
    takes,
)
from laion_fmri.show.progress import report_progress

if TYPE_CHECKING:
    import pandas as pd


#: The options that its signature writes out, in the contract's order; the others follow.
_WRITTEN_OUT = ("subject", "include_stimuli", "n_jobs")


@takes(*FILTERS[7:], *(name for name in list_options(PYTHON) if name not in _WRITTEN_OUT))
def download(
    subject: Values,
    ses: Values = None,
    task: Values = None,
    space: Values = None,
    desc: Values = None,
    stat: Values = None,
    suffix: Values = None,
    extension: Values = None,
    include_stimuli: bool = False,
    n_jobs: int = 1,
    **options: Any,
) -> "pd.DataFrame":
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
        objects, which mostly wait. A value that is not valid is replaced, with a warning.
    {options}

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
    SubjectNotFoundError, SelectionError, InputTypeError
        If the selection is malformed or selects nothing.
    ConfigError
        If `max_bandwidth` or `stall_timeout` is not a number above 0, there is no such profile, a
        manifest is not a path, or `checksums` have no manifest to be written to.
    ManifestError
        If `manifest` cannot be read or is not valid, or `save_manifest` cannot be written.
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
        has changed in the bucket since `manifest` was written, or that was for another bucket.
    UserWarning
        If `n_jobs` is replaced.
    """
    given = (ses, task, space, desc, stat, suffix, extension)
    options |= dict(zip(FILTERS, given, strict=False))
    settings = read_settings({**options, "subject": subject, "include_stimuli": include_stimuli})
    with Run(replace(settings, workers=check_workers("n_jobs", n_jobs))) as run:
        run.table.announce()
        report = run.finish(run.fetch(report_progress))
    if report.failures():
        raise DownloadError(report.explain_failures(), report.to_frame())
    return report.to_frame()
