"""Start Python programs from a process that has loaded the libraries of others already.

Most of what a short command costs is loading pandas, boto3 and Snakemake, again and again. So one
process for each worker of the tests loads these, and nothing of this package, and forks for each
program. The program has its own environment, working directory and output, reads the package and
all its code anew, and ends as Python ends. What is started on a terminal, in the background or by
a script is started cold, and ``LAION_FMRI_COLD_TESTS=1`` starts everything so.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, NoReturn

#: Whether everything is started cold; read here, since a test has none of our settings.
COLD = bool(os.environ.get("LAION_FMRI_COLD_TESTS"))
#: Programs that are started this way.
PROGRAMS = ("laion_fmri", "snakemake")
#: That of the package's own, which is started by its path.
LOADER = "/laion_fmri/run/loader.py"
#: What they load of others.
LIBRARIES = (
    "boto3",
    "botocore.config",
    "botocore.handlers",
    "jsonschema",
    "pandas",
    "rich.console",
    "rich.table",
    "smart_open",
    "snakemake.api",
    "snakemake.cli",
    "snakemake.report",
    "snakemake.scheduling.greedy",
    "snakemake.sourcecache",
    "yaml",
)
#: Settings that Python or one of the libraries reads only when it starts.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")


class Starter:
    """The process that has everything loaded; it lives as long as the one that made it."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="warm-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.path = str(Path(folder, "socket"))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen(64)
            # A library that computes would start threads, which do not survive a fork.
            one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                env=os.environ | one,
                cwd="/",
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # which ends with this process
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(self.process.communicate)

    def run(
        self, words: list[str], cwd: str, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m`` with `words`, as :func:`subprocess.run` does with pipes and text."""
        said: dict[int, bytes] = {}
        pipes = [os.pipe() for _ in range(2)]
        files = [os.open(os.devnull, os.O_RDONLY), *(target for _, target in pipes)]
        order = {"words": words, "cwd": cwd, "environment": dict(environment)}
        process = Started(self.path, order, files)
        readers = [
            threading.Thread(target=_read, args=(source, said, number))
            for number, (source, _) in enumerate(pipes)
        ]
        for file, reader in zip(files, [None, *readers], strict=True):
            os.close(file)
            if reader:
                reader.start()
        try:
            status = process.wait(timeout)
        except BaseException:
            os.kill(process.pid, signal.SIGKILL)
            raise
        end = time.monotonic() + timeout
        for reader in readers:  # others may write there for longer than the program itself
            reader.join(max(0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(words, timeout)
        texts = [said[number].decode() for number in range(2)]
        texts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
        return subprocess.CompletedProcess([sys.executable, "-m", *words], status, *texts)


class Started:
    """A program that a starter has started, with what :class:`subprocess.Popen` tells of one.

    It leads a session of its own. `files` are its standard input, output and error.
    """

    def __init__(self, path: str, order: Mapping[str, object], files: list[int]) -> None:
        self.args = order["words"]
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(path)
        socket.send_fds(self._connection, [b"."], files)
        self._connection.sendall(json.dumps({**order, "starter": path}).encode() + b"\n")
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return its exit status, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode


def start_snakemake_warm(path: str) -> type[subprocess.Popen]:
    """Have the starter at `path` start the process that the package starts for Snakemake.

    Returns the class that does so from now on, in the place of :class:`subprocess.Popen`.
    """
    at_start = _find_settings(os.environ)

    class Popen(subprocess.Popen):
        def __new__(cls, args, *rest, **options):
            is_ours = args[:2] == [sys.executable, "-P"] and args[2].endswith(LOADER)
            if not is_ours or _find_settings(options["env"]) != at_start:
                return super().__new__(cls)
            source, target = os.pipe()
            nothing = os.open(os.devnull, os.O_WRONLY)
            order = {
                "words": args[2:],
                "cwd": options["cwd"] or str(Path.cwd()),
                "environment": options["env"],
            }
            process = Started(path, order, [source, nothing, nothing])
            os.close(source)
            os.close(nothing)
            process.stdin = os.fdopen(target, "wb", buffering=0)
            return process

    subprocess.Popen = Popen
    return Popen


def _read(source: int, said: dict[int, bytes], number: int) -> None:
    with open(source, "rb") as pipe:
        said[number] = pipe.read()


@lru_cache(maxsize=1)
def find_starter() -> Starter:
    """Return the starter of this worker of the tests."""
    return Starter()


def can_be_warm(command: list[str], environment: Mapping[str, str]) -> bool:
    """Whether a command is one of the programs, to be started by this Python as it is."""
    if COLD or command[:2] != [sys.executable, "-m"]:
        return False
    return command[2] in PROGRAMS and _find_settings(environment) == _find_settings(os.environ)


def _find_settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {n: value for n, value in environment.items() if n.startswith(READ_AT_START)}


def serve(listener: socket.socket) -> dict:
    """Load the libraries, then fork for each connection; return its order in the new process."""
    # Whoever waits for a program is waited for by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.disable()  # loading makes a great many objects and no garbage
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    while True:
        if 0 in select.select([0, listener], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return fork_again(connection)
        connection.close()


def fork_again(connection: socket.socket) -> dict:
    """Tell the process id of a program, and later its exit status; return its order in it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    files = socket.recv_fds(connection, 1, 3)[1]
    with connection.makefile("r") as lines:
        order = json.loads(lines.readline())
    is_ready, ready = os.pipe()
    if pid := os.fork():
        os.close(ready)
        for file in files:
            os.close(file)
        os.read(is_ready, 1)  # it leads a session now, which can be ended
        connection.sendall(f"{pid}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            connection.sendall(f"{status}\n".encode())
        os._exit(0)
    connection.close()
    os.setsid()
    os.close(is_ready)
    os.close(ready)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    return order


def main() -> NoReturn:
    """Become what is asked for, in a process of its own."""
    order = serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    os.chdir(order["cwd"])
    program, *_ = sys.argv = order["words"]
    start_snakemake_warm(order["starter"])
    if program.endswith(LOADER):
        del sys.path[0]  # as with ``python -P``
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path[0] = str(Path.cwd())  # as with ``python -m``
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
