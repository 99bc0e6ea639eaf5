"""``status()``: what of a selection is here, by subject and session. Reads, and never writes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from laion_fmri import dataset
from laion_fmri.bucket.listing import Bucket
from laion_fmri.check.inventory import NOTHING_HELD_OUT
from laion_fmri.config import StrPath, find_data_dir
from laion_fmri.errors import DataDirError, list_some
from laion_fmri.selection.bids import parse_key
from laion_fmri.selection.filters import AVERAGES, FILTERS, Selection, Values
from laion_fmri.selection.table import Row, find_keys

if TYPE_CHECKING:
    import pandas as pd

State = Literal["complete", "partial", "missing", "held out"]
STATES: tuple[State, ...] = get_args(State)

#: In the place of a session, where there is no subject: the files of the root, and the stimuli.
ROOT, STIMULI = "root", "stimuli"


class Cell(NamedTuple):
    """What is here of one subject and session; the columns are those of :func:`status`."""

    sub: str | None
    ses: str
    files: int
    bytes: int
    local_files: int
    local_bytes: int
    partial_files: int
    state: State

    @property
    def name(self) -> str:
        """The subject and the session in words, such as ``sub-03 ses-01`` or ``root files``."""
        if self.sub is None:
            return "root files" if self.ses == ROOT else self.ses
        return f"sub-{self.sub} {name_session(self.ses)}"

    @property
    def total(self) -> Total:
        """Its files and bytes alone."""
        return Total(self.files, self.bytes, self.local_files, self.local_bytes)


class Total(NamedTuple):
    """Files and bytes of several cells that may be had, and those that are here and complete."""

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
        """The share that is here, by bytes, rounded down: ``100%`` says that nothing is missing."""
        if self.local_files == self.files:
            return "100%"
        return "<1%" if 0 < self.share < 0.01 else f"{min(99, int(100 * self.share))}%"


@dataclass
class Overview:
    """A selection, compared with the data directory.

    Attributes
    ----------
    data_dir : path
    bucket : str
        In words, where the listing is from.
    config : mapping
        The selection as it was given: subject, filters, ``include_stimuli`` and ``data_dir``.
    compared : datetime
        When, in UTC.
    cells : list of Cell
        Sorted by subject and session, averages last; then root files and stimuli.
    rows : list of list of Row
        The files of each cell, sorted by key.
    warnings : list of str
        What the user should know, such as filter values that match nothing.
    """

    data_dir: Path
    bucket: str
    config: Mapping[str, Any]
    compared: datetime
    cells: list[Cell]
    rows: list[list[Row]]
    warnings: list[str]

    @property
    def subjects(self) -> list[str]:
        """The labels of the subjects, sorted."""
        return list(dict.fromkeys(cell.sub for cell in self.cells if cell.sub is not None))

    @property
    def sessions(self) -> list[str]:
        """The labels of the sessions of all subjects, sorted, without the averages."""
        found = {cell.ses for cell in self.cells if cell.sub is not None} - {AVERAGES}
        return sorted(found, key=_order_session)

    @property
    def grid(self) -> dict[tuple[str, str], Cell]:
        """The cells by subject and session."""
        return {(cell.sub, cell.ses): cell for cell in self.cells if cell.sub is not None}

    def count(self, subject: str | None = None) -> Total:
        """Add up the cells of `subject`, or all, without what is held out."""
        found = [cell for cell in self.cells if cell.state != "held out"]
        if subject is not None:
            found = [cell for cell in found if cell.sub == subject]
        return _add_up(found)

    def totals(self) -> dict[str, Total]:
        """Return the totals by name: each subject, root files, stimuli, and ``all``, the last."""
        totals = {f"sub-{subject}": self.count(subject) for subject in self.subjects}
        totals |= {cell.name: cell.total for cell in self.cells if cell.sub is None}
        return totals | {"all": self.count()}

    def suggest_command(self) -> tuple[str, str]:
        """Return what to do next in words, and the command line for it; empty if there is none."""
        if all(cell.state == "held out" for cell in self.cells if cell.sub is not None):
            return f"none of it is public; ask for access at {dataset.REQUEST_URL}", ""
        todo = [cell for cell in self.cells if cell.state in ("partial", "missing")]
        if not todo:
            words = ["verify", *self.spell_options()]
            return "everything is here; to check the content as well:", _join(words)
        wanted = list(dict.fromkeys(cell.sub for cell in todo if cell.sub is not None))
        subjects = None if wanted in ([], self.subjects) else [f"sub-{label}" for label in wanted]
        return "to fetch what is missing:", _join(["download", *self.spell_options(subjects)])

    def spell_options(self, subjects: Sequence[str] | None = None) -> list[str]:
        """Return the selection as options of the command, for other `subjects` if given."""
        words = ["--subject", *(subjects or _as_list(self.config["subject"]))]
        for name in FILTERS:
            if values := _as_list(self.config.get(name)):
                words += [f"--{name}", *values]
        words += ["--include-stimuli"] * bool(self.config.get("include_stimuli"))
        given = self.config.get("data_dir")
        return words if given is None else [*words, "--data-dir", os.fspath(given)]

    def to_frame(self) -> pd.DataFrame:
        """Return the cells as a DataFrame with the columns of :func:`status`."""
        import pandas as pd

        return pd.DataFrame(self.cells, columns=list(Cell._fields))

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the single files in plain types; sizes in bytes."""
        return {
            "data_dir": str(self.data_dir),
            "bucket": self.bucket,
            "compared": self.compared.isoformat(timespec="seconds"),
            "options": self.spell_options(),
            "sessions": [cell._asdict() for cell in self.cells],
            "totals": {name: total._asdict() for name, total in self.totals().items()},
            "next": self.suggest_command()[1],
        }


def status(
    subject: Values = "all",
    ses: Values = None,
    task: Values = None,
    space: Values = None,
    desc: Values = None,
    stat: Values = None,
    suffix: Values = None,
    extension: Values = None,
    include_stimuli: bool = False,
    *,
    data_dir: StrPath | None = None,
) -> pd.DataFrame:
    """Compare a selection with what is in the data directory; nothing is written.

    Parameters
    ----------
    subject, ses, task, space, desc, stat, suffix, extension, include_stimuli
        As for :func:`laion_fmri.download.download`, but that all subjects are the default.
    data_dir : path, optional
        The chosen data directory by default.

    Returns
    -------
    pandas.DataFrame
        One row for each subject and session, with the columns

        - ``sub``, ``ses``: labels, such as ``"03"`` and ``"01"``; ``ses`` is ``"averages"`` for
          files without a session, and where there is no subject (``sub`` is missing) ``"root"`` or
          ``"stimuli"``;
        - ``files``, ``bytes``: in the bucket, as far as they are selected;
        - ``local_files``, ``local_bytes``: those of them that are here, in exactly that size;
        - ``partial_files``: those that are here in another size;
        - ``state``: ``complete``, ``partial`` (some of it is here), ``missing``, or ``held out``
          (listed, but not given out by the bucket; it counts what is here all the same).

    Raises
    ------
    SubjectNotFoundError, SelectionError, TypeError
        If the selection is malformed or selects nothing.
    DataDirNotSetError, DataDirError
        If no data directory is chosen, or it cannot be read.
    BucketError
        If the bucket cannot be listed.

    Warns
    -----
    SelectionWarning
        If a filter value matches nothing, or a folder cannot be looked into.
    """
    import warnings

    from laion_fmri.errors import SelectionWarning

    overview = take_overview(dict(locals()))
    for text in overview.warnings:
        warnings.warn(text, SelectionWarning, stacklevel=2)
    return overview.to_frame()


def take_overview(config: Mapping[str, Any]) -> Overview:
    """Compare a selection with the data directory.

    Parameters
    ----------
    config : mapping
        ``subject``, the filters, ``include_stimuli`` and ``data_dir``; any may be absent.

    Raises
    ------
    LaionFmriError, TypeError
        As in :func:`status`.
    """
    data_dir, _ = find_data_dir(config.get("data_dir"))
    check_readable(data_dir)
    given = {**config, "subject": "all" if config.get("subject") is None else config["subject"]}
    public = Selection.from_config(given)
    bucket = Bucket.from_config({})
    # What is held out is listed like all else, and told apart here.
    table = find_keys(Selection.from_config({**given, **NOTHING_HELD_OUT}), bucket, data_dir)
    groups: dict[tuple[str | None, str], list[Row]] = {}
    for row in table.rows:
        groups.setdefault(_find_place(row), []).append(row)
    cells, rows = [], []
    for place in sorted(groups, key=lambda place: (place[0] or "~", _order_session(place[1]))):
        held = [row for row in groups[place] if public.is_held_out(row.key, parse_key(row.key))]
        open_ = [row for row in groups[place] if row not in held] if held else groups[place]
        cells.append(_count(place, open_ or held, is_held_out=not open_))
        rows.append(open_ or held)
    now = datetime.now(UTC)
    complaints = [*table.warnings, *_explain_closed(table.incomplete(), data_dir)]
    return Overview(data_dir, str(bucket), given, now, cells, rows, complaints)


def check_readable(data_dir: Path) -> None:
    """Refuse a data directory that is not there or cannot be looked into; it may be read-only.

    Raises
    ------
    DataDirError
    """
    if not data_dir.is_dir():
        what = "is a file" if data_dir.exists() else "does not exist"
        raise DataDirError(f"the data directory {data_dir} {what}; name another with --data-dir")
    if not os.access(data_dir, os.R_OK | os.X_OK):
        raise DataDirError(f"the data directory {data_dir} is not readable; change its permissions")


def name_session(label: str) -> str:
    """Return ``ses-01`` for ``01``; ``averages`` and the empty label stay as they are."""
    return label if label in ("", AVERAGES) else f"ses-{label}"


def name_sessions(sessions: Iterable[str]) -> str:
    """Return sorted labels of sessions in ranges: ``ses-01 to 04, 06, averages``."""
    runs: list[list[str]] = []
    rest = []
    for label in sessions:
        if not label.isdecimal():
            rest.append(name_session(label))
        elif runs and int(label) == int(runs[-1][-1]) + 1 and len(label) == len(runs[-1][-1]):
            runs[-1].append(label)
        else:
            runs.append([label])
    named = []
    for run in runs:
        named += run if len(run) < 3 else [f"{run[0]} to {run[-1]}"]
    if named:
        named[0] = f"ses-{named[0]}"
    return ", ".join([*named, *rest])


def _find_place(row: Row) -> tuple[str | None, str]:
    if row.key.startswith(dataset.STIMULI_PREFIX):
        return None, STIMULI
    return (None, ROOT) if "/" not in row.key else (row.sub, row.ses or AVERAGES)


def _order_session(label: str) -> tuple[bool, bool, int, str]:
    """Order labels as numbers where they are numbers, the averages last."""
    is_number = label.isascii() and label.isdigit()
    return label == AVERAGES, not is_number, int(label) if is_number else 0, label


def count_rows(rows: Sequence[Row]) -> Total:
    """Add up the files of `rows`, and those of them that are here and complete."""
    here = [row.size for row in rows if row.status == "complete"]
    return Total(len(rows), sum(row.size for row in rows), len(here), sum(here))


def _count(place: tuple[str | None, str], rows: Sequence[Row], *, is_held_out: bool) -> Cell:
    total = count_rows(rows)
    partial = sum(row.status == "partial" for row in rows)
    state: State = "partial" if total.local_files or partial else "missing"
    state = "complete" if total.local_files == total.files else state
    state = "held out" if is_held_out else state
    return Cell(*place, *total, partial, state)


def _explain_closed(rows: Iterable[Row], data_dir: Path) -> list[str]:
    """Name the folders that may not be looked into: what is in there looks like missing."""
    closed = []
    for folder in sorted({os.path.dirname(row.path) for row in rows}):  # noqa: PTH120 - each key
        try:
            os.stat(os.path.join(folder, "."))  # noqa: PTH116, PTH118 - the same
        except PermissionError:
            closed.append(os.path.relpath(folder, data_dir))
        except OSError:  # not there
            continue
    if not closed:
        return []
    named = list_some(closed, 3)
    return [f"may not look into {named}: counted as missing; change the permissions"]


def _add_up(cells: Sequence[Cell]) -> Total:
    return Total(
        sum(cell.files for cell in cells),
        sum(cell.bytes for cell in cells),
        sum(cell.local_files for cell in cells),
        sum(cell.local_bytes for cell in cells),
    )


def _as_list(values: Values) -> list[str]:
    if values is None:
        return []
    return [values] if isinstance(values, str) else list(values)


def _join(words: Sequence[str]) -> str:
    return shlex.join(["laion-fmri", *words])
