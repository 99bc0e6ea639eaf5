"""The folders where transfers put what arrives until it is complete. Only the standard library."""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator

from laion_fmri.base.files import StrPath
from laion_fmri.folder.guard import (
    FOLDER,
    PARTIAL,
    find_files,
    is_own,
    list_names,
    make_private,
    open_file,
    open_new,
    open_state,
    remove_tree,
)
from laion_fmri.folder.presence import lock

#: A file in each, locked while its transfer is alive.
LOCK = "lock"
#: Age in seconds from which a staging folder without a lock is a leftover.
STALE = 3600.0


@contextlib.contextmanager
def make_staging(data_dir: StrPath, name: str) -> Iterator[int]:
    """Make a locked folder whose name begins with `name`, open; remove it in the end."""
    with open_state(data_dir) as state, state.enter(PARTIAL) as partial:
        folder, made, held = _make_locked(partial, name)
        try:
            yield folder
        finally:
            os.close(folder)
            remove_tree(partial, made)
            os.close(held)


def _make_locked(partial: int, name: str) -> tuple[int, str, int]:
    """Make a folder that is locked; again if somebody sweeps it before it has its lock."""
    for left in reversed(range(10)):
        try:
            folder, made = make_private(partial, name)
        except OSError:
            if not left:
                raise
            continue
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            held = open_new(folder, LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if lock(held) is not False and os.fstat(held).st_nlink:
                return folder, made, held
            os.close(held)
        os.close(folder)
    raise OSError(errno.EAGAIN, "no staging folder stays in its place", name)


def open_own(data_dir: StrPath, prefix: str = "") -> Iterator[tuple[int, int, str]]:
    """Yield this user's staging folders, open, whose names begin with `prefix`.

    Each comes with the folder that it is in, also open, and its name.
    """
    with (
        contextlib.suppress(OSError),
        open_state(data_dir, make=False) as state,
        state.enter(PARTIAL, make=False) as partial,
    ):
        for name in list_names(partial):
            if not name.startswith(prefix):
                continue
            with contextlib.suppress(OSError):
                folder = os.open(name, FOLDER, dir_fd=partial)
                try:
                    if is_own(folder, partial):
                        yield folder, partial, name
                finally:
                    os.close(folder)


def list_files(staging: int) -> dict[str, os.stat_result]:
    """Return the files in an open staging folder, by their paths in it."""
    return {path: found for path, _, _, found in find_files(staging)}


def move(staged: str, staging: int, name: str, folder: int) -> None:
    """Move a file from an open staging folder to `name` in another open folder, on any disk.

    A disk that is mounted inside the data directory gets a copy, under a name of its own until it
    is whole.
    """
    try:
        os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    scratch = f".laion_fmri-{os.urandom(6).hex()}"
    try:
        with open(open_file(staging, staged), "rb") as old:
            mode = os.fstat(old.fileno()).st_mode & 0o777
            with open(open_file(folder, scratch, os.O_WRONLY | os.O_CREAT, mode), "wb") as copy:
                shutil.copyfileobj(old, copy, 2**20)
        os.rename(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=folder)
        raise
    os.unlink(staged, dir_fd=staging)


def sweep_staging(data_dir: StrPath) -> None:
    """Remove the staging folders of this user's transfers that were killed."""
    for folder, partial, name in open_own(data_dir):
        # Ours are for us alone; any other was moved here by somebody.
        if os.fstat(folder).st_mode & 0o077:
            continue
        with contextlib.suppress(OSError):
            # Made if it is missing: whoever is about to make it then starts anew.
            held = open_file(folder, LOCK, os.O_RDWR | os.O_CREAT)
            try:
                is_free = lock(held)
                if is_free is None:
                    is_free = time.time() - os.fstat(folder).st_mtime > STALE
                if is_free:
                    remove_tree(partial, name)
            finally:
                os.close(held)
