"""The command ``remove``."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from laion_fmri.base.text import format_size
from laion_fmri.commands import output
from laion_fmri.errors import list_some
from laion_fmri.selection.filters import needs_subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from laion_fmri.check.removal import Item, Removal


def add(commands: Any) -> None:
    """Add the command to the parsers `commands`."""
    remove = output.add_command(
        commands, "remove", _run_remove, "make room: remove files that can be fetched again"
    )
    remove.epilog = (
        "example: laion-fmri remove --subject sub-03 --ses ses-01 --dry-run. Only files of the "
        "bucket are removed. The filters are strict: a file that does not carry an entity is not "
        "named by a filter on it, and nothing comes along. The root files stay. Exit status: 0 "
        "done, 1 some files are left or it was declined, 2 bad usage or nothing matched, 130 "
        "interrupted."
    )
    output.add_filters(remove, "sub-03, 03, or all; required")
    output.add_options(remove, data_dir="where the files are, this time")
    remove.add_argument("--yes", action="store_true", help="do not ask; for scripts")
    text = "show what would go; remove nothing"
    remove.add_argument("--dry-run", "-n", action="store_true", help=text)


def _run_remove(arguments: argparse.Namespace) -> int:
    from laion_fmri.check.removal import plan_removal

    is_asked = not (arguments.yes or arguments.dry_run)
    settings = output.read_arguments(arguments)
    if settings.subject is None and needs_subject(settings):
        output.say("error: nothing to remove is given; name a --subject, such as sub-03, or all")
        return output.USAGE
    if is_asked and not (sys.stdin.isatty() and sys.stderr.isatty()):
        output.say(
            "error: there is no terminal to ask on; add --yes to remove, or --dry-run to look"
        )
        return output.USAGE
    removal = plan_removal(settings)
    output.warn(removal.warnings)
    planned = removal.select("planned")
    if planned:
        _print_plan(removal, planned)
    _tell(removal.select("left", "failed"))
    if not planned:
        print(f"nothing to remove in {output.spell_path(removal.data_dir)}")
        return output.FAILED if removal.items else output.DONE
    if arguments.dry_run:
        print("nothing has been removed: this was a dry run")
        return output.DONE
    if is_asked and not _ask(planned):
        print("nothing has been removed")
        return output.FAILED
    before = len(removal.select("left", "failed"))
    removal.carry_out()
    undone = removal.select("left", "failed")
    if len(undone) > before:
        old = {item.key for item in removal.items} - {item.key for item in planned}
        _tell([item for item in undone if item.key not in old])
    removed = removal.select("removed")
    print(f"removed {_count(removed)}, {_format_total(removed)}")
    return output.FAILED if undone else output.DONE


def _print_plan(removal: "Removal", planned: "Sequence[Item]") -> None:
    from rich.table import Table

    from laion_fmri.selection.overview import by_session

    groups = by_session(planned)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading in ("subject", "session", "scope"):
        table.add_column(heading, no_wrap=True)
    has_partial = any(item.size != item.listed_size for item in planned)
    for heading in ("files", "size", "of these partial")[: 3 if has_partial else 2]:
        table.add_column(heading, justify="right", no_wrap=True)
    lines = [(p.subject, p.session, p.scope if p.sub else "", g) for p, g in groups.items()]
    for subject, session, scope, group in [*lines, ("all", "", "", list(planned))]:
        partial = sum(item.size != item.listed_size for item in group)
        table.add_row(
            output.cut(subject),
            output.cut(session),
            scope,
            f"{len(group):,}",
            _format_total(group),
            *([f"{partial:,}" if partial else ""] if has_partial else []),
            style="bold" if subject == "all" else "",
        )
    console = output.open_console()
    output.write(f"to be removed from {output.spell_path(removal.data_dir)}")
    console.print()
    console.print(table)
    console.print()
    for text in removal.notes:
        output.write(f"note: {text}")


def _tell(items: "Sequence[Item]") -> None:
    by_reason: dict[str, list[str]] = {}
    for item in items:
        by_reason.setdefault(f"{item.outcome}: {item.reason}", []).append(item.key)
    for reason, keys in by_reason.items():
        output.say(f"{reason}: {list_some(keys, 3)}")


def _ask(planned: "Sequence[Item]") -> bool:
    return output.ask(f"Remove {_count(planned)}, {_format_total(planned)}?")


def _count(items: "Sequence[Item]") -> str:
    return f"{len(items):,} file" + ("" if len(items) == 1 else "s")


def _format_total(items: "Sequence[Item]") -> str:
    return format_size(sum(item.size for item in items))
