"""The command ``download``."""

import argparse
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri import dataset
from laion_fmri.base.text import format_seconds, format_size
from laion_fmri.commands import output
from laion_fmri.errors import list_some
from laion_fmri.selection.filters import needs_subject
from laion_fmri.selection.overview import by_session, name_sessions
from laion_fmri.settings import COMMAND, SELECTORS, list_options, spell_command

if TYPE_CHECKING:
    from laion_fmri.run.report import Report
    from laion_fmri.run.run import Run
    from laion_fmri.selection.table import Row
    from laion_fmri.settings import Settings

#: Files that are named one by one, at most, if they have failed for the same reason.
MANY = 10
#: Files that a dry run names on a terminal, at most.
NAMED = 20


def add(commands: Any) -> None:
    """Add the command to the parsers `commands`."""
    epilog = (
        "example: laion-fmri download --subject sub-03 --ses ses-01 averages "
        "--desc SingletrialBetas --extension nii.gz --n-jobs 4. "
        "The values of one filter are alternatives, and all filters have to pass; a file that does "
        "not carry an entity passes a filter on it, except for --ses. Values are exact; a bare "
        f"value and a full token (01, ses-01) are the same. {output.UNITS}. "
        "Exit status: 0 done, 1 some files failed, 2 bad usage or nothing matched, 130 interrupted."
    )
    text = "fetch what the filters select"
    download = output.add_command(commands, "download", _run_download, text, epilog)
    subjects = "sub-03, 03, or all; required without --manifest, and with it all by default"
    output.add_filters(download, subjects)
    given = ("subject", *SELECTORS)
    names = [name for name in list_options(COMMAND) if name not in given]
    output.add_options(download, *names)
    output.add_quiet(download)


def _run_download(arguments: argparse.Namespace) -> int:
    from laion_fmri.run.run import Run
    from laion_fmri.show.progress import show_step

    settings = output.read_arguments(arguments)
    if settings.subject is None and needs_subject(settings):
        if settings.manifest is None:
            arguments.refuse("name a --subject, such as sub-03 or all, or a --manifest")
        settings = replace(settings, subject="all")
    _choose_data_dir(settings)
    with nullcontext() if arguments.quiet else show_step("listing the bucket"):
        run = Run(settings)
    with run:
        return _fetch(run, quiet=arguments.quiet)


def _choose_data_dir(settings: "Settings") -> None:
    """Ask for a data directory if none is chosen, and there is a terminal to ask on; save it."""
    from laion_fmri.config import dataset_initialize, has_choice

    can_ask = sys.stdin.isatty() and sys.stderr.isatty()
    if settings.data_dir is not None or settings.dry_run or not can_ask or has_choice():
        return
    place = Path("laion_fmri_data").absolute()
    if output.ask(f"No data directory is chosen. Keep the files in {place}, from now on?"):
        dataset_initialize(place)


def _fetch(run: "Run", *, quiet: bool) -> int:
    from laion_fmri.fetch.aws_process import explain_old_version, read_old_version
    from laion_fmri.show.progress import show_progress

    output.warn(run.table.warnings)
    write = output.make_writer(quiet=quiet)
    for text in run.table.notes:
        write(text)
    if not quiet:
        _print_plan(run)
    if run.settings.dry_run:
        run.finish(run.fetch())
        return output.DONE
    started = time.monotonic()
    report = run.fetch(None if quiet else show_progress)
    seconds = time.monotonic() - started
    if run.settings.checksums:
        write(f"computing the SHA-256 of {len(report.rows):,} files, {_format_total(report.rows)}")
    if report.log and (old := read_old_version(report.log.parent, patience=0)):
        write(f"note: {explain_old_version(old)}")
    report = run.finish(report)
    write(_summarize(report, seconds))
    if report.failures():
        _print_failures(report, run.table.obstacles)
        return output.FAILED
    if report.select("fetched"):
        command = spell_command("verify", run.settings)
        write(output.join_command("to check their content:", command))
    return output.DONE


def _print_plan(run: "Run") -> None:
    """Print what is selected, here, and to be fetched; the files by name in a dry run."""
    from laion_fmri.folder import unfinished
    from laion_fmri.folder.disk_space import count_free_bytes

    missing = run.table.incomplete()
    if run.settings.dry_run:
        # All of them for a program that reads them; a screen is for the table below.
        shown = missing[:NAMED] if sys.stdout.isatty() else missing
        for row in shown:
            obstacle = run.table.obstacles.get(row.key)
            print(f"  {row.key} ({obstacle or f'{row.status}, {format_size(row.size)}'})")
        if len(shown) < len(missing):
            print(f"  and {len(missing) - len(shown):,} more; add '| less' to see all of them")
    if missing:
        _print_table(run.table.rows)
    files, size, here, to_fetch, left = _count(run.table.rows)
    partial = sum(row.status == "partial" for row in missing)
    again = f" ({partial:,} of them partial)" if partial else ""
    plan = f"{files} files, {size}: {here} here already, {to_fetch} to fetch{again}, {left}"
    if not run.has_place:
        output.write(f"{plan}; no data directory is chosen yet")
        return
    output.write(f"{plan}, into {run.data_dir}")
    if kept := unfinished.explain(run.data_dir, (row.key for row in missing)):
        output.write(f"{kept}, and not fetched again")
    if missing:
        is_new = not run.data_dir.exists()  # in a dry run
        free = format_size(count_free_bytes(run.data_dir.parent if is_new else run.data_dir))
        print(f"free on that disk: {free}", flush=True)


def _print_failures(report: "Report", obstacles: Collection[str]) -> None:
    """Name each file that is not in place, many of the same reason at once; say what to do."""
    by_reason: dict[str, list[str]] = {}
    for row, _, reason in report.failures():
        by_reason.setdefault(reason, []).append(row.key)
    for reason, keys in by_reason.items():
        if len(keys) > MANY:
            output.say(f"error: {len(keys):,} files: {reason}: {list_some(keys, MANY)}")
        else:
            for key in keys:
                output.say(f"error: {key}: {reason}")
    if all(row.key in obstacles for row, *_ in report.failures()):
        return  # the same command would fail again
    advice = "run the same command again to fetch what is missing"
    if not report.select("failed"):
        advice = f"ask for access to denied files at {dataset.REQUEST_URL}"
    output.say(f"{advice}; the log is {report.log}" if report.log else advice)


def _print_table(rows: "Sequence[Row]") -> None:
    from rich import box
    from rich.table import Column

    plan = output.make_table(
        (Column("subject", no_wrap=True), Column("scope", no_wrap=True), "sessions"),
        ("files", "size", "here", "to fetch", "size"),
        no_wrap=True,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    groups = group_rows(rows)
    for subject, scope, sessions, group in groups:
        plan.add_row(subject, scope, sessions, *_count(group))
    if len(groups) > 1:
        plan.add_section()
        plan.add_row("all", "", "", *_count(rows), style="bold")
    output.open_console().print(plan)


def group_rows(rows: "Iterable[Row]") -> "list[tuple[str, str, str, list[Row]]]":
    """Return subject, scope, sessions and rows of each line.

    They are by session if there is only one subject.
    """
    places = by_session(rows)
    is_single = len({place.sub for place in places if place.sub is not None}) == 1
    groups = []
    for _, group in groupby(places, key=lambda place: place if is_single else place[:2]):
        some = list(group)
        first = some[0]
        sessions = name_sessions(place.ses for place in some if place.session)
        scope = first.scope if first.sub is not None else ""
        groups.append((first.subject, scope, sessions, [row for p in some for row in places[p]]))
    return groups


def _count(rows: "Sequence[Row]") -> list[str]:
    """Return the files and bytes of `rows`, the files here, and the files and bytes to fetch."""
    missing = [row for row in rows if row.status != "complete"]
    return [
        f"{len(rows):,}",
        _format_total(rows),
        f"{len(rows) - len(missing):,}",
        f"{len(missing):,}",
        _format_total(missing),
    ]


def _summarize(report: "Report", seconds: float) -> str:
    fetched = [result.row for result in report.select("fetched")]
    failures = report.failures()
    if not fetched and not failures:
        return "nothing to do: everything is here"
    done = f"fetched {len(fetched):,} files, {_format_total(fetched)} in {format_seconds(seconds)}"
    rate = format_size(int(sum(row.size for row in fetched) / max(seconds, 1e-9)))
    failed = f", {len(failures):,} failed" if failures else ""
    return f"{done} ({rate}/s); {len(report.select('present')):,} were here{failed}"


def _format_total(rows: "Iterable[Row]") -> str:
    return format_size(sum(row.size for row in rows))
