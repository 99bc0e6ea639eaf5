"""What should be on disk, by the bucket or by a manifest, and what else is there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from laion_fmri import dataset
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import STATE_DIR, StrPath, state_dir
from laion_fmri.errors import SelectionWarning
from laion_fmri.selection.bids import parse_key
from laion_fmri.selection.filters import FILTERS, Selection
from laion_fmri.selection.manifest import read_manifest
from laion_fmri.selection.manifest_run import sort_entries
from laion_fmri.selection.table import Table, choose_rows, find_keys

#: Settings that take nothing for held out: who has such files, has been given access to them.
NOTHING_HELD_OUT: Mapping[str, Any] = {"held_out_sessions": [], "restricted_keys": []}


class Expected(NamedTuple):
    """A file that should be on disk: `size` in bytes, `sha256` of a manifest if it has one."""

    key: str
    size: int
    etag: str
    last_modified: datetime
    path: str
    sha256: str | None = None


@dataclass
class Inventory:
    """What there is to check.

    Attributes
    ----------
    expected : list of Expected
        The files that should be here, sorted by key.
    extras : list of str
        Paths, relative to the data directory, of what is here and not known, sorted.
    elsewhere : int
        Objects of the bucket that are not here and need not be.
    bucket : Bucket or None
        Where `expected` is from; None for a manifest.
    """

    expected: list[Expected]
    extras: list[str]
    elsewhere: int = 0
    bucket: Bucket | None = None


@dataclass
class _Known:
    """What the bucket or a manifest has: what is selected of it, all its keys, where it looked."""

    expected: list[Expected]
    keys: set[str]
    trees: tuple[str, ...] = ()


def take_inventory(
    config: Mapping[str, Any], data_dir: Path, manifest: StrPath | None = None
) -> Inventory:
    """Find out what should be in `data_dir`, and what else is.

    Parameters
    ----------
    config : mapping
        ``subject``, the filters and ``include_stimuli``, as for a download; any may be absent.
    data_dir : path
    manifest : path, optional
        A manifest to take instead of the bucket, which is then not asked at all.

    Returns
    -------
    Inventory
        Of a manifest, and where a subject is named, all that is selected. Otherwise only what of
        it is here. What is held out is expected only where it is here. Extras are what the bucket
        or the manifest does not have: without subject and filters anywhere in `data_dir`, else in
        the trees of the subjects, as far as the filters let it pass. Folders that are links are
        not looked into, nor is our own state.

    Raises
    ------
    ManifestError, SelectionError, SubjectNotFoundError, TypeError, BucketError

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing, or a held-out session is named that is not here.
    """
    is_named = config.get("subject") is not None
    is_whole = not is_named and all(config.get(name) is None for name in FILTERS)
    given = {**config, "subject": config["subject"] if is_named else "all"}
    if is_whole and (data_dir / dataset.STIMULI_PREFIX).is_dir():
        given["include_stimuli"] = True
    selection = Selection.from_config({**given, **NOTHING_HELD_OUT})
    bucket = None
    if manifest is None:
        bucket = Bucket.from_config({})
        known = _ask_bucket(selection, bucket, data_dir)
    else:
        known = _ask_manifest(selection, manifest, data_dir, is_whole=is_whole)
    here = set(_walk(data_dir, None if is_whole else known.trees))
    unknown = here - known.keys
    if not is_whole:
        unknown = {key for key in unknown if selection.matches(parse_key(key))}
    elif bucket:
        known.expected += _ask_beside(unknown, bucket, known.trees, data_dir)
    unknown.difference_update(item.key for item in known.expected)
    expected, extras = sorted(known.expected), sorted(unknown)
    if not bucket:
        return Inventory(expected, extras)
    here = {item.key for item in expected if _is_here(item, data_dir)}
    held_out = Selection(None).is_held_out
    public = {i.key for i in expected if not held_out(i.key, parse_key(i.key))}
    if is_named:
        _warn_of_held_out(selection, here)
        wanted = [item for item in expected if item.key in here | public]
        return Inventory(wanted, extras, bucket=bucket)
    present = [item for item in expected if item.key in here]
    return Inventory(present, extras, len(public - here), bucket)


def find_aside(data_dir: StrPath, key: str) -> Path:
    """Return where a repair keeps the broken file of `key` until it has a whole one."""
    return state_dir(data_dir) / "corrupt" / key


def _is_here(item: Expected, data_dir: Path) -> bool:
    try:
        os.lstat(item.path)
    except (FileNotFoundError, NotADirectoryError):
        return os.path.lexists(find_aside(data_dir, item.key))
    except OSError:  # in a folder that may not be looked into
        return True
    return True


def _warn_of_held_out(selection: Selection, here: Iterable[str]) -> None:
    checked = {parse_key(key).ses for key in here}
    for ses in selection.filters.get("ses", ()):
        if ses in dataset.HELD_OUT_SESSIONS and ses not in checked:
            text = f"ses-{ses} is held out, and none of it is here: it is not checked"
            warnings.warn(text, SelectionWarning, stacklevel=5)


def _ask_bucket(selection: Selection, bucket: Bucket, data_dir: Path) -> _Known:
    table = find_keys(selection, bucket, data_dir)
    table.announce()
    return _Known(_list_expected(table), set(table.listed), tuple(table.trees))


def _ask_manifest(
    selection: Selection, manifest: StrPath, data_dir: Path, *, is_whole: bool
) -> _Known:
    """Read a manifest, of which a selection is what a download by it would bring."""
    entries = {entry.key: entry for entry in read_manifest(Path(manifest).expanduser())}
    if is_whole:
        expected = [
            Expected(*entry[:4], str(data_dir / entry.key), entry.sha256)
            for entry in entries.values()
        ]
        return _Known(expected, set(entries))
    listed = sort_entries(os.fspath(manifest), entries.values(), selection)
    table = choose_rows(listed, selection, data_dir)
    table.announce()
    expected = [item._replace(sha256=entries[item.key].sha256) for item in _list_expected(table)]
    trees = [tree.format(subject=f"sub-{s}") for s in listed.subjects for tree in selection.trees]
    return _Known(expected, set(entries), (*trees, dataset.STIMULI_PREFIX))


def _list_expected(table: Table) -> list[Expected]:
    return [Expected(*row[:4], row.path) for row in table.rows]


def _ask_beside(
    keys: Iterable[str], bucket: Bucket, trees: tuple[str, ...], data_dir: Path
) -> list[Expected]:
    """Return what of `keys` the bucket has beside its `trees`: a pipeline may fetch anything."""
    wanted = {key for key in keys if not key.startswith(trees)}
    folders = {key.rpartition("/")[0] for key in wanted}
    if any(folders):
        tops = bucket.list_folders("")
        folders = {folder for folder in folders if not folder or folder.split("/")[0] in tops}
    prefixes = sorted(f"{folder}/" if folder else "" for folder in folders)
    with ThreadPoolExecutor(max_workers=8) as pool:
        listings = pool.map(lambda prefix: list(bucket.list_objects(prefix, deep=False)), prefixes)
        return [
            Expected(*item, str(data_dir / item.key))
            for listing in listings
            for item in listing
            if item.key in wanted
        ]


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
