"""Which runs are alive in a data directory, on any machine. Only the standard library.

A run may be killed at any moment, so its sign is a lock, which ends with its process.
"""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from laion_fmri.config import STATE_DIR


class Presence:
    """The sign that a run is alive: a locked file in its folder, until :meth:`close` or its end."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor, path = tempfile.mkstemp(prefix="alive-", dir=run_dir)
            self.path = Path(path)
            self._file = os.fdopen(descriptor, "w")
            os.fchmod(descriptor, 0o644)  # for other users to see
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX)
            if self.path.exists():  # else it was removed before it was locked
                return
            self._file.close()

    def close(self) -> None:
        """Remove the sign, if that is not done yet."""
        with contextlib.suppress(OSError):  # gone, or on a disk that is read-only by now
            self.path.unlink()
        self._file.close()


def has_others(data_dir: Path, own: str | None = None) -> bool:
    """Whether a run other than `own` is alive in `data_dir`; removes the signs of dead ones."""
    signs = set((data_dir / STATE_DIR / "runs").glob("*/alive-*")) - ({Path(own)} if own else set())
    return sum(map(_is_held, signs)) > 0  # asks all, so that those of all the dead are removed


def _is_held(sign: Path) -> bool:
    try:
        with sign.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            sign.unlink()
    except OSError as error:  # else: gone, of another user's, or on a file system without locks
        return isinstance(error, BlockingIOError)
    return False
