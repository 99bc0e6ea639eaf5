"""Files that are written completely or not at all."""

import contextlib
import os
from pathlib import Path

StrPath = str | os.PathLike[str]


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write `file` so that a reader sees the old or the new content, never a part."""
    # The name is cut: with the suffix it must not be longer than a file system allows.
    scratch = file.with_name(f"{file.name[:100]}.{os.urandom(6).hex()}.tmp")
    try:
        with scratch.open("xb") as new:  # never through a link that somebody has put there
            new.write(content.encode() if isinstance(content, str) else content)
        scratch.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
