"""What transfers record of each key, a line of JSON each, and the one reader of these records.

A transfer may be killed while it writes, so a line may be cut short anywhere. Only the standard
library, since ``transfer.py`` needs it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """What a transfer says of one key: ``fetched``, ``denied`` or ``failed``, and why not."""

    outcome: str
    reason: str


class OutcomeReader:
    """Reads the records in a folder again and again, each line once."""

    def __init__(self, folder: Path, pattern: str = "*.jsonl") -> None:
        self._folder, self._pattern = folder, pattern
        self._places: dict[Path, int] = {}

    def read(self) -> Iterator[tuple[str, Outcome]]:
        """Yield the key and outcome of each line that has been completed since the last call."""
        for file in sorted(self._folder.glob(self._pattern)):
            with contextlib.suppress(OSError):
                yield from self._read_file(file)

    def _read_file(self, file: Path) -> Iterator[tuple[str, Outcome]]:
        place = self._places.get(file, 0)
        if file.stat().st_size <= place:
            return
        with file.open("rb") as record:
            record.seek(place)
            for line in record:
                if not line.endswith(b"\n"):  # is being written
                    break
                place += len(line)
                self._places[file] = place
                if (said := _parse(line)) is not None:
                    yield said


def read_outcomes(folder: Path, pattern: str = "*.jsonl") -> dict[str, Outcome]:
    """Return the latest outcome of each key in the records of `folder`."""
    return dict(OutcomeReader(folder, pattern).read())


def record_outcome(file: Path, key: str, outcome: Outcome) -> None:
    """Add a line to the record `file`; a line that was cut short before it is ended."""
    line = json.dumps({"key": key, "outcome": outcome.outcome, "reason": outcome.reason})
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as record:
        if record.tell():
            record.seek(-1, os.SEEK_END)
            line = line if record.read(1) == b"\n" else f"\n{line}"
        record.write(f"{line}\n".encode())


def _parse(line: bytes) -> tuple[str, Outcome] | None:
    try:
        said = json.loads(line)
        key, outcome, reason = said["key"], said["outcome"], said["reason"]
    except (ValueError, TypeError, KeyError):
        return None
    is_text = all(isinstance(text, str) for text in (key, outcome, reason))
    return (key, Outcome(outcome, reason)) if is_text else None
