"""Whether a file is what it should be: its size, and its content as far as that can be known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from stat import S_ISREG
from typing import Literal, NamedTuple, get_args

from laion_fmri.bucket.listing import Bucket
from laion_fmri.check.etags import Hasher, count_parts, list_part_sizes, read_part_count
from laion_fmri.check.inventory import Expected, find_aside
from laion_fmri.folder.obstacles import find_obstacle
from laion_fmri.show.progress import Progress

Outcome = Literal[
    "ok", "repaired", "unverified", "corrupt", "partial", "unreadable", "missing", "extra"
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
#: Seconds between two words on how far the check is.
TICK = 0.25


class Finding(NamedTuple):
    """What a check says of one file; see :func:`laion_fmri.verify.verify` for the columns."""

    key: str
    path: str
    size: int
    outcome: Outcome
    reason: str = ""


class Checker:
    """Says of files whether they are what they should be.

    The ETag of an upload in parts does not tell their size. What is tried, until one explains it:
    the size that has explained others, or else the likeliest; the size that the bucket tells of the
    first part; if it does not, all other usual sizes. A file is corrupt if the size that the bucket
    tells does not explain it, or if none does and one that has explained others would give as many
    parts. With neither, or with parts of different sizes, nothing is known of it.

    Parameters
    ----------
    hasher : Hasher
    bucket : Bucket or None
        The bucket to ask for part sizes; None to use no network.
    data_dir : path
    """

    def __init__(self, hasher: Hasher, bucket: Bucket | None, data_dir: Path) -> None:
        self._hasher = hasher
        self._bucket = bucket
        self._data_dir = data_dir
        self._proven: dict[int, None] = {}  # part sizes that have explained an ETag
        self._unexplained: dict[str, int] = {}  # key -> number of parts

    def check_all(
        self,
        expected: Sequence[Expected],
        n_jobs: int,
        progress: Callable[[Progress], object] | None = None,
    ) -> list[Finding]:
        """Check files side by side; call `progress` four times a second, and at the end."""
        # The largest first, so that no thread is left with it at the end.
        ordered = sorted(expected, key=lambda item: -item.size)
        total = sum(item.size for item in ordered)

        def tell(files: int) -> None:
            if progress:
                # What is missing is not read, and what has to be tried again is read twice.
                done = total if files == len(ordered) else min(self._hasher.bytes, total)
                progress(Progress(files, len(ordered), done, total))

        # These threads wait for the hasher's: enough of them to leave none of those idle.
        pool = ThreadPoolExecutor(2 * n_jobs)
        told = time.monotonic()
        try:
            futures = [pool.submit(self._look, item) for item in ordered]
            for future in futures:
                while not future.done():
                    wait([future], TICK)
                    if time.monotonic() - told > TICK:
                        tell(sum(other.done() for other in futures))
                        told = time.monotonic()
            findings = [self._settle(future.result()) for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        tell(len(ordered))
        return findings

    def check(self, item: Expected) -> Finding:
        """Check one file, with what the others have taught."""
        return self._settle(self._look(item))

    def _look(self, item: Expected) -> Finding:
        try:
            outcome, reason = self._compare(item)
        except OSError as error:
            outcome, reason = "unreadable", f"it cannot be read: {error.strerror}"
        return Finding(item.key, item.path, item.size, outcome, reason)

    def _settle(self, finding: Finding) -> Finding:
        """Judge an ETag that nothing has explained by the part sizes that explain others."""
        parts = self._unexplained.pop(finding.key, None)
        for part_size in self._proven:
            if parts and count_parts(finding.size, part_size) == parts:
                reason = f"parts of {part_size:,} bytes, as of other files, do not give its ETag"
                return finding._replace(outcome="corrupt", reason=reason)
        return finding

    def _compare(self, item: Expected) -> tuple[Outcome, str]:
        try:
            found = os.stat(item.path)  # noqa: PTH116 - once per key, 100,000 times over
        except (FileNotFoundError, NotADirectoryError):
            return "missing", self._explain_missing(item)
        if not S_ISREG(found.st_mode):
            return "missing", self._explain_missing(item)
        if found.st_size != item.size:
            return "partial", f"it has {found.st_size:,} bytes instead of {item.size:,}"
        if item.sha256:
            return _judge("SHA-256", self._hasher.hash_whole(item.path, "sha256"), item.sha256)
        etag, parts = item.etag.lower(), read_part_count(item.etag)
        if parts is None:
            return "unverified", f"the ETag {item.etag!r} is not made of MD5s"
        if not parts:
            return _judge("MD5", self._hasher.hash_whole(item.path, "md5"), etag)
        return self._compare_parts(item, etag, parts)

    def _explain_missing(self, item: Expected) -> str:
        if os.path.lexists(find_aside(self._data_dir, item.key)):
            return "an interrupted repair has set it aside; verify with --repair to go on with it"
        return find_obstacle(item.path) or "it is not here"

    def _compare_parts(self, item: Expected, etag: str, parts: int) -> tuple[Outcome, str]:
        """Compare the file with the `etag` of an upload in `parts`, as the class says."""
        proven = [size for size in list(self._proven) if count_parts(item.size, size) == parts]
        sizes = list(dict.fromkeys([*proven, *list_part_sizes(item.size, parts)]))
        etags = {size: self._hasher.make_etag(item.path, item.size, size) for size in sizes[:1]}
        told = None
        if etag not in etags.values() and parts > 1:
            told = self._bucket and self._bucket.find_part_sizes(item.key, item.size, parts)
            if not told:
                etags |= self._hasher.make_etags(item.path, item.size, sizes[1:])
            elif (parts - 1) * told[0] + told[1] != item.size:
                return "unverified", f"the object has {parts:,} parts of different sizes"
            elif told[0] not in etags:
                etags[told[0]] = self._hasher.make_etag(item.path, item.size, told[0])
        right = next((size for size, found in etags.items() if found == etag), None)
        if right and parts > 1:
            self._proven[right] = None
        if right:
            return "ok", ""
        if told or parts == 1:
            found = etags[told[0] if told else sizes[0]]
            return _judge(f"ETag in {parts:,} parts", found, etag)
        self._unexplained[item.key] = parts
        return "unverified", f"no usual part size explains the ETag of its {parts:,} parts"


def _judge(what: str, found: str, wanted: str) -> tuple[Outcome, str]:
    if found == wanted:
        return "ok", ""
    return "corrupt", f"its {what} is {found} instead of {wanted}"
