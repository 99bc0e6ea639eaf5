"""The command ``status``."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from laion_fmri import dataset
from laion_fmri.base.files import expand_path
from laion_fmri.base.text import format_size, spell
from laion_fmri.commands import output
from laion_fmri.settings import AVERAGES

if TYPE_CHECKING:
    from rich.text import Text

    from laion_fmri.selection.overview import Overview

#: State -> its sign and style; the signs can be told apart without colour, on any terminal.
SIGNS = {
    "complete": ("#", "bold green"),
    "partial": ("+", "bold yellow"),
    "missing": (".", "dim"),
    "held out": ("x", "magenta"),
}
#: Columns that the totals need: a narrower terminal folds them, and they are never cut.
WIDTH = 72
#: Sessions in a row before a gap, where each is a single character.
GROUP = 5


def add(commands: Any) -> None:
    """Add the command to the parsers `commands`."""
    epilog = (
        "example: laion-fmri status --subject sub-03 --desc SingletrialBetas --html status.html. "
        "Only sizes are compared; to check the content, use 'laion-fmri verify'. Nothing is "
        f"written to the data directory. {output.UNITS}."
    )
    text = "show how much of a selection is here, by subject and session"
    status = output.add_command(commands, "status", _run_status, text, epilog)
    output.add_filters(status, output.ALL_SUBJECTS)
    output.add_options(status, data_dir="where the files are, this time")
    status.add_argument("--json", action="store_true", help="print it as JSON, sizes in bytes")
    status.add_argument(
        "--html", metavar="FILE", help="write it to an HTML page that works offline"
    )


def _run_status(arguments: argparse.Namespace) -> int:
    from laion_fmri.selection.overview import take_overview

    overview = take_overview(output.read_arguments(arguments))
    output.warn(overview.warnings)
    for text in overview.notes:
        output.say(text)
    if arguments.html is not None:
        from laion_fmri.show.page import make_page, write_page

        file = expand_path(arguments.html).absolute()
        write_page(file, make_page(overview), overview.data_dir)
    if arguments.json:
        print(json.dumps(overview.to_json(), indent=2))
    elif arguments.html is not None:
        print(f"written: {output.spell_path(file)}")
    else:
        _print_overview(overview)
    return output.DONE


def _print_overview(overview: "Overview") -> None:
    from rich.table import Column
    from rich.text import Text

    console = output.open_console()
    write = partial(console.print, soft_wrap=True)
    output.write(f"{output.spell_path(overview.data_dir)}, compared with {overview.bucket}")
    write()
    for line in draw_grid(overview, console.width):
        write(line)
    write(
        *(Text.assemble(sign, f" {state}  ") for state, sign in SIGNS.items()),
        "blank: not selected\n",
    )
    look = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0), "header_style": ""}
    headings = ("files here", "of", "size here", "of", "share")
    table = output.make_table((Column(no_wrap=True),), headings, no_wrap=True, **look)
    for name, total in overview.totals().items():
        table.add_row(
            output.cut(name),
            f"{total.local_files:,}",
            f"{total.files:,}",
            format_size(total.local_bytes),
            format_size(total.bytes),
            total.percent,
            style="bold" if name == "all" else "",
        )
    console.width = max(console.width, WIDTH)
    console.print(table)
    write()
    if any(cell.state == "held out" for cell in overview.cells):
        write("held out: not public, and not counted in the totals; ask for access at")
        write(f"  {dataset.REQUEST_URL}")
    advice, command = overview.suggest_command()
    write(advice)
    if command:
        write(f"  {output.fold_command(output.spell_path(command))}")


def draw_grid(overview: "Overview", columns: int) -> "Iterator[Text]":
    """Yield the lines of the grids, each at most `columns` wide if a group of sessions fits.

    Each scope that is organised by session has one; the others share one, with a column for each.
    """
    from rich.text import Text

    flat: dict[tuple[str | None, str], tuple[str, str]] = {}
    for scope in overview.scopes:
        cells = overview.cells_of(scope)
        sessions = overview.sessions_of(scope)
        if not sessions:
            flat |= {(cell.sub, scope): SIGNS[cell.state] for cell in cells}
            continue
        signs = {(cell.sub, cell.ses): SIGNS[cell.state] for cell in cells}
        yield Text(spell(scope))
        yield from _draw_block(overview.subjects, sessions, signs, columns)
    if flat:
        yield from _draw_block(
            overview.subjects, [*dict.fromkeys(s for _, s in flat)], flat, columns
        )


def _draw_block(
    subjects: Sequence[str],
    sessions: Sequence[str],
    signs: Mapping[tuple[str | None, str], tuple[str, str]],
    columns: int,
) -> "Iterator[Text]":
    """Yield the lines of a grid of subjects by `sessions`, or by scopes.

    Labels that do not fit side by side are written downwards; long rows go on in another block.
    """
    from rich.text import Text

    has_averages = any(ses == AVERAGES for _, ses in signs)
    labels = [output.cut(label) for label in sessions]
    names = [f"sub-{output.cut(name)}" for name in subjects]
    margin = max(map(len, names), default=0) + 2
    room = columns - margin - len(AVERAGES) - 1
    width = max(map(len, labels), default=1)
    padded = [f"{label:>{width}}" for label in labels]
    is_wide = len(labels) * (width + 1) <= max(0, room)
    headings = [padded] if is_wide else list(zip(*padded, strict=True))
    fit = len(labels) if is_wide else max(GROUP, room * GROUP // (GROUP + 1) - 1)
    group, before, gap = (1, " " * (width - 1), "  ") if is_wide else (GROUP, "", " ")
    rows: list[tuple[str, Sequence[str | Text], str | Text]]
    rows = [("", heading, AVERAGES if heading is headings[-1] else "") for heading in headings]
    for name, sub in zip(names, subjects, strict=True):
        marks = [Text.assemble(before, signs.get((sub, ses), " ")) for ses in sessions]
        middle = " " * (len(AVERAGES) // 2)
        rows.append((name, marks, Text.assemble(middle, signs.get((sub, AVERAGES), ""))))
    for start in range(0, max(1, len(labels)), max(1, fit)):
        for name, cells, average in rows:
            shown = cells[start : start + fit]
            groups = [Text.assemble(*shown[n : n + group]) for n in range(0, len(shown), group)]
            line = Text.assemble(f"{name:{margin}}", Text(" ").join(groups))
            if has_averages and start + fit >= len(labels):
                line.append(gap).append(average)
            line.rstrip()
            yield line
        yield Text()
