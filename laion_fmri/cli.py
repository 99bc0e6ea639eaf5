"""The ``laion-fmri`` command: the only place that prints for people, asks, and exits."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from laion_fmri import __version__
from laion_fmri.errors import (
    BucketError,
    DataDirNotSetError,
    LaionFmriError,
    LicenseNotAcceptedError,
    NoSpaceError,
    WorkflowFailedError,
    list_some,
)
from laion_fmri.filters import FILTERS
from laion_fmri.progress import format_size

if TYPE_CHECKING:
    from laion_fmri.download import Report, Run
    from laion_fmri.keys import Row

#: Exit status of the command.
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
#: Files that are named one by one when they have failed for the same reason.
MANY = 10

_FILTER_HELP = {
    "ses": 'sessions, such as ses-01; "averages" selects the files without a session',
    "task": "tasks, such as images",
    "space": "spaces, such as T1w",
    "desc": "descriptions, such as SingletrialBetas",
    "stat": "statistics, such as effect",
    "suffix": "suffixes, such as statmap or trials",
    "extension": "extensions, such as nii.gz or tsv",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    arguments = make_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        previous = {
            number: signal.signal(number, _interrupt)
            for number in (signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN  # nohup: meant to outlive its terminal
        }
        try:
            status: int = arguments.run(arguments)
        except KeyboardInterrupt as stop:
            notes = getattr(stop, "__notes__", ["run the same again to go on where it stopped"])
            _say(f"interrupted; {'; '.join(notes)}")
            status = INTERRUPTED
        except (BucketError, NoSpaceError, WorkflowFailedError) as error:
            _say(f"error: {error}")
            status = FAILED
        except (LaionFmriError, TypeError) as error:
            if not isinstance(error, LaionFmriError) and not _is_about_input(error):
                raise
            _say(f"error: {error}")
            status = USAGE
        except BrokenPipeError:  # the reader of our output, such as head, has seen enough
            sys.stderr.close()
            status = DONE
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    return status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="laion-fmri",
        description="Fetch any slice of the LAION-fMRI dataset. Choose a data directory once with "
        "'laion-fmri config', look around with 'laion-fmri info', then download.",
        epilog="example: laion-fmri download --subject sub-03 --ses ses-01 --n-jobs 4",
    )
    parser.add_argument("--version", action="version", version=f"laion-fmri {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    config = _add(commands, "config", _run_config, "choose or show the data directory")
    config.add_argument("--data-dir", metavar="DIR", help="the folder to use from now on")
    config.epilog = "example: laion-fmri config --data-dir ./laion_fmri_data"

    info = _add(commands, "info", _run_info, "show what the bucket has and what of it is here")
    info.add_argument("--subject", nargs="+", metavar="SUBJECT", help="show these by session")
    info.add_argument("--data-dir", metavar="DIR", help="where to look for local files")
    info.epilog = "Sizes are in decimal units: 1 MB is 1,000,000 bytes."

    download = _add(commands, "download", _run_download, "fetch what the filters select")
    download.epilog = (
        "example: laion-fmri download --subject sub-03 --ses ses-01 averages "
        "--desc SingletrialBetas --extension nii.gz --n-jobs 4. "
        "The values of one filter are alternatives, and all filters have to pass; a file that does "
        "not carry an entity passes, except for --ses. Values are exact; a bare value and a full "
        "token (01, ses-01) are the same. Sizes are in decimal units: 1 MB is 1,000,000 bytes. "
        "Exit status: 0 done, 1 some files failed, 2 bad usage or nothing matched, 130 interrupted."
    )
    download.set_defaults(refuse=download.error)
    download.add_argument(
        "--subject",
        nargs="+",
        metavar="SUBJECT",
        help="sub-03, 03, or all; required, but for --manifest, of which it is all by default",
    )
    for name in FILTERS:
        download.add_argument(f"--{name}", nargs="+", metavar="VALUE", help=_FILTER_HELP[name])
    download.add_argument(
        "--include-stimuli", action="store_true", help="also fetch all of stimuli/"
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

    verify = _add(commands, "verify", _run_verify, "check the content of the files that are here")
    verify.epilog = (
        "example: laion-fmri verify --subject sub-03 --repair. Without --subject, whatever is here "
        "is checked; with it, or with a manifest, what is not here is missing. Exit status: 0 all "
        "is right, 1 something is corrupt or missing, 2 bad usage, 130 interrupted."
    )
    verify.add_argument("--subject", nargs="+", metavar="SUBJECT", help="sub-03, 03, or all")
    for name in FILTERS:
        verify.add_argument(f"--{name}", nargs="+", metavar="VALUE", help=_FILTER_HELP[name])
    verify.add_argument("--include-stimuli", action="store_true", help="also check all of stimuli/")
    verify.add_argument(
        "--manifest", metavar="FILE", help="compare with this manifest, without the network"
    )
    verify.add_argument(
        "--repair", action="store_true", help="fetch again what is corrupt or partial"
    )
    verify.add_argument(
        "--n-jobs", metavar="N", help="files to read at once (default: as many as CPUs)"
    )
    verify.add_argument("--data-dir", metavar="DIR", help="where the files are, this time")
    verify.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors"
    )

    license_ = _add(commands, "license", _run_license, "show or accept the licences of the data")
    license_.add_argument(
        "--accept-stimuli", action="store_true", help="accept the closed licence of the stimuli"
    )
    license_.add_argument("--data-dir", metavar="DIR", help="the folder that it is recorded in")
    license_.epilog = "example: laion-fmri license --accept-stimuli"

    snakefile = _add(
        commands, "snakefile", _run_snakefile, "print the Snakefile that a pipeline can embed"
    )
    snakefile.epilog = 'in a pipeline: module laion: snakefile: "<what this prints>"'

    demo = _add(commands, "demo", _run_demo, "see it work, on a small sample bucket of its own")
    demo.epilog = "Needs the extra 'demo': pip install 'laion-fmri[demo]'."
    return parser


def _add(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text + ".")
    parser.set_defaults(run=run)
    return parser


def _run_config(arguments: argparse.Namespace) -> int:
    from laion_fmri.config import dataset_initialize, find_data_dir

    if arguments.data_dir is not None:
        print(f"data directory: {dataset_initialize(arguments.data_dir)}")
        return DONE
    path, source = find_data_dir()
    print(f"data directory: {path} ({source})")
    return DONE


def _run_info(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    from laion_fmri.discovery import Holding, count_holdings

    holdings = count_holdings(arguments.subject or "all", arguments.data_dir)
    by_session = arguments.subject is not None
    groups: dict[tuple[str, ...], list[Holding]] = {}
    for held in holdings:
        sub = f"sub-{held.sub}" if held.sub else "(root)"
        ses = held.ses if held.ses == "averages" or not held.sub else f"ses-{held.ses}"
        groups.setdefault((sub, ses) if by_session else (sub,), []).append(held)
    table = Table("subject", "session" if by_session else "sessions")
    for heading in ("files", "size", "here: files", "size"):
        table.add_column(heading, justify="right")
    for names, group in groups.items():
        sessions = sum(held.ses != "averages" for held in group)
        table.add_row(
            names[0],
            names[1] if by_session else str(sessions),
            f"{sum(held.files for held in group):,}",
            format_size(sum(held.bytes for held in group)),
            f"{sum(held.local_files for held in group):,}",
            format_size(sum(held.local_bytes for held in group)),
        )
    _print_table(table)
    try:
        from laion_fmri.config import find_data_dir

        path, source = find_data_dir(arguments.data_dir)
        print(f"data directory: {path} ({source})")
    except DataDirNotSetError as error:
        print(f"data directory: {error}")
    return DONE


def _run_download(arguments: argparse.Namespace) -> int:
    from laion_fmri.download import Run, read_n_jobs

    settings = ("include_stimuli", "data_dir", "max_bandwidth", "manifest", "save_manifest")
    names = ("subject", *FILTERS, *settings, "stall_timeout", "space_check")
    config = {name: getattr(arguments, name) for name in names}
    if arguments.subject is None:
        if arguments.manifest is None:
            arguments.refuse("name a --subject, such as sub-03 or all, or a --manifest")
        config["subject"] = "all"
    n_jobs = read_n_jobs(_read_number(arguments.n_jobs))
    options = {name: getattr(arguments, name) for name in ("dry_run", "profile", "checksums")}
    try:
        run = Run(config, n_jobs, **options)
    except LicenseNotAcceptedError:
        if not _ask_for_licence(arguments.data_dir):
            raise
        run = Run(config, n_jobs, **options)
    with run:
        return _fetch(run, quiet=arguments.quiet)


def _fetch(run: Run, *, quiet: bool) -> int:
    from laion_fmri.progress import show_progress

    for text in run.table.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)
    tell: Callable[[str], object] = (lambda text: None) if quiet else print
    for text in run.table.notes:
        tell(text)
    tell(_describe_plan(run))
    if run.dry_run:
        run.finish(run.fetch())
        for row in run.table.incomplete():
            obstacle = run.table.obstacles.get(row.key)
            tell(f"  {row.key} ({obstacle or f'{row.status}, {format_size(row.size)}'})")
        return DONE
    started = time.monotonic()
    report = run.fetch(None if quiet else show_progress)
    seconds = time.monotonic() - started
    if run.checksums:
        tell(f"taking the SHA-256 of {len(report.rows):,} files, {_format_total(report.rows)}")
    run.finish(report)
    tell(_summarize(report, seconds))
    _tell_failures(report)
    if any(row.key not in run.table.obstacles for row, _ in report.failures()):
        log = f"; the log is {report.log}" if report.log else ""
        _say(f"run the same command again to fetch what is missing{log}")
    return FAILED if report.failures() else DONE


def _tell_failures(report: Report) -> None:
    """Name each file that is not in place, or many at once if they share their reason."""
    by_reason: dict[str, list[str]] = {}
    for row, reason in report.failures():
        by_reason.setdefault(reason, []).append(row.key)
    for reason, keys in by_reason.items():
        if len(keys) > MANY:
            _say(f"error: {len(keys):,} files: {reason}: {list_some(keys, MANY)}")
        else:
            for key in keys:
                _say(f"error: {key}: {reason}")


def _run_verify(arguments: argparse.Namespace) -> int:
    from laion_fmri.progress import show_progress
    from laion_fmri.verify import BROKEN, FAILURES, Check, read_threads, show_check, spell

    names = ("subject", *FILTERS, "include_stimuli", "data_dir")
    config = {name: getattr(arguments, name) for name in names}
    n_jobs = read_threads(arguments.n_jobs and _read_number(arguments.n_jobs))
    tell: Callable[[str], object] = (lambda text: None) if arguments.quiet else print
    started = time.monotonic()
    options = {"manifest": arguments.manifest, "repairs": arguments.repair}
    with Check(config, n_jobs, **options) as check:
        with nullcontext() if arguments.quiet else show_check() as progress:
            found = check.run(progress)
        if arguments.repair:
            found = check.repair(found, None if arguments.quiet else show_progress)
    for finding in found.select(*FAILURES):
        _say(f"error: {spell(finding.key)}: {finding.outcome}: {finding.reason}")
    if found.select(*BROKEN) and not arguments.repair:
        _say("run the same with --repair to fetch again what is corrupt or partial")
    if found.select("missing"):
        _say("what is missing can be fetched with 'laion-fmri download'")
    if unverified := found.explain_unverified():
        _say(f"warning: {unverified}")
    if extras := found.explain_extras():
        tell(extras)
    tell(found.summarize(time.monotonic() - started))
    return FAILED if found.select(*FAILURES) else DONE


def _run_license(arguments: argparse.Namespace) -> int:
    from laion_fmri import dataset
    from laion_fmri.config import get_data_dir
    from laion_fmri.licenses import accept_licenses, has_accepted_stimuli

    path = get_data_dir(arguments.data_dir)
    if arguments.accept_stimuli:
        accept_licenses(include_stimuli=True, data_dir=path)
    accepted = "accepted" if has_accepted_stimuli(path) else "not accepted"
    print(dataset.BRAIN_LICENSE)
    print(dataset.STIMULI_LICENSE)
    print(f"The licence of the stimuli is {accepted} for {path}.")
    return DONE


def _run_snakefile(_arguments: argparse.Namespace) -> int:
    from laion_fmri.runner import find_workflow

    print(find_workflow() / "Snakefile")
    return DONE


def _run_demo(_arguments: argparse.Namespace) -> int:
    from laion_fmri.demo import run_demo

    return run_demo()


def _describe_plan(run: Run) -> str:
    rows, wanted = run.table.rows, run.table.incomplete()
    partial = sum(row.status == "partial" for row in wanted)
    again = f" ({partial:,} of them partial)" if partial else ""
    return (
        f"{len(rows):,} files, {_format_total(rows)}: {len(rows) - len(wanted):,} here already, "
        f"{len(wanted):,} to fetch{again}, {_format_total(wanted)}, into {run.data_dir}"
    )


def _summarize(report: Report, seconds: float) -> str:
    fetched = [row for row, o in zip(report.rows, report.outcomes, strict=True) if o == "fetched"]
    failures = report.failures()
    if not fetched and not failures:
        return "nothing to do: everything is here"
    rate = format_size(int(sum(row.size for row in fetched) / max(seconds, 1e-9)))
    failed = f", {len(failures):,} failed" if failures else ""
    return (
        f"fetched {len(fetched):,} files, {_format_total(fetched)} in {seconds:.1f} s ({rate}/s); "
        f"{report.outcomes.count('present'):,} were here{failed}"
    )


def _format_total(rows: Sequence[Row]) -> str:
    return format_size(sum(row.size for row in rows))


def _ask_for_licence(data_dir: str | None) -> bool:
    """Ask on a terminal whether the licence of the stimuli is accepted; record a yes."""
    from laion_fmri import dataset
    from laion_fmri.licenses import accept_licenses

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    _say(dataset.STIMULI_LICENSE)
    sys.stderr.write("Do you accept? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        return False
    accept_licenses(include_stimuli=True, data_dir=data_dir)
    return True


def _print_table(table: Any) -> None:
    from rich.console import Console

    # Into a pipe, never fold: a wide line is easier to cut than a folded one to mend.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _read_number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    _say(f"warning: {message}")


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _is_about_input(error: TypeError) -> bool:
    """Whether the error is one of ours about a value, and not a fault of the program."""
    return "is not a string" in str(error) or "neither True nor False" in str(error)
