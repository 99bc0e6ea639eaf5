"""Whether a file is what it should be: its size, and its content as far as that can be known."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from stat import S_ISREG
from typing import Literal, NamedTuple, get_args

from laion_fmri.base.etags import Hasher, count_parts, list_part_sizes, read_part_count
from laion_fmri.bucket.listing import Bucket
from laion_fmri.check.inventory import find_aside
from laion_fmri.folder.obstacles import Obstacles
from laion_fmri.run.monitor import Progress
from laion_fmri.selection.table import Row

Outcome = Literal[
    "ok", "repaired", "unverified", "corrupt", "partial", "unreadable", "missing", "extra"
]
#: Why a file is missing, if nothing is wrong but that.
NOT_HERE = "it is not here"
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

    Without a `bucket` the network is not used. Where a manifest has the `sha256` of a key, the ETag
    does not count.
    """

    def __init__(
        self, hasher: Hasher, bucket: Bucket | None, sha256: Mapping[str, str], data_dir: Path
    ) -> None:
        self._hasher = hasher
        self._sha256 = sha256
        self._bucket = bucket
        self._data_dir = data_dir
        self._proven: dict[int, None] = {}  # part sizes that have explained an ETag
        self._unexplained: dict[str, int] = {}  # key -> number of parts

    def check_all(
        self,
        rows: Sequence[Row],
        n_jobs: int,
        progress: Callable[[Progress], object] | None = None,
    ) -> list[Finding]:
        """Check files side by side; call `progress` four times a second, and at the end."""
        # The largest first, so that no thread is left with it at the end.
        ordered = sorted(rows, key=lambda row: -row.size)
        total = sum(row.size for row in ordered)

        def tell(files: int) -> None:
            if progress:
                # What is missing is not read, and what has to be tried again is read twice.
                done = total if files == len(ordered) else min(self._hasher.bytes, total)
                progress(Progress(files, len(ordered), done, total))

        # These threads wait for the hasher's: enough of them to leave none of those idle.
        pool = ThreadPoolExecutor(2 * n_jobs)
        told = time.monotonic()
        try:
            futures = [pool.submit(self._look, row) for row in ordered]
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

    def check(self, row: Row) -> Finding:
        """Check one file, with what the others have taught."""
        return self._settle(self._look(row))

    def _look(self, row: Row) -> Finding:
        try:
            outcome, reason = self._compare(row)
        except OSError as error:
            outcome, reason = "unreadable", f"it cannot be read: {error.strerror}"
        return Finding(row.key, row.path, row.size, outcome, reason)

    def _settle(self, finding: Finding) -> Finding:
        """Judge an ETag that nothing has explained by the part sizes that explain others."""
        parts = self._unexplained.pop(finding.key, None)
        for part_size in self._proven:
            if parts and count_parts(finding.size, part_size) == parts:
                reason = f"parts of {part_size:,} bytes, as of other files, do not give its ETag"
                return finding._replace(outcome="corrupt", reason=reason)
        return finding

    def _compare(self, row: Row) -> tuple[Outcome, str]:
        try:
            found = os.stat(row.path)  # noqa: PTH116 - once per key, 100,000 times over
            is_file = S_ISREG(found.st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_file = False
        if not is_file:
            return "missing", self._explain_missing(row)
        if found.st_size != row.size:
            return "partial", f"it has {found.st_size:,} bytes instead of {row.size:,}"
        if sha256 := self._sha256.get(row.key):
            return _judge("SHA-256", self._hasher.hash_whole(row.path, "sha256"), sha256)
        etag = row.listed.etag
        parts = read_part_count(etag)
        if parts is None:
            return "unverified", f"the ETag {etag!r} is not made of MD5s"
        etag = etag.lower()
        if not parts:
            return _judge("MD5", self._hasher.hash_whole(row.path, "md5"), etag)
        return self._compare_parts(row, etag, parts)

    def _explain_missing(self, row: Row) -> str:
        if os.path.lexists(find_aside(self._data_dir, row.key)):
            return "an interrupted repair has set it aside; verify with --repair to go on with it"
        return Obstacles().find(row.path) or NOT_HERE

    def _compare_parts(self, row: Row, etag: str, parts: int) -> tuple[Outcome, str]:
        """Compare the file with the `etag` of an upload in `parts`, as the class says."""
        proven = [size for size in list(self._proven) if count_parts(row.size, size) == parts]
        sizes = list(dict.fromkeys([*proven, *list_part_sizes(row.size, parts)]))
        etags = {size: self._hasher.make_etag(row.path, row.size, size) for size in sizes[:1]}
        told = None
        if etag not in etags.values() and parts > 1:
            told = self._bucket and self._bucket.find_part_sizes(row.key, row.size, parts)
            if not told:
                etags |= self._hasher.make_etags(row.path, row.size, sizes[1:])
            elif (parts - 1) * told[0] + told[1] != row.size:
                return "unverified", f"the object has {parts:,} parts of different sizes"
            elif told[0] not in etags:
                etags[told[0]] = self._hasher.make_etag(row.path, row.size, told[0])
        right = next((size for size, found in etags.items() if found == etag), None)
        if right and parts > 1:
            self._proven[right] = None
        if right:
            return "ok", ""
        if told or parts == 1:
            found = etags[told[0] if told else sizes[0]]
            return _judge(f"ETag in {parts:,} parts", found, etag)
        self._unexplained[row.key] = parts
        return "unverified", f"no usual part size explains the ETag of its {parts:,} parts"


def _judge(what: str, found: str, wanted: str) -> tuple[Outcome, str]:
    if found == wanted:
        return "ok", ""
    return "corrupt", f"its {what} is {found} instead of {wanted}"
