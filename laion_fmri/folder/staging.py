"""What runs and transfers keep in the state folder of a data directory, and which of them live.

Several runs may share a data directory, also from other machines, and any of them may be killed at
any moment. So all that tells one of another is a lock, which ends with its process. Where a file
system knows no locks, everyone is taken to be alone. Only the standard library, since
``transfer.py`` needs it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from laion_fmri.config import STATE_DIR

#: Held in a staging folder for as long as its transfer lives.
LOCK = "lock"
#: Seconds after which a staging folder without a lock is nobody's.
STALE = 3600.0
#: What a lock that another process holds is refused with.
_HELD = (errno.EAGAIN, errno.EACCES)


class Claims:
    """The keys that this process is fetching, so that no other one does meanwhile.

    Each is a locked byte of one file, at a place made of the key: there is no file for each, and
    nothing that a killed process could leave behind. A process makes one of these for a data
    directory, since to close one would give up the locks of all.
    """

    def __init__(self, data_dir: Path) -> None:
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            self._file = (data_dir / STATE_DIR / "claims").open("ab")
            os.fchmod(self._file.fileno(), 0o666)  # all who share the folder have to lock it

    def take(self, keys: Iterable[str]) -> list[str]:
        """Claim those of `keys` that nobody else has claimed, and return them."""
        return [key for key in keys if self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB)]

    def drop(self, keys: Iterable[str]) -> None:
        """Give up the claims on `keys`."""
        for key in keys:
            self._lock(key, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up all claims."""
        if self._file:
            self._file.close()

    def _lock(self, key: str, operation: int) -> bool:
        if self._file is None:
            return True
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
        try:
            fcntl.lockf(self._file, operation, 1, place)
        except OSError as error:
            return error.errno not in _HELD
        return True


class Presence:
    """The sign that a run lives: a locked file in its folder, until :meth:`close` or its end."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor, path = tempfile.mkstemp(prefix="alive-", dir=run_dir)
            self.path = Path(path)
            self._file = os.fdopen(descriptor, "w")
            os.fchmod(descriptor, 0o644)  # for other users to see
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX)
            if self.path.exists():  # else it was swept before it was locked
                return
            self._file.close()

    def close(self) -> None:
        """Take the sign away; nothing if that is done."""
        with contextlib.suppress(OSError):  # gone, or on a disk that is read-only by now
            self.path.unlink()
        self._file.close()


def enter(run_dir: Path) -> Presence | None:
    """Return the sign that a run lives; None where nothing can be written."""
    try:
        return Presence(run_dir)
    except OSError:
        return None


def has_others(data_dir: Path, own: Path | None = None) -> bool:
    """Whether a run lives in `data_dir` whose sign is not `own`; signs of the dead are removed."""
    signs = set((data_dir / STATE_DIR / "runs").glob("*/alive-*")) - {own}
    return sum(map(_is_held, signs)) > 0  # asks all, so that those of all the dead are removed


def _is_held(sign: Path) -> bool:
    try:
        with sign.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            sign.unlink()
    except BlockingIOError:
        return True
    except OSError:  # gone, of another user's, or on a file system that knows no locks
        return False
    return False


@contextlib.contextmanager
def make_staging(data_dir: Path, name: str) -> Iterator[Path]:
    """Make a folder whose name begins with `name`, locked, and remove it in the end."""
    partial = data_dir / STATE_DIR / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=partial))
    try:
        with (staging / LOCK).open("w") as lock:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sweep_staging(data_dir: Path) -> None:
    """Remove the staging folders of transfers that were killed."""
    for staging in (data_dir / STATE_DIR / "partial").glob("*/"):
        with contextlib.suppress(OSError):
            if not _is_staging_alive(staging):
                shutil.rmtree(staging, ignore_errors=True)


def _is_staging_alive(staging: Path) -> bool:
    try:
        with (staging / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # killed before it had its lock, or about to take it, or no locks here
        return time.time() - staging.stat().st_mtime < STALE
    return False


def find_kept(data_dir: Path, key: str) -> Path:
    """Return where a second link to the file of `key` is kept."""
    return data_dir / STATE_DIR / "kept" / key


def keep(data_dir: Path, key: str, staged: Path) -> None:
    """Keep a second link to what has arrived, for :func:`recall` and :func:`clear_up`.

    Snakemake removes the outputs of a job before it starts, though another run may have brought
    them by then, and in the end those of a job that has failed, unless it is told to keep them.
    """
    kept = find_kept(data_dir, key)
    with contextlib.suppress(OSError):  # a file system without hard links
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        kept.hardlink_to(staged)


def recall(data_dir: Path, key: str, size: int, staging: Path) -> bool:
    """Put back the file of `key` if it is kept in this size (bytes), and say whether it was."""
    kept, target = find_kept(data_dir, key), data_dir / key
    try:
        if kept.stat().st_size != size:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        # By way of another link: a file that is there is replaced, and never missing.
        scratch = staging / "recalled"
        scratch.hardlink_to(kept)
        scratch.replace(target)
        scratch.unlink(missing_ok=True)  # two links to one file: nothing has been renamed
    except OSError:
        return False
    return True


def clear_up(data_dir: Path) -> None:
    """Put back what arrived beside an object that failed and was removed with it.

    And remove what those who were killed have left. While another run lives, what is kept or being
    written may be its own, and is left to it.
    """
    sweep_staging(data_dir)
    state = data_dir / STATE_DIR
    top = state / "kept"
    if has_others(data_dir):
        return
    for scratch in (*state.glob("stamp.*.tmp"), *state.glob("runs/*/*.tmp")):
        with contextlib.suppress(OSError):
            scratch.unlink()
    for folder, _, names in os.walk(top):
        for name in names:
            kept = Path(folder, name)
            target = data_dir / kept.relative_to(top)
            with contextlib.suppress(OSError):
                if not os.path.lexists(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    kept.replace(target)
    shutil.rmtree(top, ignore_errors=True)
