"""Start the real AWS CLI from a process that has loaded it already.

Two thirds of what a short ``aws s3 cp`` costs is Python loading awscli, and the tests start it a
thousand times. So one process for each worker of the tests loads it once and forks for each start.
What the tests call is a small program that hands over its words, environment, folder and open
files, waits, and ends as aws ends; if it is killed, so is aws. The slow tests, which kill and count
processes, start aws cold, and ``LAION_FMRI_COLD_TESTS=1`` starts all of it so.

This file is run by the Python of the AWS CLI, so it needs nothing beyond the standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import marshal
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Settings that Python reads only when it starts: with others, aws is started cold.
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")
#: Those that the package or a test sets, and that change nothing for aws.
EXCEPT = ("PYTHONUSERBASE", "PYTHONPATH")
#: More files than any aws is given.
MOST_FILES = 64
#: Above all numbers that a file of an aws has.
HIGH = 500
#: Sends the numbers of all its open files and the files themselves, then what else aws is given.
CLIENT = """\
#!{python} -IS
import marshal, os, sys
import _signal, _socket

real, settings = {real!r}, {settings!r}
given = dict(os.environ)
own = {{n: v for n, v in given.items() if n.startswith({read!r}) and n not in {other!r}}}
connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
try:
    if own != settings:
        raise OSError
    connection.connect({address!r})
except OSError:
    os.execv(real, [real, *sys.argv[1:]])
numbers = [0, 1, 2]
for name in os.listdir("/proc/self/fd"):
    try:
        if int(name) > 2 and os.get_inheritable(int(name)):
            numbers.append(int(name))
    except OSError:
        pass
here = os.open(".", os.O_PATH)
umask = os.umask(0)
os.umask(umask)
order = marshal.dumps((numbers, umask, sys.argv[1:], given))
files = b"".join(n.to_bytes(4, sys.byteorder) for n in [here, *numbers])
head = len(order).to_bytes(8, "big")
connection.sendmsg([head], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
connection.sendall(order)
if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
answer = connection.recv(8)
status = int(answer or -9)
if status < 0:
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def warm_up(real: str) -> str:
    """Start the process for the AWS CLI at `real`; return the program that takes its place.

    That is `real` itself where this cannot work: without /proc, or if it is not a Python program.
    """
    first = Path(real).read_bytes()[:200].partition(b"\n")[0].decode(errors="replace")
    python = first.removeprefix("#!")
    if not Path("/proc/self/fd").is_dir() or not Path(python).is_file() or "python" not in python:
        return real
    folder = Path(tempfile.mkdtemp(prefix="warm-aws-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(READ_AT_START) and name not in EXCEPT
    }
    program = folder / "aws"
    program.write_text(
        CLIENT.format(
            python=python,
            real=real,
            settings=settings,
            read=READ_AT_START,
            other=EXCEPT,
            address=str(folder / "socket"),
        )
    )
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        process = subprocess.Popen(
            [python, __file__, str(listener.fileno())],
            cwd="/",
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # which ends with this process
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    atexit.register(process.communicate)
    return str(program)


def serve(listener: socket.socket) -> tuple[list[int], list[int], int, list[str], dict[str, str]]:
    """Fork for each connection; in the new process, return what is to be started, and its files."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if 0 in select.select([0, listener], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return fork_again(connection)
        connection.close()


def fork_again(
    connection: socket.socket,
) -> tuple[list[int], list[int], int, list[str], dict[str, str]]:
    """Wait for an aws, and end it if nobody waits any more; return what it is told in it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, 8, MOST_FILES)
    size, order = int.from_bytes(head, "big"), b""
    while len(order) < size:
        order += connection.recv(size - len(order)) or sys.exit("cut short")
    pid = os.fork()
    if pid == 0:
        connection.close()
        return files, *marshal.loads(order)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # nobody waits any more
        connection.sendall(str(status).encode())
    os._exit(0)


def main() -> None:
    """Become the aws that is asked for, in a process of its own."""
    before = dict(os.environ)
    clidriver = importlib.import_module("awscli.clidriver")
    importlib.import_module("awscli.handlers")
    gc.freeze()
    own = dict(os.environ.items() - before.items())  # awscli tells botocore where its data are
    files, numbers, umask, words, environment = serve(socket.socket(fileno=int(sys.argv[1])))
    os.setsid()
    (here, *given) = [move(file, HIGH + index) for index, file in enumerate(files)]
    os.fchdir(here)
    os.close(here)
    for file, number in zip(given, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment | own)
    time.tzset()
    sys.argv = ["aws", *words]
    sys.exit(clidriver.main())


def move(file: int, number: int) -> int:
    """Give a file another number."""
    os.dup2(file, number)
    os.close(file)
    return number


if __name__ == "__main__":
    main()
