"""Run the workflow as a child process: find it, build its command, watch it, read what it did."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from laion_fmri.config import find_user
from laion_fmri.errors import WorkflowFailedError
from laion_fmri.fetch.aws import aws_command
from laion_fmri.fetch.outcomes import Outcome, read_outcomes
from laion_fmri.run import loader
from laion_fmri.run.profiles import Profile
from laion_fmri.run.run_folder import RunFolder

#: Seconds between two looks at a run.
TICK = 0.25
#: Seconds that Snakemake gets to stop its jobs before all of them are killed.
GRACE = 8.0
#: The same where the jobs have to be taken out of a queue first.
CLUSTER_GRACE = 40.0
#: Runs whose logs are kept in a data directory.
KEPT_RUNS = 20
#: Jobs that are asked for by name; more of them might not fit on a command line.
NAMED_JOBS = 2_000


def find_workflow() -> Path:
    """Return the folder of the workflow: inside an installed package, or beside it in a clone."""
    package = Path(__file__).parent.parent
    for folder in (package / "workflow", package.parent / "workflow"):
        if (folder / "Snakefile").exists():
            return folder
    raise WorkflowFailedError(f"no workflow beside {package}; install laion-fmri again")


class Snakemake:
    """A Snakemake process: it loads at once, and waits for :meth:`run`.

    It is a process and not a call, since Snakemake's own interface cannot run inside an event loop,
    which every Jupyter kernel is.
    """

    def __init__(self) -> None:
        # -P: a file of the user's that is named like a module must not be imported instead.
        command = [sys.executable, "-P", os.fspath(loader.__file__)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_make_environment(),
            cwd=_find_place(),
        )
        self._grace = GRACE
        self._is_running = False
        self._pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]

    def run(
        self,
        argv: Sequence[str],
        log: Path,
        on_tick: Callable[[], None],
        grace: float = GRACE,
    ) -> int:
        """Run it with the arguments `argv`, its output in `log`; return its exit status.

        `on_tick` is called every quarter of a second. Whatever ends the wait, such as an interrupt,
        ends Snakemake and all that it has started; it has `grace` seconds for that.
        """
        self._grace = grace
        with contextlib.suppress(BrokenPipeError):  # ended while loading: its status tells
            self._pipe.write(json.dumps({"argv": list(argv), "log": str(log)}).encode() + b"\n")
            self._pipe.flush()
        self._is_running = True
        try:
            while self._process.poll() is None:
                on_tick()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(TICK)
        finally:
            self.close()
        on_tick()
        return self._process.returncode

    def close(self) -> None:
        """Stop it and all that it has started, gently first; nothing if it has ended."""
        if self._process.returncode is None:
            self._stop()
        elif self._process.returncode < 0:  # killed: what it had started may live on
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()

    def _stop(self) -> None:
        if self._is_running and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)
            deadline = time.monotonic() + self._grace
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def run_workflow(
    snakemake: Snakemake,
    folder: RunFolder,
    workers: int,
    profile: Profile | None,
    on_tick: Callable[[], None],
) -> dict[str, Outcome]:
    """Run `snakemake` on the jobs of `folder` with so many `workers`; return each key's outcome.

    `on_tick` is called every quarter of a second. Raises WorkflowFailedError if Snakemake ends
    without having tried anything.
    """
    run_dir = Path(folder.path)
    config_file = run_dir / "config.json"
    config_file.write_text(json.dumps({"run_folder": folder.path}))
    log = run_dir / "snakemake.log"
    arguments = _make_arguments(folder, config_file, workers, profile)
    status = snakemake.run(arguments, log, on_tick, GRACE if profile is None else CLUSTER_GRACE)
    outcomes = read_outcomes(run_dir / "outcomes")
    if status and not outcomes:
        raise WorkflowFailedError(
            f"Snakemake failed before it fetched anything: {_explain(log)}; its log is {log}"
        )
    _clean_up(run_dir)
    return outcomes


def _make_arguments(
    folder: RunFolder, config_file: Path, workers: int, profile: Profile | None
) -> list[str]:
    # Asked for the jobs, Snakemake need not look for the rule of each file, nor run a rule `all` at
    # the end, after which it would wait a second for a timer.
    jobs = [job.name for job in folder.jobs]
    crew = ["--cores", str(workers), "--profile", "none"]
    if profile is not None:
        crew = ["--jobs", str(workers), "--profile", str(profile.folder)]
    return [
        *(jobs if len(jobs) <= NAMED_JOBS else []),
        *["--snakefile", str(find_workflow() / "run.smk")],
        *["--configfile", str(config_file)],
        *["--directory", folder.path],
        *crew,
        *["--workflow-profile", "none"],
        *["--scheduler", "greedy"],
        *["--rerun-triggers", "mtime"],
        *["--keep-going", "--keep-incomplete", "--ignore-incomplete"],
        *["--nolock", "--drop-metadata", "--nocolor"],
        *["--quiet", "reason"],  # which would name every file of a batch
    ]


def _find_place() -> str | None:
    """Return where to start: here, unless this directory has been removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "/"
    return None


def _make_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    # Snakemake cannot do without a name, which the user of a container may not have.
    kept.setdefault("LOGNAME", find_user())
    return kept | {"LAION_FMRI_AWS": aws_command()}


def _explain(log: Path) -> str:
    """Find the line of Snakemake's log that says what was wrong."""
    if not log.exists():
        return "it cannot be started"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    errors = [i for i, line in enumerate(lines) if "Error" in line or "Exception" in line]
    if not errors:
        return lines[-1] if lines else "it said nothing"
    return " ".join(line for line in lines[errors[-1] : errors[-1] + 3] if line)


def _clean_up(run_dir: Path) -> None:
    """Drop what only Snakemake needed, and the oldest runs."""
    shutil.rmtree(run_dir / ".snakemake", ignore_errors=True)
    # Named after their time, unlike the folders of pipelines, which may be in use for days.
    runs = sorted(run_dir.parent.glob("[0-9]*T[0-9]*-*"))
    for run in runs[:-KEPT_RUNS]:
        shutil.rmtree(run, ignore_errors=True)
