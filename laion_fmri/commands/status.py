"""The command ``status``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri import dataset
from laion_fmri.base.text import format_size
from laion_fmri.commands.output import (
    ALL_SUBJECTS,
    DONE,
    PLAIN,
    UNITS,
    add_command,
    add_filters,
    add_options,
    cut,
    make_table,
    open_console,
    read_arguments,
    say,
    spell_path,
)
from laion_fmri.settings import AVERAGES

if TYPE_CHECKING:
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
    epilog = (
        "example: laion-fmri status --subject sub-03 --desc SingletrialBetas --html status.html. "
        "Sizes are compared, not content; for that there is 'laion-fmri verify'. Nothing is "
        f"written into the data directory. {UNITS}."
    )
    text = "show what of a selection is here, by subject and session"
    status = add_command(commands, "status", _run_status, text, epilog)
    add_filters(status, ALL_SUBJECTS, "also count all of stimuli/")
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
    elif arguments.html is not None:
        print(f"written: {spell_path(file)}")
    else:
        _print_overview(overview)
    return DONE


def _print_overview(overview: Overview) -> None:
    from rich.text import Text

    console = open_console()
    write = partial(console.print, soft_wrap=True)
    write(f"{spell_path(overview.data_dir)}, compared with {overview.bucket}\n")
    for line in draw_grid(overview, console.width):
        write(line)
    write(
        *(Text.assemble(sign, f" {state}  ") for state, sign in SIGNS.items()),
        "blank: not selected\n",
    )
    table = make_table(
        ("",), ("files here", "of", "size here", "of", "share"), no_wrap=True, **PLAIN
    )
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
    write()
    if any(cell.state == "held out" for cell in overview.cells):
        write("held out: not public, and not counted in the totals; ask for access at")
        write(f"  {dataset.REQUEST_URL}")
    advice, command = overview.suggest_command()
    write(advice)
    if command:
        write(f"  {spell_path(command)}")


def draw_grid(overview: Overview, columns: int) -> Iterator[Text]:
    """Yield the lines of the grid, each at most `columns` wide as far as one session fits.

    With room, each label is written out; else its characters stand below each other. What does not
    fit in one row goes on in another block.
    """
    from rich.text import Text

    subjects, sessions, grid = overview.subjects, overview.sessions, overview.grid
    labels = [cut(label) for label in sessions]
    margin = max((len(f"sub-{cut(name)}") for name in subjects), default=0) + 2
    room = columns - margin - len(AVERAGES) - 1
    longest = max(map(len, labels), default=1)
    is_wide = len(labels) * (longest + 1) <= room
    width = longest if is_wide else 1
    fit = len(labels) if is_wide else max(GROUP, room * GROUP // (GROUP + 1) - 1)
    headings = [labels] if is_wide else list(zip(*(f"{x:>{longest}}" for x in labels), strict=True))
    for start in range(0, max(1, len(labels)), max(1, fit)):
        shown = slice(start, start + fit)
        count = len(labels[shown])
        gaps = [
            " " if is_wide or (n % GROUP == 0 and n < count) else "" for n in range(1, count + 1)
        ]
        has_averages = start + fit >= len(labels) and any(ses == AVERAGES for _, ses in grid)
        for number, heading in enumerate(headings, 1):
            names = "".join(
                f"{x:>{width}}{gap}" for x, gap in zip(heading[shown], gaps, strict=True)
            )
            tail = f" {AVERAGES}" if has_averages and number == len(headings) else ""
            yield Text(f"{'':{margin}}{names}{tail}".rstrip())
        for name in subjects:
            signs = [_sign(grid.get((name, ses))) for ses in sessions[shown]]
            line = Text(f"{'sub-' + cut(name):{margin}}")
            for sign, gap in zip(signs, gaps, strict=True):
                line.append(" " * (width - 1)).append(*sign).append(gap)
            if has_averages:
                line.append(" " * (1 + len(AVERAGES) // 2)).append(
                    *_sign(grid.get((name, AVERAGES)))
                )
            line.rstrip()
            yield line
        yield Text()


def _sign(cell: Cell | None) -> tuple[str, str]:
    return SIGNS[cell.state] if cell else (" ", "")
