"""Which runs are alive in a data directory, on any machine. Only the standard library.

A run may be killed at any moment, so its sign is a lock, which ends with its process.
"""

import contextlib
import fcntl
import os
from typing import IO, Any

from laion_fmri.base.files import StrPath
from laion_fmri.folder.guard import ALIVE, list_names, open_file, open_state


class Presence:
    """The sign that a run is alive: a locked file in `data_dir`, until :meth:`close` or its end."""

    def __init__(self, data_dir: StrPath) -> None:
        self._data_dir = os.path.abspath(data_dir)  # noqa: PTH100 - loaded by each transfer
        with open_state(data_dir) as state, state.enter(ALIVE) as folder:
            for _ in range(10):
                self.name = f"alive-{os.urandom(8).hex()}"
                # Others lock it to see whether it is held, and read nothing from it.
                flags = os.O_RDWR | os.O_CREAT
                self._file = os.fdopen(open_file(folder, self.name, flags, 0o644), "w")
                is_held = lock(self._file)
                if is_held is not False and os.fstat(self._file.fileno()).st_nlink:
                    return
                self._file.close()  # somebody was faster, and has locked or removed it
            raise OSError("no sign of this run stays in its place")

    def close(self) -> None:
        """Remove the sign, if that is not done yet."""
        with (
            contextlib.suppress(OSError),  # gone, or on a disk that is read-only by now
            open_state(self._data_dir, make=False) as state,
            state.enter(ALIVE, make=False) as folder,
        ):
            os.unlink(self.name, dir_fd=folder)
        self._file.close()


def has_others(data_dir: StrPath, own: str | None = None) -> bool:
    """Whether a run is alive that has not the sign `own`; removes the signs of dead ones."""
    with (
        contextlib.suppress(OSError),
        open_state(data_dir, make=False) as state,
        state.enter(ALIVE, make=False) as folder,
    ):
        # Asks all, so that the signs of all the dead are removed.
        return sum([_is_held(folder, name) for name in list_names(folder) if name != own]) > 0
    return False


def _is_held(folder: int, name: str) -> bool:
    with contextlib.suppress(OSError), open(open_file(folder, name), "rb") as file:
        if lock(file, fcntl.LOCK_SH) is False:
            return True
        os.unlink(name, dir_fd=folder)
    return False


def lock(file: IO[Any] | int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Lock `file` unless another process holds it: then False. None where there are no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if isinstance(error, BlockingIOError) else None
    return True
