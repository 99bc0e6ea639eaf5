"""Remove mirrored files that a selection names, and nothing else.

A removed file can be fetched again, but only if it is one of the bucket's. So a file goes only if
its path is a key of the listing and it is a regular file in real folders: no link is followed, not
even while somebody changes the folders meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import TYPE_CHECKING, Literal, NamedTuple

from laion_fmri import dataset
from laion_fmri.base.bids import parse_key
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import STATE_DIR, check_readable, get_data_dir
from laion_fmri.dataset import NOTHING_HELD_OUT, PUBLISHED
from laion_fmri.errors import SelectionError, SubjectNotFoundError
from laion_fmri.folder.claims import Claims
from laion_fmri.folder.kept import find_kept
from laion_fmri.folder.presence import has_others
from laion_fmri.selection.filters import Selection, is_brain_map
from laion_fmri.selection.table import Row, find_keys
from laion_fmri.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["removed", "planned", "left", "failed"]

BUSY = "another run is fetching it; remove it when that has ended"
IS_LINK = "it is a link, or in a folder that is one; nothing is removed through links"
HELD_OUT = "it could not be fetched again: it is held out; name its session to remove it"
RESTRICTED = "it could not be fetched again: it needs a data use agreement"

#: What a folder that is a link is refused with: on Linux, and on macOS.
_LINKS = (errno.ENOTDIR, errno.ELOOP)


class Item(NamedTuple):
    """A selected file that is here; see :func:`laion_fmri.removal.remove`."""

    key: str
    path: str
    size: int
    listed_size: int
    sub: str | None
    ses: str | None
    outcome: Outcome
    reason: str


@dataclass
class Removal:
    """What is to be removed: see what it would free, then :meth:`carry_out`.

    Attributes
    ----------
    data_dir : path
    items : list of Item
        The selected files that are here, sorted by key; those that are ``planned`` would go.
    folders : set of str
        The folders of all that is selected, relative to the data directory.
    notes : list of str
        What the user should know before: maps that other sessions need, files that are left.
    warnings : list of str
        Such as filter values that match nothing.
    """

    data_dir: Path
    items: list[Item]
    folders: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def select(self, *outcomes: Outcome) -> list[Item]:
        """Return the items with one of these outcomes."""
        return [item for item in self.items if item.outcome in outcomes]

    def carry_out(self, progress: Callable[[int], object] | None = None) -> None:
        """Remove the planned files, then the folders that are empty now; note the outcomes.

        What another run is fetching is left. Where it lives, so are empty folders, which it may be
        about to fill, and what it has just brought. `progress` is called with the files done.
        """
        busy = has_others(self.data_dir)
        claims = Claims(self.data_dir)
        done = 0
        try:
            for number, item in enumerate(self.items):
                if item.outcome != "planned":
                    continue
                self.items[number] = self._remove(item, claims, busy=busy)
                done += 1
                if progress:
                    progress(done)
        except KeyboardInterrupt as stop:
            stop.add_note(f"{done:,} files are removed; the same again removes the rest")
            raise
        finally:
            claims.close()
            if not busy:
                _remove_empty(self.data_dir, self.folders)

    def _remove(self, item: Item, claims: Claims, *, busy: bool) -> Item:
        kept = find_kept(self.data_dir, item.key)
        if not claims.take([item.key]) or (busy and os.path.lexists(kept)):
            return item._replace(outcome="left", reason=BUSY)
        try:
            with _open_folder(self.data_dir, item.key) as (folder, name):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not S_ISREG(found.st_mode):
                    return item._replace(outcome="left", reason=IS_LINK)
                os.unlink(name, dir_fd=folder)
            # A second link that a failed job has left would be put back by the next run.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                kept.unlink()
        except FileNotFoundError:  # somebody else was quicker
            return item._replace(outcome="removed", reason="")
        except OSError as error:
            if error.errno in _LINKS:
                return item._replace(outcome="left", reason=IS_LINK)
            reason = f"the system refuses it ({error.strerror}); check the permissions"
            return item._replace(outcome="failed", reason=reason)
        finally:
            claims.drop([item.key])
        return item._replace(outcome="removed", reason="")

    def to_frame(self) -> pd.DataFrame:
        """Return the items as a DataFrame with the columns of :func:`laion_fmri.removal.remove`."""
        import pandas as pd

        return pd.DataFrame(self.items, columns=list(Item._fields))


def plan_removal(settings: Settings) -> Removal:
    """Find what would be removed, and change nothing.

    Parameters
    ----------
    settings : Settings
        ``subject``, the filters, ``include_stimuli`` and ``data_dir``.

    Raises
    ------
    LaionFmriError
        As in :func:`laion_fmri.removal.remove`.
    """
    if settings.subject is None:
        raise SubjectNotFoundError("name a subject, such as sub-03, or all")
    data_dir = get_data_dir(settings.data_dir)
    check_readable(data_dir)
    selection = Selection.from_settings(settings)
    table = find_keys(selection, NOTHING_HELD_OUT, Bucket.from_settings(settings), data_dir)
    named = [row for row in table.rows if _is_named(row, selection)]
    if not named:
        reasons = table.warnings or ["no file carries all that is named"]
        raise SelectionError("; ".join(["the filters match nothing", *reasons]))
    items = list(_find_here(named, data_dir, selection))
    notes = []
    if needed := _find_needed(items, data_dir, table.listed):
        notes.append(
            f"the mean-R2 map, or the mask, of {', '.join(needed)} would go, which loaders need "
            "for the sessions that stay; a download of a session brings it back"
        )
    folders = {row.key.rpartition("/")[0] for row in named}
    return Removal(data_dir, items, folders, notes, list(table.warnings))


def _is_named(row: Row, selection: Selection) -> bool:
    if row.key.startswith(dataset.STIMULI_PREFIX):
        return selection.include_stimuli
    return "/" in row.key and selection.matches(row.parsed, strict=True)


def _find_here(rows: Iterable[Row], data_dir: Path, selection: Selection) -> Iterator[Item]:
    """Look at each file without following a link; yield those that are here."""
    for row in rows:
        reason = ""
        try:
            found = os.lstat(row.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = f"the system refuses to look at it ({error.strerror}); check the permissions"
            yield Item(*(row.key, row.path, 0, row.size, row.sub, row.ses), "failed", reason)
            continue
        if S_ISLNK(found.st_mode) or _is_behind_link(data_dir, row.key):
            reason = IS_LINK
        elif not S_ISREG(found.st_mode):
            reason = "it is no file"
        elif row.key in PUBLISHED.restricted_keys:
            reason = RESTRICTED
        elif PUBLISHED.is_held_out(row.key, row.ses) and row.ses not in selection.sessions:
            reason = HELD_OUT
        outcome: Outcome = "left" if reason else "planned"
        yield Item(row.key, row.path, found.st_size, row.size, row.sub, row.ses, outcome, reason)


def _is_behind_link(data_dir: Path, key: str) -> bool:
    try:
        with _open_folder(data_dir, key):
            return False
    except OSError:
        return True


@contextlib.contextmanager
def _open_folder(data_dir: Path, key: str) -> Iterator[tuple[int, str]]:
    """Open the folder that `key` is in, each part of it without following links.

    Yields the descriptor of the folder, and the last part of the key.
    """
    *parts, name = key.split("/")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    folder = os.open(data_dir, flags)  # the user's own choice, which may be a link
    try:
        for part in parts:
            inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder, name
    finally:
        os.close(folder)


def _remove_empty(data_dir: Path, folders: Iterable[str]) -> None:
    """Remove those of `folders`, and those above them, that are empty; never the data directory."""
    above: set[str] = set()
    for folder in folders:
        while folder:
            above.add(folder)
            folder = folder.rpartition("/")[0]
    for folder in sorted(above, key=lambda folder: folder.count("/"), reverse=True):
        if folder != STATE_DIR:
            with contextlib.suppress(OSError), _open_folder(data_dir, folder) as (outer, name):
                os.rmdir(name, dir_fd=outer)


def _find_needed(items: Iterable[Item], data_dir: Path, listed: Iterable[str]) -> list[str]:
    """Return the subjects whose brain mask would go while files of their sessions stay."""
    planned = {item.key for item in items if item.outcome == "planned"}
    losing = {parse_key(key).sub for key in planned if is_brain_map(parse_key(key))}
    staying: set[str | None] = set()
    for key in listed if losing else ():
        sub, ses = parse_key(key)[:2]
        if sub in losing - staying and ses and key not in planned and (data_dir / key).is_file():
            staying.add(sub)
    return [f"sub-{sub}" for sub in sorted(map(str, losing & staying))]
