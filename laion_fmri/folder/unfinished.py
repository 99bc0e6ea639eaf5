"""What has arrived of objects that are not whole yet, until the rest of them has.

Each is a sparse file with holes where nothing has arrived, named after its key and ETag. Whoever
shares the data directory can put anything there, so it is used only as far as :func:`adopt` says,
and the ETag of the whole is compared in the end. Only the standard library.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from laion_fmri.base.files import StrPath
from laion_fmri.base.text import format_size
from laion_fmri.folder.guard import (
    UNFINISHED,
    is_own,
    list_names,
    open_file,
    open_new,
    open_state,
)
from laion_fmri.folder.staging import sweep_staging

MIB = 2**20
#: Bytes of an object from which on its parts are kept; what is smaller starts over.
LEAST = 4 * MIB
#: Bytes at the end of each run of data that are fetched again, at least; a whole block of the file
#: system where that is more: the last one may be half written.
MARGIN = 2**16

#: Begin and end of some bytes of a file.
Span = tuple[int, int]


class Version(NamedTuple):
    """An object as it was listed: what is kept of another version of it is of no use."""

    key: str
    etag: str
    size: int

    @property
    def can_be_kept(self) -> bool:
        """Whether its parts are kept: without an ETag, nobody could ask for the rest of it."""
        return bool(self.etag) and self.size >= LEAST

    @property
    def name(self) -> str:
        """What the names of its files begin with; those of other versions share the first part."""
        return f"{digest_key(self.key)}-{digest_key(f'{self.size} {self.etag}')}-"


def digest_key(key: str) -> str:
    """Return what the names of the files of `key` begin with: a key can be longer than a name."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def keep(data_dir: StrPath, version: Version, staging: int, staged: str) -> bool:
    """Link to the file `staged` in the open folder `staging`, which will be `version`.

    Whoever removes that file, such as aws after an error, leaves this link. Returns whether it is
    kept: without hard links, it is not.
    """
    with contextlib.suppress(OSError), _open(data_dir, make=True) as folder:
        name = version.name + os.urandom(8).hex()
        os.link(staged, name, src_dir_fd=staging, dst_dir_fd=folder, follow_symlinks=False)
        return True
    return False


class Adopted(NamedTuple):
    """A file to go on with, open to be read and written."""

    file: int
    is_own: bool  # whether all that is in it was written by this user's transfers


def adopt(
    data_dir: StrPath, version: Version, staging: int, staged: str, *, only_own: bool
) -> Adopted | None:
    """Go on with what is kept of `version`, as the file `staged` in the open folder `staging`.

    None if nothing of use is kept. A file of this user's, with no other name, is linked, so that
    all that is added is kept at once. Any other, such as another user's unless `only_own`, is
    copied, since its owner could change it later. Other versions are dropped.
    """
    with contextlib.suppress(OSError), _open(data_dir, make=False) as folder:
        _drop(folder, digest_key(version.key), but=version.name)
        best = _find_best(folder, version, only_own=only_own)
        if best is not None and tells_holes(staging):
            if _is_shared(folder, best.name):  # by a transfer that was killed, perhaps
                sweep_staging(data_dir)
            file = _take(data_dir, version, (folder, best.name), (staging, staged))
            return None if file is None else Adopted(file, best.is_own)
    return None


def _take(
    data_dir: StrPath, version: Version, kept: tuple[int, str], target: tuple[int, str]
) -> int | None:
    (folder, name), (staging, staged) = kept, target
    file = open_file(folder, name)
    try:
        if is_own(file, folder) and not _is_shared(folder, name):
            os.link(name, staged, src_dir_fd=folder, dst_dir_fd=staging, follow_symlinks=False)
            own = open_file(staging, staged, os.O_RDWR)
            if os.path.samestat(os.fstat(own), os.fstat(file)):
                return own
            os.close(own)
            os.unlink(staged, dir_fd=staging)
            return None
        own = open_new(staging, staged, os.O_RDWR | os.O_CREAT, 0o644)
        for start, end in find_data(file, version.size):
            _copy(file, own, start, end)
        keep(data_dir, version, staging, staged)
        return own
    finally:
        os.close(file)


def _copy(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source, min(4 * MIB, end - start), start)
        if not data:
            raise OSError(errno.EIO, "it is shorter than it was")
        write_all(target, data, start)
        start += len(data)


def write_all(file: int, data: bytes | memoryview, place: int) -> None:
    """Write all of `data` to an open file, from the byte `place` on."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(file, rest, place)
        rest, place = rest[count:], place + count


def _is_shared(folder: int, name: str) -> bool:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_nlink > 1


def find_data(file: int, size: int) -> list[Span]:
    """Return where an open sparse file of an object of `size` bytes has data, without its margins.

    Ends in an OSError where the file system does not tell.
    """
    status = os.fstat(file)
    margin = max(MARGIN, status.st_blksize)
    found, place, end = [], 0, min(size, status.st_size)
    while place < end:
        try:
            start = os.lseek(file, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data beyond
                break
            raise
        place = min(end, os.lseek(file, start, os.SEEK_HOLE))
        if place - margin > start:
            found.append((start, place - margin))
    return found


def find_holes(data: Iterable[Span], size: int) -> list[Span]:
    """Return what is missing of `size` bytes beside some spans of `data`, which are sorted."""
    found, place = [], 0
    for start, end in data:
        if start > place:
            found.append((place, start))
        place = max(place, end)
    return [*found, (place, size)] if place < size else found


def tells_holes(folder: int) -> bool:
    """Whether the file system of an open folder tells holes from data. Tries it out."""
    name = f"holes-{os.urandom(8).hex()}"
    probe = open_new(folder, name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.unlink(name, dir_fd=folder)
        os.ftruncate(probe, 8 * MIB)
        os.pwrite(probe, b"x", 4 * MIB)
        return 3 * MIB < os.lseek(probe, 0, os.SEEK_DATA) <= 4 * MIB
    except OSError:
        return False
    finally:
        os.close(probe)


def measure(data_dir: StrPath, versions: Iterable[Version]) -> dict[str, int]:
    """Return how many bytes of each of `versions` are kept, by key, where any are."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), _open(data_dir, make=False) as folder:
        begun = {name.partition("-")[0] for name in list_names(folder)}
        for version in versions if begun else ():
            if version.can_be_kept and digest_key(version.key) in begun:
                best = _find_best(folder, version, only_own=False)
                if best is not None:
                    found[version.key] = best.bytes
    return found


def count_bytes(
    data_dir: StrPath, keys: Iterable[str], *, only_own: bool = False
) -> dict[str, int]:
    """Return the bytes on disk of what is kept of any version of `keys`, where anything is."""
    here: Counter[str] = Counter()
    with contextlib.suppress(OSError), _open(data_dir, make=False) as folder:
        for name in list_names(folder):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and (found.st_uid == os.geteuid() or not only_own):
                here[name.partition("-")[0]] += found.st_blocks * 512
    return {key: here[digest] for key in keys if here and (digest := digest_key(key)) in here}


def explain(data_dir: StrPath, keys: Iterable[str]) -> str:
    """Say how much is kept of unfinished files, such as ``1.1 GB of 3 unfinished files are kept``.

    Empty if nothing is.
    """
    found = count_bytes(data_dir, keys)
    if not found:
        return ""
    files, verb = ("files", "are") if len(found) > 1 else ("file", "is")
    return f"{format_size(sum(found.values()))} of {len(found):,} unfinished {files} {verb} kept"


class _Kept(NamedTuple):
    """A file that is kept, and its bytes that are of use."""

    is_own: bool
    bytes: int
    name: str


def _find_best(folder: int, version: Version, *, only_own: bool) -> _Kept | None:
    """Return the file of `version` to go on with; one of this user's, if there is any."""
    found = (kept for kept in _list_kept(folder, version) if kept.is_own or not only_own)
    return max(found, default=None)


def _list_kept(folder: int, version: Version) -> Iterator[_Kept]:
    for name in list_names(folder):
        if name.startswith(version.name):
            with contextlib.suppress(OSError):
                file = open_file(folder, name)
                try:
                    count = sum(end - start for start, end in find_data(file, version.size))
                    if count:
                        yield _Kept(is_own(file, folder), count, name)
                finally:
                    os.close(file)


def drop(data_dir: StrPath, keys: Iterable[str]) -> None:
    """Remove what is kept of any version of `keys`."""
    with contextlib.suppress(OSError), _open(data_dir, make=False) as folder:
        for key in keys:
            _drop(folder, digest_key(key))


def _drop(folder: int, start: str, but: str = " ") -> None:
    for name in list_names(folder):
        if name.startswith(start) and not name.startswith(but):
            with contextlib.suppress(OSError):  # another user's, in a folder with a sticky bit
                os.unlink(name, dir_fd=folder)


def sweep(data_dir: StrPath) -> None:
    """Remove what has arrived, which a killed transfer had no time for: it has another link.

    To be called while no run is alive, and no staging folder has a link.
    """
    with contextlib.suppress(OSError), _open(data_dir, make=False) as folder:
        for name in list_names(folder):
            with contextlib.suppress(OSError):
                if _is_shared(folder, name):
                    os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _open(data_dir: StrPath, *, make: bool) -> Iterator[int]:
    with open_state(data_dir, make=make) as state, state.enter(UNFINISHED, make=make) as folder:
        yield folder
