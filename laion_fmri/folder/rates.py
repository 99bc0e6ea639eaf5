"""The rate of the last run, kept in the state folder of a data directory: what a plan tells."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

from laion_fmri.base.files import write_atomically
from laion_fmri.config import state_dir

#: Bytes below which the start of a run takes more time than the transfer, and says nothing of it.
ENOUGH = 5_000_000


def note_rate(data_dir: Path, count: int, seconds: float) -> None:
    """Keep the rate at which a run has fetched `count` bytes in `seconds`, if that says anything.

    Without it, the next plan has no time: a disk that takes no more is no error here.
    """
    if count < ENOUGH or seconds <= 0:
        return
    with contextlib.suppress(OSError):
        content = {"bytes_per_second": round(count / seconds)}
        write_atomically(_find_file(data_dir), json.dumps(content) + "\n")


def read_rate(data_dir: Path) -> int | None:
    """Return the rate of the last run in bytes per second, or None if it is not known."""
    try:
        rate = json.loads(_find_file(data_dir).read_text())["bytes_per_second"]
        return int(rate) if math.isfinite(rate) and rate >= 1 else None
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None


def _find_file(data_dir: Path) -> Path:
    return state_dir(data_dir) / "rate.json"
