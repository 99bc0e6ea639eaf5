"""Manifests: a selection kept in a file, with the version of each object.

A manifest is text in UTF-8: first lines that begin with ``#``, of which one tells in JSON where it
is from; then a table with tabs between its columns, which are the fields of :class:`Entry`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from laion_fmri import __version__
from laion_fmri.base.files import StrPath, write_atomically
from laion_fmri.bucket.listing import Bucket
from laion_fmri.errors import ManifestError
from laion_fmri.folder.obstacles import find_flaw


class Entry(NamedTuple):
    """One object of a manifest.

    Attributes
    ----------
    key : str
    size : int
        Bytes.
    etag : str
        Without quotes.
    last_modified : datetime
        UTC.
    sha256 : str or None
        Of the content, in hexadecimal; None if nobody has taken it.
    """

    key: str
    size: int
    etag: str
    last_modified: datetime
    sha256: str | None = None


def read_manifest(file: StrPath) -> list[Entry]:
    """Return the entries of the manifest `file`, in its order.

    Every key of them names a file inside a data directory.

    Raises
    ------
    ManifestError
        If there is no such file, or it is no manifest; the line is named.
    """
    return parse_manifest(file)[0]


def write_manifest(file: StrPath, entries: Iterable[Entry], bucket: Bucket | None = None) -> None:
    """Write `entries`, sorted by key, as the manifest `file`: all of it or nothing.

    Parameters
    ----------
    bucket
        Where the objects are, to be told in the first line.

    Raises
    ------
    ManifestError
        If `file` cannot be written.
    """
    about = {
        "bucket": bucket.name if bucket else None,
        "endpoint_url": bucket.endpoint_url if bucket else None,
        "date": _format_time(datetime.now(UTC).replace(microsecond=0)),
        "laion_fmri": __version__,
    }
    text = io.StringIO()
    known = {name: value for name, value in about.items() if value is not None}
    text.write(f"# {json.dumps(known)}\n")
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    writer.writerow(Entry._fields)
    for entry in sorted(entries, key=lambda entry: entry.key):
        time = _format_time(entry.last_modified)
        writer.writerow(entry._replace(last_modified=time, sha256=entry.sha256 or ""))  # type: ignore[arg-type]
    file = Path(file)
    try:
        write_atomically(file, text.getvalue())
    except OSError as error:
        raise ManifestError(
            f"the manifest {file} cannot be written: {error.strerror}; name a file in a folder that"
            " exists and can be written"
        ) from None


def parse_manifest(file: StrPath) -> tuple[list[Entry], dict[str, Any]]:
    """Return the entries of a manifest as :func:`read_manifest`, and what its first lines tell.

    Of what :func:`write_manifest` tells, any may be absent: ``bucket``, ``endpoint_url``, ``date``
    and ``laion_fmri``, the version of this package.
    """
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(
            f"there is no manifest {file}; write one with 'laion-fmri download --save-manifest'"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _complain(file, line, "this is no text in UTF-8") from None
    except OSError as error:
        raise ManifestError(f"the manifest {file} cannot be read: {error.strerror}") from None
    lines = list(io.StringIO(text, newline=""))
    comments = list(takewhile(lambda line: line.startswith("#"), lines))
    rows = _read_rows(file, lines[len(comments) :], len(comments))
    number, header = next(rows, (1, []))
    if missing := [name for name in Entry._fields if name not in header]:
        expected = f"expected with tabs between: {', '.join(Entry._fields)}"
        what = f"the columns {', '.join(missing)} are missing" if header else "the file is empty"
        raise _complain(file, number, f"{what}; {expected}")
    entries: dict[str, Entry] = {}
    places: dict[str, int] = {}
    for number, row in rows:
        try:
            entry = _read_entry(header, row)
            if entry.key in places:
                raise ValueError(f"the key {entry.key!r} is on line {places[entry.key]} as well")
        except ValueError as error:
            raise _complain(file, number, str(error)) from None
        places[entry.key] = number
        entries[entry.key] = entry
    if not entries:
        raise _complain(file, number, "no key follows; expected one on each line")
    return list(entries.values()), _read_comments(comments)


def _read_rows(
    file: StrPath, lines: Sequence[str], skipped: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty with the number of its line."""
    reader = csv.reader(lines, "excel-tab", strict=True)
    try:
        for row in reader:
            if row:
                yield skipped + reader.line_num, row
    except csv.Error as error:
        number = skipped + reader.line_num
        raise _complain(file, number, f"this is no table with tabs ({error})") from None


def _read_entry(header: Sequence[str], row: list[str]) -> Entry:
    # An editor may have cut off the tab before a checksum that is not there.
    if not len(header) - 1 <= len(row) <= len(header):
        found = f"{len(row)} fields with tabs between them"
        raise ValueError(f"{found}; expected {len(header)}: {', '.join(header)}")
    fields = dict(zip(header, [*row, ""], strict=False))
    key, size, etag = (fields[name] for name in ("key", "size", "etag"))
    if flaw := find_flaw(key):
        raise ValueError(f"the key {key!r} {flaw}, so it is not fetched; take it out")
    if not re.fullmatch("[0-9]{1,15}", size):
        raise ValueError(f"the size {size!r} is no number of bytes")
    if not etag:
        raise ValueError(f"the ETag of {key} is missing, by which its version is known")
    time = _read_time(fields["last_modified"])
    sha256 = fields["sha256"].lower()
    if not re.fullmatch("([0-9a-f]{64})?", sha256):
        raise ValueError(f"the SHA-256 {sha256!r} is not empty, and has no 64 hexadecimal digits")
    return Entry(key, int(size), etag, time, sha256 or None)


def _read_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"last_modified is {text!r}; expected a time such as 2026-01-31T12:00:00Z")


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_comments(lines: Iterable[str]) -> dict[str, Any]:
    about: dict[str, Any] = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            content = json.loads(line.removeprefix("#"))
            about |= content if isinstance(content, dict) else {}
    return about


def _complain(file: StrPath, line: int, what: str) -> ManifestError:
    return ManifestError(f"{file}, line {line}: {what}")
