"""Manifests: a selection kept in a file, with the version of each object.

A manifest is text in UTF-8: lines that begin with ``#``, one of which says in JSON where it is
from; then a tab-separated table, whose columns are the fields of :class:`Entry`.
"""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
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
        Of the content, in hexadecimal; None if it was never computed.
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
        If there is no such file, or it is not a manifest; the line is named.
    """
    return parse_manifest(file)[0]


def write_manifest(file: StrPath, entries: Iterable[Entry], bucket: Bucket | None = None) -> None:
    """Write `entries`, sorted by key, as the manifest `file`: all of it or nothing.

    Parameters
    ----------
    file : path
    entries : iterable of Entry
    bucket : Bucket, optional
        Where the objects are, for the first line.

    Raises
    ------
    ManifestError
        If `file` cannot be written, or something else is there than a manifest.
    """
    where = {"bucket": bucket.name, "endpoint_url": bucket.endpoint_url} if bucket else {}
    about = {name: value for name, value in where.items() if value is not None}
    about["date"] = _format_time(datetime.now(UTC).replace(microsecond=0))
    about["laion_fmri"] = __version__
    text = io.StringIO()
    text.write(f"# {json.dumps(about)}\n")
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    writer.writerow(Entry._fields)
    for entry in sorted(entries, key=lambda entry: entry.key):
        time = _format_time(entry.last_modified)
        writer.writerow([entry.key, entry.size, entry.etag, time, entry.sha256 or ""])
    _check_place(Path(file))
    try:
        write_atomically(Path(file), text.getvalue())
    except OSError as error:
        raise ManifestError(
            f"the manifest {file} cannot be written: {error.strerror}; name a file in a folder that"
            " exists and can be written"
        ) from None


def _check_place(file: Path) -> None:
    """Refuse to replace anything but a manifest: a configuration may come from somebody else."""
    if file.suffix != ".tsv":
        raise ManifestError(f"{file} is not named like a manifest; name it such as keys.tsv")
    try:
        is_file, start = file.is_file(), b""
        if is_file:
            with file.open("rb") as found:
                start = found.read(2)
    except OSError:  # the attempt to write will say why
        return
    if os.path.lexists(file) and not (is_file and start in (b"", b"# ")):
        raise ManifestError(f"{file} exists and is not a manifest; name another file for it")


def parse_manifest(file: StrPath) -> tuple[list[Entry], dict[str, Any]]:
    """Return the entries of a manifest as :func:`read_manifest`, and what its first lines say.

    Of what :func:`write_manifest` says, any may be absent: ``bucket``, ``endpoint_url``, ``date``
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
        raise ManifestError(f"{file}, line {line}: this is not text in UTF-8") from None
    except OSError as error:
        raise ManifestError(f"the manifest {file} cannot be read: {error.strerror}") from None
    lines = list(io.StringIO(text, newline=""))
    comments = list(takewhile(lambda line: line.startswith("#"), lines))
    reader = csv.reader(lines[len(comments) :], "excel-tab", strict=True)
    entries: dict[str, Entry] = {}
    places: dict[str, int] = {}
    try:
        header = next(filter(None, reader), [])  # empty lines are passed over
        if missing := ", ".join(name for name in Entry._fields if name not in header):
            what = f"the columns {missing} are missing" if header else "the file is empty"
            raise ValueError(f"{what}; expected with tabs between: {', '.join(Entry._fields)}")
        for row in filter(None, reader):
            entry = _read_entry(header, row)
            if entry.key in entries:
                raise ValueError(f"the key {entry.key!r} is on line {places[entry.key]} as well")
            entries[entry.key] = entry
            places[entry.key] = len(comments) + reader.line_num
        if not entries:
            raise ValueError("no key follows; expected one on each line")
    except (ValueError, csv.Error) as error:
        line = max(1, len(comments) + reader.line_num)
        what = "this is not a table with tabs: " if isinstance(error, csv.Error) else ""
        raise ManifestError(f"{file}, line {line}: {what}{error}") from None
    about: dict[str, Any] = {}
    for comment in comments:
        with contextlib.suppress(ValueError, TypeError, RecursionError):  # a note of the user's
            about |= dict(json.loads(comment.removeprefix("#")))
    return list(entries.values()), about


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
        raise ValueError(f"the size {size!r} is not a number of bytes")
    if not etag:
        raise ValueError(f"the ETag of {key}, which tells its version, is missing")
    sha256 = fields["sha256"].lower()
    if not re.fullmatch("([0-9a-f]{64})?", sha256):
        raise ValueError(f"the SHA-256 {sha256!r} is neither empty nor 64 hexadecimal digits")
    return Entry(key, int(size), etag, _read_time(fields["last_modified"]), sha256 or None)


def _read_time(text: str) -> datetime:
    with contextlib.suppress(ValueError, OverflowError):
        time = datetime.fromisoformat(text)
        if time.tzinfo:
            return time.astimezone(UTC)
    raise ValueError(f"last_modified is {text!r}; expected a time such as 2026-01-31T12:00:00Z")


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
