"""Start Python programs from a process that has loaded their libraries already.

Most of what a short command costs is loading pandas, boto3 and Snakemake, or awscli, again and
again. So one process for each worker of the tests loads those of our own programs, and nothing of
this package, another one those of the AWS CLI, and each forks for every program. The program has
its own environment, working directory and files, reads the package and all its code anew, and ends
as Python ends.

Tests with the mark ``cold`` start aws and Snakemake as users do, what is started on a terminal or
in the background is started cold, and ``LAION_FMRI_COLD_TESTS=1`` starts everything so.

This file is also run by the Python of the AWS CLI, so it needs the standard library alone.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import marshal
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
from typing import IO, Any

#: Whether everything is started cold; read here, since a test has none of our settings.
COLD = bool(os.environ.get("LAION_FMRI_COLD_TESTS"))
#: Programs that are started this way by their name, and the one that the package starts by path.
OURS, LOADER = ("laion_fmri", "snakemake"), "/laion_fmri/run/loader.py"
#: What they load of others, and what the AWS CLI loads.
LIBRARIES = {
    "ours": (
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
    ),
    "aws": ("awscli.clidriver", "awscli.handlers"),
}
#: Settings that Python or a library reads only when it starts; but for those that the package or a
#: test sets and that change nothing here, or nothing for the AWS CLI.
READ_AT_START, IGNORED = ("PYTHON", "LC_", "LANG", "LD_"), ("PYTHONUSERBASE", "PYTHONUNBUFFERED")
IGNORED_BY_AWS = (*IGNORED, "PYTHONPATH")
#: More files than a program is given; and above all their numbers.
MOST_FILES, HIGH = 64, 500
#: A program that stands for one of those above: it hands over what it was given, waits and ends as
#: that does. If it is killed, so is that. With other settings it becomes the real one.
CLIENT = """\
#!{python} -IS
import marshal, os, sys
import _signal, _socket

cold, given = {cold!r}, dict(os.environ)
connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
try:
    own = {{n: v for n, v in given.items() if n.startswith({read!r}) and n not in {ignored!r}}}
    if own != {settings!r}:
        raise OSError
    connection.connect({address!r})
except OSError:
    os.execv(cold[0], [*cold, *sys.argv[1:]])
numbers = [0, 1, 2]
for name in os.listdir("/proc/self/fd"):
    try:
        if int(name) > 2 and os.get_inheritable(int(name)):
            numbers.append(int(name))
    except OSError:
        pass
umask = os.umask(0)
os.umask(umask)
order = dict(program={program!r}, words=sys.argv[1:], environment=given, numbers=numbers)
order = marshal.dumps(order | dict(umask=umask, held=True))
files = b"".join(n.to_bytes(4, sys.byteorder) for n in [os.open(".", os.O_PATH), *numbers])
head = len(order).to_bytes(8, "big")
connection.sendmsg([head], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
connection.sendall(order)
if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
said = b""
while piece := connection.recv(64):
    said += piece
status = int((said.split() + [b"-9"])[1])
if status < 0:
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def find_settings(
    environment: Mapping[str, str], ignored: tuple[str, ...] = IGNORED
) -> dict[str, str]:
    """Return those of the settings that Python or a library reads only when it starts."""
    found = {n: value for n, value in environment.items() if n.startswith(READ_AT_START)}
    return {n: value for n, value in found.items() if n not in ignored}


class Starter:
    """A process that has loaded everything of a `kind`; it lives as long as its maker."""

    def __init__(self, kind: str, python: str = sys.executable) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.path, self.python = str(self.folder / "socket"), python
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen(64)
            # A library that computes would start threads, which do not survive a fork.
            one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            process = subprocess.Popen(
                [python, __file__, str(listener.fileno()), kind],
                env=os.environ | one,
                cwd="/",
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # which ends with this process
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(process.communicate)

    def run(
        self, words: list[str], cwd: str, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m`` with `words`, as :func:`subprocess.run` does with pipes and text."""
        said: dict[int, bytes] = {}
        pipes = [os.pipe() for _ in range(2)]
        files = [os.open(os.devnull, os.O_RDONLY), *(target for _, target in pipes)]
        process = Started(self.path, words, cwd, environment, files)
        readers = [
            threading.Thread(target=_read, args=(source, said, number))
            for number, (source, _) in enumerate(pipes)
        ]
        for file in files:
            os.close(file)
        for reader in readers:
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

    def write_client(
        self, name: str, program: str, cold: list[str], ignored: tuple[str, ...] = IGNORED
    ) -> Path:
        """Write a program that stands for `program`; `cold` is the command of the real one."""
        file = self.folder / name
        file.write_text(
            CLIENT.format(
                python=self.python,
                address=self.path,
                program=program,
                cold=cold,
                read=READ_AT_START,
                settings=find_settings(os.environ, ignored),
                ignored=ignored,
            )
        )
        file.chmod(0o755)
        return file


def _read(source: int, said: dict[int, bytes], number: int) -> None:
    with open(source, "rb") as pipe:
        said[number] = pipe.read()


class Started:
    """A program that a starter has started, with what :class:`subprocess.Popen` tells of one.

    It leads a session of its own. `files` are its standard input, output and error.
    """

    def __init__(
        self,
        path: str,
        words: list[str],
        cwd: str,
        environment: Mapping[str, str],
        files: list[int],
    ) -> None:
        self.args = words
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        order = {"program": words[0], "words": words[1:], "environment": dict(environment)}
        content = marshal.dumps({**order, "numbers": [0, 1, 2], "held": False})
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(path)
        here = os.open(cwd, os.O_RDONLY)
        socket.send_fds(self._connection, [len(content).to_bytes(8, "big")], [here, *files])
        os.close(here)
        self._connection.sendall(content)
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


@lru_cache(maxsize=1)
def find_starter() -> Starter:
    """Return what starts our own programs, one for each worker of the tests."""
    return Starter("ours")


def can_be_warm(command: list[str], environment: Mapping[str, str]) -> bool:
    """Whether a command is one of our programs, to be started by this Python as it is."""
    if COLD or command[:2] != [sys.executable, "-m"]:
        return False
    return command[2] in OURS and find_settings(environment) == find_settings(os.environ)


def start_snakemake_warm(path: str) -> None:
    """Have the starter at `path` start the process that the package starts for Snakemake.

    A class that does so takes the place of :class:`subprocess.Popen`.
    """
    at_start = find_settings(os.environ)

    class Popen(subprocess.Popen):
        def __new__(cls, args, *rest, **options):
            is_ours = args[:2] == [sys.executable, "-P"] and args[2].endswith(LOADER)
            if not is_ours or find_settings(options["env"]) != at_start:
                return super().__new__(cls)
            source, target = os.pipe()
            nothing = os.open(os.devnull, os.O_WRONLY)
            cwd = options["cwd"] or str(Path.cwd())
            process = Started(path, args[2:], cwd, options["env"], [source, nothing, nothing])
            os.close(source)
            os.close(nothing)
            process.stdin = os.fdopen(target, "wb", buffering=0)
            return process

    subprocess.Popen = Popen


def warm_up_aws(real: str) -> str:
    """Load the AWS CLI at `real`; return the program that takes its place.

    That is `real` itself where this cannot work: without /proc, or if it is no Python program.
    """
    first = Path(real).read_bytes()[:200].partition(b"\n")[0].decode(errors="replace")
    python = first.removeprefix("#!")
    if not Path("/proc/self/fd").is_dir() or not Path(python).is_file() or "python" not in python:
        return real
    return str(Starter("aws", python).write_client("aws", "aws", [real], IGNORED_BY_AWS))


# In the process that has everything loaded, and in those that it forks.


def serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each connection; return, in the new process, its order and its files."""
    # Whoever waits for a program is waited for by nobody.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if 0 in select.select([0, listener], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return fork_again(connection)
        connection.close()


def fork_again(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Tell the process id of a program, and later its exit status; return its order in it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, 8, MOST_FILES)
    content = b""
    while len(content) < int.from_bytes(head, "big"):
        content += connection.recv(1 << 20) or sys.exit("cut short")
    order = marshal.loads(content)
    is_ready, ready = os.pipe()
    if pid := os.fork():
        os.close(ready)
        for file in files:
            os.close(file)
        os.read(is_ready, 1)  # it leads a session now, which can be ended
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            connection.sendall(f"{pid}\n".encode())
            ended = os.pidfd_open(pid)
            if order["held"] and ended not in select.select([ended, connection], [], [])[0]:
                os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            connection.sendall(f"{status}\n".encode())
        os._exit(0)
    connection.close()
    os.setsid()
    os.close(is_ready)
    os.close(ready)
    return order, files


def take_over(order: Mapping[str, Any], files: list[int], own: Mapping[str, str]) -> None:
    """Have the files, the folder and the environment of an order, and `own` settings."""
    here, *given = [fcntl.fcntl(file, fcntl.F_DUPFD, HIGH) for file in files]
    for file in files:
        os.close(file)
    os.fchdir(here)
    os.close(here)
    for file, number in zip(given, order["numbers"], strict=True):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    if "umask" in order:
        os.umask(order["umask"])
    os.environ.clear()
    os.environ.update(order["environment"] | own)
    time.tzset()
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(line_buffering=True)


def main() -> None:
    """Become what is asked for, in a process of its own."""
    before = dict(os.environ)
    gc.disable()  # loading makes a great many objects and no garbage
    for name in LIBRARIES[sys.argv[2]]:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    own = dict(os.environ.items() - before.items())  # awscli tells botocore where its data are
    listener = socket.socket(fileno=int(sys.argv[1]))
    path = listener.getsockname()
    order, files = serve(listener)
    take_over(order, files, own)
    program = order["program"]
    sys.argv = [program, *order["words"]]
    if program == "aws":
        sys.exit(importlib.import_module("awscli.clidriver").main())
    start_snakemake_warm(path)
    if program.endswith(LOADER):
        del sys.path[0]  # as with ``python -P``
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path[0] = str(Path.cwd())  # as with ``python -m``
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
