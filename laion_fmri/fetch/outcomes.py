"""The records of transfers: one line of JSON for each outcome of a key.

A transfer may be killed while it writes, so a line may be cut short anywhere. Only the standard
library, since ``transfer.py`` needs it.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: The outcome of a key that another run is fetching, as long as that is waited for.
WAITING = "waiting"


class Outcome(NamedTuple):
    """What became of a key: ``fetched``, ``denied``, ``failed`` or ``waiting``, and why not."""

    outcome: str
    reason: str


class OutcomeReader:
    """Reads the records in a folder again and again, each line once."""

    def __init__(self, folder: Path, pattern: str = "*.jsonl") -> None:
        self._folder, self._pattern = folder, pattern
        self._positions: dict[Path, int] = {}

    def read(self) -> Iterator[tuple[str, Outcome]]:
        """Yield the key and outcome of each line that has been completed since the last call."""
        for file in sorted(self._folder.glob(self._pattern)):
            with contextlib.suppress(OSError):
                yield from self._read_file(file)

    def _read_file(self, file: Path) -> Iterator[tuple[str, Outcome]]:
        position = self._positions.get(file, 0)
        if file.stat().st_size <= position:
            return
        with file.open("rb") as record:
            record.seek(position)
            for line in record:
                if not line.endswith(b"\n"):  # still being written
                    break
                position += len(line)
                self._positions[file] = position
                if (said := _parse(line)) is not None:
                    yield said


def read_outcomes(folder: Path, pattern: str = "*.jsonl") -> dict[str, Outcome]:
    """Return the latest outcome of each key in the records of `folder`."""
    return dict(OutcomeReader(folder, pattern).read())


def record_outcome(file: Path, key: str, outcome: Outcome) -> None:
    """Add a line to the record `file`, after ending one that was cut short."""
    line = json.dumps({"key": key, **outcome._asdict()})
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as record:
        if record.tell():
            record.seek(-1, os.SEEK_END)
            line = line if record.read(1) == b"\n" else f"\n{line}"
        record.write(f"{line}\n".encode())


def _parse(line: bytes) -> tuple[str, Outcome] | None:
    try:
        said = json.loads(line)
        texts = said["key"], said["outcome"], said["reason"]
    except (ValueError, TypeError, KeyError):
        return None
    is_valid = all(isinstance(text, str) for text in texts)
    return (texts[0], Outcome(*texts[1:])) if is_valid else None
