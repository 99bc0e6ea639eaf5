"""Files that are written completely or not at all."""

import contextlib
import os
from pathlib import Path

from laion_fmri.errors import ConfigError

StrPath = str | os.PathLike[str]


def expand_path(path: StrPath) -> Path:
    """Return `path` with the home of a user for a ``~``; raise ConfigError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{os.fspath(path)}: there is no such user here; write the whole path"
        ) from None


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
