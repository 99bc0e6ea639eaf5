"""A selection by subject and session, compared with what is here. Reads, and never writes."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args

from laion_fmri import dataset
from laion_fmri.base.text import format_size
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import check_readable, find_data_dir
from laion_fmri.dataset import DEFAULT_SCOPES, NOTHING_HELD_OUT
from laion_fmri.errors import list_some
from laion_fmri.folder import unfinished
from laion_fmri.folder.login import find_facts
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.scopes import add_local
from laion_fmri.selection.table import Row, find_keys
from laion_fmri.settings import ALL, AVERAGES, Settings, spell_command, spell_options

State = Literal["complete", "partial", "missing", "held out"]
STATES: tuple[State, ...] = get_args(State)

#: The value of `ses` for files in no scope.
ROOT = "root"


class _Keyed(Protocol):
    """Anything that is about one key."""

    @property
    def key(self) -> str: ...
    @property
    def sub(self) -> str | None: ...
    @property
    def ses(self) -> str | None: ...


_Item = TypeVar("_Item", bound=_Keyed)


class Place(NamedTuple):
    """A scope, a subject and a session, or what belongs to no subject."""

    scope: str  # empty for what is in none
    sub: str | None
    ses: str  # averages also where the scope is not organised by session; else its own name

    @property
    def subject(self) -> str:
        """The subject in words, such as ``sub-03`` or ``root files``."""
        return f"sub-{self.sub}" if self.sub is not None else self.scope or "root files"

    @property
    def session(self) -> str:
        """The session in words, such as ``ses-01`` or ``averages``; empty where there is none."""
        if self.sub is None or not has_sessions(self.scope):
            return ""
        return self.ses if self.ses == AVERAGES else f"ses-{self.ses}"


def has_sessions(scope: str) -> bool:
    """Whether a scope is organised by session, or may be."""
    return dataset.make_scope(scope).by_session is not False


def by_session(items: Iterable[_Item]) -> dict[Place, list[_Item]]:
    """Group `items` by scope, subject and session, sorted: averages last; at the end the root."""
    groups: dict[Place, list[_Item]] = {}
    for item in items:
        scope = dataset.find_scope(item.key)
        if scope is None:
            place = Place("", None, ROOT)
        elif scope.has_subjects:
            place = Place(scope.name, item.sub, item.ses or AVERAGES)
            place = place if has_sessions(scope.name) else place._replace(ses=AVERAGES)
        else:
            place = Place(scope.name, None, scope.name)
        groups.setdefault(place, []).append(item)
    return dict(sorted(groups.items(), key=lambda pair: _order(pair[0])))


def _order(place: Place) -> tuple[Any, ...]:
    known = dataset.DESCRIBED
    number = known.index(place.scope) if place.scope in known else len(known)
    return place.scope == "", number, place.scope, place.sub or "", order_session(place.ses)


def order_session(label: str) -> tuple[bool, bool, int, str]:
    """Order labels as numbers where they are numbers, the averages last."""
    is_number = label.isascii() and label.isdigit()
    return label == AVERAGES, not is_number, int(label) if is_number else 0, label


def name_sessions(sessions: Iterable[str]) -> str:
    """Return sorted labels of sessions in ranges: ``ses-01 to 04, 06, averages``."""
    runs: list[list[str]] = []
    rest = []
    for label in sessions:
        if not label.isdecimal():
            rest.append(label if label == AVERAGES else f"ses-{label}")
        elif runs and int(label) == int(runs[-1][-1]) + 1 and len(label) == len(runs[-1][-1]):
            runs[-1].append(label)
        else:
            runs.append([label])
    named = [", ".join(run) if len(run) < 3 else f"{run[0]} to {run[-1]}" for run in runs]
    if named:
        named[0] = f"ses-{named[0]}"
    return ", ".join([*named, *rest])


class Total(NamedTuple):
    """Files and bytes that are public, and those of them that are here and complete."""

    files: int
    bytes: int
    local_files: int
    local_bytes: int

    @property
    def share(self) -> float:
        """The share that is here, by bytes, or by files where all are empty."""
        if self.local_files == self.files:
            return 1.0
        return self.local_bytes / self.bytes if self.bytes else self.local_files / self.files

    @property
    def percent(self) -> str:
        """The share that is here, rounded down: ``100%`` says that nothing is missing."""
        if self.local_files == self.files:
            return "100%"
        return "<1%" if 0 < self.share < 0.01 else f"{min(99, int(100 * self.share))}%"


class Cell(NamedTuple):
    """What is here of one subject and session; see :func:`laion_fmri.status.status`."""

    sub: str | None
    ses: str
    files: int
    bytes: int
    local_files: int
    local_bytes: int
    partial_files: int
    state: State
    scope: str

    @property
    def place(self) -> Place:
        return Place(self.scope, self.sub, self.ses)

    @property
    def name(self) -> str:
        """Subject, session and scope, such as ``sub-03 ses-01 raw`` or ``root files``."""
        scope = self.scope if self.sub is not None else ""
        return " ".join(filter(None, (self.place.subject, self.place.session, scope)))

    @property
    def total(self) -> Total:
        return Total(*self[2:6])


def count_rows(rows: Sequence[Row]) -> Total:
    """Add up the files of `rows`, and those of them that are here and complete."""
    here = [row.size for row in rows if row.status == "complete"]
    return Total(len(rows), sum(row.size for row in rows), len(here), sum(here))


def count_cell(place: Place, rows: Sequence[Row]) -> Cell:
    """Count what is here of the `rows` of a subject and session."""
    total = count_rows(rows)
    partial = sum(row.status == "partial" for row in rows)
    state: State = "partial" if total.local_files or partial else "missing"
    if total.local_files == total.files:
        state = "complete"
    return Cell(place.sub, place.ses, *total, partial, state, place.scope)


def add_up(cells: Iterable[Cell]) -> Total:
    """Return the total of `cells`."""
    totals = [Total(0, 0, 0, 0), *(cell.total for cell in cells)]
    return Total(*map(sum, zip(*totals, strict=True)))


@dataclass(frozen=True)
class Overview:
    """A selection, compared with the data directory."""

    settings: Settings
    data_dir: Path
    bucket: str  # in words
    compared: datetime  # in UTC
    cells: list[Cell]  # by scope, subject and session; the root files last
    rows: list[list[Row]]  # of each cell, sorted by key
    warnings: list[str]
    notes: Sequence[str] = ()  # what is worth saying once

    @property
    def subjects(self) -> list[str]:
        """The labels of the subjects, sorted."""
        return list(dict.fromkeys(cell.sub for cell in self.cells if cell.sub is not None))

    @property
    def scopes(self) -> list[str]:
        """The scopes of subjects, in order."""
        return list(dict.fromkeys(cell.scope for cell in self.cells if cell.sub is not None))

    def cells_of(self, scope: str) -> list[Cell]:
        """Return the cells of a scope."""
        return [cell for cell in self.cells if cell.scope == scope]

    def sessions_of(self, scope: str) -> list[str]:
        """Return the labels of the sessions of a scope, sorted, without the averages."""
        found = {cell.ses for cell in self.cells_of(scope)} - {AVERAGES}
        return sorted(found, key=order_session)

    def totals(self) -> dict[str, Total]:
        """Return the totals by name: subjects, scopes, root files, and ``all`` but held-out."""
        public = [cell for cell in self.cells if cell.state != "held out"]
        totals = {f"sub-{sub}": add_up(c for c in public if c.sub == sub) for sub in self.subjects}
        groups = dict.fromkeys((cell.scope, cell.place.subject) for cell in public if not cell.sub)
        if len(self.scopes) > 1:
            totals |= {name: add_up(c for c in public if c.scope == name) for name in self.scopes}
        totals |= {name: add_up(c for c in public if c.scope == scope) for scope, name in groups}
        return totals | {"all": add_up(public)}

    def suggest_command(self) -> tuple[str, str]:
        """Return what to do next in words, and the command line for it; empty if there is none."""
        own = [cell for cell in self.cells if cell.scope]
        if own and all(cell.state == "held out" for cell in own):
            return f"none of it is public; ask for access at {dataset.REQUEST_URL}", ""
        todo = [cell for cell in self.cells if cell.state in ("partial", "missing")]
        if not todo:
            command = spell_command("verify", self.settings)
            return "everything is here; to check the content as well:", command
        wanted = list(dict.fromkeys(cell.sub for cell in todo if cell.sub is not None))
        subjects = None if wanted in ([], self.subjects) else [f"sub-{label}" for label in wanted]
        size = format_size(self.missing_bytes)
        command = spell_command("download", self.settings, subjects)
        return f"to fetch what is missing, {size}:", command

    @property
    def missing_bytes(self) -> int:
        """The bytes of the public files that are missing or partial, which a download fetches."""
        public = add_up(cell for cell in self.cells if cell.state != "held out")
        return public.bytes - public.local_bytes

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the single files in plain types; sizes in bytes."""
        return {
            "data_dir": str(self.data_dir),
            "bucket": self.bucket,
            "compared": self.compared.isoformat(timespec="seconds"),
            "options": spell_options(self.settings),
            "sessions": [cell._asdict() for cell in self.cells],
            "totals": {name: total._asdict() for name, total in self.totals().items()},
            "next": self.suggest_command()[1],
            "next_bytes": self.missing_bytes,
        }


def take_overview(settings: Settings) -> Overview:
    """Compare a selection with the data directory; all subjects are the default."""
    data_dir, _ = find_data_dir(settings.data_dir)
    check_readable(data_dir)
    settings = replace(settings, subject=settings.subject or ALL)
    bucket = Bucket.from_settings(settings)
    plain = Selection.from_settings(settings)
    selection = add_local(plain, data_dir, bucket)
    table = find_keys(selection, NOTHING_HELD_OUT, bucket, data_dir)
    if added := selection.extras.keys() - plain.extras.keys():
        settings = replace(settings, scope=[*DEFAULT_SCOPES, *sorted(added)])
    cells, rows = [], []
    facts = find_facts(settings.facts)
    for place, group in by_session(table.rows).items():
        public = [row for row in group if not facts.is_held_out(row.key, row.parsed)]
        cell = count_cell(place, public or group)
        cells.append(cell if public else cell._replace(state="held out"))
        rows.append(public or group)
    warnings = [*table.warnings, *_explain_closed(table.incomplete(), data_dir)]
    kept = unfinished.explain(data_dir, (row.key for row in table.incomplete()))
    notes = [*table.notes, *([f"{kept}; the next download goes on there"] if kept else [])]
    where, now = str(bucket), datetime.now(UTC)
    return Overview(settings, data_dir, where, now, cells, rows, warnings, notes)


def _explain_closed(rows: Iterable[Row], data_dir: Path) -> list[str]:
    """Name the folders that cannot be looked into: what is in there looks like missing."""
    closed = []
    for folder in sorted({os.path.dirname(row.path) for row in rows}):  # noqa: PTH120 - each key
        try:
            os.stat(os.path.join(folder, "."))  # noqa: PTH116, PTH118 - the same
        except PermissionError:
            closed.append(os.path.relpath(folder, data_dir))
        except OSError:  # missing
            continue
    if not closed:
        return []
    return [f"cannot look into {list_some(closed, 3)}: counted as missing; change the permissions"]
