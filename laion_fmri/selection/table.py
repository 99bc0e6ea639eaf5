"""The key table: list the bucket, parse each key, keep what is selected, compare with the disk."""

import logging
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from laion_fmri import dataset
from laion_fmri.base.bids import HELP, Parsed, parse_key
from laion_fmri.base.files import StrPath
from laion_fmri.bucket.listing import Bucket, ListedObject, pause_collector
from laion_fmri.dataset import Facts
from laion_fmri.errors import SelectionError, SelectionWarning, SubjectNotFoundError, list_some
from laion_fmri.folder.obstacles import Obstacles, find_conflicts, find_flaw
from laion_fmri.selection.completion import is_kept, remember_listing
from laion_fmri.selection.filters import Selection, explain_unmatched
from laion_fmri.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("laion_fmri")

#: A data directory that holds nothing.
NOWHERE = "/nonexistent"

Status = Literal["missing", "partial", "complete"]
Item = tuple[ListedObject, Parsed]


class Row(NamedTuple):
    """One selected object: as it was listed, what its key says, its local path and its state."""

    listed: ListedObject
    parsed: Parsed
    path: str
    status: Status

    @property
    def key(self) -> str:
        return self.listed.key

    @property
    def size(self) -> int:
        """In the bucket, in bytes."""
        return self.listed.size

    @property
    def sub(self) -> str | None:
        return self.parsed.sub

    @property
    def ses(self) -> str | None:
        return self.parsed.ses

    def to_record(self) -> dict[str, Any]:
        """Return column -> value, in the order of :data:`COLUMNS`."""
        values = self.listed._asdict() | self.parsed._asdict()
        values |= {"path": self.path, "status": self.status}
        return {name: values[name] for name in COLUMNS}


#: The columns of the key table. Entities that came later stand behind the status, so that those
#: before it keep their place.
COLUMNS = (*ListedObject._fields, *list(HELP)[:8], "path", "status", *list(HELP)[8:])


@dataclass(frozen=True)
class Table:
    """The rows of a selection, sorted by key, and what is known about them, mostly by key."""

    rows: tuple[Row, ...] = ()
    listed: Mapping[str, int] = field(default_factory=dict)  # sizes of all keys of the trees
    trees: tuple[str, ...] = ()  # the prefixes that were listed
    warnings: tuple[str, ...] = ()  # such as a value that matches nothing
    notes: tuple[str, ...] = ()  # what is worth saying once, such as what is held out
    refused: Mapping[str, str] = field(default_factory=dict)  # why a key cannot be a file
    changed: Mapping[str, str] = field(default_factory=dict)  # since the manifest was written
    sha256: Mapping[str, str] = field(default_factory=dict)  # what the manifest has

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a DataFrame with the columns of :func:`laion_fmri.keys.key_table`."""
        import pandas as pd

        records = [row.to_record().values() for row in self.rows]
        return pd.DataFrame(records, columns=list(COLUMNS))

    def incomplete(self) -> list[Row]:
        """Return the rows whose file is missing or partial."""
        return [row for row in self.rows if row.status != "complete"]

    @cached_property
    def obstacles(self) -> dict[str, str]:
        """Key -> what keeps it from being fetched; none of it is ours to remove."""
        rows = self.incomplete()
        found = Obstacles(rows[0].path.removesuffix(rows[0].key)) if rows else Obstacles()
        reasons = {row.key: self.changed.get(row.key) or found.find(row.path) for row in rows}
        return {key: reason for key, reason in reasons.items() if reason}

    def compare_again(self) -> Self:
        """Return the table with the files that were not complete looked at again."""
        rows = (
            row if row.status == "complete" else row._replace(status=compare(row.path, row.size))
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))

    def partial_keys(self) -> list[str]:
        """Return the keys of the files whose size is wrong and that can be replaced."""
        partial = [row.key for row in self.rows if row.status == "partial"]
        return [key for key in partial if key not in self.obstacles]

    def announce(self, stacklevel: int = 4) -> None:
        """Issue the warnings as Python warnings, and log the notes."""
        for text in self.warnings:
            warnings.warn(text, SelectionWarning, stacklevel=stacklevel)
        for text in self.notes:
            logger.info(text)


class Listed(NamedTuple):
    """What there is to choose from: subjects, the prefixes listed, brain data, and the rest."""

    subjects: Sequence[str]
    trees: list[str]
    brain: list[Item]
    others: list[Item]


def find_selected(
    settings: Settings, data_dir: StrPath | None, *, with_held_out: bool = False
) -> Table:
    """Return the table of what `settings` select, compared with `data_dir` if there is one."""
    selection, bucket = Selection.from_settings(settings), Bucket.from_settings(settings)
    facts = Facts(settings.trees, (), ()) if with_held_out else settings.facts
    return find_keys(selection, facts, bucket, data_dir or NOWHERE)


@pause_collector()
def find_keys(selection: Selection, facts: Facts, bucket: Bucket, data_dir: StrPath) -> Table:
    """List the trees of the selected subjects, once, and return the table of what is selected."""
    listed = _list_trees(selection, facts, bucket)
    if is_kept.get():  # also of a selection that matches nothing, which is refused below
        parsed = (p for _, p in listed.brain)
        remember_listing(bucket, parsed, is_whole=selection.subjects is None)
    return choose_rows(listed, selection, facts, data_dir)


def choose_rows(listed: Listed, selection: Selection, facts: Facts, data_dir: StrPath) -> Table:
    """Return the table of what `selection` keeps of a listing; see :func:`find_keys`."""
    matched = [(item, p) for item, p in listed.brain if selection.matches(p)]
    pinned = [(item, p) for item, p in listed.brain if selection.is_pinned(p)]
    sizes = {item.key: item.size for item, _ in [*listed.brain, *listed.others]}
    notes, complaints = _explain_held_out(selection, facts, matched, sizes)
    complaints += _explain_filters(selection, facts, listed)
    if listed.brain and all(facts.is_held_out(item.key, p.ses) for item, p in matched):
        complaints = complaints or ["each filter matches something, but no key matches them all"]
        raise SelectionError("; ".join(["the selection matches nothing", *complaints]))
    chosen = {item.key: (item, p) for item, p in [*matched, *pinned, *listed.others]}
    root = os.fspath(data_dir)
    conflicts = find_conflicts(sizes)
    rows, refused = [], {}
    for key in sorted(chosen):
        item, p = chosen[key]
        if facts.is_held_out(key, p.ses):
            continue
        if flaw := find_flaw(key) or conflicts.get(key):
            refused[key] = flaw
            continue
        path = os.path.join(root, key)  # noqa: PTH118 - a Path per row is a third of the time
        rows.append(Row(item, p, path, compare(path, item.size)))
    if refused:
        # As Python spells the keys, which may hold anything.
        named = list_some([f"{key!r} {flaw}" for key, flaw in refused.items()], 50)
        many = f"{len(refused)} keys cannot be files"
        count = many if len(refused) > 1 else "1 key cannot be a file"
        complaints.append(f"{count} on every disk, and not fetched: {named}")
    return Table(tuple(rows), sizes, tuple(listed.trees), tuple(complaints), tuple(notes), refused)


def compare(path: str, size: int) -> Status:
    """Compare the local file with the object's `size` in bytes."""
    try:
        found = os.stat(path)  # noqa: PTH116 - once per key, 100,000 times over
    except OSError:  # missing or unreadable: the attempt to write it will say why
        return "missing"
    return "complete" if found.st_size == size and S_ISREG(found.st_mode) else "partial"


def parse_items(items: Iterable[ListedObject]) -> list[Item]:
    """Return each object with what its key says."""
    return [(item, parse_key(item.key)) for item in items]


def _list_trees(selection: Selection, facts: Facts, bucket: Bucket) -> Listed:
    subjects = selection.subjects or list_subjects(bucket)
    prefixes = {subject: facts.trees_of(subject) for subject in subjects}
    walked = list(dict.fromkeys(prefix for trees in prefixes.values() for prefix in trees))
    # The root's own files take one shallow listing; the stimuli, where asked for, one deep one.
    extra = [("", False)] + [(dataset.STIMULI_PREFIX, True)] * selection.include_stimuli
    listings = bucket.list_many([*((prefix, True) for prefix in walked), *extra])
    found = dict(zip(walked, listings, strict=False))
    for subject, trees in prefixes.items():
        if not any(found[prefix] for prefix in trees):
            raise explain_unknown_subject(subject, str(bucket), list_subjects(bucket))
    root, *stimuli = listings[len(walked) :]
    others = [item for item in root if item.key in dataset.ROOT_FILES]
    return Listed(
        subjects,
        walked + [dataset.STIMULI_PREFIX] * selection.include_stimuli,
        parse_items(chain.from_iterable(found.values())),
        parse_items(chain(others, *stimuli)),
    )


def list_subjects(bucket: Bucket) -> list[str]:
    """Return the labels of the subjects that the bucket exposes, sorted."""
    folders = bucket.list_folders(dataset.SUBJECTS_PREFIX)
    labels = [name.removeprefix("sub-") for name in folders if name.startswith("sub-")]
    if not labels:
        raise SubjectNotFoundError(
            f"{bucket} has no subject under {dataset.SUBJECTS_PREFIX}; check bucket and endpoint"
        )
    return labels


def explain_unknown_subject(
    subject: str, where: str, existing: Iterable[str]
) -> SubjectNotFoundError:
    """Return the error for a subject that is not in the bucket or the manifest `where`."""
    there_is = list_some([f"sub-{label}" for label in existing]) or "none at all"
    return SubjectNotFoundError(f"subject 'sub-{subject}' is not in {where}; there is: {there_is}")


def _explain_held_out(
    selection: Selection, facts: Facts, matched: Iterable[Item], listed: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return the notes and the warnings about what is listed and not given out."""
    ask = f"ask for access at {dataset.REQUEST_URL}"
    named = [ses for ses in selection.sessions if ses in facts.held_out_sessions]
    hidden = set(facts.held_out_sessions).intersection(p.ses for _, p in matched)
    left_out = [f"ses-{ses}" for ses in sorted(hidden.difference(named))]
    left_out += sorted(set(facts.restricted_keys).intersection(listed))
    notes = [f"left out, not being public: {', '.join(left_out)}; {ask}"] if left_out else []
    if not named:
        return notes, []
    names = f"{', '.join(f'ses-{ses}' for ses in named)} {'is' if len(named) == 1 else 'are'}"
    return notes, [f"{names} held out: listed, but not given out; {ask}"]


def _explain_filters(selection: Selection, facts: Facts, listed: Listed) -> list[str]:
    """Return a warning for each filter value that no key carries."""
    where = list_some([f"sub-{subject}" for subject in listed.subjects])
    held_out = facts.held_out_sessions
    unmatched = selection.find_unmatched([p for _, p in listed.brain], held_out)
    return [
        explain_unmatched(name, value, where, existing)
        for name, value, existing in unmatched
        if not (name == "ses" and value in held_out)  # those have a warning of their own
    ]
