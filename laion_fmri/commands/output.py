"""What the commands share: their exit status, their options, and how they print."""

import argparse
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from laion_fmri.base import kinds
from laion_fmri.base.bids import FILTERS, HELP
from laion_fmri.base.text import spell
from laion_fmri.settings import COMMAND, SELECTORS, Settings, list_options, read_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

#: Exit status of the command.
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
#: For the help of a command.
ALL_SUBJECTS = "sub-03, 03, or all (default: all)"
UNITS = "Sizes are in decimal units: 1 MB is 1,000,000 bytes"
#: Columns of a pipe: a wide line is easier to cut than a folded one to join.
PIPE_COLUMNS = 200
#: Longest label that is written out in a heading or a row; a session has two digits.
LONGEST = 16


def add_command(
    commands: Any, name: str, run: Callable[..., int], text: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Add the command `name` to the parsers `commands`; `run` gets its arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text}.", epilog=epilog, formatter_class=HelpFormatter
    )
    parser.hint = "[options]"  # type: ignore[attr-defined]
    parser.set_defaults(carry_out=run, refuse=parser.error)
    return parser


def add_filters(parser: argparse.ArgumentParser, subject_help: str) -> None:
    """Add the options that select files."""
    parser.hint = "--subject SUBJECT [--ses VALUE] [--desc VALUE] [options]"  # type: ignore[attr-defined]
    parser.add_argument("--subject", nargs="+", metavar="SUBJECT", help=subject_help)
    add_options(parser, SELECTORS[0])
    for name in FILTERS:
        parser.add_argument(f"--{name}", nargs="+", metavar="VALUE", help=HELP[name])
    add_options(parser, *SELECTORS[1:])


def add_options(parser: argparse.ArgumentParser, *names: str, **helps: str) -> None:
    """Add options of :class:`laion_fmri.settings.Settings`, some with a help text of their own."""
    known = list_options(COMMAND)
    for name in (*names, *helps):
        kind, text, default, _, short = known[name]
        text, flag = helps.get(name, text), name.replace("_", "-")
        if isinstance(default, bool):
            action = "store_false" if default else "store_true"
            flag, text = (f"no-{flag}", f"do not {text}") if default else (flag, text)
            flags = [f"--{flag}", *filter(None, [short])]
            parser.add_argument(*flags, dest=name, action=action, help=text)
        else:
            count = "+" if kind is kinds.VALUES else None
            flags = [f"--{flag}", *filter(None, [short])]
            parser.add_argument(
                *flags, nargs=count, type=kind.parse, metavar=kind.metavar, help=text
            )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the option for a command that says nothing of what goes well."""
    text = "print only warnings and errors"
    parser.add_argument("--quiet", "-q", action="store_true", help=text)


def read_arguments(arguments: argparse.Namespace, **others: Any) -> Settings:
    """Return the settings of a command's options and `others`; shells complete what it lists."""
    from laion_fmri.selection.completion import is_kept

    is_kept.set(True)
    return read_settings(vars(arguments) | others)


def open_console() -> "Console":
    """Return a console on stdout that is plain in a pipe, with NO_COLOR and where TERM is dumb."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    width, height = shutil.get_terminal_size()
    return Console(
        width=width if is_terminal else PIPE_COLUMNS,
        height=height,  # without it, rich takes a terminal where TERM is dumb for 80 columns
        force_terminal=is_terminal,  # whatever FORCE_COLOR says: what reads a pipe wants it plain
        color_system="auto" if is_terminal and not os.environ.get("NO_COLOR") else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def make_table(
    texts: "Sequence[str | Column]", numbers: Sequence[str], *, no_wrap: bool = False, **look: Any
) -> "Table":
    """Return a table with columns of texts and, aligned to the right, of numbers."""
    from rich.table import Table

    table = Table(*texts, **look)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=no_wrap)
    return table


def spell_path(path: str | Path) -> str:
    """Return a path that can be printed, although it may contain bytes that are not text."""
    return os.fsencode(path).decode(errors="backslashreplace")


def cut(label: str) -> str:
    """Return `label` as at most `LONGEST` characters of one column each."""
    plain = "".join(letter if letter.isascii() else "?" for letter in label)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}~"


def ask(question: str) -> bool:
    """Ask on the terminal, and return whether the answer is yes."""
    sys.stdout.flush()
    print(fold(f"{question} [y/N]", sys.stderr), end=" ", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # Ctrl-D leaves the cursor in the line of the question
        say("")
    return answer.strip().lower() in ("y", "yes")


def say(text: str) -> None:
    """Print a line to stderr."""
    print(fold(spell(text), sys.stderr), file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Print a line to stdout."""
    print(fold(text, sys.stdout))


def fold(text: str, stream: TextIO) -> str:
    """Return `text` with new lines between words, if `stream` is a terminal too narrow for it.

    What is wider than the terminal, such as a path, stays whole, to be copied; so does a command.
    """
    columns = shutil.get_terminal_size().columns
    if len(text) <= columns or "\n" in text or not stream.isatty():
        return text
    lines = [""]
    for word in re.findall(r"'laion-fmri [^']*'\S*|\S+", text):
        if lines[-1].strip() and len(lines[-1]) + len(word) >= columns:
            lines.append(" ")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def join_command(text: str, command: str) -> str:
    """Return `text` and the command line that it is about, on lines of their own if too long."""
    line = f"{text} {command}"
    is_short = len(line) <= shutil.get_terminal_size().columns or not sys.stdout.isatty()
    return line if is_short else f"{text}\n  {fold_command(command)}"


def fold_command(command: str) -> str:
    """Return a command line for stdout, with new lines that a shell can read if it is too long."""
    columns = shutil.get_terminal_size().columns
    if len(command) + 2 <= columns or not sys.stdout.isatty():
        return command
    parts: list[list[str]] = [[]]
    for word in shlex.split(command):
        if word.startswith("--"):
            parts.append([])
        parts[-1].append(word)
    lines = [""]
    for part in map(shlex.join, parts):
        if lines[-1] and len(lines[-1]) + len(part) + 6 > columns:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n".join(lines)


class HelpFormatter(argparse.HelpFormatter):
    """Help that is folded between words, and not in an option such as ``--dry-run``."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = self._split_lines(text, width - len(indent))
        return "\n".join(f"{indent}{line}" for line in lines)


def warn(warnings: Iterable[str]) -> None:
    """Print a line to stderr for each warning."""
    for text in warnings:
        say(f"warning: {text}")


def make_writer(*, quiet: bool) -> Callable[[str], object]:
    """Return :func:`write`, or what stands in for it."""
    return (lambda _text: None) if quiet else write
