"""``download()``: fetch a selection."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri import CallableModule
from laion_fmri.base.bids import FILTERS
from laion_fmri.config import get_data_dir
from laion_fmri.dataset import BRAIN_LICENSE, REQUEST_URL, STIMULI, STIMULI_LICENSE
from laion_fmri.errors import DownloadError
from laion_fmri.folder.login import log_in, log_out
from laion_fmri.run.report import Report
from laion_fmri.run.run import Run
from laion_fmri.settings import (
    ALL,
    PYTHON,
    Settings,
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
        ``"sub-03"`` or ``"03"``, a list of them, or ``"all"``; None where all scopes that are
        named belong to the dataset, such as ``"stimuli"``.
    ses, task, space, desc, stat, suffix, extension : str or list of str, optional
        Filters, see :func:`laion_fmri.keys.key_table`. ``ses="averages"`` selects the files
        without a session; naming sessions brings the mean-R2 map along. What is not organised by
        session, such as the masks of ``rois``, comes with any session.
    include_stimuli : bool
        Also mirror ``stimuli/``; the images only after :func:`login`.
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
    BucketError
        If the bucket cannot be listed, or files are missing that its last listing has while it is
        not reached or not to be asked.
    NoSpaceError
        If the disk has no room for what is to be fetched.
    AwsNotFoundError
        If something is to be fetched and there is no AWS CLI.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing, or names a held-out session; if a file that is complete
        has changed in the bucket since `manifest` was written, or that was for another bucket; if
        the last listing is used, since the bucket cannot be reached.
    UserWarning
        If `n_jobs` is replaced.

    Examples
    --------
    On the sample bucket, which ``laion-fmri demo --serve`` serves:

    >>> import laion_fmri as lf
    >>> report = lf.download("sub-03", ses="01", suffix="trials", extension="tsv", n_jobs=2)
    >>> print(report.groupby("suffix").size()["trials"], set(report["outcome"]))
    1 {'fetched'}

    The same again finds everything here:

    >>> report = lf.download("sub-03", ses="01", suffix="trials", extension="tsv", n_jobs=2)
    >>> set(report["outcome"])
    {'present'}
    """
    given = (ses, task, space, desc, stat, suffix, extension)
    options |= dict(zip(FILTERS, given, strict=False))
    settings = read_settings({**options, "subject": subject, "include_stimuli": include_stimuli})
    settings = replace(settings, workers=check_workers("n_jobs", n_jobs))
    report, has_place = _carry_out(settings)
    # Without a data directory, it is not known yet where a file will be.
    return report.to_frame() if has_place else report.to_frame().assign(path=None)


def _carry_out(settings: Settings) -> tuple[Report, bool]:
    """Fetch what is selected; return the report, and whether there is a data directory."""
    with Run(settings) as run:
        run.table.announce(stacklevel=6)
        report = run.finish(run.fetch(report_progress))
    if report.failures():
        raise DownloadError(report.explain_failures(), report.to_frame())
    return report, run.has_place


@takes(*FILTERS, *(name for name in list_options(PYTHON) if name != "subject"))
def paths(subject: Values, **options: Any) -> list[Path]:
    """Fetch what is selected and not complete here; return the paths of all of it, sorted by key.

    Parameters
    ----------
    subject, ses, task, ...
        As for :func:`download`, which says what is raised and warned of.
    {options}

    Returns
    -------
    list of pathlib.Path
        With ``strict=True``, only files that carry what is named.

    Examples
    --------
    A table of trials, without pandas. A session may be given by its number.

    >>> import laion_fmri as lf
    >>> path, = lf.paths("sub-03", ses=1, suffix="trials", extension="tsv", strict=True)
    >>> path.name
    'sub-03_ses-01_task-images_desc-SingletrialBetas_trials.tsv'
    """
    settings = read_settings({**options, "subject": subject})
    report, has_place = _carry_out(settings)
    if not has_place:
        get_data_dir()  # says how to choose one
    return [Path(row.path) for row in report.rows]


def download_raw(
    subject: Values,
    ses: Values = None,
    task: Values = None,
    run: Values = None,
    echo: Values = None,
    part: Values = None,
    suffix: Values = None,
    extension: Values = None,
    **options: Any,
) -> "pd.DataFrame":
    """Fetch raw data: :func:`download` with the scope ``raw``, and its other `options`."""
    options |= {"suffix": suffix, "extension": extension, "run": run, "echo": echo, "part": part}
    return download(subject, ses, task, scope="raw", **options)


def download_stimuli(**options: Any) -> "pd.DataFrame":
    """Fetch all of the scope ``stimuli``; the images only after :func:`login`.

    `options` are those of :func:`download`.
    """
    return download(None, scope=STIMULI, **options)


def download_embeddings(models: Values = ALL, **options: Any) -> "pd.DataFrame":
    """Fetch the embeddings of the images by `models`, such as ``"CLIP"``, or by all of them.

    `options` are those of :func:`download`.
    """
    desc = None if models == ALL else models
    return download(None, desc=desc, suffix="embeddings", scope=STIMULI, **options)


def download_segmentations(**options: Any) -> "pd.DataFrame":
    """Fetch the segmentations of the images, with the tables of segments and images.

    `options` are those of :func:`download`.
    """
    names = ["desc-segmentations", "metadata"]  # the last part of the name, as of every suffix
    return download(None, suffix=names, scope=STIMULI, **options)


def download_captions(**options: Any) -> "pd.DataFrame":
    """Fetch the captions of the images; `options` are those of :func:`download`."""
    return download(None, suffix="desc-captions", scope=STIMULI, **options)


def accept_licenses(
    include_stimuli: bool = False, data_dir: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return the licences of the data in words: there is nothing to accept here.

    Parameters
    ----------
    include_stimuli : bool
        Whether to add the licence of the images, which are given out on request.
    data_dir : path, optional
        Without effect. Earlier versions recorded there that a licence was accepted.

    Returns
    -------
    list of str
    """
    asked = f"{STIMULI_LICENSE}. They are given out at {REQUEST_URL}"
    return [BRAIN_LICENSE, *[asked] * include_stimuli]


def login(request_id: str) -> None:
    """Check the request id for the images with the service, and keep it for this user.

    Parameters
    ----------
    request_id : str
        What the form at https://laion-fmri.hebartlab.com/request has given to you. It is a secret.

    Raises
    ------
    AccessError
        If the service refuses the id, or it cannot be kept.
    ServiceError
        If the service cannot be reached.
    """
    log_in(request_id)


def logout() -> None:
    """Forget the request id that :func:`login` has kept."""
    log_out()


#: The name that it has in the dataset's own package.
accept_license = accept_licenses


sys.modules[__name__].__class__ = CallableModule
