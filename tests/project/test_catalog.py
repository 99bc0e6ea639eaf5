"""What the Snakemake workflow catalog asks for, and the use that it tells people to make of us."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers import REPO, copy_clone, expected_tree, list_all, read_tree, run, run_snakemake

from laion_fmri import __version__

SETTINGS = yaml.safe_load((REPO / ".snakemake-workflow-catalog.yml").read_text())
DEPLOYMENTS = {
    "conda",
    "apptainer",
    "apptainer+conda",
    "singularity",
    "singularity+conda",
}
SMALL = {"subject": "sub-03", "data_dir": "data"}


def test_layout_is_that_of_standardized_usage():
    """The files are where the catalog looks for them, and the README has the words it searches."""
    wanted = [
        "README.md",
        "LICENSE",
        ".snakemake-workflow-catalog.yml",
        "config/README.md",
        "config/config.yaml",
        "workflow/Snakefile",
    ]
    assert wanted == [name for name in wanted if (REPO / name).is_file()]
    assert {file.suffix for file in (REPO / "workflow" / "rules").iterdir()} == {".smk"}
    readme = (REPO / "README.md").read_text().lower()
    assert ("snakemake" in readme, "workflow" in readme) == (True, True)


def test_settings_have_the_keys_that_the_catalog_reads():
    """No key is misspelled or misplaced, where the catalog would pass over it without a word."""
    assert list(SETTINGS) == ["usage"]
    usage = SETTINGS["usage"]
    assert set(usage) <= {"mandatory-flags", "software-stack-deployment", "report"}
    deployment = usage["software-stack-deployment"]
    assert set(deployment) <= DEPLOYMENTS
    assert {type(value) for value in [*deployment.values(), usage["report"]]} == {bool}
    flags = usage.get("mandatory-flags") or {}
    assert set(flags) <= {"desc", "flags"}


def test_settings_say_how_the_rules_get_their_software():
    """Conda it is: each rule that runs aws has an environment, and none a container."""
    text = "".join(path.read_text() for path in sorted(REPO.glob("workflow/rules/*.smk")))
    runs, environments = (
        text.count(" s3 cp {params.options:q}"),
        len(re.findall(r"^\s+conda:", text, re.M)),
    )
    assert runs == environments > 0
    deployment = SETTINGS["usage"]["software-stack-deployment"]
    assert [name for name, works in deployment.items() if works] == ["conda"]
    assert re.findall(r"^\s*(?:container|containerized):", text, re.M) == []


def test_conda_environment_of_the_rules():
    """One channel and no others by accident; the AWS CLI with a lower bound."""
    environment = yaml.safe_load((REPO / "workflow" / "envs" / "awscli.yaml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    names = [re.match(r"[\w-]+", spec)[0] for spec in environment["dependencies"]]
    assert names == ["awscli"]
    assert all(re.search(r">=\s*\d", spec) for spec in environment["dependencies"])


@pytest.fixture
def clone(tmp_path) -> Path:
    """Copy a clone with the configuration that it comes with."""
    folder = tmp_path / "laion-fmri"
    copy_clone(folder)
    shutil.copy(REPO / "config" / "config.yaml", folder / "config")
    for name in ("README.md", "LICENSE", ".snakemake-workflow-catalog.yml"):
        shutil.copy(REPO / name, folder)
    return folder


def test_linter_is_content_with_a_clone_as_it_comes(clone, bucket):
    """The catalog runs ``snakemake --lint`` with no data directory, no AWS CLI and no boto3.

    So nothing can be listed then; and nothing is left behind.
    """
    before = list_all(clone)
    done = run_snakemake(clone, "--lint", LAION_FMRI_AWS=None, PATH="/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert bucket.requests == []
    left = [
        path
        for path in list_all(clone)
        if path.partition("/")[0] != ".snakemake" and "__pycache__" not in path
    ]
    assert sorted(before) == left


def test_formatter_is_content():
    """The catalog runs ``snakefmt --check`` on the Snakefile and the rules."""
    files = [REPO / "workflow" / "Snakefile", *sorted(REPO.glob("workflow/rules/*.smk"))]
    done = run([sys.executable, "-m", "snakefmt", "--check", *files])
    assert done.returncode == 0, done.stderr


def test_report_can_be_made_after_a_run(clone, tiny, tiny_objects):
    """``snakemake --report report.zip``, the last step of the page of every workflow, works."""
    (clone / "config" / "config.yaml").write_text(yaml.safe_dump(SMALL))
    for arguments in (["--cores", "2"], ["--report", "report.zip"]):
        done = run_snakemake(clone, *arguments)
        assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(clone / "report.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["report/report.html"]
    assert read_tree(clone / "data") == tiny_objects


@pytest.fixture
def tested(clone) -> Path:
    """Return a clone with the configuration that the workflow is tried with."""
    shutil.copytree(REPO / ".test" / "config", clone / ".test" / "config")
    return clone


def test_configuration_for_tests_is_run_as_the_catalog_runs_it(tested, bucket, objects):
    """``snakemake --directory .test --cores 2``: what it names arrives, and nothing else."""
    expected = expected_tree(objects, "sub-03", ses="ses-01", suffix="trials", extension="tsv")
    before = list_all(tested)
    for fetched in (dict.fromkeys(expected, 1), {}):
        bucket.clear_requests()
        done = run_snakemake(tested, "--directory", ".test", "--cores", "2")
        assert done.returncode == 0, done.stderr
        assert fetched == dict(bucket.gets())
        assert "laion-fmri: " not in done.stderr
        assert list((tested / ".test" / "data" / ".laion_fmri" / "alive").glob("*")) == []
    assert read_tree(tested / ".test" / "data") == expected
    left = {path for path in list_all(tested) if "__pycache__" not in path} - set(before)
    assert {"/".join(path.split("/")[:2]) for path in left} <= {".test/data", ".test/.snakemake"}


def test_linter_is_content_with_the_configuration_for_tests(tested, bucket):
    """It asks for no file, so that nothing is listed."""
    done = run_snakemake(tested, "--lint", "--directory", ".test", LAION_FMRI_AWS=None)
    assert done.returncode == 0, done.stderr
    assert bucket.requests == []


def test_version_that_the_readme_deploys_is_this_one():
    """The tag is that of the release; the badge has the lowest Snakemake that the rules take."""
    readme = (REPO / "README.md").read_text()
    assert re.findall(r"deploy-workflow \S+ \. --tag v(\S+)", readme) == [__version__]
    (lowest,) = re.findall(r'min_version\("(.+)"\)', (REPO / "workflow/Snakefile").read_text())
    assert f"badge/snakemake-≥{lowest}-" in readme


def git(folder: Path, *arguments: str) -> None:
    """Run git in `folder`, as nobody in particular."""
    who = {f"GIT_{r}_{w}": "a@b.c" for r in ("AUTHOR", "COMMITTER") for w in ("NAME", "EMAIL")}
    subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *arguments],
        cwd=folder,
        env=os.environ | who,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def github(clone, monkeypatch) -> str:
    """Commit and tag the clone; git takes it for https://github.com/example/laion-fmri."""
    git(clone, "init")
    git(clone, "add", "--all")
    git(clone, "commit", "--message", "everything")
    git(clone, "tag", "v0.0.1")
    (clone.parent / "example").mkdir()
    clone.rename(clone.parent / "example" / "laion-fmri")
    home = Path(os.environ["HOME"])
    (home / ".gitconfig").write_text(
        f'[url "file://{clone.parent}/"]\n\tinsteadOf = https://github.com/\n'
        "[safe]\n\tdirectory = *\n"
    )
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    return "https://github.com/example/laion-fmri"


def test_deployed_with_snakedeploy_as_the_catalog_says(github, tiny, tiny_objects, tmp_path):
    """Deploy a tag, edit the configuration, run: the selection arrives, and a second run rests."""
    project = tmp_path / "project"
    project.mkdir()
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    snakedeploy = shutil.which("snakedeploy", path=places)
    assert snakedeploy, "pip install snakedeploy"
    deployed = run([snakedeploy, "deploy-workflow", github, ".", "--tag", "v0.0.1"], cwd=project)
    assert deployed.returncode == 0, deployed.stderr
    text = (project / "workflow" / "Snakefile").read_text()
    assert 'github("example/laion-fmri", path="workflow/Snakefile", tag="v0.0.1")' in text
    written = (project / "config" / "config.yaml").read_text()
    assert written == (REPO / "config" / "config.yaml").read_text()
    (project / "config" / "config.yaml").write_text(yaml.safe_dump(SMALL))
    for expected in (dict.fromkeys(tiny_objects, 1), {}):
        tiny.clear_requests()
        done = run_snakemake(project, "--cores", "2")
        assert done.returncode == 0, done.stderr
        assert expected == dict(tiny.gets(bucket="tiny"))
    assert read_tree(project / "data") == tiny_objects


MODULE = """
configfile: "config/config.yaml"

module {name}:
    snakefile: {snakefile}
    config: config

use rule * from {name}
"""


@pytest.mark.parametrize("name", ["laion", "laion_fmri"])
def test_module_of_a_clone_by_its_path(name, clone, tiny, tiny_objects, tmp_path):
    """The same by hand, from a path; a module may have the name of the package."""
    project = tmp_path / "project"
    for folder in ("workflow", "config"):
        (project / folder).mkdir(parents=True)
    shutil.copy(clone / "config" / "config.yaml", project / "config")
    snakefile = json.dumps(str(clone / "workflow" / "Snakefile"))
    text = MODULE.format(name=name, snakefile=snakefile)
    (project / "workflow" / "Snakefile").write_text(text)
    arguments = ["--cores", "2", "--config", "subject=sub-03", "data_dir=data"]
    done = run_snakemake(project, *arguments)
    assert done.returncode == 0, done.stderr
    assert read_tree(project / "data") == tiny_objects


@pytest.mark.skipif(shutil.which("conda") is None, reason="there is no conda on the PATH")
@pytest.mark.timeout(1200)
def test_conda_brings_the_aws_cli(clone, tiny, tiny_objects):
    """``--sdm conda`` makes the environment of the fetch rules and runs its AWS CLI."""
    (clone / "config" / "config.yaml").write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--sdm", "conda"]
    done = subprocess.run(
        command,
        cwd=clone,
        env={name: v for name, v in os.environ.items() if name != "LAION_FMRI_AWS"},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_tree(clone / "data") == tiny_objects
