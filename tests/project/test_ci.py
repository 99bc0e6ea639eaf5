"""What GitHub runs for each change: the targets and the Pythons that there are, and no rights."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml
from helpers import REPO, run

#: The plain loader takes the key ``on`` for a truth value, as YAML 1.1 does.
WORKFLOW = yaml.load((REPO / ".github/workflows/ci.yml").read_text(), Loader=yaml.BaseLoader)
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
FOUND = (
    re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in PROJECT["classifiers"]
)
SUPPORTED = sorted((match[1] for match in FOUND if match), key=lambda text: int(text[2:]))


def find_commands(job: dict[str, Any]) -> list[list[str]]:
    """Return the words of each command of a job, without what it is run by."""
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    words = [shlex.split(line) for line in lines]
    return [line[3:] if line[:2] == ["sudo", "env"] else line for line in words]


def find_pythons(job: dict[str, Any]) -> Iterator[str]:
    """Yield the versions of Python that a job runs on."""
    for step in job["steps"]:
        given = step.get("with", {}).get("python-version")
        if given == "${{ matrix.python }}":
            yield from job["strategy"]["matrix"]["python"]
        elif given:
            yield given


def test_each_command_is_one_that_there_is():
    """Every target is in the Makefile, and every program in the repository."""
    targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    seen = [command for job in JOBS.values() for command in find_commands(job)]
    for program, *words in seen:
        if program == "make":
            assert set(words) <= set(targets)
        else:
            assert (words, (REPO / program).stat().st_mode & 0o111) == ([], 0o111)
    assert seen == [["make", "test"], ["make", "test-workflow"], [".ci/run"]]


def test_gates_run_every_target_that_checks_something():
    """``.ci/run`` names the targets that there are."""
    targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"\bmake ([a-z-]+)", (REPO / ".ci" / "run").read_text(), re.MULTILINE)
    assert {"test", "lint", "docs", "test-lowest"} <= set(named) <= set(targets)


def test_pythons_are_the_oldest_and_the_newest_that_are_supported():
    """As the metadata of the package has them."""
    assert PROJECT["requires-python"] == f">={SUPPORTED[0]}"
    assert [SUPPORTED[0], SUPPORTED[-1]] == list(find_pythons(JOBS["test"]))
    assert {python for job in JOBS.values() for python in find_pythons(job)} <= set(SUPPORTED)
    assert all(list(find_pythons(job)) for job in JOBS.values())


def test_runs_may_read_and_nothing_else():
    """A newer push ends an older run; actions are pinned to a major version; no run is endless."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"]["cancel-in-progress"] == "true"
    assert set(WORKFLOW["on"]) == {"push", "pull_request"}
    for job in JOBS.values():
        assert "permissions" not in job
        assert job["runs-on"].startswith("ubuntu-")
        assert int(job["timeout-minutes"]) <= 180
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert [u for u in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", u)] == []


def test_make_runs_the_workflow_on_the_sample_bucket():
    """The target that is named does what the catalog does, with the sample bucket for S3."""
    done = run(
        ["make", "-n", "-o", ".venv/demo.done", "-o", ".venv-aws/done", "test-workflow"], cwd=REPO
    )
    assert done.returncode == 0, done.stderr
    assert "on_sample.py .venv/bin/snakemake --directory .test --cores 2" in done.stdout
