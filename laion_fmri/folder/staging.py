"""The folders where transfers put what arrives until it is complete. Only the standard library."""

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from laion_fmri.config import STATE_DIR

#: A file in a staging folder, locked for as long as its transfer is alive.
LOCK = "lock"
#: Age in seconds from which a staging folder without a lock is a leftover.
STALE = 3600.0


@contextlib.contextmanager
def make_staging(data_dir: Path, name: str) -> Iterator[Path]:
    """Make a locked folder whose name begins with `name`, and remove it in the end."""
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
            if not _is_alive(staging):
                shutil.rmtree(staging, ignore_errors=True)


def _is_alive(staging: Path) -> bool:
    try:
        with (staging / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # killed before it had its lock, or about to take it, or no locks here
        return time.time() - staging.stat().st_mtime < STALE
    return False
