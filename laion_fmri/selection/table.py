"""The key table: list the bucket, parse each key, keep what is selected, compare with the disk."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from laion_fmri import dataset
from laion_fmri.base.bids import HELP, Parsed, parse_key
from laion_fmri.base.files import StrPath
from laion_fmri.bucket.listing import Bucket, ListedObject, pause_collector
from laion_fmri.dataset import NOTHING_HELD_OUT, Facts, Scope
from laion_fmri.errors import SelectionError, SelectionWarning, list_some
from laion_fmri.folder.login import explain_missing, find_facts
from laion_fmri.folder.obstacles import Obstacles, find_conflicts, find_flaw
from laion_fmri.selection.completion import is_kept, remember_listing
from laion_fmri.selection.filters import (
    Filters,
    Group,
    Selection,
    explain_filters,
    leave_out,
)
from laion_fmri.selection.scopes import Item, Listed, list_selected
from laion_fmri.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("laion_fmri")

#: A data directory that holds nothing.
NOWHERE = "/nonexistent"

Status = Literal["missing", "partial", "complete"]


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

    @property
    def scope(self) -> str:
        """The name of its scope; empty for what is in none, such as the root files."""
        scope = dataset.find_scope(self.key)
        return scope.name if scope else ""

    def to_record(self) -> dict[str, Any]:
        """Return column -> value, in the order of :data:`COLUMNS`."""
        values = self.listed._asdict() | self.parsed._asdict()
        values |= {"path": self.path, "status": self.status, "scope": self.scope or None}
        return {name: values[name] for name in COLUMNS}


#: The columns of the key table. Entities that came later stand behind the status, so that those
#: before it keep their place.
COLUMNS = (*ListedObject._fields, *list(HELP)[:8], "path", "status", *list(HELP)[8:], "scope")


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
    selection: Selection | None = None  # as it was understood: ``singletrial`` written out
    scopes: Mapping[str, Scope] = field(default_factory=dict)  # that were listed, by name
    #: By scope: the alternatives by which its keys are selected.
    filters: Mapping[str, Sequence[Filters]] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """Return the rows as a DataFrame with the columns of :func:`laion_fmri.keys.key_table`."""
        import pandas as pd

        records = [row.to_record().values() for row in self.rows]
        return pd.DataFrame(records, columns=list(COLUMNS))

    def matches(self, key: str) -> bool:
        """Whether the filters let `key` pass, so that it does not only come along."""
        scope = dataset.find_scope(key)
        if scope is None or self.selection is None:
            return True
        scope, parsed = self.scopes.get(scope.name, scope), parse_key(key)
        alternatives = self.filters.get(scope.name, ())
        return any(self.selection.passes(parsed, filters, scope) for filters in alternatives)

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


def find_selected(
    settings: Settings, data_dir: StrPath | None, *, with_held_out: bool = False
) -> Table:
    """Return the table of what `settings` select, compared with `data_dir` if there is one."""
    selection, bucket = Selection.from_settings(settings), Bucket.from_settings(settings)
    facts = NOTHING_HELD_OUT if with_held_out else find_facts(settings.facts)
    return find_keys(selection, facts, bucket, data_dir or NOWHERE)


@pause_collector()
def find_keys(selection: Selection, facts: Facts, bucket: Bucket, data_dir: StrPath) -> Table:
    """List the scopes of the selected subjects, once, and return the table of what is selected."""
    listed = list_selected(selection, bucket)
    if is_kept.get():  # also of a selection that matches nothing, which is refused below
        remember_listing(bucket, listed.groups, is_whole=selection.subjects is None)
    table = choose_rows(listed, selection, facts, data_dir)
    return replace(table, warnings=(*bucket.explain_reach(), *table.warnings))


def choose_rows(listed: Listed, selection: Selection, facts: Facts, data_dir: StrPath) -> Table:
    """Return the table of what `selection` keeps of a listing; see :func:`find_keys`."""
    groups = listed.groups
    explained = explain_filters(selection, groups, facts.held_out_sessions, listed.where)
    selection, notes, complaints, is_empty = explained
    chosen = leave_out(selection, groups)
    filters = {scope.name: alternatives for (scope, _), alternatives in chosen}
    matched = {
        scope.name: [
            pair for pair in items if any(selection.passes(pair[1], f, scope) for f in alternatives)
        ]
        for (scope, items), alternatives in chosen
    }
    everything = [pair for pairs in matched.values() for pair in pairs]
    held_out = {item.key for item, p in everything if facts.is_held_out(item.key, p)}
    said, warned = _explain_held_out(selection, facts, groups, everything)
    notes, complaints = [*notes, *said], [*warned, *complaints]
    names = [scope.name for scope, _ in groups if selection.is_named(scope)]
    names = names or list(matched)  # what is added is all there is
    core = [pair for name in names for pair in matched.get(name, ())]
    is_empty |= all(item.key in held_out for item, _ in core)
    if is_empty and any(group.items for group in groups):
        reasons = (
            complaints or said or ["each filter matches something, but no key matches them all"]
        )
        raise SelectionError("; ".join(["the selection matches nothing", *reasons]))
    said, warned = _explain_empty(selection, groups, matched)
    notes, complaints = [*notes, *said], [*complaints, *warned]
    pinned = [pair for g, _ in chosen for pair in g.items if selection.is_pinned(pair[1])]
    others = [] if selection.is_strict else listed.others
    wanted = {pair[0].key: pair for pair in [*everything, *pinned, *others]}
    sizes = {item.key: item.size for items in _all_items(listed) for item, _ in items}
    root = os.fspath(data_dir)
    conflicts = find_conflicts(sizes)
    rows, refused = [], {}
    for key in sorted(wanted.keys() - held_out):
        item, p = wanted[key]
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
    return Table(
        tuple(rows),
        sizes,
        tuple(listed.trees),
        tuple(complaints),
        tuple(notes),
        refused,
        selection=selection,
        scopes={group.scope.name: group.scope for group in groups},
        filters=filters,
    )


def compare(path: str, size: int) -> Status:
    """Compare the local file with the object's `size` in bytes."""
    try:
        found = os.stat(path)  # noqa: PTH116 - once per key, 100,000 times over
    except OSError:  # missing or unreadable: the attempt to write it will say why
        return "missing"
    return "complete" if found.st_size == size and S_ISREG(found.st_mode) else "partial"


def _all_items(listed: Listed) -> Iterator[Sequence[Item]]:
    yield from (group.items for group in listed.groups)
    yield listed.others


def _explain_held_out(
    selection: Selection, facts: Facts, groups: Iterable[Group], matched: Iterable[Item]
) -> tuple[list[str], list[str]]:
    """Return the notes and the warnings about what is listed and not given out."""
    ask = f"ask for access at {dataset.REQUEST_URL}"
    named = [ses for ses in selection.sessions if ses in facts.held_out_sessions]
    hidden = [(item.key, p.ses) for item, p in matched if facts.is_held_out(item.key, p)]
    sessions = {ses for key, ses in hidden if key not in facts.restricted_keys}
    left_out = [f"ses-{ses}" for ses in sorted(map(str, sessions.difference(named)))]
    if gated := sorted(key for key, _ in hidden if key in facts.restricted_keys):
        left_out += gated
        ask += f"; {explain_missing()}"
    notes = [f"left out, not being public: {', '.join(left_out)}; {ask}"] if left_out else []
    if not named:
        return notes, []
    names = f"{', '.join(f'ses-{ses}' for ses in named)} {'is' if len(named) == 1 else 'are'}"
    public = [f" but for {e}-{v} of {g.scope.name}" for g in groups for e, v in g.scope.public]
    return notes, [f"{names} held out{''.join(public)}: listed, but not given out; {ask}"]


def _explain_empty(
    selection: Selection, groups: Iterable[Group], matched: Mapping[str, Sequence[Item]]
) -> tuple[list[str], list[str]]:
    """Return the notes and the warnings about scopes of which nothing is selected."""
    notes, warned = [], []
    for scope, items in groups:
        if not selection.is_named(scope):
            continue
        said = []
        if items and not matched.get(scope.name):
            said.append(f"nothing of the scope {scope.name} passes the filters")
        there_is = {p.sub for _, p in items}
        lacking = [f"sub-{s}" for s in selection.subjects or () if s not in there_is]
        if scope.has_subjects and (lacking or not items):
            subjects = list_some(lacking) or "any subject"
            said.append(f"the scope {scope.name} has nothing of {subjects}")
        if scope.name in (selection.scopes or ()):
            warned += said
        elif scope.by_session or lacking:
            notes += [text for text in said if scope.name in matched or lacking]
    return notes, warned
