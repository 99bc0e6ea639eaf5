"""``remove()``: make room by removing files that can be fetched again."""

import warnings
from typing import TYPE_CHECKING, Any

from laion_fmri.base.bids import FILTERS
from laion_fmri.check.removal import plan_removal
from laion_fmri.errors import SelectionWarning
from laion_fmri.settings import SELECTORS, Values, read_settings, takes

if TYPE_CHECKING:
    import pandas as pd


@takes(*FILTERS[1:], *SELECTORS, "data_dir")
def remove(
    subject: Values, ses: Values = None, *, dry_run: bool = False, **options: Any
) -> "pd.DataFrame":
    """Remove the local files that the filters name; they can be fetched again.

    The filters are strict, unlike those of a download: a file that does not carry an entity is not
    named by a filter on it. Nothing comes along: the mean-R2 map goes with ``ses="averages"`` or
    without `ses`, and the root files never.

    Parameters
    ----------
    subject : str or list of str
        Required; ``"all"`` for each.
    ses, task, space, desc, stat, suffix, extension, ...
        As for :func:`laion_fmri.download.download`, but strict.
    dry_run : bool
        Whether to remove nothing, and only say what would be.
    {options}

    Returns
    -------
    pandas.DataFrame
        One row for each selected file that is here: ``key``, ``path``, ``size`` (bytes here),
        ``listed_size`` (bytes in the bucket; another number is a partial file), ``sub``, ``ses``,
        ``outcome`` and ``reason``. The outcomes: ``removed``; ``planned`` in a dry run; ``left``,
        for what another run is fetching, what is a link or in a folder that is one, and what is
        held out and not named; ``failed`` where the system refuses.

    Raises
    ------
    SubjectNotFoundError, SelectionError, InputTypeError
        If the selection is malformed or matches nothing in the bucket.
    DataDirNotSetError, DataDirError
        If no data directory is chosen, or it cannot be read.
    BucketError
        If the bucket cannot be listed: what is a mirror is not known then.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing.

    Examples
    --------
    >>> import laion_fmri as lf
    >>> paths = lf.paths("sub-03", ses="01", suffix="trials", extension="tsv", strict=True)
    >>> planned = lf.remove("sub-03", ses="01", suffix="trials", dry_run=True)
    >>> planned["outcome"].tolist()
    ['planned']
    """
    removal = plan_removal(read_settings({"subject": subject, "ses": ses, **options}))
    for text in removal.warnings:
        warnings.warn(text, SelectionWarning, stacklevel=3)
    if not dry_run:
        removal.carry_out()
    return removal.to_frame()
