"""One aws process: started in a clean environment, watched, and ended if it falls silent."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from laion_fmri.base.text import spell
from laion_fmri.fetch.aws import make_environment

#: Seconds between two looks at what has arrived, and before the first byte has.
TICK, FIRST_TICK = 0.5, 0.1
#: More seconds that aws has for its first byte: its start can take that long on a busy machine.
START = 5.0
#: Bytes of its complaints that are read: a server can say anything at any length. A thousand
#: objects that are all denied make half of it. Of these, what goes into the log.
MOST_SAID, MOST_LINES, MOST_LINE = 2**20, 2000, 1000
#: Lets the kernel end aws if this process is killed: PR_SET_PDEATHSIG, see prctl(2), only on Linux.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

#: What is said of an aws that does not work at all: it is not tried again.
UNUSABLE = "the AWS CLI"
#: Where it is written which version the aws of a run has.
VERSION = "aws.version"
#: Where an environment has the metadata of its aws, and what tells the version.
_METADATA = "lib/python3*/*-packages/awscli-*.dist-info"
_INSTALLED = re.compile(r"(?:awscli-)?(\d+\.\d+\.\d+)")
#: Seconds that it has to tell its version.
PROBE = 60.0

#: Called again and again with what aws has said so far; returns something that changes whenever a
#: byte arrives, or None to end aws.
Look = Callable[[str], object]


def find_target(folder: int, name: str) -> str:
    """Return what aws calls the file or folder `name` in the open `folder`.

    aws makes it absolute when it starts. By its descriptor it is the same folder whatever stands in
    its place by then; without /proc, as on macOS, it is the one that is there when aws starts.
    """
    return f"/proc/self/fd/{folder}/{name}" if _PRCTL else name


def run_aws(
    command: Sequence[str], folder: int, config: Path, stall_timeout: float, look: Look
) -> str:
    """Run aws once, with the file `config`; return its complaints, if any.

    Its targets are in the open `folder`, see :func:`find_target`.
    """

    def prepare() -> None:
        prepare_child()
        if not _PRCTL:
            os.fchdir(folder)

    # Not on the disk of the data: aws has to be able to say that this one is full.
    with tempfile.TemporaryFile("w+", errors="replace") as messages:
        try:
            process = subprocess.Popen(
                command,
                env=make_environment(config),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                stderr=messages,
                preexec_fn=prepare,
                pass_fds=(folder,),
                cwd=config.parent,
            )
        except OSError as error:
            return f"{UNUSABLE} {command[0]} cannot be started: {error.strerror}"
        try:
            stalled = _wait_for(process, messages.fileno(), stall_timeout, look)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        messages.seek(0)
        said = messages.read(MOST_SAID)
    sys.stderr.writelines(f"{spell(line, MOST_LINE)}\n" for line in said.splitlines()[:MOST_LINES])
    if stalled:
        return f"{said}\nno byte has arrived for {stall_timeout:g} s"
    if process.returncode == 0 and not said:
        return ""
    return said.strip() or f"aws ended with exit status {process.returncode}"


def prepare_child() -> None:
    """Let the kernel end this process, which is about to become aws, together with its parent."""
    if _PRCTL:
        _PRCTL(1, signal.SIGKILL)


def call_api(command: Sequence[str], operation: str, what: Sequence[str]) -> list[str]:
    """Return the command for another `operation` on objects than the `command` of a copy."""
    aws, _, _, *options = command
    options = [word for word in options if word != "--only-show-errors"]
    return [aws, "s3api", operation, *options, *what]


def find_fault(command: str, config: Path) -> str | None:
    """Return what keeps an aws that has brought nothing from working at all; None if it does."""
    try:
        done = subprocess.run(
            [command, "--version"],
            env=make_environment(config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{UNUSABLE} {command} does not answer"
    except OSError as error:
        return f"{UNUSABLE} {command} cannot be started: {error.strerror}"
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode == 0 and "aws-cli/" in said:
        return None
    first = spell(said.partition("\n")[0], MOST_LINE) or f"exit status {done.returncode}"
    return f"{UNUSABLE} {command} does not work: {first}; set LAION_FMRI_AWS to another"


def find_version(command: str) -> str | None:
    """Return the version of an aws if the place where it is installed tells it.

    That saves a start of it, which takes half a second of a CPU. The installer's is in
    ``aws-cli/v2/<version>/dist``, pip's and conda's in an environment that holds its metadata.
    """
    prefix = Path(command).resolve().parents[1]
    names = [prefix.name, *(path.stem for path in prefix.glob(_METADATA))]
    found = {match[1] for name in names if (match := _INSTALLED.fullmatch(name))}
    return found.pop() if len(found) == 1 else None


def ask_version(command: str, config: Path) -> None:
    """Let an aws write its version into the folder of its `config`, unless another job has."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(config.parent / VERSION, flags, 0o600)
        try:
            if version := find_version(command):
                os.write(file, f"aws-cli/{version} \n".encode())
                return
            # Not waited for: it starts while the first bytes arrive.
            subprocess.Popen(
                [command, "--version"],
                env=make_environment(config),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.close(file)


def read_old_version(run_dir: Path, patience: float = START) -> str | None:
    """Return the version of an aws that may mix parts of two versions of an object, else None.

    Those carry no If-Match in their requests for parts: version 2 before 2.27.21, 1 before 1.40.21.
    One that does not tell its version within some seconds is taken to be new.
    """
    deadline = time.monotonic() + patience
    while not (said := _read(run_dir / VERSION)) and time.monotonic() < deadline:
        time.sleep(TICK / 5)
    found = re.match(r"aws-cli/(\d+)\.(\d+)\.(\d+)\s", said)
    if not found:
        return None
    version = tuple(map(int, found.groups()))
    is_old = version < ((1, 40, 21) if version[0] < 2 else (2, 27, 21))
    return ".".join(map(str, version)) if is_old else None


def explain_old_version(version: str) -> str:
    """Say what a version of aws means that may mix parts of two versions of an object."""
    return (
        f"aws {version} does not notice by itself when an object is replaced while it arrives; "
        "large ones are checked by another request each. 2.27.21 and newer need none"
    )


def _read(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text(errors="replace")
    return ""


def ask_etag(
    command: Sequence[str], bucket: str, key: str, etag: str, config: Path, timeout: float
) -> bool:
    """Whether the object `key` still has the ETag that was listed; `command` is that of a copy."""
    what = ["--bucket", bucket, "--key", key, "--if-match", f'"{etag}"']
    try:
        done = subprocess.run(
            call_api(command, "head-object", what),
            env=make_environment(config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=timeout + START,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _wait_for(
    process: subprocess.Popen[Any], messages: int, stall_timeout: float, look: Look
) -> bool:
    """Wait until `process` ends or `look` returns None; return whether it was silent too long."""
    seen = look("")
    heard, pause = time.monotonic() + START, FIRST_TICK
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=pause)
        # pread, so that the position at which aws is writing stays where it is
        said = os.pread(messages, MOST_SAID, 0).decode(errors="replace")
        now = look(said)
        if now is None:
            return False
        if now != seen:
            seen, heard, pause = now, time.monotonic(), TICK
        elif time.monotonic() - heard > stall_timeout:
            return True
    return False
