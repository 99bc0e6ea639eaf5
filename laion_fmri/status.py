"""``status()``: how much of a selection is here, by subject and session."""

import sys
import warnings
from typing import TYPE_CHECKING, Any

from laion_fmri import CallableModule
from laion_fmri.base.bids import FILTERS
from laion_fmri.errors import SelectionWarning
from laion_fmri.selection.overview import Cell, take_overview
from laion_fmri.settings import SELECTORS, Values, read_settings, takes

if TYPE_CHECKING:
    import pandas as pd


@takes(*FILTERS[1:], *SELECTORS, "data_dir")
def status(subject: Values = "all", ses: Values = None, **options: Any) -> "pd.DataFrame":
    """Compare a selection with what is in the data directory; nothing is written.

    Without `scope`, it is about what comes by default and each scope of which something is here.

    Parameters
    ----------
    subject, ses, task, space, desc, stat, suffix, extension, ...
        As for :func:`laion_fmri.download.download`, but that all subjects are the default.
    {options}

    Returns
    -------
    pandas.DataFrame
        One row for each scope, subject and session, with the columns

        - ``sub``, ``ses``: labels, such as ``"03"`` and ``"01"``; ``ses`` is ``"averages"`` for
          files without a session and in scopes that are not organised by session; where there is no
          subject (``sub`` is missing) it is the scope, or ``"root"``;
        - ``files``, ``bytes``: in the bucket, as far as they are selected;
        - ``local_files``, ``local_bytes``: those of them that are here, in exactly that size;
        - ``partial_files``: those that are here in another size;
        - ``state``: ``complete``, ``partial`` (some of it is here), ``missing``, or ``held out``
          (listed, but not given out by the bucket; it counts what is here all the same);
        - ``scope``: the name of the scope, empty for the root files.

    Raises
    ------
    SubjectNotFoundError, SelectionError, InputTypeError
        If the selection is malformed or selects nothing.
    DataDirNotSetError, DataDirError
        If no data directory is chosen, or it cannot be read.
    BucketError
        If the bucket cannot be listed.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing, or a folder cannot be looked into.

    Examples
    --------
    >>> import laion_fmri as lf
    >>> here = lf.status("sub-03", ses=["01", "02"], suffix="trials", strict=True)
    >>> print(here[["sub", "ses", "files", "local_files", "state"]])
      sub ses  files  local_files    state
    0  03  01      2            0  missing
    1  03  02      2            0  missing
    """
    import pandas as pd

    overview = take_overview(read_settings({"subject": subject, "ses": ses, **options}))
    for text in overview.warnings:
        warnings.warn(text, SelectionWarning, stacklevel=3)
    return pd.DataFrame(overview.cells, columns=list(Cell._fields))


sys.modules[__name__].__class__ = CallableModule
