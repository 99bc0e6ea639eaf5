"""The pages of the site that are made from the code, so that they cannot say anything else.

MkDocs calls :func:`on_files` once in each build; the pages are never written to this folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of the folder (a hook of MkDocs)."""
    from mkdocs.structure.files import File

    for name, text in make_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


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
    """Describe every key of the workflow's configuration, as its settings do."""
    from laion_fmri.settings import make_schema, read_settings

    schema, defaults = make_schema(), read_settings({})
    parts = [
        "# Configuration\n",
        "What `config/config.yaml` in a clone and `config:` of a `module` may hold. Quote every "
        "value: YAML makes the number 1 of an unquoted `01`. Each key is also an argument or an "
        "option where it makes sense there.\n",
        "| key | meaning | default |\n| --- | --- | --- |",
    ]
    for name, rule in schema["properties"].items():
        default = getattr(defaults, name, None)
        shown = ", ".join(default) if isinstance(default, tuple) else json.dumps(default)
        # The first of the alternatives: a scope of the dataset alone needs no subject.
        shown = "required" if name in schema["anyOf"][0]["required"] else f"`{shown}`"
        parts.append(f"| `{name}` | {escape(rule['description'])} | {shown} |")
    parts += [
        "",
        "A default of `null` stands for what the meaning says. This page is made from "
        "`laion_fmri/settings.py`, which each configuration is checked against.\n",
        "## Environment\n",
        "| variable | meaning |\n| --- | --- |",
        "| `LAION_FMRI_DATA_DIR` | the data directory, instead of the saved choice |",
        "| `LAION_FMRI_AWS` | the AWS CLI to use |",
        "| `LAION_FMRI_ENDPOINT_URL` | a mirror or a test server instead of S3 |",
        "| `LAION_FMRI_BUCKET` | another bucket |",
        "| `XDG_CONFIG_HOME` | where the choice of `laion-fmri config` is kept, in `laion_fmri/` |",
        "",
    ]
    return "\n".join(parts)


def sentence(text: str) -> str:
    """Return `text` with a capital at its beginning and a full stop at its end."""
    text = escape(text.strip())
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", ":", '"', "?")) else f"{text}."


def escape(text: str) -> str:
    """Return `text` for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")
