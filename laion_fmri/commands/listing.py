"""Files and values for people, as tables that fit the terminal, and for programs, as records."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from laion_fmri.base.text import format_size
from laion_fmri.commands.output import print_table

if TYPE_CHECKING:
    from laion_fmri.discovery import EntityValue
    from laion_fmri.selection.table import Row

#: The columns of a table of files, besides the name, and their widths.
SIZE, STATUS, MODIFIED = ("size", 9), ("here", 8), ("modified", 10)
#: Spaces before a name, below its folder, and between two columns.
INDENT, GAP = 2, 2
#: Characters of a name in a row, however narrow the terminal.
NARROWEST = 20
STYLES = {"complete": "green", "partial": "yellow", "missing": ""}


def print_files(rows: Sequence[Row], *, with_status: bool) -> None:
    """Print a table of files, below a heading for each folder; names are folded, never cut."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width, height = shutil.get_terminal_size()
    others = [SIZE, STATUS, MODIFIED] if with_status else [SIZE, MODIFIED]
    longest = max((cell_len(row.key.rpartition("/")[2]) for row in rows), default=0)
    left = width - sum(wide + GAP for _, wide in others)
    room = max(NARROWEST, min(left, INDENT + longest))
    # Given both, rich also believes them where TERM is dumb.
    console = Console(width=width, height=height, highlight=False)

    def make_table(*, header: bool) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=header)
        table.add_column("file", width=room, overflow="fold")
        for heading, wide in others:
            right = heading == SIZE[0]
            table.add_column(heading, width=wide, justify="right" if right else "left")
        return table

    by_folder = sorted((row.key.rpartition("/")[::2], row) for row in rows)
    console.print(make_table(header=True))
    for folder, group in groupby(by_folder, key=lambda item: item[0][0]):
        heading = fold(f"{folder}/" if folder else "(root)", width, "/")
        console.print(Text(heading, style="bold"))
        table = make_table(header=False)
        for (_, name), row in group:
            cells: list[str | Text] = [
                format_size(row.size),
                f"{row.listed.last_modified:%Y-%m-%d}",
            ]
            if with_status:
                cells.insert(1, Text(row.status, style=STYLES[row.status]))
            table.add_row(Text(fold(name, room, "_", INDENT)), *cells)
        console.print(table)


def print_values(values: Iterable[EntityValue]) -> None:
    """Print a table of the values of each entity."""
    from rich.table import Table
    from rich.text import Text

    table = Table("entity", "value")
    for heading in ("files", "size"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for entity, group in groupby(values, key=lambda value: value.entity):
        table.add_section()
        for number, value in enumerate(group):
            note = Text("held out", style="yellow") if value.held_out else ""
            size = format_size(value.bytes)
            name = "" if number else entity
            table.add_row(name, Text(value.value), f"{value.files:,}", size, note)
    print_table(table)


def write_records(records: Iterable[Mapping[str, Any]], names: Sequence[str], form: str) -> None:
    """Write `records` with the columns `names` to stdout, as ``json`` or ``tsv``.

    Times are in ISO 8601, and what is missing is null, or nothing between two tabs.
    """
    if form == "json":
        lines = [json.dumps(record, default=datetime.isoformat) for record in records]
        sys.stdout.write("[\n " + ",\n ".join(lines) + "\n]\n" if lines else "[]\n")
        return
    writer = csv.writer(sys.stdout, "excel-tab", lineterminator="\n")
    writer.writerow(names)
    for record in records:
        writer.writerow(map(_spell, record.values()))


def fold(text: str, width: int, mark: str, indent: int = 0) -> str:
    """Fold `text` into lines of at most `width` columns, after a `mark` where there is one.

    Each line begins with `indent` spaces, and each but the first with two more.
    """
    from rich.cells import chop_cells

    lines: list[str] = []
    while text:
        lead = " " * (indent + (2 if lines else 0))
        fitting = chop_cells(text, width - len(lead))[0]  # some characters take two columns
        end = len(fitting)
        if end < len(text):
            end = fitting.rfind(mark) + 1 or end
        lines.append(lead + text[:end])
        text = text[end:]
    return "\n".join(lines)


def _spell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value
