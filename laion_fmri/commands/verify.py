"""The command ``verify``."""

import argparse
import time
from contextlib import nullcontext
from typing import Any

from laion_fmri.commands import output
from laion_fmri.settings import spell_command


def add(commands: Any) -> None:
    """Add the command to the parsers `commands`."""
    verify = output.add_command(
        commands, "verify", _run_verify, "check the content of the files that are here"
    )
    verify.epilog = (
        "example: laion-fmri verify --subject sub-03 --repair. Without --subject, whatever is here "
        "is checked; with it, or with a manifest, what is not here is counted as missing. Exit "
        "status: 0 nothing of what is here is broken, 1 a file is corrupt, partial or unreadable, "
        "or one of a manifest is missing, 2 bad usage, 130 interrupted."
    )
    output.add_filters(verify, "sub-03, 03, or all")
    output.add_options(
        verify,
        manifest="compare with this manifest, without the network",
        n_jobs="files to read at once (default: as many as CPUs)",
        data_dir="where the files are, this time",
    )
    verify.add_argument(
        "--repair", action="store_true", help="fetch again what is corrupt or partial"
    )
    output.add_quiet(verify)


def _run_verify(arguments: argparse.Namespace) -> int:
    from laion_fmri.check.verification import BROKEN, Check
    from laion_fmri.show.progress import show_check, show_progress

    settings = output.read_arguments(arguments, n_jobs=None)
    tell = output.make_writer(quiet=arguments.quiet)
    started = time.monotonic()
    with Check(settings, arguments.n_jobs, repairs=arguments.repair) as check:
        with nullcontext() if arguments.quiet else show_check() as progress:
            found = check.run(progress)
        if arguments.repair:
            found = check.repair(found, None if arguments.quiet else show_progress)
    broken = found.select_broken()
    for finding in broken:
        output.say(f"error: {finding.key}: {finding.outcome}: {finding.reason}")
    if found.select(*BROKEN) and not arguments.repair:
        output.say("run the same with --repair to fetch again what is corrupt or partial")
    missing = found.explain_missing()
    if missing:
        output.say(f"{missing}; fetch it with '{spell_command('download', settings)}'")
    if unverified := found.explain_unverified():
        output.say(f"warning: {unverified}")
    if extras := found.explain_extras():
        tell(extras)
    tell(found.summarize(time.monotonic() - started))
    return output.FAILED if broken or (missing and settings.manifest) else output.DONE
