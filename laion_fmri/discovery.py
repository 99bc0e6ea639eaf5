"""What the bucket has, and what is here: for choosing before a download."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from laion_fmri import dataset
from laion_fmri.base.bids import FILTERS, parse_key
from laion_fmri.base.files import StrPath
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import find_local_dir
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.overview import Cell, by_session, count_cell
from laion_fmri.selection.table import Table, explain_unknown_subject, find_selected, list_subjects
from laion_fmri.settings import AVERAGES, Settings, Values, read_settings, takes

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
    """Return the subjects that the bucket exposes, such as ``["sub-01", "sub-03"]``.

    Raises
    ------
    BucketError
        If the bucket cannot be listed.
    """
    return [f"sub-{label}" for label in list_subjects(Bucket.from_settings())]


def get_rois(subject: str) -> list[str]:
    """Return the regions of interest that the atlases of `subject` hold, such as ``["FFA1"]``.

    Raises
    ------
    SubjectNotFoundError, InputTypeError
        If the subject is unknown or malformed.
    BucketError
        If the bucket cannot be listed.
    """
    bucket = Bucket.from_settings()
    selection = Selection.from_settings(Settings(subject))
    known = list_subjects(bucket)
    names = set()
    for label in selection.subjects or known:
        if label not in known:
            raise explain_unknown_subject(label, str(bucket), known)
        for item in bucket.list_objects(f"{dataset.ATLASES_PREFIX}sub-{label}/"):
            folder, _, name = item.key.rpartition("/")
            if folder.endswith("/rois") and name.endswith(".nii.gz"):
                names.add(parse_key(item.key).suffix or name)
    return sorted(names)


def describe(
    subject: str | Iterable[str] = "all", *, data_dir: StrPath | None = None
) -> "pd.DataFrame":
    """Count the files and bytes of each subject and session, in the bucket and here.

    Parameters
    ----------
    subject : str or list of str
    data_dir : path, optional
        Where to look for local files; the chosen data directory by default. Without one, nothing
        is local.

    Returns
    -------
    pandas.DataFrame
        One row per subject and session (``averages`` for files without one), with the columns
        ``sub``, ``ses``, ``files``, ``bytes``, ``local_files``, ``local_bytes``. Held-out sessions
        and stimuli are not counted.

    Raises
    ------
    SubjectNotFoundError, InputTypeError, BucketError
    """
    import pandas as pd

    cells = find_holdings(Settings(subject, data_dir=data_dir))
    return pd.DataFrame([cell[:6] for cell in cells], columns=list(Cell._fields[:6]))


def find_holdings(settings: Settings) -> list[Cell]:
    """Count what :func:`describe` shows, without pandas: root files first, and as averages."""
    table = find_selected(settings, find_local_dir(settings.data_dir))
    cells = [count_cell(place, rows) for place, rows in by_session(table.rows).items()]
    cells = [cell if cell.sub else cell._replace(ses=AVERAGES) for cell in cells]
    return sorted(cells, key=lambda cell: cell.sub is not None)


@takes(*FILTERS, "include_stimuli")
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
        ``bytes`` and ``held_out``. Only public files are counted, unless a value has none.

    Raises
    ------
    SubjectNotFoundError, SelectionError, InputTypeError, BucketError
        As :func:`laion_fmri.keys.key_table`.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing.
    """
    import pandas as pd

    found, table = count_entities(read_settings({"subject": subject, **options}))
    table.announce()
    return pd.DataFrame(found, columns=list(EntityValue._fields))


def count_entities(settings: Settings) -> tuple[list[EntityValue], Table]:
    """Count what :func:`list_entities` shows, without pandas, and return the table of it."""
    selection, facts = Selection.from_settings(settings), settings.facts
    table = find_selected(settings, None, with_held_out=True)
    counts: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for row in table.rows:
        is_stimulus = row.key.startswith(dataset.STIMULI_PREFIX)
        if row.key in dataset.ROOT_FILES or not (is_stimulus or selection.matches(row.parsed)):
            continue
        held_out = facts.is_held_out(row.key, row.ses)
        for name in FILTERS:
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
    return pd.DataFrame([*folders, *objects], columns=["name", "size"]).astype({"size": "Int64"})
