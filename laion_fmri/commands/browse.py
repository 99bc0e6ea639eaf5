"""The commands that show what the bucket has: info, ls, entities."""

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
from laion_fmri.commands import output
from laion_fmri.errors import DataDirNotSetError, list_some
from laion_fmri.settings import ALL

if TYPE_CHECKING:
    from laion_fmri.discovery import EntityValue
    from laion_fmri.selection.table import Row

#: The flags for the form of an output, and their help.
FORMS = {
    "json": "a list of objects",
    "tsv": "tab-separated, with a header",
    "keys": "keys, one per line",
}
#: Spaces before a name, below its folder.
INDENT = 2
#: Characters of a name in a row, however narrow the terminal.
NARROWEST = 20
STYLES = {"complete": "green", "partial": "yellow"}


def add(commands: Any) -> None:
    """Add the commands to the parsers `commands`."""
    text = "show what the bucket has and how much of it is here"
    info = output.add_command(commands, "info", _run_info, text, f"{output.UNITS}.")
    info.add_argument(
        "--subject", nargs="+", metavar="SUBJECT", help="show these subjects by session"
    )
    output.add_options(info, scope=f"show these scopes, such as raw (default: {ALL})")
    output.add_options(info, data_dir="where to look for local files")

    text = "list the files that the filters select"
    epilog = (
        "example: laion-fmri ls --subject sub-03 --ses ses-01 --extension nii.gz. The filters are "
        "those of download. On a terminal this prints a table by folder, elsewhere only the keys. "
        f"{output.UNITS}; in bytes with --json and --tsv."
    )
    ls = output.add_command(commands, "ls", _run_ls, text, epilog)
    output.add_filters(ls, output.ALL_SUBJECTS)
    output.add_options(ls, data_dir="where to look for local files")
    _add_forms(ls, "json", "tsv", "keys")

    text = "show the values that each filter can have"
    epilog = (
        "example: laion-fmri entities --subject sub-03 --ses ses-01. The files that pass the "
        "filters are counted. On a terminal this prints a table, elsewhere tab-separated values. "
        f"{output.UNITS}; in bytes with --json and --tsv."
    )
    entities = output.add_command(commands, "entities", _run_entities, text, epilog)
    output.add_filters(entities, output.ALL_SUBJECTS)
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

    is_detailed = arguments.subject is not None
    settings = output.read_arguments(
        arguments, subject=arguments.subject or ALL, scope=arguments.scope or ALL
    )
    cells = find_holdings(settings)
    table = output.make_table(
        ("scope", "subject" if is_detailed else "subjects"),
        ("session" if is_detailed else "sessions", "files", "size", "here: files", "size"),
    )
    for _, group in groupby(cells, key=lambda cell: cell.place if is_detailed else cell.scope):
        some = list(group)
        place, total = some[0].place, add_up(some)
        sessions = {cell.place.session for cell in some} - {"", AVERAGES}
        subjects = dict.fromkeys(cell.sub for cell in some if cell.sub is not None)
        table.add_row(
            place.scope or place.subject,
            list_some([f"sub-{label}" for label in subjects], 8),
            place.session if is_detailed else f"{len(sessions):,}" if sessions else "",
            f"{total.files:,}",
            format_size(total.bytes),
            f"{total.local_files:,}",
            format_size(total.local_bytes),
        )
    output.open_console().print(table)
    try:
        path, source = find_data_dir(arguments.data_dir)
        output.write(f"data directory: {path} ({source})")
    except DataDirNotSetError as error:
        output.write(f"data directory: {error}")
    return output.DONE


def _run_ls(arguments: argparse.Namespace) -> int:
    from laion_fmri.config import find_local_dir
    from laion_fmri.selection.table import COLUMNS, find_selected

    settings = output.read_arguments(arguments, subject=arguments.subject or "all")
    data_dir = find_local_dir(settings.data_dir)
    table = find_selected(settings, data_dir)
    output.warn(table.warnings)
    form = arguments.form or ("table" if sys.stdout.isatty() else "keys")
    if form == "table":
        _print_files(table.rows, with_status=data_dir is not None)
    elif form == "keys":
        sys.stdout.writelines(f"{row.key}\n" for row in table.rows)
    else:
        # Without a data directory, it is not known yet where a file will be.
        unknown = {} if data_dir else {"path": None, "status": None}
        _write_records([row.to_record() | unknown for row in table.rows], COLUMNS, form)
    sys.stdout.flush()
    for text in table.notes:
        output.say(text)
    total = f"{len(table.rows):,} files, {format_size(sum(row.size for row in table.rows))}"
    if data_dir:
        counts = Counter(row.status for row in table.rows)
        shown = [f"{counts[status]:,} {status}" for status in ("complete", "partial", "missing")]
        total += f"; here: {', '.join(shown)}"
    output.say(total)
    return output.DONE


def _run_entities(arguments: argparse.Namespace) -> int:
    from laion_fmri.dataset import REQUEST_URL
    from laion_fmri.discovery import EntityValue, count_entities

    found, table = count_entities(
        output.read_arguments(arguments, subject=arguments.subject or "all")
    )
    output.warn(table.warnings)
    for text in table.notes:
        output.say(text)
    form = arguments.form or ("table" if sys.stdout.isatty() else "tsv")
    if form == "table":
        _print_values(found)
        if any(value.held_out for value in found):
            output.say(f"held out: listed, but not given out; ask for access at {REQUEST_URL}")
    else:
        _write_records([value._asdict() for value in found], EntityValue._fields, form)
    return output.DONE


def _print_files(rows: "Sequence[Row]", *, with_status: bool) -> None:
    """Print a table of files, below a heading for each folder; names are folded, never cut."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    def print_row(name: list[str], size: str, status: str, modified: str, style: str = "") -> None:
        state = (f"  {status:8}", STYLES.get(status, "")) if with_status else ""
        first = set_cell_size(name[0], room)
        line = Text.assemble(first, f"  {size:>9}", state, f"  {modified}", style=style)
        console.print(Text("\n").join([line, *map(Text, name[1:])]), soft_wrap=True)

    console = output.open_console()
    longest = max((cell_len(row.key.rpartition("/")[2]) for row in rows), default=0)
    others = 33 if with_status else 23  # columns that a row takes besides the name
    room = max(NARROWEST, min(console.width - others, INDENT + longest))
    print_row(["file"], "size", "here", "modified", style="bold")
    by_folder = sorted((row.key.rpartition("/")[::2], row) for row in rows)
    for folder, group in groupby(by_folder, key=lambda item: item[0][0]):
        heading = _fold(f"{folder}/" if folder else "(root)", console.width, "/")
        console.print("\n".join(heading), style="bold", soft_wrap=True)
        for (_, name), row in group:
            when = f"{row.listed.last_modified:%Y-%m-%d}"
            print_row(_fold(name, room, "_", INDENT), format_size(row.size), row.status, when)


def _print_values(values: "Iterable[EntityValue]") -> None:
    from rich.text import Text

    table = output.make_table(("entity", "value"), ("files", "size"))
    table.add_column("")
    for entity, group in groupby(values, key=lambda value: value.entity):
        table.add_section()
        for number, value in enumerate(group):
            note = Text("held out", style="yellow") if value.held_out else ""
            name = "" if number else entity
            table.add_row(name, value.value, f"{value.files:,}", format_size(value.bytes), note)
    output.open_console().print(table)


def _write_records(records: Iterable[Mapping[str, Any]], names: Sequence[str], form: str) -> None:
    """Write `records` with columns `names` to stdout as ``json`` or ``tsv``, times in ISO 8601."""
    if form == "json":
        lines = [json.dumps(record, default=datetime.isoformat) for record in records]
        sys.stdout.write("[\n " + ",\n ".join(lines) + "\n]\n" if lines else "[]\n")
        return
    writer = csv.writer(sys.stdout, "excel-tab", lineterminator="\n")
    writer.writerows([names, *(map(_spell, record.values()) for record in records)])


def _fold(text: str, width: int, mark: str, indent: int = 0) -> list[str]:
    """Fold `text` to `width` columns, after a `mark` if possible; later lines are indented more."""
    from rich.cells import chop_cells

    lines: list[str] = []
    while text:
        lead = " " * (indent + (2 if lines else 0))
        piece = chop_cells(text, width - len(lead))[0]  # some characters take two columns
        if len(piece) < len(text):
            piece = piece[: piece.rfind(mark) + 1] or piece
        lines.append(lead + piece)
        text = text[len(piece) :]
    return lines


def _spell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else value
