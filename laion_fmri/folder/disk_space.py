"""Whether a disk has room for what is to be fetched: before a run, and when it has ended early."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from laion_fmri.base.files import StrPath
from laion_fmri.errors import NoSpaceError

#: In the folder of a run, once the disk takes no more files: why no transfer is to start.
STOP = "stop"


def count_free_bytes(path: StrPath) -> int:
    """Return the bytes that the disk of `path` has for us."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def check_room(path: StrPath, sizes: Sequence[int]) -> None:
    """Refuse to begin what cannot end: files of `sizes` (bytes) that the disk cannot take.

    Raises
    ------
    NoSpaceError
        If it has fewer free bytes or inodes than that takes, as far as the file system counts them.
    """
    disk = os.statvfs(path)
    needed, free = sum(sizes), count_free_bytes(path)
    if needed > free:
        raise NoSpaceError(
            f"{needed:,} bytes are to be fetched, and the disk of {path} has room for {free:,}; "
            "make room, select less, or go on all the same with --no-space-check (space_check)"
        )
    # A file system that makes inodes as they are needed counts none.
    if disk.f_files and len(sizes) > disk.f_favail:
        raise NoSpaceError(
            f"{len(sizes):,} files are to be fetched, and the disk of {path} has room for "
            f"{disk.f_favail:,} (inodes); remove some, select less, or go on all the same with "
            "--no-space-check (space_check)"
        )


def explain_full_disk(
    run_dir: StrPath, data_dir: StrPath, needed: int, why: str | None = None
) -> str | None:
    """Say why a run was stopped early for want of room, and for how many bytes; None if not.

    The transfer that met the end of the disk has left word of it, unless `why` is known.
    """
    try:
        why = why or Path(run_dir, STOP).read_text() or "the disk takes no more files"
    except OSError:
        return None
    return (
        f"stopped early: {why}; {data_dir} needs room for {needed:,} bytes more, and has "
        f"{count_free_bytes(data_dir):,}"
    )
