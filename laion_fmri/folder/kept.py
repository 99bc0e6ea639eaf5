"""Second links to what has arrived, and what killed runs have left. Only the standard library."""

import contextlib
import os
import shutil
from pathlib import Path

from laion_fmri.config import STATE_DIR
from laion_fmri.folder.presence import has_others
from laion_fmri.folder.staging import sweep_staging


def find_kept(data_dir: Path, key: str) -> Path:
    """Return where a second link to the file of `key` is kept."""
    return data_dir / STATE_DIR / "kept" / key


def keep(data_dir: Path, key: str, staged: Path) -> None:
    """Keep a second link to what has arrived, for :func:`recall` and :func:`clear_up`.

    Snakemake removes the outputs of a job before it starts, although another run may have fetched
    them by then, and those of a job that has failed, unless it is told to keep them.
    """
    kept = find_kept(data_dir, key)
    with contextlib.suppress(OSError):  # a file system without hard links
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        kept.hardlink_to(staged)


def recall(data_dir: Path, key: str, size: int, staging: Path) -> bool:
    """Put back the file of `key` if it is kept in this size (bytes); return whether it was."""
    kept, target = find_kept(data_dir, key), data_dir / key
    try:
        if kept.stat().st_size != size:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        # By way of another link: a file that is there is replaced, and never missing.
        scratch = staging / "recalled"
        scratch.hardlink_to(kept)
        scratch.replace(target)
        scratch.unlink(missing_ok=True)  # if both were links to one file, nothing was renamed
    except OSError:
        return False
    return True


def clear_up(data_dir: Path) -> None:
    """Remove what killed runs have left; first put back what is kept and missing.

    While another run is alive, what is kept or being written may be its own, and stays.
    """
    sweep_staging(data_dir)
    if has_others(data_dir):
        return
    state, top = data_dir / STATE_DIR, find_kept(data_dir, "")
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
