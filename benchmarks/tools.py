"""The tools side by side: how each is told to fetch a case into a folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bucket import MIB
from benchmarks.cases import HELD_OUT, Case, find_prefix

REPOSITORY = Path(__file__).resolve().parents[1]
CLIENTS = Path(__file__).with_name("clients.py")
#: Jobs of this project, and of the pool of one process per file.
JOBS = 4
#: Threads of the one with boto3.
THREADS = 16
#: Connections of curl, and bytes of the ranges that it cuts larger objects into.
CONNECTIONS, RANGE = 50, 16 * MIB


@dataclass(frozen=True)
class Task:
    """One run of one tool.

    Attributes
    ----------
    case : Case
    endpoint : str
        URL of the server.
    expected : dict of str to int
        Size in bytes of each key that has to arrive.
    target : Path
        The folder that the files go to; it exists and is empty at first.
    work : Path
        The folder that the tool runs in and may write to.
    objects : Path
        The folder with what the server serves, by key.
    aws, s5cmd : str or None
        Paths of these programs.
    """

    case: Case
    endpoint: str
    expected: dict[str, int]
    target: Path
    work: Path
    objects: Path
    aws: str | None
    s5cmd: str | None


@dataclass(frozen=True)
class Tool:
    """A way to fetch a case.

    `prepare` writes what the tool reads and returns its command; it is not part of the time.
    `repeats` tells whether the same command, run again, finds out that there is nothing to do.
    `whole` is false for one that brings less than the others, in its own favour.
    """

    name: str
    title: str
    prepare: Callable[[Task], list[str]]
    needs: str = ""
    repeats: bool = True
    whole: bool = True
    cases: tuple[str, ...] = ()


def prepare_command(task: Task, jobs: int = JOBS) -> list[str]:
    """Return the command of this project."""
    words = [word for name, v in task.case.selection.items() for word in (f"--{name}", *v)]
    options = ["--n-jobs", str(jobs), "--data-dir", str(task.target)]
    return [*find_program("laion-fmri", "laion_fmri"), "download", *words, *options]


def find_program(script: str, module: str) -> list[str]:
    """Return how to start a program that was installed for this Python."""
    found = Path(sys.executable).with_name(script)
    return [str(found)] if found.exists() else [sys.executable, "-m", module]


def prepare_function(task: Task) -> list[str]:
    """Return a Python that calls ``download()``."""
    given = task.case.selection | {"data_dir": str(task.target), "n_jobs": JOBS}
    call = f"from laion_fmri.download import download; download(**{given!r})"
    return [sys.executable, "-c", call]


def prepare_snakemake(task: Task) -> list[str]:
    """Make the working folder a clone, as far as the workflow goes, with its own configuration."""
    make_clone(task.work, task.case.selection | {"data_dir": str(task.target)})
    return [*find_program("snakemake", "snakemake"), "--cores", str(JOBS)]


def make_clone(folder: Path, config: Mapping[str, Any]) -> None:
    """Copy the workflow to `folder` and write its configuration."""
    shutil.copy(REPOSITORY / "Snakefile", folder)
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, folder / name)
    file = folder / "config" / "config.yaml"
    file.parent.mkdir()
    file.write_text(json.dumps(config))  # JSON is YAML


def prepare_aws(task: Task, verb: str, *options: str) -> list[str]:
    """Return one ``aws s3`` for the whole bucket with filters: one start is cheaper than three."""
    filters = [word for glob in task.case.all_globs for word in ("--include", glob)]
    filters += [word for glob in HELD_OUT for word in ("--exclude", glob)]
    source = f"s3://{task.case.bucket}/"
    return [
        *[task.aws or "aws", "s3", verb, source, str(task.target), *options],
        *["--exclude", "*", *filters, *_aws_options(task)],
    ]


def prepare_aws_prefix(task: Task) -> list[str]:
    """Return ``aws s3 sync`` of the main prefix, for a user who wants nothing else."""
    prefix = task.case.main_prefix
    filters = [word for glob in HELD_OUT for word in ("--exclude", glob)]
    return [
        *[task.aws or "aws", "s3", "sync", f"s3://{task.case.bucket}/{prefix}"],
        *[str(task.target / prefix), *filters, *_aws_options(task)],
    ]


def _aws_options(task: Task) -> list[str]:
    anonymous = ["--no-sign-request", "--endpoint-url", task.endpoint]
    return [*anonymous, "--region", "us-west-2", "--no-progress", "--only-show-errors"]


def prepare_pool(task: Task) -> list[str]:
    """Return a pool of threads that start one ``aws s3 cp`` a file."""
    aws = [task.aws or "aws", "s3", "cp", *_aws_options(task)]
    return [*_prepare_client(task, JOBS), "--", *aws]


def prepare_boto3(task: Task) -> list[str]:
    """Return a pool of threads that call boto3's ``download_file``."""
    return _prepare_client(task, THREADS)


def _prepare_client(task: Task, threads: int) -> list[str]:
    """Write down which keys are wanted; the client lists their prefixes and finds them."""
    wanted = {
        "endpoint": task.endpoint,
        "bucket": task.case.bucket,
        "prefixes": [find_prefix(glob) for glob in task.case.globs if "*" in glob],
        "keys": [glob for glob in task.case.all_globs if "*" not in glob],
        "globs": [glob for glob in task.case.globs if "*" in glob],
        "excluded": HELD_OUT,
        "target": str(task.target),
        "threads": threads,
    }
    file = task.work / "wanted.json"
    file.write_text(json.dumps(wanted))
    return [sys.executable, str(CLIENTS), str(file)]


def prepare_s5cmd(task: Task) -> list[str]:
    """Write one command a pattern; s5cmd runs them all at once. ``-n -s`` skip equal sizes."""
    excluded = " ".join(f'--exclude "{glob}"' for glob in HELD_OUT)
    lines = []
    for glob in task.case.all_globs:
        source, folder = f"s3://{task.case.bucket}/{glob}", task.target / find_prefix(glob)
        options = excluded if "*" in glob else ""
        lines.append(f'cp -n -s {options} "{source}" "{folder}/"\n')
    file = task.work / "s5cmd.txt"
    file.write_text("".join(lines))
    anonymous = ["--no-sign-request", "--endpoint-url", task.endpoint]
    return [task.s5cmd or "s5cmd", *anonymous, "--log", "error", "run", str(file)]


def prepare_curl(task: Task) -> list[str]:
    """Write one section a request: curl is told everything, lists nothing and compares nothing."""
    sections = []
    for key, size in task.expected.items():
        url = f"{task.endpoint}/{task.case.bucket}/{key}"
        for start in range(0, size, RANGE):
            lines = ["silent", "fail", "create-dirs", f'url = "{url}"']
            name = task.target / key
            if size > RANGE:
                lines.append(f'range = "{start}-{min(start + RANGE, size) - 1}"')
                name = name.with_name(f"{name.name}.{start}")
            sections.append("\n".join([*lines, f'output = "{name}"\n']))
    file = task.work / "curl.txt"
    file.write_text("next\n".join(sections))
    return ["curl", "--parallel", "--parallel-max", str(CONNECTIONS), "--config", str(file)]


TOOLS = (
    Tool("command", "laion-fmri download --n-jobs 4", prepare_command, "aws"),
    Tool("function", "download(n_jobs=4) in a fresh Python", prepare_function, "aws"),
    Tool("snakemake", "snakemake --cores 4 in a clone", prepare_snakemake, "aws"),
    Tool("aws-sync", "aws s3 sync", lambda task: prepare_aws(task, "sync"), "aws"),
    Tool(
        "aws-sync-prefix",
        "aws s3 sync, the main prefix only",
        prepare_aws_prefix,
        "aws",
        whole=False,
        cases=("session", "subject"),
    ),
    Tool(
        "aws-cp",
        "aws s3 cp --recursive",
        lambda task: prepare_aws(task, "cp", "--recursive"),
        "aws",
        repeats=False,
    ),
    Tool("aws-pool", "4 threads, one aws s3 cp a file", prepare_pool, "aws"),
    Tool("s5cmd", "s5cmd cp", prepare_s5cmd, "s5cmd"),
    Tool("boto3", "boto3, 16 threads", prepare_boto3),
    *(
        Tool(
            f"command-{jobs}",
            f"laion-fmri download --n-jobs {jobs}",
            partial(prepare_command, jobs=jobs),
            "aws",
            cases=("jobs",),
        )
        for jobs in (1, 2, 8)
    ),
    Tool("curl", "curl, 50 connections (no listing)", prepare_curl, "curl", repeats=False),
)


def find_fault(task: Task, tool: Tool) -> str:
    """Return what is wrong with the files in the target of `task`, or nothing."""
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(task.target):
        if Path(folder) == task.target and ".laion_fmri" in folders:
            folders.remove(".laion_fmri")
        for name in names:
            file = Path(folder, name)
            key = file.relative_to(task.target).as_posix()
            if tool.name == "curl" and key not in task.expected:
                key = key.rpartition(".")[0]  # a range of it
            found[key] = found.get(key, 0) + file.stat().st_size
    expected = task.expected
    if not tool.whole:
        prefix = task.case.main_prefix
        expected = {key: size for key, size in expected.items() if key.startswith(prefix)}
    if found == expected:
        return ""
    return (
        f"{len(found)} files, {sum(found.values())} bytes instead of "
        f"{len(expected)} files, {sum(expected.values())} bytes"
    )
