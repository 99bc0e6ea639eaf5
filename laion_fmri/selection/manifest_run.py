"""Which versions a run asks for: those of the bucket, or those of a manifest."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from laion_fmri.base.files import StrPath
from laion_fmri.bucket.listing import Bucket, ListedObject, pause_collector
from laion_fmri.dataset import Scope, find_scope
from laion_fmri.errors import BucketError, SelectionError, list_some
from laion_fmri.folder.login import find_facts
from laion_fmri.selection.filters import INCLUDES, Group, Selection
from laion_fmri.selection.manifest import Entry, parse_manifest, write_manifest
from laion_fmri.selection.scopes import (
    Listed,
    explain_unknown_scope,
    explain_unknown_subject,
    parse_items,
)
from laion_fmri.selection.table import Row, Table, choose_rows, find_keys
from laion_fmri.settings import ALL, Settings


@pause_collector()
def find_table(
    settings: Settings, selection: Selection, bucket: Bucket, data_dir: StrPath
) -> Table:
    """Find the key table of a run, by its manifest if it has one; save it if asked to.

    The filters of `selection` apply to a manifest as to the bucket; without a scope, all scopes of
    the manifest are meant. What the bucket has changed since is among the obstacles of the table,
    unless its file is complete here.
    """
    if settings.manifest:
        table = _follow(settings.manifest, selection, settings, bucket, data_dir)
    else:
        table = find_keys(selection, find_facts(settings.facts), bucket, data_dir)
    if settings.save_manifest:
        save_rows(settings.save_manifest, table.rows, table.sha256, bucket)
    return table


def explain_mismatches(
    found: Mapping[str, str | None], known: Mapping[str, str], manifest: str
) -> dict[str, str]:
    """Explain, by key, which SHA-256 that was `found` differs from the one that is `known`."""
    return {
        key: f"the SHA-256 of what arrived is {digest or 'unknown, since it cannot be read'},"
        f" and in the manifest {known[key]}; it is left as it is: run 'laion-fmri verify "
        f"--manifest {manifest} --repair'"
        for key, digest in found.items()
        if known.get(key, digest) != digest
    }


def save_rows(file: str, rows: Iterable[Row], known: Mapping[str, str], bucket: Bucket) -> None:
    """Write `rows` as a manifest, with the SHA-256 that are `known`, by key."""
    entries = (Entry(*row.listed, known.get(row.key)) for row in rows)
    write_manifest(file, entries, bucket)


def _follow(
    file: str, selection: Selection, settings: Settings, bucket: Bucket, data_dir: StrPath
) -> Table:
    entries, about = parse_manifest(file)
    listed = sort_entries(file, entries, selection)
    table = choose_rows(listed, name_all(selection), find_facts(settings.facts), data_dir)
    if not table.rows:
        raise SelectionError("; ".join([f"{file} has nothing that is public", *table.notes]))
    complaints = []
    names = {row.scope for row in table.rows}
    for option, (name, _) in INCLUDES.items():
        if getattr(settings, option) and name not in names:
            complaints.append(f"{file} names nothing of {name}, so {option} does not bring any")
    if about.get("bucket") not in (None, bucket.name):
        complaints.append(
            f"{file} was written for the bucket {about['bucket']}, and is compared with {bucket}"
        )
    if table.incomplete():  # the bucket is asked for nothing else
        try:
            table = _compare_with_bucket(table, bucket)
        except BucketError:
            if not bucket.reach.is_cut_off:
                raise
        complaints += bucket.explain_reach()
    known = {entry.key: entry.sha256 for entry in entries if entry.sha256}
    return replace(table, warnings=(*complaints, *table.warnings), sha256=known)


def sort_entries(file: str, entries: Iterable[Entry], selection: Selection) -> Listed:
    """Return the entries as a listing of what is selected, and of what is in no scope.

    Without a scope in `selection`, all scopes of the manifest are.
    """
    found: dict[Scope, list[ListedObject]] = {}
    others: list[ListedObject] = []
    for entry in entries:
        scope = find_scope(entry.key)
        place = others if scope is None else found.setdefault(scope, [])
        place.append(ListedObject(*entry[:4]))
    by_name = {scope.name: scope for scope in found}
    names = [*selection.extras, *(selection.scopes or by_name)]
    for name in names:
        if name not in (*by_name, *selection.extras, ALL):
            raise explain_unknown_scope(name, sorted(by_name), file)
    chosen = [scope for scope in found if ALL in names or scope.name in names]
    items = {scope: parse_items(found[scope]) for scope in chosen}
    owned = [scope for scope in chosen if scope.has_subjects]
    labels = {p.sub for scope in owned for _, p in items[scope]} - {None}
    there_is = sorted(map(str, labels))
    subjects = there_is if selection.subjects is None or not owned else selection.subjects
    for subject in subjects:
        if subject not in labels:
            raise explain_unknown_subject(subject, file, there_is)
    for scope in owned:
        items[scope] = [pair for pair in items[scope] if pair[1].sub in subjects]
    groups = [Group(scope, pairs).resolve() for scope, pairs in items.items()]
    beside = [pair for pair in parse_items(others) if pair[1].sub in (None, *subjects)]
    return Listed(subjects, [], groups, beside)


def name_all(selection: Selection) -> Selection:
    """Return the selection of a manifest: without a scope, it is about all that this has."""
    return selection if selection.scopes else replace(selection, scopes=(ALL,))


def _compare_with_bucket(table: Table, bucket: Bucket) -> Table:
    """List the trees of the rows of `table`, and note what has changed there."""
    trees = _name_trees(row.key for row in table.rows)
    prefixes = [(tree, True) for tree in trees]
    if any("/" not in row.key for row in table.rows):
        prefixes.append(("", False))
    now = {item.key: item for listing in bucket.list_many(prefixes) for item in listing}
    changes = {row.key: _explain_change(row, now.get(row.key)) for row in table.rows}
    changed = {key: why for key, why in changes.items() if why}
    here = [row.key for row in table.rows if row.status == "complete" and row.key in changed]
    complaint = (
        f"{len(here):,} files here have the manifest's size and stay, but have changed in "
        f"the bucket since it was written: {list_some(here)}"
    )
    # The same version may have been uploaded again, and a transfer knows it by its new time.
    same = {
        row.key: row._replace(listed=now[row.key]) for row in table.rows if row.key not in changed
    }
    return replace(
        table,
        rows=tuple(same.get(row.key, row) for row in table.rows),
        listed={item.key: item.size for item in now.values()},
        trees=tuple(trees),
        warnings=(*table.warnings, complaint) if here else table.warnings,
        changed=changed,
    )


def _name_trees(keys: Iterable[str]) -> list[str]:
    """Return the folders to list for `keys`: down to that of the subject, or else the first."""
    trees = set()
    for key in keys:
        if folder := re.match("(?:[^/]+/)*?sub-[^/]*/", key) or re.match("[^/]+/", key):
            trees.add(folder[0])
    outer: list[str] = []
    for tree in sorted(trees):
        if not (outer and tree.startswith(outer[-1])):
            outer.append(tree)
    return outer


def _explain_change(row: Row, now: ListedObject | None) -> str | None:
    if now is None:
        return "is gone from the bucket since the manifest was written"
    if (now.size, now.etag) == (row.size, row.listed.etag):
        return None
    size = f"{row.size:,} bytes, now {now.size:,}; " if now.size != row.size else ""
    return (
        f"has changed in the bucket since the manifest was written: {size}ETag {row.listed.etag}, "
        f"now {now.etag}; without the manifest, the new version is fetched"
    )
