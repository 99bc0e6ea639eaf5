"""Whether a disk has room for what is to be fetched: before a run, and when it ended early."""

import os
from collections.abc import Sequence
from pathlib import Path

from laion_fmri.base.files import StrPath
from laion_fmri.errors import NoSpaceError

#: In the folder of a run, once nothing more can be written: why no transfer is to start.
STOP = "stop"


def count_free_bytes(path: StrPath) -> int:
    """Return the bytes that are free for us on the disk of `path`."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def check_room(path: StrPath, sizes: Sequence[int]) -> None:
    """Raise NoSpaceError if the disk of `path` cannot take files of `sizes` (bytes)."""
    needed, free, disk = sum(sizes), count_free_bytes(path), os.statvfs(path)
    where = f"are to be fetched, and the disk of {path} has room for"
    advice = "select less, or go on anyway with --no-space-check (space_check)"
    if needed > free:
        raise NoSpaceError(f"{needed:,} bytes {where} {free:,}; make room, {advice}")
    # A file system that makes inodes as they are needed counts none.
    if disk.f_files and len(sizes) > disk.f_favail:
        raise NoSpaceError(
            f"{len(sizes):,} files {where} {disk.f_favail:,} (inodes); remove some, {advice}"
        )


def explain_full_disk(
    run_dir: StrPath, data_dir: StrPath, needed: int, why: str | None = None
) -> str | None:
    """Say why a full disk stopped a run, and for how many bytes it needs room; None if none did.

    The transfer that met the full disk has written down why, unless `why` is known.
    """
    try:
        why = why or Path(run_dir, STOP).read_text() or "nothing more can be written to the disk"
    except OSError:
        return None
    return (
        f"stopped early: {why}; {data_dir} needs room for {needed:,} bytes more, and has "
        f"{count_free_bytes(data_dir):,}"
    )
