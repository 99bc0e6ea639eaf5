"""Remove mirrored files that a selection names, and nothing else.

A removed file can be fetched again, but only if it is one of the bucket's. So a file goes only if
its path is a key of the listing and it is a regular file in real folders: no link is followed, not
even while somebody changes the folders meanwhile.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from laion_fmri import dataset
from laion_fmri.base.bids import parse_key
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import STATE_DIR, check_readable, get_data_dir
from laion_fmri.dataset import NOTHING_HELD_OUT, PUBLISHED
from laion_fmri.errors import SelectionError, SubjectNotFoundError
from laion_fmri.folder import unfinished
from laion_fmri.folder.claims import Claims
from laion_fmri.folder.guard import CHOSEN, FOLDER, NO_FOLDER
from laion_fmri.folder.kept import drop, is_kept
from laion_fmri.folder.login import find_facts
from laion_fmri.folder.presence import has_others
from laion_fmri.selection.filters import (
    Selection,
    explain_meant,
    is_brain_map,
    names_all_sessions,
    needs_subject,
    passes,
)
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

    Items that are ``planned`` would go. `folders` are those of all that is selected; `notes` say
    what the user should know before, such as maps that other sessions need.
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
        done = 0
        with contextlib.closing(Claims(self.data_dir)) as claims, Folders(self.data_dir) as folders:
            try:
                for number, item in enumerate(self.items):
                    if item.outcome == "planned":
                        outcome, reason = self._remove(item, folders, claims, busy=busy)
                        self.items[number] = item._replace(outcome=outcome, reason=reason)
                        done += 1
                        if progress:
                            progress(done)
            except KeyboardInterrupt as stop:
                stop.add_note(f"{done:,} files are removed; the same again removes the rest")
                raise
            finally:
                if not busy:
                    folders.remove_empty(self.folders)

    def _remove(
        self, item: Item, folders: "Folders", claims: Claims, *, busy: bool
    ) -> tuple[Outcome, str]:
        if not claims.take([item.key]) or (busy and is_kept(self.data_dir, item.key)):
            return "left", BUSY
        try:
            folder, name = folders.open(item.key)
            if not S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return "left", IS_LINK
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:  # it was unfinished, or somebody else was quicker
            pass
        except OSError as error:
            if error.errno in NO_FOLDER:
                return "left", IS_LINK
            return "failed", f"the system refuses it ({error.strerror}); check the permissions"
        else:
            # A second link that a failed job has left would be put back by the next run.
            drop(self.data_dir, item.key)
        finally:
            claims.drop([item.key])
        unfinished.drop(self.data_dir, [item.key])
        return "removed", ""

    def to_frame(self) -> "pd.DataFrame":
        """Return the items as a DataFrame with the columns of :func:`laion_fmri.removal.remove`."""
        import pandas as pd

        return pd.DataFrame(self.items, columns=list(Item._fields))


def plan_removal(settings: Settings) -> Removal:
    """Find what would be removed, and change nothing."""
    if settings.subject is None and needs_subject(settings):
        raise SubjectNotFoundError("name a subject, such as sub-03, or all")
    if names_all_sessions(settings):
        # A download takes it for no filter, which would also name what is of no session.
        raise SelectionError(
            "ses 'all' is not clear; name sessions, or leave ses out to remove all of a subject"
        )
    data_dir = get_data_dir(settings.data_dir)
    check_readable(data_dir)
    selection = Selection.from_settings(settings)
    table = find_keys(selection, NOTHING_HELD_OUT, Bucket.from_settings(settings), data_dir)
    given, selection = selection, table.selection or selection
    named = [row for row in table.rows if _is_named(row, selection)]
    if not named:
        reasons = table.warnings or ["no file carries all that is named"]
        raise SelectionError("; ".join(["the filters match nothing", *reasons]))
    items = list(_find_here(named, data_dir, selection))
    notes = explain_meant(given, selection)
    if needed := _find_needed(items, data_dir, table.listed):
        notes.append(
            f"the mean-R2 map, or the mask, of {', '.join(needed)} would go, which loaders need "
            "for the sessions that stay; a download of a session brings it back"
        )
    folders = {row.key.rpartition("/")[0] for row in named}
    return Removal(data_dir, items, folders, notes, list(table.warnings))


def _is_named(row: Row, selection: Selection) -> bool:
    scope = dataset.find_scope(row.key)
    if scope is None:
        return False
    added = selection.extras.get(scope.name)
    if added is not None and passes(row.parsed, added, strict=True):
        return True
    if not scope.has_subjects and selection.subjects and scope.name not in (selection.scopes or ()):
        return False  # it is of no subject, and "all" of one was named
    has_averages = scope.by_session is not False
    is_named = selection.is_named(scope)
    return is_named and passes(
        row.parsed, selection.filters, strict=True, has_averages=has_averages
    )


def _find_here(rows: Iterable[Row], data_dir: Path, selection: Selection) -> Iterator[Item]:
    """Look at each file without following a link; yield those that are here, or in part."""
    rows = list(rows)
    kept = unfinished.count_bytes(data_dir, (row.key for row in rows))
    with Folders(data_dir) as folders:
        for row in rows:
            size, outcome, reason = 0, "left", ""
            try:
                size = (found := os.lstat(row.path)).st_size
                folders.open(row.key)
            except (FileNotFoundError, NotADirectoryError):
                reason = IS_LINK
                if not os.path.lexists(row.path):
                    if row.key not in kept:
                        continue
                    size, outcome, reason = kept[row.key], "planned", ""
            except OSError as error:
                reason = IS_LINK
                if error.errno not in NO_FOLDER:
                    said = f"the system refuses to look at it ({error.strerror})"
                    outcome, reason = "failed", f"{said}; check the permissions"
            else:
                reason = _explain_left(row, found.st_mode, selection)
                outcome = "left" if reason else "planned"
            place = (row.key, row.path, size, row.size, row.sub, row.ses)
            yield Item(*place, outcome, reason)  # type: ignore[arg-type]


def _explain_left(row: Row, mode: int, selection: Selection) -> str:
    """Say why a file that is here is not to be removed; nothing if it is."""
    if S_ISLNK(mode):
        return IS_LINK
    if not S_ISREG(mode):
        return "it is not a file"
    if row.key in PUBLISHED.restricted_keys:
        return RESTRICTED if row.key in find_facts(PUBLISHED).restricted_keys else ""
    if PUBLISHED.is_held_out(row.key, row.parsed) and row.ses not in selection.sessions:
        return HELD_OUT
    return ""


class Folders:
    """The folders of a data directory, each opened by its name in the one above; follows no link.

    The way to the last folder stays open, since sorted keys share it.
    """

    def __init__(self, data_dir: Path) -> None:
        # The data directory is the user's own choice, which may be a link.
        self._open = [os.open(data_dir, CHOSEN)]
        self._names: list[str] = []

    def open(self, key: str) -> tuple[int, str]:
        """Return the descriptor of the folder that `key` is in, and the last part of the key."""
        *parts, name = key.split("/")
        shared = len(os.path.commonprefix([parts, self._names]))
        self._close(shared)
        for part in parts[shared:]:
            self._open.append(os.open(part, FOLDER, dir_fd=self._open[-1]))
            self._names.append(part)
        return self._open[-1], name

    def remove_empty(self, folders: Iterable[str]) -> None:
        """Remove those of `folders`, and those above them, that are empty; never our state."""
        parts = (folder.split("/") for folder in folders if folder)
        above = {tuple(names[:n]) for names in parts for n in range(1, len(names) + 1)}
        for names in sorted(above - {(STATE_DIR,)}, reverse=True):
            with contextlib.suppress(OSError):
                folder, name = self.open("/".join(names))
                os.rmdir(name, dir_fd=folder)

    def _close(self, depth: int) -> None:
        while len(self._open) > depth + 1:
            os.close(self._open.pop())
        del self._names[depth:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close(0)
        os.close(self._open.pop())


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
