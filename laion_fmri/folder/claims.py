"""Locks on the keys that a process is fetching. Only the standard library.

Where a file system has no locks, every process assumes that it is alone.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable

from laion_fmri.base.files import StrPath
from laion_fmri.folder.guard import CLAIMS, open_state


class Claims:
    """The keys that this process is fetching, so that no other one does meanwhile.

    Each is a locked byte of one file, at an offset made of the key, so that a killed process leaves
    nothing behind. A process makes only one of these for a data directory: closing the file
    anywhere in the process would give up all of its locks.
    """

    def __init__(self, data_dir: StrPath) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError), open_state(data_dir) as state:
            self._file = state.open(CLAIMS)

    def take(self, keys: Iterable[str]) -> list[str]:
        """Claim those of `keys` that nobody else has claimed, and return them."""
        return [key for key in keys if self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB)]

    def drop(self, keys: Iterable[str]) -> None:
        """Give up the claims on `keys`."""
        for key in keys:
            self._lock(key, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up all claims."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self, key: str, operation: int) -> bool:
        if self._file is None:
            return True
        offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
        try:
            fcntl.lockf(self._file, operation, 1, offset)
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)  # held by another process
        return True
