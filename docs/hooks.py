"""The pages of the site that are made from the code, so that they cannot say anything else.

MkDocs calls :func:`on_files` once in each build, and :func:`on_page_content` for each page. The
pages are never written to this folder.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Characters from which on a word of code may break: more than fit into a line on a phone.
LONG = 34


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of the folder (a hook of MkDocs)."""
    from mkdocs.structure.files import File

    for name, text in make_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_content(html: str, **_more: Any) -> str:
    """Let code break between words, and mark output that is a table, which does not break."""
    blocks = re.split(r"(<pre.*?</pre>)", html, flags=re.DOTALL)
    for index, text in enumerate(blocks):
        if index % 2 == 0:
            inline = re.compile("<code>.*?</code>", re.DOTALL)
            blocks[index] = inline.sub(lambda code: let_break(code[0]), text)
        elif is_table(text):
            before, mark, after = blocks[index - 1].rpartition('class="language-text ')
            blocks[index - 1] = f"{before}{mark}{'is-table ' if mark else ''}{after}"
        else:
            blocks[index] = let_break(text)
    return "".join(blocks)


def let_break(code: str) -> str:
    """Return `code` with a place to break after each space and, in a long word, at its joints."""
    parts = re.split("(<[^>]+>)", code)  # text and markup in turns
    parts[::2] = (re.sub(r"\S+| +", _let_word_break, text) for text in parts[::2])
    return "".join(parts)


def _let_word_break(found: re.Match[str]) -> str:
    word = found[0]
    if word.isspace():
        return f"{word}<wbr>"
    return re.sub(r"([/_,=])(?=\w)", r"\1<wbr>", word) if len(word) > LONG else word


def is_table(block: str) -> bool:
    """Whether two lines of a block have columns: at least two wide gaps between words."""
    lines = re.sub("<[^>]+>", "", block).splitlines()
    return sum(len(re.findall(r"\S {2,}(?=\S)", line)) >= 2 for line in lines) >= 2


def make_pages() -> dict[str, str]:
    """Return the generated pages: path below ``docs/`` -> Markdown."""
    return {
        "reference/command.md": make_command_page(),
        "reference/configuration.md": make_configuration_page(),
        "promises.md": make_promises_page(),
        "security.md": (ROOT / "SECURITY.md").read_text().replace("](docs/", "]("),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
    }


def make_promises_page() -> str:
    """Return the section of the README about promises as a page of its own."""
    title = "What is promised, and what is not"
    section = (ROOT / "README.md").read_text().partition(f"\n## {title}\n")[2]
    section = section.partition("\n## ")[0].replace("](SECURITY.md)", "](security.md)")
    return (
        f"# {title}\n{section}\n"
        "More on the last two: [check the content](how-to/verify.md) and [the same again, "
        "elsewhere](how-to/manifests.md). How all this is done: [how it works](architecture.md).\n"
    )


def make_command_page() -> str:
    """Describe the command and each of its subcommands, as its own parser does."""
    from laion_fmri.commands.cli import make_parser

    parser = make_parser()
    parts = [
        "# The command\n",
        f"{sentence(parser.description or '')}\n",
        "`laion-fmri COMMAND --help` says the same as this page, which is made from it.\n",
    ]
    for name, command in find_commands(parser):
        parts += [f"## laion-fmri {name}\n", f"{sentence(command.description or '')}\n"]
        parts.append(f"```text\n{join_usage(command)}\n```\n")
        rows = [describe_option(action) for action in list_options(command)]
        if rows:
            parts += ["| option | |\n| --- | --- |", *rows, ""]
        if command.epilog:
            parts.append(f"{sentence(command.epilog)}\n")
    return "\n".join(parts)


def find_commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Any]]:
    """Yield the name and the parser of each subcommand, and of theirs below them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name, command
                for below, deeper in find_commands(command):
                    yield f"{name} {below}", deeper


def list_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what the parser takes, but for ``--help`` and subcommands."""
    left_out = (argparse._HelpAction, argparse._SubParsersAction)
    return [
        action
        for action in parser._actions
        if not isinstance(action, left_out) and action.help != argparse.SUPPRESS
    ]


def describe_option(action: argparse.Action) -> str:
    """Return the row of a table for one option."""
    names = ", ".join(action.option_strings)
    metavar = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices is not None and action.metavar is None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    more = {"+": " ...", "*": " ..."}.get(str(action.nargs), "")
    value = f"[{metavar}]" if action.nargs in ("?", "*") else str(metavar)
    spelled = " ".join(part for part in (names, f"{value}{more}") if part.strip(" []"))
    return f"| `{escape(spelled)}` | {escape(expand_help(action))} |"


def expand_help(action: argparse.Action) -> str:
    """Return the help of an option, with its default filled in where it names it."""
    return (action.help or "") % {"default": action.default, "prog": "laion-fmri"}


def join_usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage line, folded at the width of a page."""
    formatter = argparse.HelpFormatter(prog=parser.prog, width=78)
    formatter.add_usage(parser.usage, list_options(parser), parser._mutually_exclusive_groups, "")
    return formatter.format_help().strip()


def make_configuration_page() -> str:
    """Return config/README.md, with a row for each key of the settings that it does not have."""
    from laion_fmri.settings import make_schema

    text = (ROOT / "config" / "README.md").read_text()
    text = text.replace("](../docs/", "](../")
    described = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    more = {
        name: rule["description"]
        for name, rule in make_schema()["properties"].items()
        if name not in described
    }
    if more:
        text += "\n## More\n\n| key | values |\n| --- | --- |\n"
        text += "".join(f"| `{name}` | {escape(what)} |\n" for name, what in more.items())
    return text


def sentence(text: str) -> str:
    """Return `text` with a capital at its beginning and a full stop at its end."""
    text = escape(text.strip())
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", ":", '"', "?")) else f"{text}."


def escape(text: str) -> str:
    """Return `text` for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")
