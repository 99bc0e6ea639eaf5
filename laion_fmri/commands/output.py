"""What the commands share: their exit status, their options, and how they speak."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import Any

from laion_fmri.filters import FILTERS

#: Exit status of the command.
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_FILTER_HELP = {
    "ses": 'sessions, such as ses-01; "averages" selects the files without a session',
    "task": "tasks, such as images",
    "space": "spaces, such as T1w",
    "desc": "descriptions, such as SingletrialBetas",
    "stat": "statistics, such as effect",
    "suffix": "suffixes, such as statmap or trials",
    "extension": "extensions, such as nii.gz or tsv",
}


def add_command(
    commands: Any, name: str, run: Callable[..., int], text: str
) -> argparse.ArgumentParser:
    """Add the command `name` to the parsers `commands`; `run` gets its arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text + ".")
    parser.set_defaults(run=run, refuse=parser.error)
    return parser


def add_filters(parser: argparse.ArgumentParser, subject_help: str, stimuli_help: str) -> None:
    """Add the options that select files."""
    parser.add_argument("--subject", nargs="+", metavar="SUBJECT", help=subject_help)
    for name in FILTERS:
        parser.add_argument(f"--{name}", nargs="+", metavar="VALUE", help=_FILTER_HELP[name])
    parser.add_argument("--include-stimuli", action="store_true", help=stimuli_help)


def read_config(arguments: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Return the configuration that the options of :func:`add_filters`, and `more`, make."""
    names: Iterable[str] = ("subject", *FILTERS, "include_stimuli", "data_dir", *more)
    return {name: getattr(arguments, name) for name in names}


def print_table(table: Any) -> None:
    """Print a table of rich."""
    from rich.console import Console

    # Into a pipe, never fold: a wide line is easier to cut than a folded one to mend.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def read_number(text: str) -> int | str:
    """Return the number that `text` is, or else the text, for others to complain of."""
    try:
        return int(text)
    except ValueError:
        return text


def say(text: str) -> None:
    """Say something on stderr."""
    print(text, file=sys.stderr, flush=True)


def be_quiet(_text: str) -> None:
    """Say nothing: in the place of ``print``."""
