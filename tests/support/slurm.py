"""A real SLURM of one node on this machine, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

#: Where every program of SLURM looks. ``$SLURM_CONF`` would not do: job steps are started without.
CONFIG = Path("/etc/slurm/slurm.conf")
#: Where a configuration that was there before is kept meanwhile.
KEPT = CONFIG.with_name("slurm.conf.kept-by-tests")
DAEMONS = ("munged", "slurmctld", "slurmd")
PLUGIN = "snakemake_executor_plugin_slurm"
#: More cores than there are, so that jobs run side by side; no accounting; jobs are remembered.
TEMPLATE = """\
ClusterName=tests
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
MinJobAge=1800
KillWait=5
EnforcePartLimits=ALL
SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2
SlurmdParameters=config_overrides
NodeName=localhost CPUs=16 RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def find_slurm() -> str | None:
    """Return why SLURM cannot be run here, or None if it can."""
    if sys.platform != "linux":
        return "SLURM needs Linux"
    if os.geteuid() != 0:
        return "only root can start the daemons of SLURM"
    if "SLURM_CONF" in os.environ:
        return "SLURM_CONF is set: this machine belongs to a cluster"
    programs = (*DAEMONS, "sbatch", "srun", "squeue", "scancel", "sinfo")
    missing = [program for program in programs if _find(program) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    if importlib.util.find_spec(PLUGIN) is None:
        return "no executor plugin: pip install snakemake-executor-plugin-slurm"
    running = {process.info["name"] for process in psutil.process_iter(["name"])}
    if running := running & {"slurmctld", "slurmd"}:
        return f"{' and '.join(sorted(running))} of somebody else on this machine"
    return None


class Job(NamedTuple):
    """What SLURM says of one job; Snakemake puts the rule's name into the comment."""

    id: int
    state: str
    name: str
    comment: str


class Slurm:
    """A running SLURM.

    Attributes
    ----------
    folder : Path
        Its state and its logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def jobs(self, after: int = 0) -> list[Job]:
        """List the jobs whose number is above `after`, those that have ended too, oldest first."""
        lines = _ask("squeue", "--states=all", "--noheader", "--format=%i|%T|%j|%k").splitlines()
        found = [line.split("|", maxsplit=3) for line in lines]
        jobs = [Job(int(number), *rest) for number, *rest in found]
        return sorted(job for job in jobs if job.id > after)

    def last(self) -> int:
        """Return the number of the newest job, 0 if there is none."""
        return max((job.id for job in self.jobs()), default=0)

    def unfinished(self) -> list[Job]:
        """List the jobs that wait, run or are being ended."""
        states = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
        return [job for job in self.jobs() if job.state in states]

    def submit(self, script: Path, *options: str) -> int:
        """Hand a script to ``sbatch`` and return the number of the job."""
        return int(_ask("sbatch", "--parsable", *options, str(script)))

    def cancel(self, *numbers: int) -> None:
        """End jobs as ``scancel`` does: asked first, then killed."""
        if numbers:
            _ask("scancel", *map(str, numbers))

    def kill(self, *numbers: int) -> None:
        """Kill the processes of jobs, the batch script and its steps, with no time for anything."""
        _ask("scancel", "--signal=KILL", "--full", *map(str, numbers))

    def wait(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Wait until `condition` holds; after `seconds`, fail with what SLURM has said."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds} s in vain; {self.describe()}")
            time.sleep(0.1)

    def describe(self) -> str:
        """Return how the logs of the daemons end."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs)


@contextlib.contextmanager
def run_slurm(folder: Path) -> Iterator[Slurm]:
    """Bring up SLURM with all its state in `folder`, and take it down again, whatever happens.

    A configuration of SLURM that this machine has is put aside meanwhile.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munged = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    munged += [f"--socket={folder}/munge.socket", "--force", "--foreground"]
    slurm = Slurm(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_configure(folder))
        stack.enter_context(_run_daemon(folder, "munged", *munged))
        slurm.wait((folder / "munge.socket").exists)
        stack.enter_context(_run_daemon(folder, "slurmctld", "-D"))
        stack.enter_context(_run_daemon(folder, "slurmd", "-D", "-N", "localhost"))
        slurm.wait(lambda: _ask("sinfo", "--noheader", "--format=%T", check=False) == "idle\n")
        stack.callback(_end_jobs, slurm)
        yield slurm


def remove_left_over() -> None:
    """Remove the configuration of tests, which killed ones leave behind; put back the machine's.

    While it names a controller that does not run, each start of Snakemake takes 9 s longer: its
    plugin for SLURM asks for the configuration.
    """
    if CONFIG.exists() and CONFIG.read_text().startswith(TEMPLATE.partition("\n")[0]):
        CONFIG.unlink()
    if KEPT.exists() and not CONFIG.exists():
        KEPT.rename(CONFIG)


@contextlib.contextmanager
def _configure(folder: Path) -> Iterator[None]:
    CONFIG.parent.mkdir(exist_ok=True)
    remove_left_over()
    if CONFIG.exists():
        CONFIG.rename(KEPT)
    memory = psutil.virtual_memory().total // 2**20
    text = TEMPLATE.format(folder=folder, ports=_find_ports(2), memory=memory)
    CONFIG.write_text(text)
    try:
        yield
    finally:
        remove_left_over()


@contextlib.contextmanager
def _run_daemon(folder: Path, name: str, *arguments: str) -> Iterator[None]:
    """Run a daemon that ends with the context, and with this process, however that ends."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", _find(name) or name, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt is for the tests, which then end this
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_jobs(slurm: Slurm) -> None:
    """End what still runs, so that nothing outlives its daemon."""
    steps = _list_steps()
    _ask("scancel", "--user=root", check=False)
    with contextlib.suppress(TimeoutError):
        slurm.wait(lambda: not slurm.unfinished(), 15)
    _, left = psutil.wait_procs(steps, 5)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, 5)


def _list_steps() -> list[psutil.Process]:
    """List what watches over a job step each, and all that these have started."""
    steps = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "slurmstepd"]
    found = []
    for step in steps:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [step, *step.children(recursive=True)]
    return found


def _find(program: str) -> str | None:
    """Find a program, also where only root has it on the path."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _find_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _ask(*command: str, check: bool = True) -> str:
    """Run a command of SLURM and return what it says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout
