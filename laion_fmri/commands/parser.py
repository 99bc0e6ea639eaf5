"""The parser of the command line, which meets each mistake with what may have been meant."""

import argparse
import difflib
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from laion_fmri.base.bids import ENTITIES
from laion_fmri.base.names import find_option
from laion_fmri.base.text import spell
from laion_fmri.commands.output import fold
from laion_fmri.dataset import DESCRIBED
from laion_fmri.settings import ALL, AVERAGES

#: What other programs call a command -> its name here.
COMMANDS = {
    **dict.fromkeys(("get", "fetch", "pull", "install", "clone", "sync"), "download"),
    **dict.fromkeys(("list", "dir", "files", "find", "search"), "ls"),
    **dict.fromkeys(("check", "validate", "fsck"), "verify"),
    **dict.fromkeys(("rm", "delete", "drop", "clean"), "remove"),
    **dict.fromkeys(("init", "configure", "setup"), "config"),
    **dict.fromkeys(("filters", "values"), "entities"),
    "licence": "license",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a short usage line, what is wrong, and where to read on.

    `hint` is what the usage line has after the name of the command.
    """

    hint = "COMMAND [options]"

    def error(self, message: str) -> NoReturn:
        text = spell(message)
        said = fold(f"error: {text}; see '{self.prog} --help'", sys.stderr)
        self.exit(2, f"usage: {self.prog} {self.hint}\n{said}\n")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `argv`; on a mistake, say what may have been meant, and exit."""
    words = list(argv) or ["--help"]
    commands = find_commands(parser)
    own = any(name.startswith(words[0]) for name in ("--help", "--version")) or words[0] == "-h"
    if words[0] not in commands and not (own and words[0] not in ("-", "--", "")):
        parser.error(_explain_command(words, commands))
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.refuse(_explain_words(unknown, commands[words[0]]))
    return arguments


def find_commands(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the parser of each command, by name."""
    (found,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found)


def _explain_command(words: Sequence[str], commands: dict[str, Any]) -> str:
    first = words[0]
    if first == "help":
        return f"{first!r} is not a command; write 'laion-fmri --help', or after a command"
    there_is = f"there is: {', '.join(commands)}"
    if first.startswith("-") or _find_home(first, commands["download"]):
        meant = list(words) if first.startswith("-") else [*_spell_home(words, commands)]
        line = shlex.join(["laion-fmri", "download", *meant])
        return f"{first!r} is not a command, and one comes first, as in '{line}'; {there_is}"
    near = [COMMANDS.get(first.lower(), "")]
    near = [*filter(None, near), *difflib.get_close_matches(first.lower(), commands, n=1)]
    guess = f"did you mean 'laion-fmri {near[0]}'? " if near else ""
    return f"{first!r} is not a command; {guess}{there_is}"


def _spell_home(words: Sequence[str], commands: dict[str, Any]) -> Iterable[str]:
    home = _find_home(words[0], commands["download"])
    return [f"--{home}", *words] if home else words


def _explain_words(words: Sequence[str], command: argparse.ArgumentParser) -> str:
    """Say of words that the parser of a command does not know what they may have been."""
    known = [name[2:] for a in command._actions for name in a.option_strings if name[:2] == "--"]
    texts = []
    is_value = False  # of the option before it, which is not known either
    for word in words:
        if word.startswith("-") and len(word) > 1:
            name = word.partition("=")[0]
            near = find_option(name, known)
            guess = f"; did you mean '--{near}'?" if near else ""
            texts.append(f"{name!r} is not an option of '{command.prog}'{guess}")
            is_value = True
        elif not is_value:
            home = _find_home(word, command)
            guess = f"; did you mean '--{home} {word}'?" if home else ", which takes only options"
            texts.append(f"{word!r} is not an argument of '{command.prog}'{guess}")
    return "; ".join(texts)


def _find_home(word: str, command: argparse.ArgumentParser) -> str | None:
    """Return the option of a command that a value without one may belong to."""
    label, mark, _ = word.partition("-")
    guess = "subject" if word == ALL or label == "sub" else None
    if mark and label in ENTITIES[1:]:
        guess = label
    elif word == AVERAGES:
        guess = "ses"
    elif word in DESCRIBED:
        guess = "scope"
    elif word.isdigit():
        guess = "n-jobs"
    elif word[:1] in (".", "/", "~") or "/" in word:
        guess = "data-dir"
    return guess if f"--{guess}" in command._option_string_actions else None
