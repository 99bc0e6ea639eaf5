"""Runs by all ways in, as processes that can be watched and killed, and what they leave behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from uuid import uuid4

import psutil
import yaml
from helpers import DERIVATIVES, HOST, REPO, copy_clone

WAYS = ("snakemake", "download", "command")
#: In the environment of a run and of all that it starts, to tell them from everything else.
MARK = "TEST_RUN"
#: Seconds after which something will not happen any more, on a busy machine.
PATIENCE = 90.0
#: A host pipeline with a rule that takes every file.
COUNT = """
rule count:
    default_target: True
    input: [config["laion"]["data_dir"] + "/" + key for key in config["keys"]]
    output: "count.txt"
    shell: "cat {input:q} | wc -c | tr -d ' ' > {output:q}"
"""


def make_objects(count: int = 24, size: int = 3000) -> dict[str, bytes]:
    """Make the objects of sub-03 in four jobs: two at the root, two batches; up to `size` bytes."""
    dice = random.Random(count)
    func = f"{DERIVATIVES}/sub-03/ses-01/func/sub-03_ses-01_task-images_desc"
    keys = [
        "README",
        "participants.tsv",
        *(f"{func}-{n}_trials.tsv" for n in range(count)),
        *(f"derivatives/rois/sub-03/rois/V{n}.nii.gz" for n in range(count // 3)),
    ]
    return {key: dice.randbytes(dice.randint(size // 6, size)) for key in keys}


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Wait until something is so, and say whether it is."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Started:
    """A command under way, in a session of its own, with what it says in a file.

    Parameters
    ----------
    command : iterable of object
    cwd : Path
    on_terminal : bool
        Whether it has a terminal of its own, which `close_terminal` closes.
    says_there : bool
        Whether what it says goes to that terminal, and not straight into the file.
    settings
        For its environment.
    """

    def __init__(
        self,
        command: Iterable[object],
        cwd: Path,
        *,
        on_terminal: bool = False,
        says_there: bool = False,
        **settings: object,
    ) -> None:
        self.mark = uuid4().hex
        self.log = Path(os.environ["HOME"], f"{self.mark}.log")
        terminal = None
        self._screen = -1
        if on_terminal:
            self._screen, terminal = pty.openpty()
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        with self.log.open("wb") as log:
            output = terminal if says_there else log
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                env=os.environ | {k: str(v) for k, v in settings.items()} | {MARK: self.mark},
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_take_terminal if on_terminal else None,
            )
        if terminal is not None:
            os.close(terminal)
        self._reader = threading.Thread(target=self._read_screen, daemon=True)
        self._reader.start()

    def _read_screen(self) -> None:
        # A read that waits would keep the terminal open.
        with contextlib.suppress(OSError), self.log.open("ab") as log:
            while (screen := self._screen) >= 0:
                if select.select([screen], [], [], 0.05)[0]:
                    log.write(os.read(screen, 65536))
                    log.flush()

    def type(self, text: str) -> None:
        """Type `text` on the terminal."""
        os.write(self._screen, text.encode())

    def close_terminal(self) -> None:
        """Close the terminal: what was started on it is told to hang up."""
        screen, self._screen = self._screen, -1
        self._reader.join()
        if screen >= 0:
            os.close(screen)

    def said(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end and return its exit status; TimeoutExpired if it does not end."""
        return self.process.wait(seconds)

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def list_processes(self) -> list[psutil.Process]:
        """Return what is alive of all that it has started, whoever their parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_alive = process.status() != psutil.STATUS_ZOMBIE
                if process.environ().get(MARK) == self.mark and is_alive:
                    found.append(process)
        return found

    def find(self, what: str) -> list[psutil.Process]:
        """Return its processes of a kind: ``aws``, ``transfer``, ``snakemake`` or ``starter``."""
        found = []
        for process in self.list_processes():
            with contextlib.suppress(psutil.Error):
                if _is_a(what, process.cmdline(), is_top=process.pid == self.process.pid):
                    found.append(process)
        return found

    def kill(self, what: str, dice: random.Random | None = None) -> None:
        """Kill one of its processes, or ``everything``."""
        if what != "everything":
            if found := self.find(what):
                (dice or random.Random(0)).choice(found).kill()
            return
        stopped: set[psutil.Process] = set()
        # What has been stopped starts nothing more; so in the end all are known.
        while fresh := set(self.list_processes()) - stopped:
            for process in fresh:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            stopped |= fresh
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def is_gone(self, seconds: float = PATIENCE) -> bool:
        """Wait until nothing of it is alive, and say whether that is so."""
        return wait_until(lambda: not self.list_processes(), seconds)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill("everything")
        self.process.wait(PATIENCE)
        self.close_terminal()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _is_a(what: str, words: list[str], *, is_top: bool) -> bool:
    if what == "aws":  # its time-outs are not on the command line of the transfer above it
        return "--cli-read-timeout" in words
    if what == "transfer":
        return "-c" not in words and any(word.endswith("transfer.py") for word in words)
    if what == "snakemake":
        is_plain = words[1:3] == ["-m", "snakemake"]
        return is_plain or any(word.endswith("loader.py") for word in words)
    return is_top


def start(
    way: str,
    data_dir: Path,
    folder: Path,
    *,
    filters: Mapping[str, object] | None = None,
    keys: Iterable[str] = (),
    prefix: Iterable[str] = (),
    n_jobs: int = 4,
    **settings: object,
) -> Started:
    """Start a run of sub-03 by a way in, `folder` being where what it needs is (made if missing).

    The ways are those of `WAYS` and ``host``, a pipeline with a rule that takes the files `keys`.
    `filters` select, and ``space_check`` may be among them; `prefix` goes before the command, and
    all other settings are for :class:`Started`.
    """
    config = {"subject": "sub-03", "data_dir": str(data_dir), **(filters or {})}
    folder.mkdir(parents=True, exist_ok=True)
    data_dir.mkdir(exist_ok=True)  # for plain Snakemake, which makes none of its own accord
    python = [*prefix, sys.executable]
    if way == "command":
        words = ["download", "--n-jobs", n_jobs]
        for name, value in config.items():
            plain = [f"--{name.replace('_', '-')}", value]
            words += ["--no-space-check"] if name == "space_check" else plain
        return Started([*python, "-m", "laion_fmri", *words], folder, **settings)
    if way == "download":
        call = f"from laion_fmri.download import download; download(n_jobs={n_jobs}, **{config!r})"
        return Started([*python, "-c", call], folder, **settings)
    if way == "snakemake" and not (folder / "Snakefile").exists():
        copy_clone(folder, **config)
    if way == "host":
        workflow = REPO / "workflow" / "Snakefile"
        (folder / "Snakefile").write_text(HOST.format(workflow=workflow) + COUNT)
        config["fetch_workers"] = n_jobs
        content = yaml.safe_dump({"laion": config, "keys": sorted(keys)})
        (folder / "config.yaml").write_text(content)
    return Started([*python, "-m", "snakemake", "--cores", n_jobs], folder, **settings)


def finish(way: str, data_dir: Path, folder: Path, **settings: object) -> str:
    """Run to the end what has to succeed, and return what it has said."""
    with start(way, data_dir, folder, **settings) as run:
        status = run.wait()
        assert status == 0, run.said()
        return run.said()


def find_complete(data_dir: Path, objects: dict[str, bytes]) -> list[str]:
    """Return the keys whose file has its full size."""
    return [
        key
        for key, content in objects.items()
        if (file := data_dir / key).is_file() and file.stat().st_size == len(content)
    ]


def list_leftovers(data_dir: Path) -> list[str]:
    """Return what a run should not have left in the state folder of a data directory."""
    state = data_dir / ".laion_fmri"
    names = [path.relative_to(state).as_posix() for path in state.rglob("*") if path.exists()]
    return [
        name
        for name in sorted(names)
        if name.startswith("partial/")
        or (name.startswith("kept/") and (state / name).is_file())
        or Path(name).name.startswith("alive-")
        or name.endswith(".tmp")
    ]


def signal_group(run: Started, number: signal.Signals) -> None:
    """Signal a run's process group, as a batch system does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.process.pid, number)
