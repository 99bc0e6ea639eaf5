"""Second links to what has arrived, and what killed runs have left. Only the standard library."""

import contextlib
import os
import stat
from collections.abc import Iterator

from laion_fmri.base.files import StrPath
from laion_fmri.folder.guard import (
    KEPT,
    Mirror,
    StateFolder,
    find_files,
    is_there,
    open_file,
    open_state,
    remove_tree,
    walk,
)
from laion_fmri.folder.obstacles import is_safe_key
from laion_fmri.folder.presence import has_others
from laion_fmri.folder.staging import sweep_staging


def keep(data_dir: StrPath, key: str, staging: int, staged: str) -> None:
    """Link to the file `staged` in the open folder `staging`, which has arrived for `key`.

    Snakemake removes the outputs of a job before it starts, although another run may have fetched
    them by then, and those of a job that has failed, unless it is told to keep them.
    """
    with contextlib.suppress(OSError), _open_kept(data_dir, key, make=True) as (folder, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        # Without hard links, nothing is kept.
        os.link(staged, name, src_dir_fd=staging, dst_dir_fd=folder, follow_symlinks=False)


def put_by(data_dir: StrPath, key: str, staging: int, staged: str) -> None:
    """Move the file `staged`, which has arrived for `key`, to where its own job looks for it."""
    with _open_kept(data_dir, key, make=True) as (folder, name):
        os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=folder)


def recall(data_dir: StrPath, key: str, size: int, staging: int) -> bool:
    """Put back the file of `key` if it is kept in this size (bytes); return whether it was."""
    try:
        with _open_kept(data_dir, key) as (folder, name):
            with open(open_file(folder, name), "rb") as file:
                found = os.fstat(file.fileno())
            if found.st_size != size:
                return False
            # By way of another link: a file that is there is replaced, and never missing.
            scratch = "recalled"
            os.link(name, scratch, src_dir_fd=folder, dst_dir_fd=staging, follow_symlinks=False)
        is_same = os.stat(scratch, dir_fd=staging, follow_symlinks=False).st_ino == found.st_ino
        try:
            if is_same:
                with (
                    Mirror(data_dir) as mirror,
                    mirror.folder_of(key, make=True) as (above, target),
                ):
                    os.rename(scratch, target, src_dir_fd=staging, dst_dir_fd=above)
        finally:
            with contextlib.suppress(FileNotFoundError):  # two links to one file are not renamed
                os.unlink(scratch, dir_fd=staging)
    except OSError:
        return False
    return is_same


def has_any(data_dir: StrPath) -> bool:
    """Whether there may be second links."""
    with contextlib.suppress(OSError), open_state(data_dir, make=False) as state:
        return is_there(state.folder, KEPT)
    return False


def is_kept(data_dir: StrPath, key: str) -> bool:
    """Whether there is a second link to the file of `key`."""
    with contextlib.suppress(OSError), _open_kept(data_dir, key) as (folder, name):
        return is_there(folder, name)
    return False


def drop(data_dir: StrPath, key: str) -> None:
    """Remove the second link to the file of `key`, if there is one."""
    with contextlib.suppress(OSError), _open_kept(data_dir, key) as (folder, name):
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _open_kept(data_dir: StrPath, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    above, _, name = key.rpartition("/")
    with (
        open_state(data_dir, make=make) as state,
        state.enter(KEPT, make=make) as top,
        walk(top, above, make=make) as folder,
    ):
        yield folder, name


def clear_up(data_dir: StrPath) -> None:
    """Remove what killed runs have left; first put back what is kept and missing.

    While another run is alive, what is kept or being written may be its own, and stays.
    """
    with contextlib.suppress(OSError, RecursionError):
        sweep_staging(data_dir)
        if not has_others(data_dir):
            with Mirror(data_dir) as mirror, open_state(data_dir, make=False) as state:
                put_back(state, KEPT, mirror)
                remove_tree(state.folder, KEPT)


def put_back(state: StateFolder, name: str, mirror: Mirror) -> None:
    """Move the files in a folder of our state to where they belong, and drop what is there already.

    Only files go, to where an object can be: whoever shares the folder may have put anything there.
    """
    with contextlib.suppress(FileNotFoundError), state.enter(name, make=False) as top:
        for key, folder, file, found in find_files(top):
            if stat.S_ISREG(found.st_mode) and is_safe_key(key):
                with contextlib.suppress(OSError):
                    _move(folder, file, mirror, key)


def _move(folder: int, name: str, mirror: Mirror, key: str) -> None:
    with mirror.folder_of(key, make=True) as (above, target):
        # A link fails where something is; a rename would replace it.
        with contextlib.suppress(FileExistsError):
            try:
                os.link(name, target, src_dir_fd=folder, dst_dir_fd=above, follow_symlinks=False)
            except PermissionError:  # of another user's, or a file system without hard links
                if not is_there(above, target):
                    os.rename(name, target, src_dir_fd=folder, dst_dir_fd=above)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
