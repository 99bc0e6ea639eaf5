"""The commands that show what the bucket has: info, ls, entities."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from laion_fmri.base.text import format_size
from laion_fmri.commands.output import (
    ALL_SUBJECTS,
    DONE,
    UNITS,
    add_command,
    add_filters,
    add_options,
    make_table,
    open_console,
    read_arguments,
    say,
)
from laion_fmri.errors import DataDirNotSetError

if TYPE_CHECKING:
    from laion_fmri.discovery import EntityValue
    from laion_fmri.selection.overview import Cell
    from laion_fmri.selection.table import Row

#: The flags for the form of an output, and their help.
FORMS = {
    "json": "a list of objects",
    "tsv": "tab-separated, with a header",
    "keys": "keys, one a line",
}
#: Spaces before a name, below its folder.
INDENT = 2
#: Characters of a name in a row, however narrow the terminal.
NARROWEST = 20
STYLES = {"complete": "green", "partial": "yellow"}


def add(commands: Any) -> None:
    """Add the commands to the parsers `commands`."""
    text = "show what the bucket has and what of it is here"
    info = add_command(commands, "info", _run_info, text, f"{UNITS}.")
    info.add_argument("--subject", nargs="+", metavar="SUBJECT", help="show these by session")
    add_options(info, data_dir="where to look for local files")

    text = "list the files that the filters select"
    epilog = (
        "example: laion-fmri ls --subject sub-03 --ses ses-01 --extension nii.gz. The filters are "
        "those of download. On a terminal it is a table, by folder, and elsewhere keys alone. "
        f"{UNITS}; in bytes with --json and --tsv."
    )
    ls = add_command(commands, "ls", _run_ls, text, epilog)
    add_filters(ls, ALL_SUBJECTS, "also list all of stimuli/")
    add_options(ls, data_dir="where to look for local files")
    _add_forms(ls, "json", "tsv", "keys")

    text = "show the values that each filter can have"
    epilog = (
        "example: laion-fmri entities --subject sub-03 --ses ses-01. Counted are the files that "
        "pass the filters. On a terminal it is a table, and elsewhere tab-separated values. "
        f"{UNITS}; in bytes with --json and --tsv."
    )
    entities = add_command(commands, "entities", _run_entities, text, epilog)
    add_filters(entities, ALL_SUBJECTS, "also count all of stimuli/")
    _add_forms(entities, "json", "tsv")


def _add_forms(parser: argparse.ArgumentParser, *names: str) -> None:
    group = parser.add_mutually_exclusive_group()
    for name in names:
        group.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, help=FORMS[name]
        )


def _run_info(arguments: argparse.Namespace) -> int:
    from laion_fmri.config import find_data_dir
    from laion_fmri.discovery import find_holdings
    from laion_fmri.selection.overview import add_up
    from laion_fmri.settings import AVERAGES

    by_session = arguments.subject is not None
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in find_holdings(read_arguments(arguments, subject=arguments.subject or "all")):
        place = cell.place
        subject, session = (place.subject, place.session) if place.sub else ("(root)", place.ses)
        groups.setdefault((subject, session if by_session else ""), []).append(cell)
    table = make_table(
        ("subject", "session" if by_session else "sessions"),
        ("files", "size", "here: files", "size"),
    )
    for (subject, session), group in groups.items():
        total = add_up(group)
        table.add_row(
            subject,
            session or str(sum(cell.ses != AVERAGES for cell in group)),
            f"{total.files:,}",
            format_size(total.bytes),
            f"{total.local_files:,}",
            format_size(total.local_bytes),
        )
    open_console().print(table)
    try:
        path, source = find_data_dir(arguments.data_dir)
        print(f"data directory: {path} ({source})")
    except DataDirNotSetError as error:
        print(f"data directory: {error}")
    return DONE


def _run_ls(arguments: argparse.Namespace) -> int:
    from laion_fmri.bucket.listing import Bucket
    from laion_fmri.config import find_data_dir
    from laion_fmri.discovery import NOWHERE
    from laion_fmri.selection.filters import Selection
    from laion_fmri.selection.table import COLUMNS, find_keys

    settings = read_arguments(arguments, subject=arguments.subject or "all")
    try:
        data_dir = str(find_data_dir(arguments.data_dir)[0])
    except DataDirNotSetError:  # nobody knows yet where a file will be
        data_dir = None
    selection, bucket = Selection.from_settings(settings), Bucket.from_settings(settings)
    table = find_keys(selection, settings.facts, bucket, data_dir or NOWHERE)
    for text in table.warnings:
        say(f"warning: {text}")
    form = arguments.form or ("table" if sys.stdout.isatty() else "keys")
    if form == "table":
        _print_files(table.rows, with_status=data_dir is not None)
    elif form == "keys":
        sys.stdout.writelines(f"{row.key}\n" for row in table.rows)
    else:
        unknown = {} if data_dir else {"path": None, "status": None}
        _write_records([row.to_record() | unknown for row in table.rows], COLUMNS, form)
    sys.stdout.flush()
    for text in table.notes:
        say(text)
    total = f"{len(table.rows):,} files, {format_size(sum(row.size for row in table.rows))}"
    if data_dir:
        counts = Counter(row.status for row in table.rows)
        shown = [f"{counts[status]:,} {status}" for status in ("complete", "partial", "missing")]
        total += f"; here: {', '.join(shown)}"
    say(total)
    return DONE


def _run_entities(arguments: argparse.Namespace) -> int:
    from laion_fmri import dataset
    from laion_fmri.discovery import EntityValue, count_entities

    found, table = count_entities(read_arguments(arguments, subject=arguments.subject or "all"))
    for text in table.warnings:
        say(f"warning: {text}")
    form = arguments.form or ("table" if sys.stdout.isatty() else "tsv")
    if form != "table":
        _write_records([value._asdict() for value in found], EntityValue._fields, form)
        return DONE
    _print_values(found)
    if any(value.held_out for value in found):
        say(f"held out: listed, but not given out; ask for access at {dataset.REQUEST_URL}")
    return DONE


def _print_files(rows: Sequence[Row], *, with_status: bool) -> None:
    """Print a table of files, below a heading for each folder; names are folded, never cut."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    def print_row(name: list[str], size: str, status: str, modified: str, style: str = "") -> None:
        state = (f"  {status:8}", STYLES.get(status, "")) if with_status else ""
        first = set_cell_size(name[0], room)
        line = Text.assemble(first, f"  {size:>9}", state, f"  {modified}", style=style)
        console.print(Text("\n").join([line, *map(Text, name[1:])]), soft_wrap=True)

    console = open_console()
    longest = max((cell_len(row.key.rpartition("/")[2]) for row in rows), default=0)
    left = console.width - (35 if with_status else 25)  # without the other columns
    room = max(NARROWEST, min(left, INDENT + longest))
    print_row(["file"], "size", "here", "modified", style="bold")
    by_folder = sorted((row.key.rpartition("/")[::2], row) for row in rows)
    for folder, group in groupby(by_folder, key=lambda item: item[0][0]):
        heading = _fold(f"{folder}/" if folder else "(root)", console.width, "/")
        console.print("\n".join(heading), style="bold", soft_wrap=True)
        for (_, name), row in group:
            when = f"{row.listed.last_modified:%Y-%m-%d}"
            print_row(_fold(name, room, "_", INDENT), format_size(row.size), row.status, when)


def _print_values(values: Iterable[EntityValue]) -> None:
    """Print a table of the values of each entity."""
    from rich.text import Text

    table = make_table(("entity", "value"), ("files", "size"))
    table.add_column("")
    for entity, group in groupby(values, key=lambda value: value.entity):
        table.add_section()
        for number, value in enumerate(group):
            note = Text("held out", style="yellow") if value.held_out else ""
            name = "" if number else entity
            table.add_row(name, value.value, f"{value.files:,}", format_size(value.bytes), note)
    open_console().print(table)


def _write_records(records: Iterable[Mapping[str, Any]], names: Sequence[str], form: str) -> None:
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


def _fold(text: str, width: int, mark: str, indent: int = 0) -> list[str]:
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
    return lines


def _spell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value
