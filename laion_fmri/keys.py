"""``key_table()``: a selection as a table, with the state of each local file."""

from typing import TYPE_CHECKING, Any

from laion_fmri.base.bids import FILTERS
from laion_fmri.config import get_data_dir
from laion_fmri.selection.table import find_selected
from laion_fmri.settings import SELECTORS, Values, read_settings, takes

if TYPE_CHECKING:
    import pandas as pd


@takes(*FILTERS, *SELECTORS, "data_dir")
def key_table(subject: Values, **options: Any) -> "pd.DataFrame":
    """List the bucket and return one row per selected object, sorted by key.

    Parameters
    ----------
    subject : str or list of str
        ``"sub-03"``, ``"03"``, a list of them, or ``"all"``.
    ses, task, space, desc, stat, suffix, extension, ... : str or list of str, optional
        Filters. The values of one are alternatives; all filters have to pass. A bare value and a
        full token (``"01"``, ``"ses-01"``) are the same. A key that does not carry the entity
        passes, except for `ses`: there, ``"averages"`` selects the keys without a session. Naming
        a session brings along the mean-R2 map of each subject, whatever the other filters say.
    {options}

    Returns
    -------
    pandas.DataFrame
        Columns ``key``, ``size`` (bytes), ``etag``, ``last_modified`` (UTC), ``sub``, ``ses``,
        ``task``, ``space``, ``desc``, ``stat``, ``suffix``, ``extension`` (bare values, missing
        where the key does not carry them), ``path`` (local), and ``status``: ``missing``,
        ``partial`` (there, but not of the bucket's size) or ``complete``; then the other entities.

    Raises
    ------
    SubjectNotFoundError, InputTypeError
        If a subject is unknown or malformed.
    SelectionError
        If the filters select nothing.
    BucketError
        If the bucket cannot be listed.
    DataDirNotSetError
        If no data directory is given or chosen.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing, or names a held-out session.

    Examples
    --------
    On the sample bucket, which ``laion-fmri demo --serve`` serves:

    >>> import laion_fmri as lf
    >>> table = lf.key_table("sub-03", ses="01", suffix="trials", extension="tsv", strict=True)
    >>> print(table[["ses", "suffix", "status", "size"]])
      ses  suffix   status  size
    0  01  trials  missing  1242
    """
    settings = read_settings({"subject": subject, **options})
    table = find_selected(settings, get_data_dir(settings.data_dir))
    table.announce()
    return table.to_frame()
