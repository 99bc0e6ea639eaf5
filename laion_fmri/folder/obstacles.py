"""From a key to its place on disk: which keys can be files, and what may stand in their way.

The bucket is not trusted: a key is text that anyone with write access to it may have chosen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
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
#: Bytes that a staged file has in its path beside the data directory and the key, with its NUL:
#: ``/.laion_fmri/partial/<time>-<process>-<random>/objects/`` and ``.XXXXXXXX``.
STAGING = 84
#: What Snakemake replaces in a path (pathvars.py of Snakemake 9 knows names in lower case only).
VARIABLE = re.compile("<[^/<>]+>")


def is_safe_key(key: str) -> bool:
    """Whether `key` names a file inside the data directory, outside our own state, on any disk."""
    return find_flaw(key) is None


def find_flaw(key: str) -> str | None:
    """Say why `key` cannot be a file below a data directory on every disk; None if it can.

    Characters that cannot be seen are refused, since they could make a path read as another: the
    controls, marks of direction, unassigned characters, and every space but the plain one. So is
    what Snakemake reads in a path and has no way to escape: a wildcard in braces, and a variable in
    ``<`` and ``>``.
    """
    if not key.isprintable():
        return "has a character that cannot be shown"
    if "\ufffd" in key:  # what botocore makes of bytes that it cannot read
        return "has bytes that are no UTF-8"
    if "{" in key or "}" in key:
        return "has a brace"
    if "<" in key and VARIABLE.search(key):
        return "has a name in < and >"
    parts = key.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        return "is no plain path"
    if fold(parts[0]) == STATE_DIR:
        return f"is in {STATE_DIR}, which is ours"
    encoded = key.encode()
    if len(encoded) > MOST_PART and max(map(len, encoded.split(b"/"))) > MOST_PART:
        return f"has a name of more than {MOST_PART} bytes"
    if len(encoded) > MOST_KEY:
        return f"has more than {MOST_KEY} bytes"
    return None


def find_conflicts(listed: Iterable[str]) -> dict[str, str]:
    """Find the keys that cannot all be files side by side on every disk, and say why not.

    These are the keys that are folders of others, which are not at fault; and those that a disk
    takes for one, since it does not tell upper from lower case, or one spelling of an accent from
    another (the default of macOS). What kind of disk this is does not matter: a mirror of the
    bucket is to be the same on all of them.
    """
    found: dict[str, str] = {}
    names: dict[str, str] = {}
    folders: set[str] = set()
    for key in listed:
        name = fold(key)
        twin = names.setdefault(name, key)
        if twin != key:
            found[key] = f"differs from {twin!r} only in case or in the spelling of an accent"
            found[twin] = f"differs from {key!r} only in case or in the spelling of an accent"
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    for name in folders.intersection(names):
        found.setdefault(names[name], "is the folder of other keys as well")
    return found


def fold(name: str) -> str:
    """Return the one form of all names that some disk takes for `name`.

    A canonical caseless match, definition D145 in chapter 3.13 of the Unicode Standard.
    """
    if name.isascii():
        return name.lower()
    return normalize("NFD", normalize("NFD", name).casefold())


def find_obstacle(path: str, data_dir: str | None = None) -> str | None:
    """Say what keeps a file from being written to `path`; see :class:`Obstacles`.

    Without the data directory that the file is in, links that lead out of it cannot be told.
    """
    return Obstacles(data_dir).find(path)


class Obstacles:
    """A data directory as it is found on disk, each of its folders looked at once.

    Parameters
    ----------
    data_dir : str, optional
        It may be a link itself; without it, no link is known to lead out of it.
    """

    def __init__(self, data_dir: str | None = None) -> None:
        self._top = None if data_dir is None else data_dir.rstrip("/")
        self._real = None if data_dir is None else os.path.realpath(data_dir or "/")
        self._folders: dict[str, str | None] = {}

    def find(self, path: str) -> str | None:
        """Say in words what has to be moved away, if anything, before a file can be at `path`.

        A folder or anything else that is no file, a link to nowhere, a folder that is a link to
        outside the data directory, or a path that is too long. None of it is ours to remove.
        """
        length = len(os.fsencode(path)) + STAGING
        if length > _find_longest_path():
            return f"the path {path} is too long for this system; choose a shorter data directory"
        if obstacle := self._find_in_folder(os.path.dirname(path)):  # noqa: PTH120 - for each key
            return obstacle
        try:
            found = os.lstat(path)
            if S_ISLNK(found.st_mode):
                found = os.stat(path)  # noqa: PTH116 - the same
        except OSError:
            is_link = os.path.islink(path)  # noqa: PTH114 - the same
            return f"there is a link to nowhere at {path}; mend or remove it" if is_link else None
        if S_ISDIR(found.st_mode):
            return f"there is a folder at {path}; move it away"
        if not S_ISREG(found.st_mode):
            return f"there is something at {path} that is no file; move it away"
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
        except OSError:  # not there yet, or not to be looked at: the attempt to write will say why
            return None
        if S_ISDIR(found.st_mode):
            return None
        if not S_ISLNK(found.st_mode) or os.path.isfile(folder):  # noqa: PTH113 - see above
            return f"there is a file at {folder}, where a folder belongs; move it away"
        if not os.path.isdir(folder):  # noqa: PTH112 - see above
            return f"the folder {folder} is a link to nowhere; mend or remove it"
        real = os.path.realpath(folder)
        if self._real is None or f"{real}/".startswith(self._real.rstrip("/") + "/"):
            return None
        return (
            f"the folder {folder} is a link that leads out of the data directory, to {real}; "
            "nothing is written through it: put a folder in its place"
        )


@lru_cache(maxsize=1)
def _find_longest_path() -> int:
    """Return the bytes that a path can have here, its NUL included."""
    return os.pathconf("/", "PC_PATH_MAX")
