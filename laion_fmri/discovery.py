"""What the bucket has, and what of it is here: for choosing before a download."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from laion_fmri import dataset
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import StrPath, find_data_dir
from laion_fmri.errors import DataDirNotSetError
from laion_fmri.selection.bids import Parsed, parse_key
from laion_fmri.selection.filters import AVERAGES, FILTERS, Selection
from laion_fmri.selection.table import Row, Table, find_keys, list_subjects

if TYPE_CHECKING:
    import pandas as pd


#: What stands for the value of an entity that a key does not carry; of ``ses``, it is ``averages``.
NO_VALUE = "(none)"
#: A data directory in which nothing is.
NOWHERE = "/nonexistent"


class EntityValue(NamedTuple):
    """A value of an entity, and the files that carry it; `bytes` is their size.

    If `held_out`, all of them are listed, but not given out; else only what is given out counts.
    """

    entity: str
    value: str
    files: int
    bytes: int
    held_out: bool


class Holding(NamedTuple):
    """The files of one subject and session, in the bucket and here; sizes in bytes.

    `ses` is ``"averages"`` for files without a session; `sub` is ``None`` for root files.
    """

    sub: str | None
    ses: str
    files: int
    bytes: int
    local_files: int
    local_bytes: int


def get_subjects() -> list[str]:
    """Return the subjects that the bucket exposes, such as ``["sub-01", "sub-03"]``.

    Raises
    ------
    BucketError
        If the bucket cannot be listed.
    """
    return [f"sub-{label}" for label in list_subjects(Bucket.from_config({}))]


def get_rois(subject: str) -> list[str]:
    """Return the regions of interest that the atlases of `subject` hold, such as ``["FFA1"]``.

    Raises
    ------
    SubjectNotFoundError, TypeError
        If the subject is unknown or malformed.
    BucketError
        If the bucket cannot be listed.
    """
    bucket = Bucket.from_config({})
    selection = Selection.from_config({"subject": subject})
    trees = tuple(tree for tree in dataset.TREES if tree.startswith(dataset.ATLASES_PREFIX))
    known = list_subjects(bucket)
    labels = known if selection.subjects is None else selection.subjects
    names: set[str] = set()
    for label in labels:
        if label not in known:
            find_keys(selection, bucket, "")  # raises, naming the subjects that there are
        for tree in trees:
            for item in bucket.list_objects(tree.format(subject=f"sub-{label}")):
                folder, _, name = item.key.rpartition("/")
                if folder.endswith("/rois") and name.endswith(".nii.gz"):
                    names.add(parse_key(item.key).suffix or name)
    return sorted(names)


def describe(
    subject: str | Iterable[str] = "all", *, data_dir: StrPath | None = None
) -> pd.DataFrame:
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
    SubjectNotFoundError, TypeError, BucketError
    """
    import pandas as pd

    return pd.DataFrame(count_holdings(subject, data_dir), columns=list(Holding._fields))


def list_entities(
    subject: str | Iterable[str] = "all",
    *,
    ses: str | Iterable[str] | None = None,
    task: str | Iterable[str] | None = None,
    space: str | Iterable[str] | None = None,
    desc: str | Iterable[str] | None = None,
    stat: str | Iterable[str] | None = None,
    suffix: str | Iterable[str] | None = None,
    extension: str | Iterable[str] | None = None,
    include_stimuli: bool = False,
) -> pd.DataFrame:
    """List the values that each filter of a download can have, with what carries them.

    Parameters
    ----------
    subject : str or list of str
    ses, task, space, desc, stat, suffix, extension : str or list of str, optional
        Count only the files that pass these filters, see :func:`laion_fmri.keys.key_table`. What
        a download brings along besides, the maps for the brain mask and the files at the root of
        the bucket, is not counted.
    include_stimuli : bool
        Whether to count ``stimuli/`` as well.

    Returns
    -------
    pandas.DataFrame
        One row for each entity and value, with the columns ``entity`` (in the order of the
        filters), ``value`` (bare; ``averages`` for the ``ses`` of files without a session, and
        ``(none)`` for those without another entity, which pass any filter on it), ``files``,
        ``bytes`` and ``held_out``. Of a value that is held out, all files are listed but not given
        out; elsewhere only those that are given out count.

    Raises
    ------
    SubjectNotFoundError, SelectionError, TypeError, BucketError
        As :func:`laion_fmri.keys.key_table`.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing.
    """
    config = dict(locals())
    import pandas as pd

    found, table = count_entities(config)
    table.announce()
    return pd.DataFrame(found, columns=list(EntityValue._fields))


def count_entities(config: Mapping[str, Any]) -> tuple[list[EntityValue], Table]:
    """Count what :func:`list_entities` shows, without pandas; also return the table that it is of.

    The `config` has subject and filters, as :meth:`Selection.from_config`
    takes them. Nothing counts as held out in the table.
    """
    selection = Selection.from_config(config)
    everything = replace(selection, held_out_sessions=(), restricted_keys=())
    table = find_keys(everything, Bucket.from_config(config), NOWHERE)
    counts: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for row in table.rows:
        parsed = Parsed(*row[4:12])
        is_stimulus = row.key.startswith(dataset.STIMULI_PREFIX)
        if row.key in dataset.ROOT_FILES or not (is_stimulus or selection.matches(parsed)):
            continue
        held_out = selection.is_held_out(row.key, parsed)
        for name in FILTERS:
            value = getattr(parsed, name) or (AVERAGES if name == "ses" else NO_VALUE)
            sizes = counts.setdefault((name, value), ([], []))
            sizes[held_out].append(row.size)
    found = [
        EntityValue(name, value, len(public or hidden), sum(public or hidden), not public)
        for (name, value), (public, hidden) in counts.items()
    ]
    last = (AVERAGES, NO_VALUE)
    found.sort(key=lambda v: (FILTERS.index(v.entity), v.value in last, v.value))
    return found, table


def inspect_bucket(prefix: str = "") -> pd.DataFrame:
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

    bucket = Bucket.from_config({})
    prefix = prefix and prefix.rstrip("/") + "/"
    folders = [(f"{name}/", None) for name in bucket.list_folders(prefix)]
    objects = [(o.key[len(prefix) :], o.size) for o in bucket.list_objects(prefix, deep=False)]
    frame = pd.DataFrame([*folders, *objects], columns=["name", "size"])
    return frame.astype({"size": "Int64"})


def count_holdings(
    subject: str | Iterable[str] = "all", data_dir: StrPath | None = None
) -> list[Holding]:
    """Count what :func:`describe` shows, without pandas; the subjects sorted, root files first."""
    try:
        where = str(find_data_dir(data_dir)[0])
    except DataDirNotSetError:
        where = NOWHERE
    selection = Selection.from_config({"subject": subject})
    rows = find_keys(selection, Bucket.from_config({}), where).rows
    groups: dict[tuple[str | None, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.sub, row.ses or AVERAGES), []).append(row)
    return [
        Holding(
            sub,
            ses,
            len(group),
            sum(row.size for row in group),
            sum(row.status == "complete" for row in group),
            sum(row.size for row in group if row.status == "complete"),
        )
        for (sub, ses), group in sorted(
            groups.items(), key=lambda item: (item[0][0] or "", item[0][1])
        )
    ]
