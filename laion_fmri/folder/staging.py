"""The folders where transfers put what arrives until it is complete. Only the standard library."""

import contextlib
import fcntl
import os
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
    open_state,
    remove_tree,
)

#: A file in each, locked while its transfer is alive.
LOCK = "lock"
#: Age in seconds from which a staging folder without a lock is a leftover.
STALE = 3600.0


@contextlib.contextmanager
def make_staging(data_dir: StrPath, name: str) -> Iterator[int]:
    """Make a locked folder whose name begins with `name`, open; remove it in the end."""
    with open_state(data_dir) as state, state.enter(PARTIAL) as partial:
        folder, made = make_private(partial, name)
        try:
            with open(open_file(folder, LOCK, os.O_RDWR | os.O_CREAT), "w") as lock:
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                yield folder
        finally:
            os.close(folder)
            remove_tree(partial, made)


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


def sweep_staging(data_dir: StrPath) -> None:
    """Remove the staging folders of this user's transfers that were killed."""
    for folder, partial, name in open_own(data_dir):
        # Ours are for us alone; any other was moved here by somebody.
        if not os.fstat(folder).st_mode & 0o077 and not _is_alive(folder):
            remove_tree(partial, name)


def _is_alive(folder: int) -> bool:
    try:
        with open(open_file(folder, LOCK), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # killed before it had its lock, or about to take it, or no locks here
        return time.time() - os.fstat(folder).st_mtime < STALE
    return False
