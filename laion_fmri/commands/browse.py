"""The commands that show what the bucket has: info, ls, entities."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from laion_fmri.base.text import format_size
from laion_fmri.commands.listing import print_files, print_values, write_records
from laion_fmri.commands.output import (
    DONE,
    add_command,
    add_filters,
    add_options,
    print_table,
    read_arguments,
    say,
)
from laion_fmri.errors import DataDirNotSetError

if TYPE_CHECKING:
    from laion_fmri.selection.table import Row, Table


def add(commands: Any) -> None:
    """Add the commands to the parsers `commands`."""
    info = add_command(
        commands, "info", _run_info, "show what the bucket has and what of it is here"
    )
    info.add_argument("--subject", nargs="+", metavar="SUBJECT", help="show these by session")
    add_options(info, data_dir="where to look for local files")
    info.epilog = "Sizes are in decimal units: 1 MB is 1,000,000 bytes."

    ls = add_command(commands, "ls", _run_ls, "list the files that the filters select")
    ls.epilog = (
        "example: laion-fmri ls --subject sub-03 --ses ses-01 --extension nii.gz. The filters are "
        "those of download. On a terminal it is a table, by folder, and elsewhere keys alone. "
        "Sizes are in decimal units: 1 MB is 1,000,000 bytes; in bytes with --json and --tsv."
    )
    add_filters(ls, "sub-03, 03, or all (default: all)", "also list all of stimuli/")
    add_options(ls, data_dir="where to look for local files")
    formats = _add_formats(ls)
    formats.add_argument(
        "--keys", dest="format", action="store_const", const="keys", help="keys, one a line"
    )

    entities = add_command(
        commands, "entities", _run_entities, "show the values that each filter can have"
    )
    entities.epilog = (
        "example: laion-fmri entities --subject sub-03 --ses ses-01. Counted are the files that "
        "pass the filters. On a terminal it is a table, and elsewhere tab-separated values. "
        "Sizes are in decimal units: 1 MB is 1,000,000 bytes; in bytes with --json and --tsv."
    )
    add_filters(entities, "sub-03, 03, or all (default: all)", "also count all of stimuli/")
    _add_formats(entities)


def _add_formats(parser: argparse.ArgumentParser) -> Any:
    formats = parser.add_mutually_exclusive_group()
    for name, text in (("json", "a list of objects"), ("tsv", "tab-separated, with a header")):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=text
        )
    return formats


def _run_info(arguments: argparse.Namespace) -> int:
    from rich.table import Table as RichTable

    from laion_fmri.config import find_data_dir
    from laion_fmri.discovery import find_holdings
    from laion_fmri.selection.overview import Cell, add_up
    from laion_fmri.settings import AVERAGES

    by_session = arguments.subject is not None
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in find_holdings(read_arguments(arguments, subject=arguments.subject or "all")):
        place = cell.place
        subject, session = (place.subject, place.session) if place.sub else ("(root)", place.ses)
        groups.setdefault((subject, session) if by_session else (subject,), []).append(cell)
    table = RichTable("subject", "session" if by_session else "sessions")
    for heading in ("files", "size", "here: files", "size"):
        table.add_column(heading, justify="right")
    for names, group in groups.items():
        sessions = sum(cell.ses != AVERAGES for cell in group)
        total = add_up(group)
        table.add_row(
            names[0],
            names[1] if by_session else str(sessions),
            f"{total.files:,}",
            format_size(total.bytes),
            f"{total.local_files:,}",
            format_size(total.local_bytes),
        )
    print_table(table)
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
    _warn(table)
    form = arguments.format or ("table" if sys.stdout.isatty() else "keys")
    if form == "table":
        print_files(table.rows, with_status=data_dir is not None)
    elif form == "keys":
        sys.stdout.writelines(f"{row.key}\n" for row in table.rows)
    else:
        unknown = {} if data_dir else {"path": None, "status": None}
        write_records([row.to_record() | unknown for row in table.rows], COLUMNS, form)
    sys.stdout.flush()
    for text in table.notes:
        say(text)
    say(_count_rows(table.rows, with_status=data_dir is not None))
    return DONE


def _run_entities(arguments: argparse.Namespace) -> int:
    from laion_fmri import dataset
    from laion_fmri.discovery import EntityValue, count_entities

    found, table = count_entities(read_arguments(arguments, subject=arguments.subject or "all"))
    _warn(table)
    form = arguments.format or ("table" if sys.stdout.isatty() else "tsv")
    if form != "table":
        write_records([value._asdict() for value in found], EntityValue._fields, form)
        return DONE
    print_values(found)
    if any(value.held_out for value in found):
        say(f"held out: listed, but not given out; ask for access at {dataset.REQUEST_URL}")
    return DONE


def _warn(table: Table) -> None:
    for text in table.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)


def _count_rows(rows: Sequence[Row], *, with_status: bool) -> str:
    total = f"{len(rows):,} files, {format_size(sum(row.size for row in rows))}"
    if not with_status:
        return total
    counts = Counter(row.status for row in rows)
    shown = [f"{counts[status]:,} {status}" for status in ("complete", "partial", "missing")]
    return f"{total}; here: {', '.join(shown)}"
