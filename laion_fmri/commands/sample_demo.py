"""What is behind ``laion-fmri demo``: a guided run on the sample bucket, or the bucket alone."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from laion_fmri.errors import BucketError
from laion_fmri.fetch.aws import find_aws_command
from laion_fmri.sample import serve_sample

STEPS = (
    (
        "One session of one subject, with the mean-R2 map that loaders need:",
        "download --subject sub-03 --ses ses-01 --n-jobs 2",
    ),
    (
        "The summaries of the same subject; what is here already stays:",
        "download --subject sub-03 --ses averages --n-jobs 2",
    ),
    (
        "Both again. Sizes agree with the bucket, so there is nothing to do:",
        "download --subject sub-03 --ses ses-01 averages --n-jobs 2",
    ),
    ("What the bucket has, and what of it is here now:", "info --subject sub-03"),
)


def run_demo() -> int:
    """Serve the sample bucket on loopback and run the real command against it.

    Returns
    -------
    int
        0, or the exit status of the first command that failed.

    Raises
    ------
    MissingDependencyError
        If the extra ``demo`` is not installed.
    AwsNotFoundError
        If there is no AWS CLI.
    """
    find_aws_command()
    with serve_sample() as server, tempfile.TemporaryDirectory(prefix="laion-fmri-demo-") as home:
        data_dir = Path(home, "data")
        data_dir.mkdir()
        environment = os.environ | {
            "LAION_FMRI_ENDPOINT_URL": server.endpoint_url,
            "LAION_FMRI_BUCKET": server.bucket,
            "LAION_FMRI_DATA_DIR": str(data_dir),
        }
        _say(f"A sample of the bucket, with the true layout, is served at {server.endpoint_url}.")
        for text, command in STEPS:
            _say(f"\n{text}\n$ laion-fmri {command}")
            done = subprocess.run(
                [sys.executable, "-m", "laion_fmri", *shlex.split(command)],
                env=environment,
                check=False,
            )
            if done.returncode:
                return done.returncode
        _say("\nThe files that arrived, a plain mirror of the bucket's keys:")
        for file in sorted(data_dir.rglob("*")):
            if file.is_file() and ".laion_fmri" not in file.parts:
                _say(f"  {file.relative_to(data_dir)} ({file.stat().st_size:,} bytes)")
    _say("\nDone; the server is stopped and the files of this demo are removed.")
    return 0


def serve_until_interrupted(port: int) -> int:
    """Serve the sample bucket on loopback for other programs, until Ctrl-C.

    Parameters
    ----------
    port : int
        0 takes a free one.

    Returns
    -------
    int
        0, once it has been interrupted.

    Raises
    ------
    MissingDependencyError
        If the extra ``demo`` is not installed.
    BucketError
        If the port is taken or reserved, or there is no such port.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(serve_sample(port=port))
        except (OSError, OverflowError) as error:
            raise BucketError(
                f"the sample bucket cannot be served at port {port} ({error}); name another, "
                "or 0 for any that is free"
            ) from None
        _say("A sample of the bucket is served until Ctrl-C. To use it, in another terminal:")
        _say(f"  export LAION_FMRI_ENDPOINT_URL={server.endpoint_url}")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    _say("the server is stopped")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
