"""What should be on disk, by the bucket or by a manifest, and what else is there."""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from laion_fmri.base.bids import parse_key
from laion_fmri.base.files import StrPath
from laion_fmri.bucket.listing import Bucket, ListedObject
from laion_fmri.config import STATE_DIR, state_dir
from laion_fmri.dataset import NOTHING_HELD_OUT, PUBLISHED
from laion_fmri.errors import SelectionWarning
from laion_fmri.folder.guard import CORRUPT
from laion_fmri.folder.obstacles import is_safe_key
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.manifest import read_manifest
from laion_fmri.selection.manifest_run import name_all, sort_entries
from laion_fmri.selection.scopes import add_local
from laion_fmri.selection.table import Row, Table, choose_rows, compare, find_keys
from laion_fmri.settings import ALL, Settings


@dataclass(frozen=True)
class Inventory:
    """What there is to check.

    `expected` are the files that should be here, sorted by key; `extras` are paths, relative to the
    data directory, of what is here and not known; `elsewhere` counts the objects of the bucket that
    are not here and need not be. `bucket` is None for a manifest.
    """

    expected: Table
    extras: list[str]
    elsewhere: int = 0
    bucket: Bucket | None = None


def take_inventory(settings: Settings, data_dir: Path) -> Inventory:
    """Find out what should be in `data_dir`, and what else is.

    Where a subject is named, and of a manifest, all that is selected is expected; otherwise only
    what of it is here, as of a scope that is here and not named. What is held out is expected only
    where it is here. Extras are what the
    bucket or the manifest does not have: without subject and filters anywhere in `data_dir`, else
    in the trees of the subjects, as far as the filters let it pass. Folders that are links are not
    looked into, nor is our own state.
    """
    is_named = settings.subject is not None
    is_whole = not is_named and not settings.filters and settings.scope is None
    selection = Selection.from_settings(replace(settings, subject=settings.subject or ALL))
    named = selection.scope_names
    bucket = None
    if settings.manifest:
        table = _read_manifest(settings.manifest, selection, data_dir, is_whole=is_whole)
    else:
        bucket = Bucket.from_settings(settings)
        selection = add_local(selection, data_dir, bucket)
        table = find_keys(selection, NOTHING_HELD_OUT, bucket, data_dir)
    table.announce(stacklevel=6)
    here = set(_walk(data_dir, None if is_whole else table.trees))
    unknown = here - table.listed.keys()
    rows = list(table.rows)
    if not is_whole:
        unknown = {key for key in unknown if table.matches(key)}
    elif bucket:
        rows += _ask_beside(unknown, bucket, table.trees, data_dir)
    unknown.difference_update(row.key for row in rows)
    rows.sort(key=lambda row: row.key)
    extras = sorted(unknown)
    if not bucket:
        return Inventory(replace(table, rows=tuple(rows)), extras)
    present = {row.key for row in rows if _is_here(row, data_dir)}
    public = {row.key for row in rows if not PUBLISHED.is_held_out(row.key, row.parsed)}
    wanted = present
    if is_named:
        _warn_of_held_out(selection, present)
        wanted = present | {
            row.key
            for row in rows
            if row.key in public and (ALL in named or row.scope in (*named, ""))
        }
    chosen = tuple(row for row in rows if row.key in wanted)
    elsewhere = 0 if is_named else len(public - present)
    return Inventory(replace(table, rows=chosen), extras, elsewhere, bucket)


def find_aside(data_dir: StrPath, key: str) -> Path:
    """Return where a repair keeps the broken file of `key` until it has a whole one."""
    return state_dir(data_dir) / CORRUPT / key


def _is_here(row: Row, data_dir: Path) -> bool:
    try:
        os.lstat(row.path)
    except (FileNotFoundError, NotADirectoryError):
        return os.path.lexists(find_aside(data_dir, row.key))
    except OSError:  # in a folder that may not be looked into
        return True
    return True


def _warn_of_held_out(selection: Selection, here: Iterable[str]) -> None:
    checked = {parse_key(key).ses for key in here}
    for ses in selection.sessions:
        if ses in PUBLISHED.held_out_sessions and ses not in checked:
            text = f"ses-{ses} is held out, and none of it is here: it is not checked"
            warnings.warn(text, SelectionWarning, stacklevel=6)


def _read_manifest(file: str, selection: Selection, data_dir: Path, *, is_whole: bool) -> Table:
    """Read a manifest: all of it, or what a download by it would bring."""
    entries = read_manifest(file)
    if is_whole:
        table = Table(tuple(_make_row(ListedObject(*entry[:4]), data_dir) for entry in entries))
    else:
        listed = sort_entries(file, entries, selection)
        table = choose_rows(listed, name_all(selection), NOTHING_HELD_OUT, data_dir)
        scopes = [group.scope for group in listed.groups]
        trees = [s.prefix_of(label) for s in scopes for label in listed.subjects or [""]]
        table = replace(table, trees=tuple(dict.fromkeys(trees)))
    return replace(
        table,
        listed={entry.key: entry.size for entry in entries},
        sha256={entry.key: entry.sha256 for entry in entries if entry.sha256},
    )


def _make_row(item: ListedObject, data_dir: Path) -> Row:
    path = str(data_dir / item.key)
    return Row(item, parse_key(item.key), path, compare(path, item.size))


def _ask_beside(
    keys: Iterable[str], bucket: Bucket, trees: tuple[str, ...], data_dir: Path
) -> list[Row]:
    """Return what of `keys` the bucket has beside its `trees`: a pipeline may fetch anything."""
    wanted = {key for key in keys if is_safe_key(key) and not key.startswith(trees)}
    folders = {key.rpartition("/")[0] for key in wanted}
    if any(folders):
        tops = bucket.list_folders("")
        folders = {folder for folder in folders if not folder or folder.split("/")[0] in tops}
    prefixes = sorted(f"{folder}/" if folder else "" for folder in folders)
    listings = bucket.list_many((prefix, False) for prefix in prefixes)
    found = (item for listing in listings for item in listing)
    return [_make_row(item, data_dir) for item in found if item.key in wanted]


def _walk(data_dir: Path, prefixes: tuple[str, ...] | None) -> Iterator[str]:
    """Yield the path of each file below `data_dir`, or of those that begin with a prefix."""

    def leads_on(path: str) -> bool:
        return prefixes is None or any(
            path.startswith(prefix) or prefix.startswith(path) for prefix in prefixes
        )

    for folder, names, files in os.walk(data_dir):
        above = Path(folder).relative_to(data_dir).as_posix()
        above = "" if above == "." else f"{above}/"
        if not above and STATE_DIR in names:
            names.remove(STATE_DIR)
        names[:] = [name for name in names if leads_on(f"{above}{name}/")]
        for name in files:
            if prefixes is None or f"{above}{name}".startswith(prefixes):
                yield above + name
