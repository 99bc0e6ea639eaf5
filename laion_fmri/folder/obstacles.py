"""From a key to its path on disk: which keys can be files, and what may be in their way.

The bucket is not trusted: a key is text that anyone with write access to it may have chosen.
"""

import os
import re
from collections.abc import Iterable
from stat import S_ISDIR, S_ISLNK, S_ISREG
from unicodedata import normalize

from laion_fmri.config import STATE_DIR

#: Bytes of one part of a key. A name has up to 255 on Linux and macOS (NAME_MAX in limits.h), of
#: which aws takes 9 while it fetches: ``name.XXXXXXXX``, see ``get_temp_filename`` in
#: s3transfer/utils.py, which cuts a longer name by characters, and so not always short enough.
MOST_PART = 255 - 9
#: Bytes of a whole key. S3 allows 1,024, and so does macOS for a whole path (PATH_MAX in
#: sys/syslimits.h); this leaves 240 of them for a data directory, so that a mirror can be anywhere.
MOST_KEY = 700
#: Bytes in the path of a staged file beside the data directory and the key, with its NUL:
#: ``/.laion_fmri/partial/<time>-<random>-<job>-<random>/objects/`` and ``.XXXXXXXX``.
STAGING = 100
#: Names that a program obeys because of their mere place: git and hg run what a repository names,
#: and a folder with a HEAD may be one; shells, direnv, mise, Python, pytest, R, MATLAB and
#: Snakemake run these files where they find them.
OBEYED = {
    *(".git", "git~1", ".hg", ".vscode", ".envrc", ".condarc"),
    *(".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".login", ".kshrc"),
    *(".zshrc", ".zshenv", ".zprofile", ".zlogin", ".zlogout", ".cshrc", ".tcshrc"),
    *("sitecustomize.py", "usercustomize.py", "conftest.py", ".pythonrc", ".pdbrc", ".ipython"),
    *(".snakemake", "snakefile", "head", ".bash_aliases", ".tool-versions", ".python-version"),
    *("mise.toml", ".mise.toml", ".rprofile", ".rdata", "startup.m", "finish.m", ".octaverc"),
}
#: What Snakemake replaces in a path (pathvars.py of Snakemake 9 knows names in lower case only).
VARIABLE = re.compile("<[^/<>]+>")


def is_safe_key(key: str) -> bool:
    """Whether `key` can be a file below a data directory, outside our own state, on any disk."""
    return find_flaw(key) is None


def find_flaw(key: str) -> str | None:
    """Say why `key` cannot be a file below a data directory on every disk; None if it can.

    Invisible characters are refused, since they could make a path read as another: controls, marks
    of direction, unassigned characters, and every space except the plain one. So is what Snakemake
    reads in a path and cannot escape: a wildcard in braces, and a variable in ``<`` and ``>``; and
    so are the names in OBEYED.
    """
    if not key.isprintable():
        return "has a character that cannot be shown"
    if "\ufffd" in key:  # what botocore makes of bytes that it cannot decode
        return "has bytes that are not UTF-8"
    if "{" in key or "}" in key:
        return "has a brace"
    if "<" in key and VARIABLE.search(key):
        return "has a name in < and >"
    parts = key.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        return "is not a plain path"
    folded = fold(key).split("/")
    if folded[0] == STATE_DIR:
        return f"is in {STATE_DIR}, which is reserved"
    if not OBEYED.isdisjoint(folded) or folded[-1].endswith(".pth"):
        return "has a name that git, a shell, Python or Snakemake would run"
    encoded = key.encode()
    if len(encoded) > MOST_PART and max(map(len, encoded.split(b"/"))) > MOST_PART:
        return f"has a name of more than {MOST_PART} bytes"
    if len(encoded) > MOST_KEY:
        return f"has more than {MOST_KEY} bytes"
    return None


def find_conflicts(listed: Iterable[str]) -> dict[str, str]:
    """Find the keys that cannot all be files side by side on every disk, and say why not.

    Some are folders of other keys, which are not at fault. Others are the same name for a disk that
    ignores case or the spelling of accents (the default of macOS). They are refused on any disk, so
    that a mirror of the bucket is the same everywhere.
    """
    found: dict[str, str] = {}
    names: dict[str, str] = {}
    folders: set[str] = set()
    for key in listed:
        name = fold(key)
        twin = names.setdefault(name, key)
        if twin != key:
            for one, other in ((key, twin), (twin, key)):
                found[one] = f"differs from {other!r} only in case or in the spelling of an accent"
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    for name in folders.intersection(names):
        found.setdefault(names[name], "is the folder of other keys as well")
    return found


def fold(name: str) -> str:
    """Return the one form of all names that are the same for some disk."""
    # A canonical caseless match, definition D145 in chapter 3.13 of the Unicode Standard.
    if name.isascii():
        return name.lower()
    return normalize("NFD", normalize("NFD", name).casefold())


class Obstacles:
    """A data directory, which may be a link; looks at each of its folders once."""

    def __init__(self, data_dir: str | None = None) -> None:
        self._top = None if data_dir is None else data_dir.rstrip("/")
        self._real = None if data_dir is None else os.path.realpath(data_dir or "/").rstrip("/")
        self._longest = os.pathconf("/", "PC_PATH_MAX")  # in bytes, with the NUL
        self._folders: dict[str, str | None] = {}

    def find(self, path: str) -> str | None:
        """Say what the user has to move away before a file can be at `path`; None if nothing."""
        if len(os.fsencode(path)) + STAGING > self._longest:
            return f"the path {path} is too long for this system; choose a shorter data directory"
        if obstacle := self._find_in_folder(os.path.dirname(path)):  # noqa: PTH120 - for each key
            return obstacle
        try:
            found = os.lstat(path)
            if S_ISLNK(found.st_mode):
                found = os.stat(path)  # noqa: PTH116 - the same
        except OSError:
            is_link = os.path.islink(path)  # noqa: PTH114 - the same
            return f"there is a link to nowhere at {path}; fix or remove it" if is_link else None
        if S_ISDIR(found.st_mode):
            return f"there is a folder at {path}; move it away"
        if not S_ISREG(found.st_mode):
            return f"there is something at {path} that is not a file; move it away"
        return None

    def _find_in_folder(self, folder: str) -> str | None:
        """Look at `folder` and those above it, up to the data directory, from the top down."""
        if folder in ("", "/", self._top):
            return None
        if folder not in self._folders:
            above = self._find_in_folder(os.path.dirname(folder))  # noqa: PTH120 - see above
            self._folders[folder] = above or self._judge(folder)
        return self._folders[folder]

    def _judge(self, folder: str) -> str | None:
        try:
            found = os.lstat(folder)
        except OSError:  # missing or not accessible: the attempt to write will say why
            return None
        if S_ISDIR(found.st_mode):
            return None
        if not S_ISLNK(found.st_mode) or os.path.isfile(folder):  # noqa: PTH113 - see above
            return f"there is a file at {folder}, where a folder belongs; move it away"
        if not os.path.isdir(folder):  # noqa: PTH112 - see above
            return f"the folder {folder} is a link to nowhere; fix or remove it"
        real = os.path.realpath(folder)
        if self._real is None or f"{real}/".startswith(f"{self._real}/"):
            return None
        return (
            f"the folder {folder} is a link that leads out of the data directory, to {real}; "
            "nothing is written through it: replace it with a folder"
        )
