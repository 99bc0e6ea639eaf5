"""Pages of the documentation as what they ask a reader to type: blocks, and a run of all of them.

A comment above a block says how it is to be taken, where it is more than typed into a shell or run
as a Python script: ``<!-- file: NAME -->`` saves it, ``<!-- end of: NAME -->`` adds it to a file,
``<!-- in another terminal -->`` leaves it running, ``<!-- in a clone -->`` is run there,
``<!-- with: NAME=VALUE -->`` sets a variable, and ``<!-- not run: REASON -->`` and
``<!-- tested elsewhere: TEST -->`` leave it out. A block of the language ``text`` is what the block
before it prints; dots in it stand for anything, and any time for any other. ``/home/me`` is where
the reader is.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers import REPO, copy_clone, find_aws
from warm import COLD, find_starter

#: Why a block may be left out, and who looks after it instead.
NOT_RUN = {
    "a SLURM cluster": "test_slurm.py runs the same on one",
    "Docker": "test_container.py runs the commands of the Dockerfile",
    "Apptainer": "test_container.py runs the commands of the definition",
    "a group": "test_security.py shares such folders between two users",
}
#: Programs in whose place stand_in.py looks over what they are asked for.
STAND_INS = ("pip", "uv", "pipx", "conda", "make", "aws")
#: The port that pages name for the sample bucket.
PORT = "8047"

#: How long something took: another time on each machine.
_TOOK = re.compile(r"in [\d.]+ s\b(?: \([\d.]+ \w+/s\))?")
_FENCE = re.compile(r"^( *)```(\S*)\s*$")
_COMMENT = re.compile(r"^\s*<!-- ([a-z ]+?)(?:: (.+))? -->\s*$")


class Block(NamedTuple):
    """A fenced block: where it begins, its language, its text, and the comments above it."""

    page: str
    line: int
    language: str
    text: str
    how: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def find_pages() -> list[str]:
    """Return the pages with blocks: the README and all below ``docs``."""
    pages = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
    return [str(page.relative_to(REPO)) for page in pages if list(read_blocks(page))]


def read_blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in their order."""
    lines = page.read_text().splitlines()
    name = str(page.relative_to(REPO) if page.is_relative_to(REPO) else page)
    how: dict[str, str] = {}
    index = 0
    while index < len(lines):
        if fence := _FENCE.match(lines[index]):
            start = index + 1
            indent, language = fence.groups()
            index = next(i for i in range(start, len(lines)) if lines[i].rstrip() == f"{indent}```")
            text = "".join(f"{line.removeprefix(indent)}\n" for line in lines[start:index])
            yield Block(name, start, language, text, how)
            how = {}
        elif comment := _COMMENT.match(lines[index]):
            how[comment[1]] = comment[2] or ""
        elif lines[index].strip():
            how = {}
        index += 1


class Reader:
    """Somebody who types what a page says, block by block, in an empty home.

    Parameters
    ----------
    home : pathlib.Path
        An empty folder: the home, and where the shell begins.
    endpoint_url : str
        The sample bucket, which stands for S3.
    """

    def __init__(self, home: Path, endpoint_url: str) -> None:
        self.home, self.folder = home, home / "work"
        self.state, self.cwd = home / "state.sh", home / "cwd"
        self.said = ""
        self.servers: list[subprocess.Popen[bytes]] = []
        self.saved: dict[Path, bool] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        for name in ("work", "bin", "root/mnt/data", "root/scratch"):
            (home / name).mkdir(parents=True)
        for name in STAND_INS:
            stand_in = f"'{sys.executable}' '{Path(__file__).with_name('stand_in.py')}'"
            (home / "bin" / name).write_text(f'#!/bin/sh\nexec {stand_in} {name} "$@"\n')
            (home / "bin" / name).chmod(0o755)
        for name, program in (("laion-fmri", "laion_fmri"), ("snakemake", "snakemake")):
            if not COLD:
                real = str(Path(sys.executable).with_name(name))
                warm = find_starter().write_client(name, program, [real])
                (home / "bin" / name).symlink_to(warm)
        places = f"{home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = os.environ | {
            "HOME": str(home),
            "LAION_FMRI_AWS": find_aws(),
            "LAION_FMRI_ENDPOINT_URL": endpoint_url,
            "PATH": places,
            "PYTHONUNBUFFERED": "1",  # what is printed and what is complained of, in their order
            "USER": "me",
        }
        self.state.write_text("")
        self.cwd.write_text(str(self.folder))

    def follow(self, block: Block) -> None:
        """Do what a block says; AssertionError if that fails, or prints something else."""
        text = self.translate(block.text)
        if set(block.how) & {"not run", "tested elsewhere"}:
            return
        if name := block.how.get("file") or block.how.get("end of"):
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            old = file.read_text() if "end of" in block.how else ""
            file.write_text(old + text)
            self.saved[file] = False
        elif block.language == "text":
            check_output(block, text, self.said)
        elif "in another terminal" in block.how:
            self._serve(block, text)
        elif block.language == "bash":
            self._note_snakemake(text)
            self._run(block, ["bash", self._write("block.sh", self._frame(block, text))])
        elif block.language == "python":
            script = self._write("block.py", text)
            self._run(block, ["bash", "-c", f'{self._enter()} python -W error "{script}"'])
        else:
            raise AssertionError(f"{block}: nobody knows what to do with {block.language!r}")

    def plan_what_is_left(self, page: str) -> None:
        """Let Snakemake plan the Snakefiles that were saved and that no command has run."""
        for file, is_run in self.saved.items():
            if file.name == "Snakefile" and not is_run:
                command = f"{self._enter()} cd '{file.parent}' && snakemake -n"
                self._run(Block(page, 0, "bash", "", {}), ["bash", "-c", command])

    def translate(self, text: str) -> str:
        """Return `text` with the places of this machine for those that only a reader has."""
        root = str(self.home / "root")
        places = {
            "/path/to/laion_fmri/workflow/Snakefile": str(REPO / "workflow" / "Snakefile"),
            "/path/to/aws": find_aws(),
            "/scratch/": f"{root}/scratch/",
            "/mnt/data": f"{root}/mnt/data",
            "/data/lab": f"{root}/data/lab",
            "/home/me": str(self.folder),
            f"127.0.0.1:{PORT}": f"127.0.0.1:{self.port}",
            "demo --serve\n": f"demo --serve {self.port}\n",
        }
        for name, place in places.items():
            text = re.sub(rf"(?<![\w.$]){re.escape(name)}", lambda _, place=place: place, text)
        return text

    def leave(self) -> None:
        """Stop what was left running."""
        for server in self.servers:
            server.terminate()
            server.wait(30)

    def _enter(self) -> str:
        return f"cd \"$(cat '{self.cwd}')\"; . '{self.state}';"

    def _frame(self, block: Block, text: str) -> str:
        """Return a script that goes on where the last one stopped, and says where it stops."""
        lines = [self._enter(), f"trap \"export -p > '{self.state}'; pwd > '{self.cwd}'\" EXIT"]
        lines += [f"export {block.how['with']}"] if "with" in block.how else []
        if "in a clone" in block.how:
            clone = self.folder / "laion-fmri"
            if not clone.exists():
                copy_clone(clone)
                shutil.copy(REPO / "config" / "config.yaml", clone / "config")
            return "\n".join([*lines[:1], f"cd '{clone}'", "set -eu -o pipefail", text])
        return "\n".join([*lines, "set -eu -o pipefail", text])

    def _note_snakemake(self, text: str) -> None:
        folder = Path(self.cwd.read_text().strip())
        if re.search(r"^snakemake ", text, re.MULTILINE) and folder / "Snakefile" in self.saved:
            self.saved[folder / "Snakefile"] = True

    def _write(self, name: str, text: str) -> Path:
        file = self.home / name
        file.write_text(text)
        return file

    def _run(self, block: Block, command: list[object]) -> None:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        self.said = done.stdout
        assert done.returncode == 0, f"{block}: exit status {done.returncode}\n{done.stdout}"

    def _serve(self, block: Block, text: str) -> None:
        log = self.home / "terminal.log"
        with log.open("wb") as output:
            script = self._write("terminal.sh", f"exec {text}")
            server = subprocess.Popen(
                ["bash", str(script)], env=self.environment, stdout=output, stderr=output
            )
        self.servers.append(server)
        deadline = time.monotonic() + 60
        while f"127.0.0.1:{self.port}" not in (said := log.read_text()):
            assert server.poll() is None, f"{block}: it has ended\n{said}"
            assert time.monotonic() < deadline, f"{block}: nothing is served\n{said}"
            time.sleep(0.1)
        self.said = said


def check_output(block: Block, expected: str, said: str) -> None:
    """Check that the lines of a block are among those that were printed, in this order."""
    printed = iter([_TOOK.sub("in a while", line.strip()) for line in said.splitlines()])
    for line in _TOOK.sub("in a while", expected).splitlines():
        if (wanted := line.strip()) in ("", "..."):
            continue
        pattern = re.sub(r"\\ (?:\\ )*", r"\\s+", ".*".join(map(re.escape, wanted.split("..."))))
        found = any(re.fullmatch(pattern, line) for line in printed)
        assert found, f"{block}: {wanted!r} is not in\n{said}"


def find_commands(text: str) -> Iterator[list[str]]:
    """Yield the words after each ``laion-fmri`` of a script, or of an image of that name."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words[:-1]):
            if word in ("laion-fmri", "laion-fmri.sif") and words[index + 1].isalpha():
                yield words[index + 1 :]
                break


def expand_extras(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and each extra of the requirements that `text` names."""
    for name, extras in re.findall(r"\b(laion-fmri)\[([\w,-]+)\]", text):
        yield from ((name, extra) for extra in extras.split(","))
