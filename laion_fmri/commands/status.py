"""The command ``status``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri import dataset
from laion_fmri.base.text import format_size
from laion_fmri.commands.output import (
    DONE,
    add_command,
    add_filters,
    add_options,
    cut,
    open_console,
    read_arguments,
    say,
    spell_path,
)
from laion_fmri.settings import AVERAGES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from laion_fmri.selection.overview import Cell, Overview

#: State -> its sign and its style: the signs read without colour, on any terminal.
SIGNS = {
    "complete": ("#", "bold green"),
    "partial": ("+", "bold yellow"),
    "missing": (".", "dim"),
    "held out": ("x", "magenta"),
}
#: Columns that the totals need: on a narrower terminal they are folded, and never cut.
WIDTH = 72
#: Sessions in a row before a gap, where each is a single character.
GROUP = 5


def add(commands: Any) -> None:
    """Add the command to the parsers `commands`."""
    status = add_command(
        commands, "status", _run_status, "show what of a selection is here, by subject and session"
    )
    status.epilog = (
        "example: laion-fmri status --subject sub-03 --desc SingletrialBetas --html status.html. "
        "Sizes are compared, not content; for that there is 'laion-fmri verify'. Nothing is "
        "written into the data directory. Sizes are in decimal units: 1 MB is 1,000,000 bytes."
    )
    add_filters(status, "sub-03, 03, or all (the default)", "also count all of stimuli/")
    add_options(status, data_dir="where the files are, this time")
    status.add_argument("--json", action="store_true", help="print it as JSON, sizes in bytes")
    status.add_argument("--html", metavar="FILE", help="write it to a page that needs no network")


def _run_status(arguments: argparse.Namespace) -> int:
    from laion_fmri.selection.overview import take_overview

    overview = take_overview(read_arguments(arguments))
    for text in overview.warnings:
        say(f"warning: {text}")
    if arguments.html is not None:
        from laion_fmri.show.page import make_page, write_page

        file = Path(arguments.html).expanduser().absolute()
        write_page(file, make_page(overview), overview.data_dir)
    if arguments.json:
        print(json.dumps(overview.to_json(), indent=2))
        return DONE
    if arguments.html is not None:
        print(f"written: {spell_path(file)}")
        return DONE
    _print_overview(overview, open_console())
    return DONE


def _print_overview(overview: Overview, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    def tell(line: str | Text = "") -> None:
        console.print(line, soft_wrap=True)

    tell(f"{spell_path(overview.data_dir)}, compared with {overview.bucket}\n")
    for line in draw_grid(overview, console.width):
        tell(line)
    legend = Text()
    for state, (sign, style) in SIGNS.items():
        legend.append(sign, style).append(f" {state}   ")
    tell(legend.append("blank: not selected"))
    tell()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading in ("", "files here", "of", "size here", "of", "share"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, total in overview.totals().items():
        table.add_row(
            cut(name),
            f"{total.local_files:,}",
            f"{total.files:,}",
            format_size(total.local_bytes),
            format_size(total.bytes),
            total.percent,
            style="bold" if name == "all" else "",
        )
    console.print(table, width=max(console.width, WIDTH))
    tell()
    if any(cell.state == "held out" for cell in overview.cells):
        tell("held out: not public, and not counted in the totals; ask for access at")
        tell(f"  {dataset.REQUEST_URL}")
    advice, command = overview.suggest_command()
    tell(advice)
    if command:
        tell(f"  {spell_path(command)}")


def draw_grid(overview: Overview, columns: int) -> Iterator[Text]:
    """Yield the lines of the grid, each at most `columns` wide as far as one session fits.

    With room, each label is written out; else its characters stand below each other. What does not
    fit in one row goes on in another block.
    """
    from rich.text import Text

    subjects, sessions = overview.subjects, overview.sessions
    labels = [cut(label) for label in sessions]
    margin = max((len(f"sub-{cut(name)}") for name in subjects), default=0) + 2
    room = columns - margin - len(AVERAGES) - 1
    width = max(map(len, labels), default=1)
    is_wide = len(labels) * (width + 1) <= room
    fit = len(labels) if is_wide else max(GROUP, room * GROUP // (GROUP + 1) - 1)
    grid = overview.grid
    has_averages = any(ses == AVERAGES for _, ses in grid)
    for start in range(0, max(1, len(labels)), max(1, fit)):
        shown = range(start, min(start + fit, len(labels)))
        is_last = start + fit >= len(labels)
        if is_wide:
            headings = ["".join(f"{label:>{width}} " for label in labels)]
        else:
            rows = ("".join(row) for row in zip(*(f"{x:>{width}}" for x in labels), strict=True))
            headings = [_space(row[start : start + fit]) for row in rows]
        tail = f" {AVERAGES}" if is_last and has_averages else ""
        for number, heading in enumerate(headings):
            is_bottom = number == len(headings) - 1
            yield Text(f"{'':{margin}}{heading}{tail if is_bottom else ''}".rstrip())
        for name in subjects:
            line = Text(f"{'sub-' + cut(name):{margin}}")
            for place, index in enumerate(shown):
                if not is_wide and place and place % GROUP == 0:
                    line.append(" ")
                line.append(" " * (width - 1) if is_wide else "")
                line.append(*_sign(grid.get((name, sessions[index]))))
                line.append(" " if is_wide else "")
            if tail:
                line.append(" " + " " * (len(AVERAGES) // 2))
                line.append(*_sign(grid.get((name, AVERAGES))))
            line.rstrip()
            yield line
        yield Text()


def _sign(cell: Cell | None) -> tuple[str, str]:
    return SIGNS[cell.state] if cell else (" ", "")


def _space(signs: Sequence[str]) -> str:
    """Put a gap after each group of sessions."""
    text = "".join(signs)
    return " ".join(text[start : start + GROUP] for start in range(0, len(text), GROUP))
