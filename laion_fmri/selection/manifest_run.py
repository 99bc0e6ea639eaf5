"""Which versions a run asks for: those of the bucket, or of a manifest that it is held against."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri import dataset
from laion_fmri.bucket.listing import Bucket, ListedObject, pause_collector
from laion_fmri.config import StrPath
from laion_fmri.errors import (
    ConfigError,
    LicenseNotAcceptedError,
    SelectionError,
    SubjectNotFoundError,
    list_some,
)
from laion_fmri.folder.licences import has_accepted_stimuli
from laion_fmri.selection.bids import parse_key
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.manifest import Entry, parse_manifest, write_manifest
from laion_fmri.selection.table import Listed, Row, Table, choose_rows, find_keys

if TYPE_CHECKING:
    from laion_fmri.run.run import Report

#: Bytes of a file that are read at a time to be hashed.
CHUNK = 2**20


def read_paths(config: Mapping[str, Any], *, checksums: bool = False) -> dict[str, str]:
    """Return the paths of the manifests that `config` names, by key: those that are set.

    Raises
    ------
    ConfigError
        If one is no path, or `checksums` are asked for and there is nowhere to write them.
    TypeError
        If `checksums` is neither True nor False.
    """
    if not isinstance(checksums, bool):
        raise TypeError(f"checksums={checksums!r} is neither True nor False")
    paths = {}
    for name in ("manifest", "save_manifest"):
        value = config.get(name)
        if value is None:
            continue
        path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
        if not isinstance(path, str) or not path or "\0" in path:
            raise ConfigError(f"{name}={value!r} is no path of a file; write one, such as keys.tsv")
        paths[name] = str(Path(path).expanduser())
    if checksums and "save_manifest" not in paths:
        raise ConfigError("checksums are written to a manifest; name one with save_manifest")
    return paths


@pause_collector()
def find_table(
    config: Mapping[str, Any], selection: Selection, bucket: Bucket, data_dir: StrPath
) -> tuple[Table, dict[str, str]]:
    """Find the key table of a run, by its manifest if `config` has one; keep it, if asked to.

    Of a manifest, the filters of `selection` let pass what they would of the bucket; its stimuli
    and its files at the root are all there. What the bucket has changed since is among the
    obstacles of the table, unless its file is complete here.

    Returns
    -------
    Table
    dict of str to str
        The SHA-256 that the manifest has of an object, by key.

    Raises
    ------
    LaionFmriError, TypeError
        As :func:`laion_fmri.keys.key_table`; and if a manifest cannot be read or written, or has
        stimuli, whose licence is not accepted.
    """
    paths = read_paths(config)
    known: dict[str, str] = {}
    if "manifest" in paths:
        table, known = _follow(paths["manifest"], selection, bucket, data_dir)
    else:
        table = find_keys(selection, bucket, data_dir)
    if "save_manifest" in paths:
        _save(paths["save_manifest"], table.rows, known, bucket)
    return table, known


def compare_checksums(
    report: Report,
    known: Mapping[str, str],
    config: Mapping[str, Any],
    bucket: Bucket,
    *,
    checksums: bool,
) -> None:
    """Compare what was fetched with the SHA-256 that is `known`; what differs has failed.

    With `checksums`, the manifest that is kept gets those of all complete files. One that was known
    before stays, since it is that of the version that was asked for.
    """
    paths = read_paths(config)
    wanted = {
        row.key: row.path
        for row, outcome in zip(report.rows, report.outcomes, strict=True)
        if (outcome == "fetched" if row.key in known else checksums and row.status == "complete")
    }
    found = hash_files(wanted)
    mismatches = explain_mismatches(found, known, paths.get("manifest", ""))
    for place, row in enumerate(report.rows):
        if row.key in mismatches:
            report.outcomes[place], report.reasons[place] = "failed", mismatches[row.key]
    if checksums:
        taken = {key: digest for key, digest in found.items() if digest}
        _save(paths["save_manifest"], report.rows, {**taken, **known}, bucket)


def explain_mismatches(
    found: Mapping[str, str | None], known: Mapping[str, str], manifest: str
) -> dict[str, str]:
    """Say, by key, which SHA-256 that was `found` of a file is not the one that is `known`."""
    return {
        key: f"the SHA-256 of what arrived is {digest or 'not to be had, since it cannot be read'},"
        f" and in the manifest {known[key]}; it is left as it is: run 'laion-fmri verify "
        f"--manifest {manifest} --repair'"
        for key, digest in found.items()
        if known.get(key, digest) != digest
    }


def hash_files(paths: Mapping[str, str]) -> dict[str, str | None]:
    """Return the SHA-256 of the files `paths`, by key, or None for one that cannot be read."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        try:
            digests = list(pool.map(lambda path: _hash_file(path, stop), paths.values()))
        finally:  # an interrupt is not to wait for the rest of a large file
            stop.set()
    return dict(zip(paths, digests, strict=True))


def _hash_file(path: str, stop: threading.Event) -> str | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while (chunk := file.read(CHUNK)) and not stop.is_set():
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _save(file: str, rows: Iterable[Row], known: Mapping[str, str], bucket: Bucket) -> None:
    entries = (
        Entry(row.key, row.size, row.etag, row.last_modified, known.get(row.key)) for row in rows
    )
    write_manifest(file, entries, bucket)


def _follow(
    file: str, selection: Selection, bucket: Bucket, data_dir: StrPath
) -> tuple[Table, dict[str, str]]:
    entries, about = parse_manifest(file)
    table = choose_rows(sort_entries(file, entries, selection), selection, data_dir)
    if not table.rows:
        raise SelectionError("; ".join([f"{file} has nothing that may be had", *table.notes]))
    stimuli = sum(row.key.startswith(dataset.STIMULI_PREFIX) for row in table.rows)
    if stimuli and not has_accepted_stimuli(data_dir):
        raise LicenseNotAcceptedError(
            f"{file} names {stimuli:,} stimuli. {dataset.STIMULI_LICENSE} - accept with "
            "'laion-fmri license --accept-stimuli' or accept_licenses(include_stimuli=True), or "
            f"take the keys below {dataset.STIMULI_PREFIX} out of the manifest"
        )
    if selection.include_stimuli and not stimuli:
        table.warnings.append(f"{file} names no stimuli, so include_stimuli does not bring any")
    if about.get("bucket") not in (None, bucket.name):
        table.warnings.append(
            f"{file} was written for the bucket {about['bucket']}, and is held against {bucket}"
        )
    _compare_with_bucket(table, bucket)
    return table, {entry.key: entry.sha256 for entry in entries if entry.sha256}


def sort_entries(file: str, entries: Iterable[Entry], selection: Selection) -> Listed:
    """Return the entries as a listing of the selected subjects, and of all that is of none."""
    brain: dict[str, list[ListedObject]] = {}
    others = []
    for entry in entries:
        item = ListedObject(*entry[:4])
        subject = parse_key(entry.key).sub
        if subject is None or entry.key.startswith(dataset.STIMULI_PREFIX):
            others.append(item)
        else:
            brain.setdefault(subject, []).append(item)
    subjects = sorted(brain) if selection.subjects is None else list(selection.subjects)
    for subject in subjects:
        if subject not in brain:
            there_is = list_some([f"sub-{label}" for label in sorted(brain)]) or "none at all"
            raise SubjectNotFoundError(
                f"subject 'sub-{subject}' is not in {file}; there is: {there_is}"
            )
    return Listed(subjects, [], [item for s in subjects for item in brain[s]], others)


def _compare_with_bucket(table: Table, bucket: Bucket) -> None:
    """List the trees of the rows of `table`, and note what has changed there."""
    table.trees = _name_trees([row.key for row in table.rows])
    prefixes = [(tree, True) for tree in table.trees]
    if any("/" not in row.key for row in table.rows):
        prefixes.append(("", False))
    with ThreadPoolExecutor(max_workers=8) as pool:
        listings = list(pool.map(lambda p: list(bucket.list_objects(p[0], deep=p[1])), prefixes))
    now = {item.key: item for listing in listings for item in listing}
    table.listed = {item.key: item.size for item in now.values()}
    changes = {row.key: _explain_change(row, now.get(row.key)) for row in table.rows}
    # The same version may have been uploaded again; its time tells a transfer that it is this one.
    table.rows = [
        row if changes[row.key] else row._replace(last_modified=now[row.key].last_modified)
        for row in table.rows
    ]
    here = [row.key for row in table.rows if row.status == "complete" and changes[row.key]]
    if here:
        table.warnings.append(
            f"{len(here):,} files are here in the manifest's size and stay, but have changed in "
            f"the bucket since it was written: {list_some(here)}"
        )
    table.obstacles.update(
        {row.key: why for row in table.incomplete() if (why := changes[row.key])}
    )


def _name_trees(keys: Iterable[str]) -> list[str]:
    """Return the folders to list for `keys`: down to that of the subject, or else the first."""
    trees = set()
    for key in keys:
        folders = key.split("/")[:-1]
        above = list(takewhile(lambda name: not name.startswith("sub-"), folders))
        depth = len(above) + 1 if len(above) < len(folders) else 1
        trees.add("".join(f"{folder}/" for folder in folders[:depth]))
    outer: list[str] = []
    for tree in sorted(trees - {""}):
        if not (outer and tree.startswith(outer[-1])):
            outer.append(tree)
    return outer


def _explain_change(row: Row, now: ListedObject | None) -> str | None:
    if now is None:
        return "is gone from the bucket since the manifest was written"
    if (now.size, now.etag) == (row.size, row.etag):
        return None
    size = f"{row.size:,} bytes, now {now.size:,}; " if now.size != row.size else ""
    return (
        "has changed in the bucket since the manifest was written: "
        f"{size}ETag {row.etag}, now {now.etag}; without the manifest, the new version is fetched"
    )
