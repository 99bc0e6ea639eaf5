"""The commands about the tool itself: config, license, login, logout, snakefile, demo."""

import argparse
import os
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from laion_fmri.commands.output import DONE, add_command, add_options, say, write
from laion_fmri.dataset import REQUEST_URL

if TYPE_CHECKING:
    from laion_fmri.sample import SampleServer

#: Where ``laion-fmri demo --serve`` serves, unless a port is named.
PORT = 8047
#: The steps of the demo, as they are printed before each of them is taken.
STEPS = """
One session of one subject, with the mean-R2 map that loaders need:
$ laion-fmri download --subject sub-03 --ses ses-01 --n-jobs 2

The averages of the same subject, without a session; what is here already stays:
$ laion-fmri download --subject sub-03 --ses averages --n-jobs 2

Both again. Sizes agree with the bucket, so there is nothing to do:
$ laion-fmri download --subject sub-03 --ses ses-01 averages --n-jobs 2

What the bucket has, and what of it is here now:
$ laion-fmri info --subject sub-03
"""
#: How the demo ends: the same with the real bucket. The dry run fetches nothing.
NEXT = """
What to do next, with the real bucket:
  laion-fmri info                                      # what there is
  laion-fmri download --subject sub-03 --ses ses-01 --dry-run
                                                       # how much a session is
  laion-fmri download --subject sub-03 --ses ses-01 --suffix trials \\
      --data-dir ./data                                # fetch its trials"""
#: At once: the commands of the demo write to the same stdout.
_print = partial(print, flush=True)


def add(commands: Any) -> None:
    """Add the commands to the parsers `commands`."""
    text = "choose or show the data directory"
    epilog = "example: laion-fmri config --data-dir ./laion_fmri_data"
    config = add_command(commands, "config", _run_config, text, epilog)
    add_options(config, data_dir="the folder to use from now on")

    text = "show the licences of the data"
    license_ = add_command(commands, "license", _run_license, text, "example: laion-fmri license")
    unneeded = "does nothing any more: access to the images is by a form"
    license_.add_argument("--accept-stimuli", action="store_true", help=unneeded)
    add_options(license_, data_dir="does nothing any more")

    text = "save the request id that gives access to the images"
    epilog = (
        "Without --request-id it is asked for, or read from a pipe, so that neither other users "
        "of the machine nor the history of the shell see it. The id comes by the form at "
        f"{REQUEST_URL}; LAION_FMRI_REQUEST_ID takes the place of a login."
    )
    login = add_command(commands, "login", _run_login, text, epilog)
    login.add_argument("--request-id", metavar="ID", help="the id that the form gave you")
    # Taken, to be refused without a message that has the id in it.
    login.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    add_command(commands, "logout", _run_logout, "forget the request id")

    text = "print the Snakefile that a pipeline can embed"
    epilog = 'in a pipeline: module laion: snakefile: "<what this prints>"'
    add_command(commands, "snakefile", _run_snakefile, text, epilog)

    text = "try the commands on a small sample bucket"
    epilog = "Needs the extra 'demo': pip install 'laion-fmri[demo]'."
    demo = add_command(commands, "demo", _run_demo, text, epilog)
    serve = f"only serve the sample bucket, for other programs, until Ctrl-C (port {PORT})"
    demo.add_argument("--serve", nargs="?", type=int, const=PORT, metavar="PORT", help=serve)


def _run_config(arguments: argparse.Namespace) -> int:
    from laion_fmri.config import dataset_initialize, find_data_dir

    if arguments.data_dir is None:
        path, source = find_data_dir()
        write(f"data directory: {path} ({source})")
    else:
        print(f"data directory: {dataset_initialize(arguments.data_dir)}")
    return DONE


def _run_license(_arguments: argparse.Namespace) -> int:
    from laion_fmri import dataset

    write(dataset.BRAIN_LICENSE)
    write(dataset.STIMULI_LICENSE)
    write(f"There is nothing to accept here. Ask for access to the images at {dataset.REQUEST_URL}")
    return DONE


def _run_login(arguments: argparse.Namespace) -> int:
    from getpass import getpass

    from laion_fmri.folder.login import NAME, log_in

    if arguments.words:
        arguments.refuse("write --request-id before the id, or leave it out to be asked for it")
    given = arguments.request_id
    if given is None:
        try:
            # None if it was closed by whoever has started us.
            is_typed = sys.stdin is not None and sys.stdin.isatty()
            given = getpass("request id (not shown): ") if is_typed else _read_line()
        except EOFError:
            given = ""
    print(f"logged in; the request id is kept in {log_in(given)}")
    if os.environ.get(NAME):
        say(f"{NAME} is set as well, and is used instead")
    return DONE


def _read_line() -> str:
    return sys.stdin.readline(1000) if sys.stdin else ""


def _run_logout(_arguments: argparse.Namespace) -> int:
    from laion_fmri.folder.login import NAME, find_file, log_out

    print(f"logged out; {find_file()} is removed" if log_out() else "nobody was logged in")
    if os.environ.get(NAME):
        say(f"{NAME} is still set; to forget it as well: unset {NAME}")
    return DONE


def _run_snakefile(_arguments: argparse.Namespace) -> int:
    from laion_fmri.run.process import find_workflow

    print(find_workflow() / "Snakefile")
    return DONE


def _run_demo(arguments: argparse.Namespace) -> int:
    """Run real commands against the sample bucket, or only serve it until Ctrl-C."""
    from laion_fmri.errors import BucketError
    from laion_fmri.fetch.aws import find_aws_command
    from laion_fmri.sample import serve_sample

    port = arguments.serve  # None for the demo itself
    if port is None:
        find_aws_command()
    with ExitStack() as stack:
        try:
            server = stack.enter_context(serve_sample(port=port or 0))
        except (OSError, OverflowError) as error:
            raise BucketError(
                f"the sample bucket cannot be served at port {port or 0} ({error}); name another, "
                "or 0 for any that is free"
            ) from None
        if port is None:
            return _take_steps(server)
        _print("A sample of the bucket is served until Ctrl-C. To use it, in another terminal:")
        _print(f"  export LAION_FMRI_ENDPOINT_URL={server.endpoint_url}")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    _print("the server is stopped")
    return DONE


def _take_steps(server: "SampleServer") -> int:
    with TemporaryDirectory(prefix="laion-fmri-demo-") as data_dir:
        environment = os.environ | {
            "LAION_FMRI_ENDPOINT_URL": server.endpoint_url,
            "LAION_FMRI_BUCKET": server.bucket,
            "LAION_FMRI_DATA_DIR": data_dir,
        }
        _print(f"A sample of the bucket, with the true layout, is served at {server.endpoint_url}.")
        for step in STEPS.strip().split("\n\n"):
            _print(f"\n{step}")
            words = [sys.executable, "-m", "laion_fmri", *step.split("laion-fmri ")[1].split()]
            if status := subprocess.run(words, env=environment, check=False).returncode:
                return status
        _print("\nThe files that arrived, a plain mirror of the bucket's keys:")
        for file in sorted(Path(data_dir).rglob("*")):
            if file.is_file() and ".laion_fmri" not in file.parts:
                _print(f"  {file.relative_to(data_dir)} ({file.stat().st_size:,} bytes)")
    _print("\nDone; the server is stopped and the files of this demo are removed.")
    _print(NEXT)
    return DONE
