"""The key table: list the bucket, parse each key, keep what is selected, compare with the disk."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from laion_fmri import dataset
from laion_fmri.bucket.listing import Bucket, ListedObject, pause_collector
from laion_fmri.config import StrPath, get_data_dir
from laion_fmri.errors import SelectionError, SelectionWarning, SubjectNotFoundError, list_some
from laion_fmri.folder.obstacles import Ground, find_conflicts, find_flaw
from laion_fmri.selection.bids import Parsed, parse_key
from laion_fmri.selection.completion import remember_listing
from laion_fmri.selection.filters import Selection, explain_unmatched

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("laion_fmri")

Status = Literal["missing", "partial", "complete"]
STATUSES: tuple[Status, ...] = get_args(Status)


class Row(NamedTuple):
    """One row of the key table; the columns are those of :func:`key_table`."""

    key: str
    size: int
    etag: str
    last_modified: datetime
    sub: str | None
    ses: str | None
    task: str | None
    space: str | None
    desc: str | None
    stat: str | None
    suffix: str | None
    extension: str | None
    path: str
    status: Status


@dataclass
class Table:
    """The rows of a selection, sorted by key, and what there is to say about them."""

    rows: list[Row]
    #: Key and size (bytes) of every object of the walked trees, selected or not: the listing that a
    #: plan is checked against.
    listed: dict[str, int] = field(default_factory=dict)
    #: The prefixes of these trees.
    trees: list[str] = field(default_factory=list)
    #: What the user should know: values that match nothing, held-out sessions by name.
    warnings: list[str] = field(default_factory=list)
    #: What is worth saying once, such as what is held out of every selection.
    notes: list[str] = field(default_factory=list)
    #: The selected keys that cannot be files on every disk, and why not.
    refused: dict[str, str] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a DataFrame with the columns of :func:`key_table`."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(Row._fields))

    def incomplete(self) -> list[Row]:
        """Return the rows whose file is missing or partial."""
        return [row for row in self.rows if row.status != "complete"]

    @cached_property
    def obstacles(self) -> dict[str, str]:
        """What keeps a key from being fetched, by key; nothing of it is ours to remove."""
        rows = self.incomplete()
        ground = Ground(rows[0].path.removesuffix(rows[0].key)) if rows else Ground()
        found = {row.key: ground.find_obstacle(row.path) for row in rows}
        return {key: obstacle for key, obstacle in found.items() if obstacle}

    def compare_again(self) -> None:
        """Look anew at the files that were not complete: another run may have brought some."""
        self.rows = [
            row if row.status == "complete" else row._replace(status=compare(row.path, row.size))
            for row in self.rows
        ]

    def partial_paths(self) -> list[str]:
        """Return the paths of the files whose size is wrong, and that can be replaced."""
        rows = [row for row in self.rows if row.status == "partial"]
        return [
            row.path for row in rows if row.key not in self.obstacles and Path(row.path).is_file()
        ]

    def announce(self) -> None:
        """Issue the warnings as Python warnings, and log the notes."""
        for text in self.warnings:
            warnings.warn(text, SelectionWarning, stacklevel=3)
        for text in self.notes:
            logger.info(text)


def key_table(
    subject: str | Iterable[str],
    *,
    ses: str | Iterable[str] | None = None,
    task: str | Iterable[str] | None = None,
    space: str | Iterable[str] | None = None,
    desc: str | Iterable[str] | None = None,
    stat: str | Iterable[str] | None = None,
    suffix: str | Iterable[str] | None = None,
    extension: str | Iterable[str] | None = None,
    include_stimuli: bool = False,
    data_dir: StrPath | None = None,
) -> pd.DataFrame:
    """List the bucket and return one row per selected object, sorted by key.

    Parameters
    ----------
    subject : str or list of str
        ``"sub-03"``, ``"03"``, a list of them, or ``"all"``.
    ses, task, space, desc, stat, suffix, extension : str or list of str, optional
        Filters. The values of one are alternatives; all filters have to pass. A bare value and a
        full token (``"01"``, ``"ses-01"``) are the same. A key that does not carry the entity
        passes, except for `ses`: there, ``"averages"`` selects the keys without a session. Naming
        a session brings along the mean-R2 map of each subject, whatever the other filters say.
    include_stimuli : bool
        Whether to add all of ``stimuli/``; the filters do not thin it.
    data_dir : path, optional
        Where the files are or will be; the chosen data directory by default.

    Returns
    -------
    pandas.DataFrame
        Columns ``key``, ``size`` (bytes), ``etag``, ``last_modified`` (UTC), ``sub``, ``ses``,
        ``task``, ``space``, ``desc``, ``stat``, ``suffix``, ``extension`` (bare values, missing
        where the key does not carry them), ``path`` (local), and ``status``: ``missing``,
        ``partial`` (there, but not of the bucket's size) or ``complete``.

    Raises
    ------
    SubjectNotFoundError, TypeError
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
    """
    config = {name: value for name, value in locals().items() if name != "data_dir"}
    selection = Selection.from_config(config)
    table = find_keys(selection, Bucket.from_config({}), get_data_dir(data_dir))
    table.announce()
    return table.to_frame()


@pause_collector()
def find_keys(selection: Selection, bucket: Bucket, data_dir: StrPath) -> Table:
    """List what `selection` walks, once, and return its table; see :func:`key_table`."""
    listed = _list_trees(selection, bucket)
    remember_listing(bucket, [item.key for item in listed.brain], selection.subjects)
    return choose_rows(listed, selection, data_dir)


def choose_rows(listed: Listed, selection: Selection, data_dir: StrPath) -> Table:
    """Return the table of what `selection` keeps of a listing; see :func:`key_table`."""
    parsed = [(item, parse_key(item.key)) for item in listed.brain]
    matched = [(item, p) for item, p in parsed if selection.matches(p)]
    others = [(item, parse_key(item.key)) for item in listed.others]
    held_out = [(item, p) for item, p in matched if selection.is_held_out(item.key, p)]
    notes, complaints = _explain_held_out(
        selection,
        {p.ses for _, p in held_out} - {None},
        [item.key for item in (*listed.brain, *listed.others)],
    )
    complaints += _explain_filters(selection, [p for _, p in parsed], listed.subjects)
    if listed.brain and len(matched) == len(held_out):
        complaints = complaints or ["each filter matches something, but no key matches them all"]
        raise SelectionError("; ".join(["the selection matches nothing", *complaints]))
    chosen = {item.key: (item, p) for item, p in matched}
    chosen |= {item.key: (item, p) for item, p in parsed if selection.is_pinned(p)}
    chosen |= {item.key: (item, p) for item, p in others}
    root = os.fspath(data_dir)
    walked = {item.key: item.size for item in (*listed.brain, *listed.others)}
    conflicts = find_conflicts(walked)
    rows, refused = [], {}
    for key in sorted(chosen):
        item, p = chosen[key]
        if selection.is_held_out(key, p):
            continue
        if flaw := find_flaw(key) or conflicts.get(key):
            refused[key] = flaw
            continue
        path = os.path.join(root, key)  # noqa: PTH118 - a Path per row is a third of the time
        rows.append(Row(*item, *p, path, compare(path, item.size)))
    if refused:
        complaints.append(_explain_refused(refused))
    return Table(rows, walked, listed.trees, complaints, notes, refused)


def compare(path: str, size: int) -> Status:
    """Compare the local file with the object's `size` in bytes."""
    try:
        found = os.stat(path)  # noqa: PTH116 - once per key, 100,000 times over
    except OSError:  # not there, or not to be looked at: the attempt to write it will say why
        return "missing"
    return "complete" if found.st_size == size and S_ISREG(found.st_mode) else "partial"


class Listed(NamedTuple):
    """What there is to choose from: subjects, the prefixes walked, brain data, and the rest."""

    subjects: list[str]
    trees: list[str]
    brain: list[ListedObject]
    others: list[ListedObject]


def _list_trees(selection: Selection, bucket: Bucket) -> Listed:
    subjects = selection.subjects
    if subjects is None:
        subjects = tuple(list_subjects(bucket))
    prefixes = {
        subject: [tree.format(subject=f"sub-{subject}") for tree in selection.trees]
        for subject in subjects
    }
    walked = list(dict.fromkeys(prefix for trees in prefixes.values() for prefix in trees))
    # The root's own files take one shallow listing; the stimuli, where asked for, one deep one.
    extra = [("", False)] + [(dataset.STIMULI_PREFIX, True)] * selection.include_stimuli
    jobs = [(prefix, True) for prefix in walked] + extra
    with ThreadPoolExecutor(max_workers=8) as pool:
        listings = list(pool.map(lambda job: list(bucket.list_objects(job[0], deep=job[1])), jobs))
    found = dict(zip(walked, listings[: len(walked)], strict=True))
    for subject, trees in prefixes.items():
        if not any(found[prefix] for prefix in trees):
            raise _unknown_subject(subject, bucket)
    root, *stimuli = listings[len(walked) :]
    others = [item for item in root if item.key in dataset.ROOT_FILES]
    others += [item for listing in stimuli for item in listing]
    trees = walked + [dataset.STIMULI_PREFIX] * selection.include_stimuli
    return Listed(list(subjects), trees, [item for p in walked for item in found[p]], others)


def list_subjects(bucket: Bucket) -> list[str]:
    """Return the labels of the subjects that the bucket exposes, sorted."""
    folders = bucket.list_folders(dataset.SUBJECTS_PREFIX)
    labels = [name.removeprefix("sub-") for name in folders if name.startswith("sub-")]
    if not labels:
        raise SubjectNotFoundError(
            f"{bucket} has no subject under {dataset.SUBJECTS_PREFIX}; check bucket and endpoint"
        )
    return labels


def _unknown_subject(subject: str, bucket: Bucket) -> SubjectNotFoundError:
    there_is = list_some([f"sub-{label}" for label in list_subjects(bucket)])
    return SubjectNotFoundError(f"subject 'sub-{subject}' is not in {bucket}; there is: {there_is}")


def _explain_held_out(
    selection: Selection, sessions: set[str | None], listed: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the notes and the warnings that call for what the bucket does not give out."""
    named = [ses for ses in selection.filters.get("ses", ()) if ses in selection.held_out_sessions]
    ask = f"ask for access at {dataset.REQUEST_URL}"
    left_out = [f"ses-{ses}" for ses in sorted(map(str, sessions)) if ses not in named]
    left_out += sorted(set(selection.restricted_keys).intersection(listed))
    notes = [f"left out, not being public: {', '.join(left_out)}; {ask}"] if left_out else []
    if not named:
        return notes, []
    be = "is" if len(named) == 1 else "are"
    names = ", ".join(f"ses-{ses}" for ses in named)
    return notes, [f"{names} {be} held out: listed, but not given out; {ask}"]


def _explain_refused(refused: Mapping[str, str]) -> str:
    """Name the keys that are left out, as Python spells them: they may hold anything."""
    named = list_some([f"{key!r} {flaw}" for key, flaw in refused.items()], 50)
    what = "1 key cannot be a file" if len(refused) == 1 else f"{len(refused)} keys cannot be files"
    return f"{what} on every disk, and not fetched: {named}"


def _explain_filters(
    selection: Selection, parsed: Sequence[Parsed], subjects: Sequence[str]
) -> list[str]:
    """Return a warning for each filter value that no key carries."""
    where = list_some([f"sub-{subject}" for subject in subjects])
    return [
        explain_unmatched(name, value, where, existing)
        for name, value, existing in selection.find_unmatched(parsed)
        # What is held out is told elsewhere.
        if not (name == "ses" and value in selection.held_out_sessions)
    ]
