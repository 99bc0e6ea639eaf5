"""What the bucket has, and what is here: for choosing before a download."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from laion_fmri.base.bids import FILTERS, parse_key
from laion_fmri.base.files import StrPath
from laion_fmri.base.text import suggest
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import find_local_dir
from laion_fmri.dataset import make_scope
from laion_fmri.errors import SelectionError, SelectionWarning, list_some
from laion_fmri.folder.login import find_facts
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.overview import Cell, Total, by_session, count_cell
from laion_fmri.selection.scopes import explain_unknown_subject, list_scopes, list_subjects
from laion_fmri.selection.table import Table, find_selected
from laion_fmri.settings import AVERAGES, SELECTORS, Settings, Values, read_settings, takes

if TYPE_CHECKING:
    import pandas as pd

#: What stands for the value of an entity that a key does not carry; of ``ses``, it is ``averages``.
NO_VALUE = "(none)"


class EntityValue(NamedTuple):
    """A value of an entity, and the files that carry it: only public ones, unless none is."""

    entity: str
    value: str
    files: int
    bytes: int
    held_out: bool


def get_subjects() -> list[str]:
    """Return the subjects that the bucket exposes in any scope.

    Raises
    ------
    BucketError
        If the bucket cannot be listed.

    Examples
    --------
    Those of the sample bucket:

    >>> import laion_fmri as lf
    >>> lf.get_subjects()
    ['sub-01', 'sub-03', 'sub-05']
    """
    bucket = Bucket.from_settings()
    found = [f"sub-{label}" for label in list_subjects(bucket)]
    _tell(bucket)
    return found


def _tell(bucket: Bucket) -> None:
    """Warn that kept listings are used, if they are."""
    for text in bucket.explain_reach():
        warnings.warn(text, SelectionWarning, stacklevel=3)


def get_scopes() -> "pd.DataFrame":
    """Return the scopes of the bucket, those that come by default first.

    Returns
    -------
    pandas.DataFrame
        One row per scope, with the columns ``scope``, ``folder`` (in the bucket), ``is_default``
        (whether it comes without being named) and ``description``.

    Raises
    ------
    BucketError
        If the bucket cannot be listed.
    """
    import pandas as pd

    bucket = Bucket.from_settings()
    found = list_scopes(bucket).values()
    _tell(bucket)
    rows = [(scope.name, scope.folder, scope.is_default, scope.text) for scope in found]
    return pd.DataFrame(rows, columns=["scope", "folder", "is_default", "description"])


def get_rois(subject: Values = None, category: str | None = None) -> list[str]:
    """Return the labels of the regions of interest that have a mask in a volume.

    Parameters
    ----------
    subject : str or list of str, optional
        All subjects by default.
    category : str, optional
        Only those of a category, such as ``"face"``: a folder of the scope ``rois``.

    Returns
    -------
    list of str
        Sorted, and without hyphens: ``["FFA1", "FFA2"]``.

    Raises
    ------
    SubjectNotFoundError, InputTypeError
        If the subject is unknown or malformed.
    SelectionError
        If there is no such category; the message lists those that there are.
    BucketError
        If the bucket cannot be listed.

    Warns
    -----
    SelectionWarning
        If there is no region of interest.

    Examples
    --------
    >>> import laion_fmri as lf
    >>> lf.get_rois("sub-03", category="face")
    ['FFA1', 'pSTSfaces']
    """
    bucket = Bucket.from_settings()
    scope = make_scope("rois")
    selection = Selection.from_settings(Settings("all" if subject is None else subject))
    known = list_subjects(bucket)
    subjects = known if selection.subjects is None else selection.subjects
    for label in subjects:
        if label not in known:
            raise explain_unknown_subject(label, str(bucket), known)
    found: dict[str, set[str]] = {}
    prefixes = [scope.prefix_of(label) for label in subjects]
    listings = bucket.list_many((prefix, True) for prefix in prefixes)
    _tell(bucket)
    for prefix, listing in zip(prefixes, listings, strict=True):
        for item in listing:
            parsed = parse_key(item.key)
            if parsed.label and parsed.extension == "nii.gz":
                found.setdefault(item.key[len(prefix) :].split("/")[0], set()).add(parsed.label)
    if not found:
        names = list_some([f"sub-{label}" for label in subjects])
        text = f"the bucket has no regions of interest of {names}"
        warnings.warn(text, SelectionWarning, stacklevel=2)
    elif category is not None and category not in found:
        there_is = sorted(found)
        near = suggest(category, there_is)
        raise SelectionError(
            f"there is no category {category!r} of regions of interest; {near}there is: "
            f"{list_some(there_is)}"
        )
    chosen = found.values() if category is None else [found.get(category, set())]
    return sorted(set().union(*chosen))


def describe(
    subject: Values = "all", *, scope: Values = "all", data_dir: StrPath | None = None
) -> "pd.DataFrame":
    """Count the files and bytes of each scope, subject and session, in the bucket and here.

    Parameters
    ----------
    subject : str or list of str
    scope : str or list of str
    data_dir : path, optional
        Where to look for local files; the chosen data directory by default. Without one, nothing
        is local.

    Returns
    -------
    pandas.DataFrame
        One row per subject, session (``averages`` for files without one) and scope, with the
        columns ``sub``, ``ses``, ``files``, ``bytes``, ``local_files``, ``local_bytes``, ``scope``.
        What is held out is not counted.

    Raises
    ------
    SubjectNotFoundError, SelectionError, InputTypeError, BucketError
    """
    import pandas as pd

    cells = find_holdings(Settings(subject, scope=scope, data_dir=data_dir))
    records = [(cell.sub, cell.ses, *cell.total, cell.scope or None) for cell in cells]
    return pd.DataFrame(records, columns=["sub", "ses", *Total._fields, "scope"])


def find_holdings(settings: Settings) -> list[Cell]:
    """Count what :func:`describe` shows, without pandas: root files first, and as averages."""
    table = find_selected(settings, find_local_dir(settings.data_dir))
    cells = [count_cell(place, rows) for place, rows in by_session(table.rows).items()]
    cells = [cell if cell.sub else cell._replace(ses=AVERAGES) for cell in cells]
    return sorted(cells, key=lambda cell: cell.scope != "")


@takes(*FILTERS, *SELECTORS)
def list_entities(subject: Values = "all", **options: Any) -> "pd.DataFrame":
    """List the values that each filter of a download can have, with what carries them.

    Parameters
    ----------
    subject : str or list of str
    ses, task, space, desc, stat, suffix, extension, ... : str or list of str, optional
        Count only the files that pass these filters, see :func:`laion_fmri.keys.key_table`. The
        maps for the brain mask and the root files, which a download adds, are not counted.
    {options}

    Returns
    -------
    pandas.DataFrame
        One row for each entity and value, with the columns ``entity`` (in the order of the
        filters), ``value`` (bare; ``averages`` for the ``ses`` of files without a session, and
        ``(none)`` for those without another entity, which pass any filter on it), ``files``,
        ``bytes`` and ``held_out``. Only public files are counted, unless a value has none. ``ses``
        is not counted of scopes that are not organised by session, and nothing of those that take
        no filters.

    Raises
    ------
    SubjectNotFoundError, SelectionError, InputTypeError, BucketError
        As :func:`laion_fmri.keys.key_table`.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing.

    Examples
    --------
    >>> import laion_fmri as lf
    >>> values = lf.list_entities("sub-03")
    >>> values[values["entity"] == "ses"]["value"].tolist()
    ['01', '02', '04', '31', 'averages']
    """
    import pandas as pd

    found, table = count_entities(read_settings({"subject": subject, **options}))
    table.announce()
    return pd.DataFrame(found, columns=list(EntityValue._fields))


def count_entities(settings: Settings) -> tuple[list[EntityValue], Table]:
    """Count what :func:`list_entities` shows, without pandas, and return the table of it."""
    table, facts = find_selected(settings, None, with_held_out=True), find_facts(settings.facts)
    counts: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for row in table.rows:
        scope = table.scopes.get(row.scope)
        if not (scope and scope.takes_filters and table.matches(row.key)):
            continue
        held_out = facts.is_held_out(row.key, row.parsed)
        for name in FILTERS if scope.by_session else FILTERS[1:]:
            value = getattr(row.parsed, name) or (AVERAGES if name == "ses" else NO_VALUE)
            counts.setdefault((name, value), ([], []))[held_out].append(row.size)
    found = [
        EntityValue(name, value, len(public or hidden), sum(public or hidden), not public)
        for (name, value), (public, hidden) in counts.items()
    ]
    last = (AVERAGES, NO_VALUE)
    found.sort(key=lambda v: (FILTERS.index(v.entity), v.value in last, v.value))
    return found, table


def inspect_bucket(prefix: str = "") -> "pd.DataFrame":
    """List what lies directly under `prefix`: folders (without a size) and objects.

    Parameters
    ----------
    prefix : str
        Empty for the root of the bucket, else a folder, such as ``"derivatives/"``.

    Returns
    -------
    pandas.DataFrame
        Columns ``name`` (folders end in ``/``) and ``size`` (bytes, missing for folders).

    Raises
    ------
    BucketError
        If the bucket cannot be listed.
    """
    import pandas as pd

    bucket = Bucket.from_settings()
    prefix = prefix and prefix.rstrip("/") + "/"
    folders = [(f"{name}/", None) for name in bucket.list_folders(prefix)]
    objects = [(o.key[len(prefix) :], o.size) for o in bucket.list_objects(prefix, deep=False)]
    _tell(bucket)
    return pd.DataFrame([*folders, *objects], columns=["name", "size"]).astype({"size": "Int64"})
