"""The command ``download``."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from laion_fmri.commands.output import (
    DONE,
    FAILED,
    add_command,
    add_filters,
    ask,
    be_quiet,
    print_table,
    read_config,
    read_number,
    say,
)
from laion_fmri.commands.overview import (
    describe_plan,
    describe_room,
    format_total,
    make_plan,
    suggest_next,
    suggest_verify,
    summarize,
)
from laion_fmri.errors import LicenseNotAcceptedError, list_some
from laion_fmri.units import format_size

if TYPE_CHECKING:
    from laion_fmri.run.run import Report, Run

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
    download.add_argument(
        "--n-jobs", default="1", metavar="N", help="aws s3 cp processes at once (default: 1)"
    )
    download.add_argument(
        "--max-bandwidth", type=float, metavar="MB/S", help="take no more of the line, in MB/s"
    )
    download.add_argument(
        "--stall-timeout",
        type=float,
        metavar="SECONDS",
        help="try again what has brought no byte for so long (default: 60)",
    )
    download.add_argument(
        "--no-space-check",
        dest="space_check",
        action="store_false",
        help="begin even if the disk has no room for all of it",
    )
    download.add_argument(
        "--profile",
        metavar="NAME",
        help='send the jobs to a cluster: "slurm", or the name or folder of a Snakemake profile',
    )
    download.add_argument("--data-dir", metavar="DIR", help="where the files go, this time")
    download.add_argument(
        "--manifest",
        metavar="FILE",
        help="fetch what this manifest names, in exactly these versions, and name what has changed",
    )
    download.add_argument(
        "--save-manifest", metavar="FILE", help="keep what is selected as a manifest"
    )
    download.add_argument(
        "--checksums",
        action="store_true",
        help="add the SHA-256 of each complete file to the manifest that is kept, after the run",
    )
    download.add_argument(
        "--dry-run", action="store_true", help="show what would be fetched; write nothing"
    )
    download.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors"
    )


def _run_download(arguments: argparse.Namespace) -> int:
    from laion_fmri.download import read_n_jobs
    from laion_fmri.run.run import Run

    settings = (
        "data_dir",
        "max_bandwidth",
        "manifest",
        "save_manifest",
        "stall_timeout",
        "space_check",
    )
    config = read_config(arguments, *settings)
    if arguments.subject is None:
        if arguments.manifest is None:
            arguments.refuse("name a --subject, such as sub-03 or all, or a --manifest")
        config["subject"] = "all"
    n_jobs = read_n_jobs(read_number(arguments.n_jobs))
    options = {name: getattr(arguments, name) for name in ("dry_run", "profile", "checksums")}
    try:
        run = Run(config, n_jobs, **options)
    except LicenseNotAcceptedError:
        if not _ask_for_licence(arguments.data_dir):
            raise
        run = Run(config, n_jobs, **options)
    with run:
        return _fetch(run, config, quiet=arguments.quiet)


def _fetch(run: Run, given: Mapping[str, Any], *, quiet: bool) -> int:
    from laion_fmri.show.progress import show_progress

    for text in run.table.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)
    tell: Callable[[str], object] = be_quiet if quiet else print
    for text in run.table.notes:
        tell(text)
    if not quiet:
        _show_plan(run)
    if run.dry_run:
        run.finish(run.fetch())
        return DONE
    started = time.monotonic()
    report = run.fetch(None if quiet else show_progress)
    seconds = time.monotonic() - started
    if run.checksums:
        tell(f"taking the SHA-256 of {len(report.rows):,} files, {format_total(report.rows)}")
    run.finish(report)
    tell(summarize(report, seconds))
    _tell_failures(report)
    if any(row.key not in run.table.obstacles for row, _ in report.failures()):
        say(suggest_next(report))
    if report.failures():
        return FAILED
    if "fetched" in report.outcomes:
        tell(f"to check their content: {suggest_verify(given)}")
    return DONE


def _show_plan(run: Run) -> None:
    """Show what is selected, here, and to be fetched; what is missing by name in a dry run."""
    wanted = run.table.incomplete()
    if run.dry_run:
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
