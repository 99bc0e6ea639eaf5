"""What ``profiles/README.md`` says of the profiles is so."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest
import yaml
from helpers import REPO, copy_clone, count_aws, read_tree, run_snakemake

FOLDER = REPO / "profiles"
TEXT = (FOLDER / "README.md").read_text()
PROFILES = sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())
CLUSTERS = ("slurm", "cluster-generic")
#: What is named in backquotes and is no option of a profile.
OTHERS = {"default", *CLUSTERS, "fetch_workers", "max_bandwidth"}
OTHERS |= {"success", "failed", "running", "snakemake"}


def read_profile(name: str) -> dict[str, Any]:
    """Return the options of a profile, and the names of its default resources and settings."""
    text = (FOLDER / name / "config.yaml").read_text()
    # What is to be switched on by its user counts as well.
    text = re.sub(r"^( *)# (- )?([a-z][a-z_-]*(: |=).*)$", r"\1\2\3", text, flags=re.MULTILINE)
    options = yaml.safe_load(text)
    for key in ("default-resources", "config"):
        options |= dict(item.split("=", 1) for item in options.get(key, []))
    return options


def test_each_profile_is_described():
    """The first table has a line for each, and for nothing else."""
    table = TEXT.partition("## Make one yours")[0]
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == PROFILES


@pytest.mark.parametrize(("column", "name"), [*enumerate(CLUSTERS)])
def test_options_to_change_are_in_the_profile(column, name):
    """Each option of the table on changes is in the profile of its column."""
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line[:2] == "| "]
    start = next(i for i, row in enumerate(rows) if row[1] == "in `slurm`")
    rows = [row for row in rows[start + 2 :] if len(row) == 3 and row[0][0] != "-"]
    rows = [row for row in rows if row[0] in TEXT.partition("## What bounds")[0]]
    assert len(rows) >= 6
    text = (FOLDER / name / "config.yaml").read_text()
    options = read_profile(name)
    for _, *cells in rows:
        cell = cells[0] if cells[column] == "the same" else cells[column]
        named = re.findall(r"`([a-z][\w-]+)`", cell)
        assert set(named) <= set(options), cell
        assert all(option in text for option in re.findall(r"`(--[a-z]+=)", cell)), cell


def test_every_option_that_is_named_is_in_a_profile():
    """Whatever is in backquotes and looks like an option."""
    words = set(re.findall(r"(?<![\w/])`([a-z][a-z_-]+)`", TEXT)) - OTHERS
    assert {"jobs", "retries", "keep-going", "cluster-generic-submit-cmd"} <= words
    everything = set().union(*(read_profile(name) for name in PROFILES))
    assert words <= everything


@pytest.mark.parametrize("name", CLUSTERS)
def test_options_to_leave_are_in_both(name):
    """They are those of the profile for any machine; both send their jobs to the cluster."""
    (sentence,) = re.findall(r"^Leave these as they are: (.+?)\. ", TEXT, re.MULTILINE | re.DOTALL)
    options = read_profile(name)
    for option in re.findall("`(.+?)`", sentence):
        assert options[option] == read_profile("default")[option]
    assert (options["executor"], options["fetch_on"]) == (name, "cluster")


@pytest.mark.parametrize("name", CLUSTERS)
def test_snakemake_knows_every_option(name, tiny, tmp_path):
    """A dry run with the profile, as it is shipped, plans what is to be fetched."""
    plugin = f"snakemake_executor_plugin_{name.replace('-', '_')}"
    if importlib.util.find_spec(plugin) is None:
        # Without it Snakemake does not know the options of the profile.
        pytest.skip(f"{plugin} is not installed")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    clone = copy_clone(tmp_path / "clone", subject="sub-03", data_dir=str(data_dir))
    done = run_snakemake(clone, "--profile", f"profiles/{name}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "fetch " in done.stdout + done.stderr
    assert "unrecognized" not in done.stderr


def test_the_resource_bounds_a_run(tiny, tiny_objects, tmp_path):
    """``--resources fetch_workers=1`` has one transfer at a time."""
    data_dir, log = tmp_path / "data", tmp_path / "log"
    data_dir.mkdir()
    clone = copy_clone(tmp_path / "clone", subject="sub-03", data_dir=str(data_dir))
    bound = ["--cores", "4", "--resources", "fetch_workers=1"]
    done = run_snakemake(clone, *bound, LAION_FMRI_AWS=count_aws(tmp_path, log, "sleep 0.3"))
    assert done.returncode == 0, done.stderr
    assert read_tree(data_dir) == tiny_objects
    calls = [line.split()[0] for line in log.read_text().splitlines()]
    assert (len(calls) > 1, set(calls)) == (True, {"1"})
