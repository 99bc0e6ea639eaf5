"""Start Python programs from a process that has loaded the libraries of others already.

Most of what a short command costs is loading pandas, boto3 and Snakemake, again and again. So one
process for each worker of the tests loads these, and nothing of this package, and forks for each
program. The program has its own environment, working directory and output, reads the package and
all its code anew, and ends as Python ends. What is started on a terminal, in the background or by
a script is started cold, and ``LAION_FMRI_COLD_TESTS=1`` starts everything so.
"""

from __future__ import annotations

import atexit
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
from typing import NoReturn

#: Programs that are started this way.
PROGRAMS = ("laion_fmri", "snakemake")
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
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            readers = []
            for number in (1, 2):
                source, target = os.pipe()
                socket.send_fds(connection, [b"."], [target])
                os.close(target)
                readers.append(threading.Thread(target=_read, args=(source, said, number)))
                readers[-1].start()
            order = {"words": words, "cwd": cwd, "environment": dict(environment)}
            connection.sendall(json.dumps(order).encode() + b"\n")
            with connection.makefile("r") as answers:
                pid = int(answers.readline())
                connection.settimeout(timeout)
                try:
                    status = int(answers.readline())
                except BaseException as error:
                    os.kill(pid, signal.SIGKILL)
                    if isinstance(error, TimeoutError):
                        raise subprocess.TimeoutExpired(words, timeout) from None
                    raise
            end = time.monotonic() + timeout
            for reader in readers:  # others may write there for longer than the program itself
                reader.join(max(0, end - time.monotonic()))
                if reader.is_alive():
                    raise subprocess.TimeoutExpired(words, timeout)
        texts = [said[number].decode() for number in (1, 2)]
        texts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
        return subprocess.CompletedProcess([sys.executable, "-m", *words], status, *texts)


def _read(source: int, said: dict[int, bytes], number: int) -> None:
    with open(source, "rb") as pipe:
        said[number] = pipe.read()


@lru_cache(maxsize=1)
def find_starter() -> Starter:
    """Return the starter of this worker of the tests."""
    return Starter()


def can_be_warm(command: list[str], environment: Mapping[str, str]) -> bool:
    """Whether a command is one of the programs, to be started by this Python as it is."""
    if os.environ.get("LAION_FMRI_COLD_TESTS") or command[:2] != [sys.executable, "-m"]:
        return False
    settings = [
        {name: value for name, value in found.items() if name.startswith(READ_AT_START)}
        for found in (environment, os.environ)
    ]
    return command[2] in PROGRAMS and settings[0] == settings[1]


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
    outputs = [socket.recv_fds(connection, 1, 1)[1][0] for _ in range(2)]
    with connection.makefile("r") as lines:
        order = json.loads(lines.readline())
    if pid := os.fork():
        for output in outputs:
            os.close(output)
        connection.sendall(f"{pid}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(f"{status}\n".encode())
        os._exit(0)
    connection.close()
    os.setsid()
    for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *outputs)):
        os.dup2(stream, number)
        os.close(stream)
    return order


def main() -> NoReturn:
    """Become what is asked for, in a process of its own."""
    order = serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    os.chdir(order["cwd"])
    module, *rest = order["words"]
    sys.argv = [module, *rest]
    sys.path[0] = str(Path.cwd())  # as with ``python -m``
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
