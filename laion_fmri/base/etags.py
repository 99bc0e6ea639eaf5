"""What an ETag says of a file's content, and the hashing that it takes. No network here.

The ETag of an object that was uploaded at once is the MD5 of its content, as 32 hexadecimal digits.
That of one that was uploaded in N parts is the MD5 of the N binary MD5s of its parts, and ``-N``:
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html. The size of the parts is not in it.
An object that is encrypted with a key of its own (SSE-KMS, SSE-C) has an ETag that says nothing of
its content, but nobody can read such an object anonymously.
"""

import errno
import hashlib
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from io import FileIO
from itertools import chain
from stat import S_ISREG
from typing import Any, Self

from laion_fmri.base.files import StrPath

MIB = 2**20
#: Part sizes that programs choose by themselves, in bytes, the most usual first.
USUAL_PART_SIZES = (
    8 * MIB,  # AWS CLI 1 and 2 and boto3 (s3transfer), newer AWS SDKs
    16 * MIB,  # minio-go; s3transfer doubles its 8 MiB where they would be over 10,000 parts
    5 * MIB,  # rclone, other AWS SDKs: the least that S3 takes
    17_179_870,  # the console of AWS, see https://stackoverflow.com/a/43819225
    15 * MIB,  # s3cmd
    50 * MIB,  # s5cmd
    64 * MIB,  # older minio-go
    128 * MIB,  # Thanos, GitLab
    2**30,  # git-annex as OpenNeuro and DataLad set it up (partsize=1GiB)
    *(n * MIB for n in (10, 20, 25, 32, 40, 100, 200, 250, 256, 500, 512, 2048, 5120)),
    *(n * 10**6 for n in (8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 250, 256, 500, 512, 1000)),
)
#: Bytes that are read at a time. From 64 KiB to 16 MiB it makes no difference to warm files
#: (measured: 3 %); the disk of a cluster likes them large.
BUFFER = 4 * MIB
#: Bytes of one file that one thread hashes in a row, at least.
SPAN = 64 * MIB


def read_part_count(etag: str) -> int | None:
    """Return N of an ETag that ends in ``-N``, 0 of one that is a plain MD5, else None."""
    found = re.fullmatch("[0-9a-f]{32}(?:-([1-9][0-9]{0,4}))?", etag, re.IGNORECASE)
    return int(found[1] or 0) if found else None


def count_parts(size: int, part_size: int) -> int:
    """Return how many parts of `part_size` bytes an object of `size` bytes has: at least one."""
    return max(1, -(-size // part_size))


def list_part_sizes(size: int, parts: int) -> list[int]:
    """Return the part sizes that may have cut `size` bytes into `parts`, the likeliest first.

    These are the usual ones, the smallest whole number of MiB, which rclone takes for what its
    usual size would cut into over 10,000 parts, and parts that are all of one size. None if no
    part size gives this number.
    """
    if parts == 1:
        return [max(1, size)]
    least, most = -(-size // parts), -(-size // (parts - 1)) - 1
    whole = -(-least // MIB) * MIB
    found = [part for part in (*USUAL_PART_SIZES, whole, least) if max(1, least) <= part <= most]
    return list(dict.fromkeys(found))


class MultipartMD5:
    """The MD5s of the parts of content that comes in pieces, for parts of `part_size` bytes."""

    def __init__(self, part_size: int) -> None:
        self.part_size = part_size
        self._done: list[bytes] = []
        self._md5, self._left = _md5(), part_size

    def update(self, data: memoryview) -> None:
        """Add the next piece of the content."""
        while data:
            piece = data[: self._left]
            self._md5.update(piece)
            self._left -= len(piece)
            data = data[len(piece) :]
            if not self._left:
                self._done.append(self._md5.digest())
                self._md5, self._left = _md5(), self.part_size

    def digests(self) -> list[bytes]:
        """Return the MD5 of each part so far; content without a byte has one empty part."""
        is_begun = self._left < self.part_size or not self._done
        return [*self._done, self._md5.digest()] if is_begun else self._done


def join_etag(digests: Sequence[bytes]) -> str:
    """Return the ETag of an object from the binary MD5s of its parts."""
    return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"


class Hasher:
    """Hashes files in `n_jobs` threads, the parts of one file side by side.

    To be used in a ``with`` statement: whatever ends it, such as an interrupt, ends the threads at
    their next buffer. Its methods may be called from any number of threads, and raise OSError if
    a file cannot be read.
    """

    def __init__(self, n_jobs: int) -> None:
        self.bytes = 0  # hashed so far
        self._pool = ThreadPoolExecutor(n_jobs)
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def hash_whole(self, path: StrPath, algorithm: str) -> str:
        """Return the hash of the file at `path`, in hexadecimal; `algorithm` as in hashlib."""
        return self._pool.submit(self._hash_whole, path, algorithm).result()

    def make_etag(self, path: StrPath, size: int, part_size: int) -> str:
        """Return the ETag of the file of `size` bytes, had it been uploaded in such parts."""
        step = max(1, SPAN // part_size) * part_size
        futures = [
            self._pool.submit(self._hash_parts, path, start, min(step, size - start), [part_size])
            for start in range(0, max(1, size), step)
        ]
        return join_etag(list(chain.from_iterable(future.result()[0] for future in futures)))

    def make_etags(self, path: StrPath, size: int, part_sizes: Collection[int]) -> dict[int, str]:
        """Return the ETag for each of `part_sizes`, of which the file is read but once."""
        if not part_sizes:
            return {}
        future = self._pool.submit(self._hash_parts, path, 0, size, part_sizes)
        return dict(zip(part_sizes, map(join_etag, future.result()), strict=True))

    def _hash_whole(self, path: StrPath, algorithm: str) -> str:
        state = hashlib.new(algorithm, usedforsecurity=False)
        with open_regular(path) as file:
            for data in self._read(file):
                state.update(data)
        return state.hexdigest()

    def _hash_parts(
        self, path: StrPath, start: int, length: int, part_sizes: Collection[int]
    ) -> list[list[bytes]]:
        states = [MultipartMD5(part_size) for part_size in part_sizes]
        with open_regular(path) as file:
            file.seek(start)
            for data in self._read(file, length):
                for state in states:
                    state.update(data)
        return [state.digests() for state in states]

    def _read(self, file: FileIO, length: int | None = None) -> Iterator[memoryview]:
        """Yield the next `length` bytes of `file`, or all, each time in the same buffer."""
        buffer, left = memoryview(bytearray(BUFFER)), length
        while count := file.readinto(buffer[:left]):
            with self._lock:
                self.bytes += count
            if self._stopped.is_set():
                raise CancelledError
            yield buffer[:count]
            left = None if left is None else left - count


def open_regular(path: StrPath) -> FileIO:
    """Open a file to read; raise OSError for what is not one, such as a FIFO, without waiting."""
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    if S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is not a file", os.fspath(path))


def hash_files(paths: Mapping[str, str]) -> dict[str, str | None]:
    """Return the SHA-256 of the files `paths`, by key, or None for one that cannot be read."""

    def hash_one(path: str) -> str | None:
        try:
            return hasher.hash_whole(path, "sha256")
        except OSError:
            return None

    n_jobs = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_jobs) as pool, Hasher(n_jobs) as hasher:
        return dict(zip(paths, pool.map(hash_one, paths.values()), strict=True))


def _md5(data: bytes = b"") -> Any:
    # Where only approved algorithms may guard secrets (FIPS), this one still finds broken files.
    return hashlib.md5(data, usedforsecurity=False)
