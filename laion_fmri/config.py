"""The data directory: argument > environment > saved choice.

The drop-in functions :func:`dataset_initialize` and :func:`get_data_dir` live here.
"""

import json
import os
import re
from pathlib import Path

from laion_fmri.base.files import StrPath, expand_path, write_atomically
from laion_fmri.errors import DataDirError, DataDirNotSetError

#: Our own state inside a data directory; everything else there is a plain mirror of the bucket.
STATE_DIR = ".laion_fmri"


def dataset_initialize(data_dir: StrPath) -> Path:
    """Choose `data_dir` for this and later sessions; create it if its parent exists.

    Returns
    -------
    pathlib.Path
        The absolute path that was saved.

    Raises
    ------
    DataDirError
        If the parent does not exist, the path is not a directory, or the choice cannot be saved.
    """
    path = make_data_dir(expand_path(data_dir).absolute())
    file = _saved_choice_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"data_dir": str(path)}, indent=2) + "\n")
    except OSError as error:
        raise DataDirError(
            f"the choice cannot be saved in {file}: {error.strerror}; set LAION_FMRI_DATA_DIR to "
            f"{path} instead"
        ) from None
    return path


def get_data_dir(data_dir: StrPath | None = None) -> Path:
    """Return the data directory: `data_dir`, else ``$LAION_FMRI_DATA_DIR``, else the saved choice.

    Raises
    ------
    DataDirNotSetError
        If none of the three is there.
    """
    return find_data_dir(data_dir)[0]


def find_data_dir(data_dir: StrPath | None = None) -> tuple[Path, str]:
    """Return the absolute data directory and where the choice comes from, in words."""
    given, source = data_dir, "given"
    if given is not None and not os.fspath(given):
        raise DataDirError("the data directory is an empty string; name a directory")
    if given is None:
        given = os.environ.get("LAION_FMRI_DATA_DIR")
        source = "from the environment variable LAION_FMRI_DATA_DIR"
    if given:
        return expand_path(given).absolute(), source
    file = _saved_choice_file()
    try:
        saved = Path(json.loads(file.read_text())["data_dir"])
        if not saved.is_absolute():
            raise ValueError(f"{str(saved)!r} is not an absolute path")
        return saved, f"saved in {file}"
    except FileNotFoundError:
        raise DataDirNotSetError(
            "no data directory is chosen; name one with --data-dir DIR (in Python: data_dir), run "
            "'laion-fmri config --data-dir DIR' once, or set LAION_FMRI_DATA_DIR"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataDirNotSetError(
            f"the saved choice in {file} cannot be used ({error!r}); run 'laion-fmri config "
            "--data-dir DIR' to write a new one"
        ) from None


def find_local_dir(data_dir: StrPath | None = None) -> Path | None:
    """Return the data directory, or None if none is given or chosen."""
    try:
        return find_data_dir(data_dir)[0]
    except DataDirNotSetError:
        return None


def has_choice() -> bool:
    """Whether a data directory is chosen by the environment, or saved, be it usable or not."""
    return bool(os.environ.get("LAION_FMRI_DATA_DIR")) or _saved_choice_file().exists()


def make_data_dir(path: Path) -> Path:
    """Create the directory `path` if it is missing and its parent exists; return it."""
    try:
        path.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise DataDirError(
            f"the data directory {path} cannot be made, since {path.parent} does not exist; create "
            "that first, or choose another"
        ) from None
    except OSError as error:
        raise DataDirError(f"cannot create the data directory {path}: {error.strerror}") from None
    return path


def check_data_dir(path: Path) -> None:
    """Raise DataDirError for a data directory that is missing, or empty and not writable.

    A read-only directory with files in it passes: what was fetched there may be complete.
    """
    if not path.exists():
        raise DataDirError(
            f"the data directory {path} does not exist; create it with 'laion-fmri config "
            f"--data-dir {path}' or mkdir, or choose another"
        )
    _check_spelling(path)
    if not path.is_dir():
        raise DataDirError(f"the data directory {path} is a file; choose a directory")
    try:
        usable = is_writable(path) or any(path.iterdir())
    except OSError:
        usable = False
    if not usable:
        raise not_writable(path)


def check_new_dir(path: Path) -> None:
    """Raise DataDirError for a data directory that :func:`make_data_dir` could not make."""
    _check_spelling(path)
    if not path.parent.exists():
        raise DataDirError(
            f"the data directory {path} cannot be made, since {path.parent} does not exist; create "
            "that first, or choose another"
        )
    if not (path.parent.is_dir() and is_writable(path.parent)):
        what = "is not writable" if path.parent.is_dir() else "is a file"
        raise DataDirError(
            f"the data directory {path} cannot be made, since {path.parent} {what}; choose another"
        )


def _check_spelling(path: Path) -> None:
    if re.search("[{}]|<.*>", str(path)):
        raise DataDirError(
            f"the path {path} has a brace or a <name> in it, which Snakemake would read as a "
            "wildcard; choose a data directory without one"
        )


def check_readable(path: Path) -> None:
    """Raise DataDirError for a data directory that is missing or cannot be read."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise DataDirError(f"the data directory {path} {what}; name another with --data-dir")
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataDirError(f"the data directory {path} is not readable; change its permissions")


def is_writable(path: Path) -> bool:
    """Whether files can be created in the directory `path`."""
    return os.access(path, os.W_OK | os.X_OK)


def not_writable(path: Path) -> DataDirError:
    """Return the error for a data directory that cannot be written."""
    return DataDirError(
        f"the data directory {path} is not writable; change its permissions or choose another"
    )


def _saved_choice_file() -> Path:
    # Unix on every system: $XDG_CONFIG_HOME is documented for macOS as well.
    from platformdirs.unix import Unix

    return Unix("laion_fmri").user_config_path / "config.json"


def state_dir(data_dir: StrPath) -> Path:
    """Return the folder of our own state in `data_dir`."""
    return Path(data_dir) / STATE_DIR


def find_user() -> str:
    """Return the name of the user, or ``unknown`` in a container without one."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
