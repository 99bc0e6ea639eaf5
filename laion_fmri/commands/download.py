"""The command ``download``."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from laion_fmri.base.text import format_size
from laion_fmri.commands.output import (
    DONE,
    FAILED,
    add_command,
    add_filters,
    add_options,
    ask,
    be_quiet,
    print_table,
    read_arguments,
    say,
)
from laion_fmri.commands.overview import (
    describe_plan,
    describe_room,
    format_total,
    make_plan,
    suggest_next,
    summarize,
)
from laion_fmri.errors import LicenseNotAcceptedError, list_some
from laion_fmri.settings import COMMAND, list_options, spell_command

if TYPE_CHECKING:
    from laion_fmri.run.report import Report
    from laion_fmri.run.run import Run

#: Files that are named one by one when they have failed for the same reason.
MANY = 10
#: Files that a dry run names on a terminal.
NAMED = 20


def add(commands: Any) -> None:
    """Add the command to the parsers `commands`."""
    download = add_command(commands, "download", _run_download, "fetch what the filters select")
    download.epilog = (
        "example: laion-fmri download --subject sub-03 --ses ses-01 averages "
        "--desc SingletrialBetas --extension nii.gz --n-jobs 4. "
        "The values of one filter are alternatives, and all filters have to pass; a file that does "
        "not carry an entity passes, except for --ses. Values are exact; a bare value and a full "
        "token (01, ses-01) are the same. Sizes are in decimal units: 1 MB is 1,000,000 bytes. "
        "Exit status: 0 done, 1 some files failed, 2 bad usage or nothing matched, 130 interrupted."
    )
    add_filters(
        download,
        "sub-03, 03, or all; required, but for --manifest, of which it is all by default",
        "also fetch all of stimuli/",
    )
    names = [name for name in list_options(COMMAND) if name not in ("subject", "include_stimuli")]
    add_options(download, *names)
    download.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors"
    )


def _run_download(arguments: argparse.Namespace) -> int:
    from laion_fmri.run.run import Run

    settings = read_arguments(arguments)
    if settings.subject is None:
        if settings.manifest is None:
            arguments.refuse("name a --subject, such as sub-03 or all, or a --manifest")
        settings = replace(settings, subject="all")
    try:
        run = Run(settings)
    except LicenseNotAcceptedError:
        if not _ask_for_licence(arguments.data_dir):
            raise
        run = Run(settings)
    with run:
        return _fetch(run, quiet=arguments.quiet)


def _fetch(run: Run, *, quiet: bool) -> int:
    from laion_fmri.show.progress import show_progress

    for text in run.table.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)
    tell: Callable[[str], object] = be_quiet if quiet else print
    for text in run.table.notes:
        tell(text)
    if not quiet:
        _show_plan(run)
    if run.settings.dry_run:
        run.finish(run.fetch())
        return DONE
    started = time.monotonic()
    report = run.fetch(None if quiet else show_progress)
    seconds = time.monotonic() - started
    if run.settings.checksums:
        tell(f"taking the SHA-256 of {len(report.rows):,} files, {format_total(report.rows)}")
    report = run.finish(report)
    tell(summarize(report, seconds))
    _tell_failures(report)
    if any(row.key not in run.table.obstacles for row, _ in report.failures()):
        say(suggest_next(report))
    if report.failures():
        return FAILED
    if "fetched" in report.outcomes:
        tell(f"to check their content: {spell_command('verify', run.settings)}")
    return DONE


def _show_plan(run: Run) -> None:
    """Show what is selected, here, and to be fetched; what is missing by name in a dry run."""
    wanted = run.table.incomplete()
    if run.settings.dry_run:
        # All of them for a program that reads them; a screen is for the table below.
        shown = wanted[:NAMED] if sys.stdout.isatty() else wanted
        for row in shown:
            obstacle = run.table.obstacles.get(row.key)
            print(f"  {row.key} ({obstacle or f'{row.status}, {format_size(row.size)}'})")
        if len(shown) < len(wanted):
            print(f"  and {len(wanted) - len(shown):,} more; add '| less' to see all of them")
    if wanted:
        print_table(make_plan(run.table.rows))
    print(describe_plan(run))
    if wanted:
        print(describe_room(run), flush=True)


def _tell_failures(report: Report) -> None:
    """Name each file that is not in place, or many at once if they share their reason."""
    by_reason: dict[str, list[str]] = {}
    for row, reason in report.failures():
        by_reason.setdefault(reason, []).append(row.key)
    for reason, keys in by_reason.items():
        if len(keys) > MANY:
            say(f"error: {len(keys):,} files: {reason}: {list_some(keys, MANY)}")
        else:
            for key in keys:
                say(f"error: {key}: {reason}")


def _ask_for_licence(data_dir: str | None) -> bool:
    """Ask on a terminal whether the licence of the stimuli is accepted; record a yes."""
    from laion_fmri import dataset
    from laion_fmri.folder.licences import accept_licenses

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    say(dataset.STIMULI_LICENSE)
    if not ask("Do you accept?"):
        return False
    accept_licenses(include_stimuli=True, data_dir=data_dir)
    return True
