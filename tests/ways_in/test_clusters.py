"""Fetching through a scheduler that Snakemake knows nothing of but its commands.

The jobs are started with an empty environment, as some clusters do: no HOME, no variables of ours,
and none of the folders on the path where Python and the AWS CLI are.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from helpers import (
    HOST,
    REPO,
    copy_clone,
    count_aws,
    read_tree,
    run,
    run_command,
    run_snakemake,
)

PLUGIN = "snakemake-executor-plugin-cluster-generic"
# It comes with the extra for tests; a user's environment need not have it.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(PLUGIN.replace("-", "_")) is None, reason=f"{PLUGIN} is not installed"
)
SHIPPED = REPO / "profiles" / "cluster-generic"
#: Starts the script of a job in the background, in an empty environment, and prints its number.
#: The status of the job is in a file when it has ended.
SUBMIT = """#!/bin/sh
mkdir -p '{folder}/jobs'
job=$(mktemp '{folder}/jobs/XXXXXX')
for script; do :; done
{{
    env -i PATH=/usr/bin:/bin /bin/sh "$script" > "$job.log" 2>&1
    echo $? > "$job.status"
}} < /dev/null > /dev/null 2>&1 &
echo "$! $*" > "$job"
echo "$job"
"""
STATUS = """#!/bin/sh
case "$(cat "$1.status" 2> /dev/null)" in
    "") echo running ;;
    0) echo success ;;
    *) echo failed ;;
esac
"""


class Scheduler(NamedTuple):
    """The commands of the scheduler, and what it keeps of its jobs."""

    folder: Path
    profile: Path

    def list_jobs(self) -> list[Path]:
        """Return the file of each job that was submitted."""
        return [file for file in (self.folder / "jobs").glob("*") if not file.suffix]

    def describe(self) -> str:
        """Return what the jobs have said."""
        return "\n".join(file.read_text() for file in (self.folder / "jobs").glob("*.log"))


@pytest.fixture
def scheduler(tmp_path) -> Scheduler:
    """Fit the profile that is shipped to a scheduler of shell scripts, as users do."""
    folder = tmp_path / "scheduler"
    profile = folder / "profile"
    shutil.copytree(SHIPPED, profile)
    for name, text in (("submit", SUBMIT), ("status.sh", STATUS)):
        (profile / name).write_text(text.format(folder=folder) if name == "submit" else text)
        (profile / name).chmod(0o755)
    settings = yaml.safe_load((profile / "config.yaml").read_text())
    options = settings["cluster-generic-submit-cmd"].partition("--cpus-per-task")
    settings["cluster-generic-submit-cmd"] = f"{profile}/submit {options[1]}{options[2]}"
    settings["cluster-generic-cancel-cmd"] = "true"
    settings["seconds-between-status-checks"] = 1
    (profile / "config.yaml").write_text(yaml.safe_dump(settings))
    return Scheduler(folder, profile)


@pytest.mark.parametrize("data_dir", ["config", "variable", "in the path", "home", "saved"])
def test_clone_fetches_in_jobs_without_an_environment(
    data_dir, scheduler, tiny, tiny_objects, tmp_path
):
    """However the data directory is named, also by what the jobs do not have."""
    folder = tmp_path / "data"
    folder.mkdir()
    config: dict[str, str] = {"subject": "sub-03"}
    settings: dict[str, object] = {}
    if data_dir == "config":
        config["data_dir"] = str(folder)
    elif data_dir == "variable":
        settings["LAION_FMRI_DATA_DIR"] = folder
    elif data_dir == "in the path":
        config["data_dir"] = "${TESTS_SCRATCH}/data"
        settings["TESTS_SCRATCH"] = tmp_path
    elif data_dir == "home":
        config["data_dir"] = "~/data"
        settings["HOME"] = tmp_path
    else:
        assert run_command("config", "--data-dir", folder).returncode == 0
    clone = copy_clone(tmp_path / "clone", **config)
    profile = os.path.relpath(scheduler.profile, clone)
    done = run_snakemake(clone, "--profile", profile, **settings)
    assert done.returncode == 0, done.stderr + scheduler.describe()
    assert read_tree(folder) == tiny_objects
    assert scheduler.list_jobs() != []


def test_command_fetches_in_jobs_without_an_environment(scheduler, tiny, tiny_objects, tmp_path):
    """``--profile`` with a folder: all arrives, and the options of each job are filled in."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    words = ["--subject", "sub-03", "--data-dir", data_dir, "--profile", scheduler.profile]
    done = run_command("download", *words)
    assert done.returncode == 0, done.stderr + scheduler.describe()
    assert read_tree(data_dir) == tiny_objects
    submitted = [file.read_text().split()[1:-1] for file in scheduler.list_jobs()]
    assert submitted != []
    for words in submitted:
        assert re.fullmatch(r"--cpus-per-task=1 --mem=1000 --time=\d+", " ".join(words))


def test_job_that_the_cluster_has_killed_is_sent_again(scheduler, tiny, tiny_objects, tmp_path):
    """The status says so, and the same run fetches what it had not brought."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    submit = scheduler.profile / "submit"
    kill = f"mkdir '{scheduler.folder}/killed' && echo 137 > \"$job.status\" && exit"
    submit.write_text(submit.read_text().replace("{\n", f"{{\n    {kill}\n", 1))
    words = ["--subject", "sub-03", "--data-dir", data_dir, "--profile", scheduler.profile]
    done = run_command("download", *words)
    assert done.returncode == 0, done.stderr + scheduler.describe()
    assert read_tree(data_dir) == tiny_objects


PIPELINE = (
    HOST
    + """
rule analyse:
    default_target: True
    input: config["inputs"]
    output: "count.txt"
    shell: "ls {{input:q}} | wc -l > {{output}}; echo ${{{{HOME-none}}}} >> {{output}}"
"""
)


def test_pipeline_fetches_on_the_submit_host(scheduler, tiny, tiny_objects, tmp_path):
    """Its own rules are jobs of the scheduler; the fetches are not, and ``fetch_workers`` holds."""
    host, log = tmp_path / "host", tmp_path / "log"
    host.mkdir()
    (host / "Snakefile").write_text(PIPELINE.format(workflow=REPO / "workflow" / "Snakefile"))
    laion = {"subject": "sub-03", "data_dir": "data", "fetch_workers": 1}
    inputs = [f"data/{key}" for key in tiny_objects]
    (host / "config.yaml").write_text(yaml.safe_dump({"laion": laion, "inputs": inputs}))
    options = ["--executor", "cluster-generic", "--jobs", "9", "--seconds-between-status-checks"]
    options += ["1", "--cluster-generic-submit-cmd", f"{scheduler.profile}/submit"]
    options += ["--cluster-generic-status-cmd", f"{scheduler.profile}/status.sh"]
    done = run_snakemake(host, *options, LAION_FMRI_AWS=count_aws(tmp_path, log))
    assert done.returncode == 0, done.stderr + scheduler.describe()
    assert read_tree(host / "data") == tiny_objects
    assert (host / "count.txt").read_text().split() == [str(len(tiny_objects)), "none"]
    assert len(scheduler.list_jobs()) == 1
    assert {line.split()[0] for line in log.read_text().splitlines()} == {"1"}


@pytest.mark.parametrize(
    ("in_queue", "in_accounting", "expected"),
    [
        ("PENDING", "", "running"),
        ("RUNNING", "COMPLETED", "running"),
        ("COMPLETED", "", "success"),
        ("", "COMPLETED", "success"),
        ("TIMEOUT", "", "failed"),
        ("", "CANCELLED by 1000", "failed"),
        ("", "", "failed"),
    ],
)
def test_status_of_a_job_as_slurm_tells_it(in_queue, in_accounting, expected, tmp_path):
    """The script that is shipped says one of three words, whichever of the two knows the job."""
    for name, said in (("squeue", in_queue), ("sacct", in_accounting)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / name).chmod(0o755)
    done = run([SHIPPED / "status.sh", "17"], PATH=f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")
