"""The commands that show what the bucket has: info."""

from __future__ import annotations

import argparse
from typing import Any

from laion_fmri.commands.output import DONE, add_command, print_table
from laion_fmri.errors import DataDirNotSetError
from laion_fmri.progress import format_size


def add(commands: Any) -> None:
    """Add the commands to the parsers `commands`."""
    info = add_command(
        commands, "info", _run_info, "show what the bucket has and what of it is here"
    )
    info.add_argument("--subject", nargs="+", metavar="SUBJECT", help="show these by session")
    info.add_argument("--data-dir", metavar="DIR", help="where to look for local files")
    info.epilog = "Sizes are in decimal units: 1 MB is 1,000,000 bytes."


def _run_info(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    from laion_fmri.discovery import Holding, count_holdings

    holdings = count_holdings(arguments.subject or "all", arguments.data_dir)
    by_session = arguments.subject is not None
    groups: dict[tuple[str, ...], list[Holding]] = {}
    for held in holdings:
        sub = f"sub-{held.sub}" if held.sub else "(root)"
        ses = held.ses if held.ses == "averages" or not held.sub else f"ses-{held.ses}"
        groups.setdefault((sub, ses) if by_session else (sub,), []).append(held)
    table = Table("subject", "session" if by_session else "sessions")
    for heading in ("files", "size", "here: files", "size"):
        table.add_column(heading, justify="right")
    for names, group in groups.items():
        sessions = sum(held.ses != "averages" for held in group)
        table.add_row(
            names[0],
            names[1] if by_session else str(sessions),
            f"{sum(held.files for held in group):,}",
            format_size(sum(held.bytes for held in group)),
            f"{sum(held.local_files for held in group):,}",
            format_size(sum(held.local_bytes for held in group)),
        )
    print_table(table)
    try:
        from laion_fmri.config import find_data_dir

        path, source = find_data_dir(arguments.data_dir)
        print(f"data directory: {path} ({source})")
    except DataDirNotSetError as error:
        print(f"data directory: {error}")
    return DONE
