"""What the commands share: their exit status, their options, and how they speak."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri.base.bids import FILTERS, HELP
from laion_fmri.settings import COMMAND, Settings, list_options, read_settings

if TYPE_CHECKING:
    from rich.console import Console

#: Exit status of the command.
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
#: Columns into a pipe: a wide line is easier to cut than a folded one to join.
PIPE_COLUMNS = 200
#: Longest label that is written out in a heading or a row; a session has two digits.
LONGEST = 12


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
        parser.add_argument(f"--{name}", nargs="+", metavar="VALUE", help=HELP[name])
    add_options(parser, include_stimuli=stimuli_help)


def add_options(parser: argparse.ArgumentParser, *names: str, **helps: str) -> None:
    """Add options of :class:`laion_fmri.settings.Settings`, some with a help text of their own."""
    known = list_options(COMMAND)
    for name in (*names, *helps):
        option, default = known[name]
        text, flag = helps.get(name, option.help), name.replace("_", "-")
        if isinstance(default, bool):
            action = "store_false" if default else "store_true"
            flag, text = (f"no-{flag}", f"do not {text}") if default else (flag, text)
            parser.add_argument(f"--{flag}", dest=name, action=action, help=text)
        else:
            kind = option.kind
            parser.add_argument(f"--{flag}", type=kind.parse, metavar=kind.metavar, help=text)


def read_arguments(arguments: argparse.Namespace, **others: Any) -> Settings:
    """Return the settings of a command's options and `others`; shells complete what it lists."""
    from laion_fmri.selection.completion import is_kept

    is_kept.set(True)
    return read_settings(vars(arguments) | others)


def print_table(table: Any) -> None:
    """Print a table of rich."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def open_console() -> Console:
    """Return a console on stdout that colours on a terminal only, and never with NO_COLOR."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    is_plain = not is_terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        width=None if is_terminal else PIPE_COLUMNS,
        force_terminal=is_terminal,  # whatever FORCE_COLOR says: what reads a pipe wants it plain
        color_system=None if is_plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
    )


def spell_path(path: str | Path) -> str:
    """Return a path as it can be printed: it may hold bytes that are no text."""
    return os.fsencode(path).decode(errors="backslashreplace")


def cut(label: str) -> str:
    """Return `label` in characters of one column each, and not too many of them."""
    plain = "".join(letter if letter.isascii() else "?" for letter in label)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}~"


def ask(question: str) -> bool:
    """Ask on the terminal, and return whether the answer is yes."""
    sys.stdout.flush()
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # Ctrl-D leaves the terminal in the line of the question
        say("")
    return answer.strip().lower() in ("y", "yes")


def say(text: str) -> None:
    """Say something on stderr."""
    print(text, file=sys.stderr, flush=True)


def be_quiet(_text: str) -> None:
    """Say nothing: in the place of ``print``."""
