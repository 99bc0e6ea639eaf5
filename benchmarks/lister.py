"""ListObjects, versions 1 and 2, of a sorted index of keys; and the small HTTP server around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote_plus
from xml.sax.saxutils import escape

from benchmarks.bucket import FIRST_MTIME, synthetic_objects

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
PAGE = 1000
#: Sorts behind every key that begins with what stands before it.
LAST = "\U0010ffff"


class Index:
    """The sorted keys of one bucket, with size (bytes) and time of change (seconds) of each."""

    def __init__(self, rows: list[tuple[str, int, int]]) -> None:
        rows.sort()
        self.keys = [key for key, _, _ in rows]
        self.sizes = [size for _, size, _ in rows]
        self.times = [changed for _, _, changed in rows]

    @classmethod
    def of_folder(cls, folder: Path) -> Index:
        """Index the files below `folder`."""
        rows = []
        for file in folder.rglob("*"):
            if file.is_file():
                found = file.stat()
                rows.append(
                    (file.relative_to(folder).as_posix(), found.st_size, int(found.st_mtime))
                )
        return cls(rows)

    @classmethod
    def of_nothing(cls, total: int) -> Index:
        """Index `total` keys without files behind them."""
        return cls([(key, size, FIRST_MTIME) for key, size in synthetic_objects(total)])

    def answer(self, bucket: str, query: Mapping[str, str]) -> str:
        """Return the XML of the page that `query` asks for."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        is_v2 = query.get("list-type") == "2"
        token = query.get("continuation-token", "") if is_v2 else ""
        if token:
            after = bytes.fromhex(token).decode()
        else:
            after = query.get("start-after" if is_v2 else "marker", "")
        limit = min(int(query.get("max-keys", PAGE)), PAGE)
        places, folders, last, truncated = self._walk(prefix, delimiter, after, limit)

        encode = quote if query.get("encoding-type") == "url" else escape
        parts = [
            f"{HEAD}<ListBucketResult {NAMESPACE}><Name>{bucket}</Name>",
            f"<Prefix>{encode(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>",
            f"<IsTruncated>{str(truncated).lower()}</IsTruncated>",
        ]
        if delimiter:
            parts.append(f"<Delimiter>{encode(delimiter)}</Delimiter>")
        if encode is quote:
            parts.append("<EncodingType>url</EncodingType>")
        if is_v2:
            parts.append(f"<KeyCount>{len(places) + len(folders)}</KeyCount>")
            if token:
                parts.append(f"<ContinuationToken>{token}</ContinuationToken>")
            if truncated:
                following = last.encode().hex()
                parts.append(f"<NextContinuationToken>{following}</NextContinuationToken>")
        else:
            parts.append(f"<Marker>{encode(query.get('marker', ''))}</Marker>")
            if truncated:
                parts.append(f"<NextMarker>{encode(last)}</NextMarker>")
        for place in places:
            size, changed = self.sizes[place], self.times[place]
            # The ETag is the one that nginx makes: transfers send it back as If-Match.
            parts.append(
                f"<Contents><Key>{encode(self.keys[place])}</Key>"
                f"<LastModified>{format_time(changed)}</LastModified>"
                f"<ETag>&quot;{changed:x}-{size:x}&quot;</ETag><Size>{size}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        for folder in folders:
            parts.append(f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>")
        return "".join([*parts, "</ListBucketResult>"])

    def _walk(
        self, prefix: str, delimiter: str, after: str, limit: int
    ) -> tuple[list[int], list[str], str, bool]:
        """Find one page: places of keys, folders, the last name of it, and whether more follows."""
        place = bisect_left(self.keys, prefix)
        if after:
            # A page can end with a folder: go on behind all that is in it.
            ended_with_folder = delimiter and after.endswith(delimiter)
            behind = bisect_right(self.keys, after + LAST if ended_with_folder else after)
            place = max(place, behind)
        places: list[int] = []
        folders: list[str] = []
        last = ""
        while place < len(self.keys) and self.keys[place].startswith(prefix):
            if len(places) + len(folders) == limit:
                return places, folders, last, True
            key = self.keys[place]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                places.append(place)
                last = key
                place += 1
            else:
                last = key[: cut + len(delimiter)]
                folders.append(last)
                place = bisect_right(self.keys, last + LAST)
        return places, folders, last, False


def format_time(seconds: int) -> str:
    """Return `seconds` since 1970 as S3 writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def make_error(code: str, message: str) -> str:
    """Return the XML of an error."""
    return f"{HEAD}<Error><Code>{code}</Code><Message>{message}</Message></Error>"


class Lister:
    """Answers what nginx cannot: listings, and the wait that is added to every request.

    Parameters
    ----------
    indexes
        The index of each bucket, by name.
    delay
        Seconds that a request for ``/_delay`` takes.
    """

    def __init__(self, indexes: Mapping[str, Index], delay: float) -> None:
        self.indexes = indexes
        self.delay = delay

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        gone = (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError)
        with contextlib.suppress(*gone):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                if target == "/_delay":
                    await asyncio.sleep(self.delay)
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                else:
                    status, text = self._answer(target)
                    body = text.encode()
                    writer.write(
                        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n".encode()
                    )
                    writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
        writer.close()

    def _answer(self, target: str) -> tuple[str, str]:
        path, _, given = target.partition("?")
        pairs = (pair.partition("=") for pair in given.split("&") if pair)
        query = {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}
        bucket = unquote_plus(path).strip("/")
        if bucket not in self.indexes:
            return "404 Not Found", make_error("NoSuchBucket", "The bucket does not exist")
        if "location" in query:
            region = f"<LocationConstraint {NAMESPACE}>us-west-2</LocationConstraint>"
            return "200 OK", HEAD + region
        return "200 OK", self.indexes[bucket].answer(bucket, query)
