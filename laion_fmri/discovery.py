"""What the bucket has, and what of it is here: for choosing before a download."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from laion_fmri import dataset
from laion_fmri.bids import parse_key
from laion_fmri.bucket import Bucket
from laion_fmri.config import StrPath, find_data_dir
from laion_fmri.errors import DataDirNotSetError
from laion_fmri.filters import AVERAGES, Selection
from laion_fmri.keys import Row, find_keys, list_subjects

if TYPE_CHECKING:
    import pandas as pd


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
        where = "/nonexistent"
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
