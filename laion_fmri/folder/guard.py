"""Shared folders, in which nothing is trusted: everything is named within open folders.

Whoever may write there can swap a folder for a link at any moment, or put a FIFO where a file
belongs. So each folder is opened by its name in the one above, and no link is followed; what is
made, moved or removed is named within an open folder. Only the standard library.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from laion_fmri.base.files import StrPath
from laion_fmri.config import STATE_DIR
from laion_fmri.errors import DataDirError

#: errno values of a link, or a file, where a folder is opened.
NO_FOLDER = (errno.ELOOP, errno.ENOTDIR)
#: How a folder is opened: one that the user has chosen, which may be a link, and any other.
CHOSEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FOLDER = CHOSEN | os.O_NOFOLLOW
#: How a file is opened: not through a link, and without waiting for the other end of a FIFO.
FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: The folders and files of our state; an old one also has runs, logs and a stamp, which stay.
PARTIAL, KEPT, ALIVE, CORRUPT, PARTS = FOLDERS = "partial", "kept", "alive", "corrupt", "parts"
CLAIMS, REPAIR_LOCK = FILES = ("claims", "repair.lock")

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFREG: "a file",
}


@contextlib.contextmanager
def walk(top: int, folder: str, *, make: bool = False) -> Iterator[int]:
    """Open `folder` below the open folder `top`, following no link; with `make`, make it."""
    here = os.dup(top)
    try:
        for name in filter(None, folder.split("/")):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=here)
            below = os.open(name, FOLDER, dir_fd=here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


class Mirror:
    """An open data directory: a file of a key is reached in it, or not at all.

    A folder in it may be a link to another folder in it, but none that leads out is followed.
    """

    def __init__(self, data_dir: StrPath) -> None:
        self.path = os.fspath(data_dir)
        self.top = os.open(self.path, CHOSEN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.top)

    @contextlib.contextmanager
    def folder_of(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of the file of `key`; yield it and the name of the file in it.

        Raises OSError, with one of NO_FOLDER for a link that leads out.
        """
        folder, _, name = key.rpartition("/")
        with contextlib.ExitStack() as stack:
            try:
                here = stack.enter_context(walk(self.top, folder, make=make))
            except OSError as error:
                if error.errno not in NO_FOLDER or (inside := self._resolve(folder)) is None:
                    raise
                here = stack.enter_context(walk(self.top, inside, make=make))
            yield here, name

    def _resolve(self, folder: str) -> str | None:
        """Return what `folder`, with links on its way, is below the data directory, if it is."""
        top, real = os.path.realpath(self.path), os.path.realpath(f"{self.path}/{folder}")
        return real.removeprefix(f"{top}/") if real.startswith(f"{top}/") else None


class StateFolder:
    """Our own folder in a data directory, open and checked: see :func:`open_state`."""

    def __init__(self, folder: int, path: str) -> None:
        self.folder = folder
        self.path = path

    @contextlib.contextmanager
    def enter(self, name: str, *, make: bool = True) -> Iterator[int]:
        """Open the folder `name` in it, made if it is missing, unless `make` is off.

        Raises DataDirError if something else is in its place.
        """
        found = _enter(self.folder, name, self.path, like=self.folder if make else None)
        try:
            yield found
        finally:
            os.close(found)

    def open(self, name: str) -> int:
        """Open the file `name` in it to read and write, made if it is missing; never emptied.

        All who may write to the folder may write to it, and nobody else may open it.
        """
        shared = stat.S_IMODE(os.fstat(self.folder).st_mode) & 0o022
        mode = 0o600 | shared | shared << 1
        found = open_file(self.folder, name, os.O_RDWR | os.O_CREAT, mode)
        status = os.fstat(found)
        # Of an earlier version, which let everybody open it.
        if status.st_mode & 0o777 & ~mode and status.st_nlink == 1:
            with contextlib.suppress(PermissionError):
                os.fchmod(found, mode)
        return found


@contextlib.contextmanager
def open_state(data_dir: StrPath, *, make: bool = True) -> Iterator[StateFolder]:
    """Open our own folder in `data_dir`; FileNotFoundError if it is missing and not to be made.

    Raises DataDirError if it is a link, or if any user could swap what is in it.
    """
    with Mirror(data_dir) as mirror:
        path = os.path.join(mirror.path, STATE_DIR)  # noqa: PTH118 - only for messages
        folder = _enter(mirror.top, STATE_DIR, mirror.path, like=mirror.top if make else None)
    try:
        yield StateFolder(folder, path)
    finally:
        os.close(folder)


def check_state(data_dir: StrPath) -> None:
    """Raise DataDirError if part of our state in `data_dir` is not what it has to be."""
    # What may not be looked into is not used either, as in a folder that is only read.
    unused = (FileNotFoundError, PermissionError)
    with contextlib.suppress(*unused), open_state(data_dir, make=False) as state:
        for name in FOLDERS:
            with contextlib.suppress(*unused), state.enter(name, make=False):
                pass
        for name in FILES:
            with contextlib.suppress(*unused):
                kind = os.stat(name, dir_fd=state.folder, follow_symlinks=False).st_mode
                if not stat.S_ISREG(kind):
                    raise _refuse(f"{state.path}/{name}", f"{_tell_kind(kind)}, not a file")


def _enter(above: int, name: str, path: str, *, like: int | None) -> int:
    """Open the folder `name` in `above`, made if it is missing, for the users of `like`."""
    if like is not None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
            _share(above, name, stat.S_IMODE(os.fstat(like).st_mode))
    try:
        found = os.open(name, FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno not in NO_FOLDER:
            raise
        kind = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        raise _refuse(f"{path}/{name}", f"{_tell_kind(kind)}, not a folder") from None
    status = os.fstat(found)
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        if status.st_uid == os.geteuid():
            with contextlib.suppress(OSError):  # a file system without a sticky bit
                os.fchmod(found, stat.S_IMODE(status.st_mode) | stat.S_ISVTX)
        else:
            os.close(found)
            what = "writable for every user, who could swap what is in it"
            raise _refuse(f"{path}/{name}", what, "have its owner run 'chmod +t' on it")
    return found


def _share(above: int, name: str, mode: int) -> None:
    """Give a folder that was just made the `mode` of one that others may write, whatever the umask.

    What everybody may write gets the sticky bit, so that nobody can swap what others have made.
    """
    if mode & 0o022:
        made = os.open(name, FOLDER, dir_fd=above)
        try:
            with contextlib.suppress(OSError):  # of another user's, or without a sticky bit
                os.fchmod(made, mode | (stat.S_ISVTX if mode & stat.S_IWOTH else 0))
        finally:
            os.close(made)


def _refuse(path: str, what: str, advice: str = "remove it if nobody needs it") -> DataDirError:
    return DataDirError(f"{path} is {what}; {advice}, and run the same again")


def _tell_kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def open_file(folder: int, name: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open the file `name` in an open folder; raise OSError for what is not a file.

    With ``O_CREAT`` it is made if it is missing, with exactly `mode`, whatever the umask.
    """
    if flags & os.O_CREAT:
        with contextlib.suppress(FileExistsError):
            return open_new(folder, name, flags, mode)
    found = os.open(name, flags & ~os.O_CREAT | FILE, dir_fd=folder)
    kind = os.fstat(found).st_mode
    if stat.S_ISREG(kind):
        return found
    os.close(found)
    raise OSError(errno.EINVAL, f"it is {_tell_kind(kind)}, not a file", name)


def open_new(folder: int, name: str, flags: int, mode: int) -> int:
    """Make a file in an open folder, with exactly `mode`; FileExistsError if anything is there."""
    made = os.open(name, flags | os.O_EXCL | FILE, mode, dir_fd=folder)
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(made, mode)
    return made


def list_names(folder: int) -> list[str]:
    """Return the names in an open folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def is_there(folder: int, name: str) -> bool:
    """Whether there is anything called `name` in an open folder."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def find_files(top: int) -> Iterator[tuple[str, int, str, os.stat_result]]:
    """Yield path, open folder, name and status of each file below an open folder."""
    for where, _, names, folder in os.fwalk(".", dir_fd=top):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                yield f"{where}/{name}".removeprefix("./"), folder, name, found


def read_file(folder: int, name: str, most: int = 2**20) -> bytes:
    """Return the content of the file `name` in an open folder, up to `most` bytes."""
    with open(open_file(folder, name), "rb") as file:
        return file.read(most)


def write_file(folder: int, name: str, text: str) -> None:
    """Write the file `name` in an open folder, whole or not at all; all may read it."""
    scratch = f"{name}.{os.urandom(8).hex()}.tmp"
    made = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE, 0o644, dir_fd=folder)
    try:
        with open(made, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=folder)
        raise


def make_private(above: int, name: str) -> tuple[int, str]:
    """Make a folder in an open one that nobody else can enter; return it open, and its name.

    The name begins with `name` and cannot be guessed.
    """
    while True:
        made = f"{name}-{os.urandom(8).hex()}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(made, 0o700, dir_fd=above)
            break
    found = os.open(made, FOLDER, dir_fd=above)
    if is_own(found, above) and not list_names(found):
        return found, made
    os.close(found)
    raise PermissionError(errno.EPERM, "somebody has put another folder in its place", made)


def is_own(found: int, above: int) -> bool:
    """Whether the open file or folder `found`, in the open folder `above`, is this user's."""
    owner = os.fstat(found).st_uid
    return owner == os.geteuid() or owner == _find_owner(above)


def _find_owner(folder: int) -> int | None:
    """Return whom a file of ours belongs to in `folder`: some file systems say another user."""
    name = f"owner-{os.urandom(8).hex()}"
    try:
        probe = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE, 0o600, dir_fd=folder)
    except OSError:
        return None
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        return os.fstat(probe).st_uid
    finally:
        os.close(probe)


def _is_private(folder: int, above: int) -> bool:
    """Whether an open folder is this user's, and nobody else may write to it."""
    return is_own(folder, above) and not os.fstat(folder).st_mode & 0o022


def make_own_folder(path: StrPath) -> None:
    """Make the folder `path`, which only this user may enter; raise DataDirError for any other."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    above = os.open(Path(path).parent, CHOSEN)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(Path(path).name, 0o700, dir_fd=above)
        found = _enter(above, Path(path).name, str(Path(path).parent), like=None)
        is_safe = _is_private(found, above)
        os.close(found)
    finally:
        os.close(above)
    if not is_safe:
        raise _refuse(str(path), "not only yours to write")


def read_own_file(path: StrPath) -> str:
    """Return the text of a file of this user's, in a folder that nobody else may write to."""
    above = os.open(Path(path).parent, FOLDER)
    try:
        with open(open_file(above, Path(path).name), encoding="utf-8") as file:
            if _is_private(above, above) and is_own(file.fileno(), above):
                return file.read()
    finally:
        os.close(above)
    raise _refuse(str(path), "not only yours to write")


def remove_tree(folder: int, name: str) -> None:
    """Remove a folder in an open one with all that is in it; never through a link."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
