"""The wheel: what is in it, and that it works with no clone at hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers import QUICK_PIP, REPO, expected_tree, read_tree

from laion_fmri import __version__
from laion_fmri.sample import SampleServer


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of the tree as it is."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out]
    subprocess.run([*command, str(REPO)], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_the_package_and_the_workflow_and_nothing_else(wheel: Path) -> None:
    """Every module, template and file of the workflow is in the wheel, and no other file."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {
        str(path.relative_to(REPO))
        for pattern in ("*.py", "*.j2")
        for path in (REPO / "laion_fmri").rglob(pattern)
    }
    workflow = {
        f"laion_fmri/{path.relative_to(REPO)}"
        for path in (REPO / "workflow").rglob("*")
        if path.is_file()
    }
    profile = "laion_fmri/workflow/profiles/slurm/config.yaml"
    assert names == modules | workflow | {profile, "laion_fmri/py.typed"}


def test_wheel_asks_for_no_awscli_and_offers_it_as_an_extra(wheel: Path) -> None:
    """The core must resolve beside any Snakemake, which awscli would prevent."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    asked = [line for line in lines if line.startswith("Requires-Dist: awscli")]
    assert [line.partition(";")[2].strip() for line in asked] == ["extra == 'aws'"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel with pip alone, away from the clone; return where its commands are."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, cwd=environment, env=os.environ | QUICK_PIP)
    return environment / "bin"


def run_installed(command: list[str | Path], folder: Path) -> str:
    """Run a command that knows nothing of the clone, in `folder`; return what it printed."""
    left_out = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(command, check=True, cwd=folder, env=clean, stdout=subprocess.PIPE)
    return done.stdout.decode()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_wheel_in_an_empty_environment_downloads_a_session(
    installed: Path, tmp_path: Path, bucket: SampleServer, objects: dict[str, bytes]
) -> None:
    """Installed away from the clone, with pip alone, the command fetches one session."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    command = [installed / "laion-fmri", "download", "--subject", "sub-03"]
    command += ["--ses", "ses-01", "--n-jobs", "2", "--data-dir", data_dir]
    run_installed(command, tmp_path)
    assert read_tree(data_dir) == expected_tree(objects, "03", ses="ses-01")


def test_citation_and_addresses_are_of_this_version():
    """Whoever cites it names this release; the package says where its source is."""
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", __version__)
    urls = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["urls"]
    assert citation["repository-code"] == urls["Repository"]
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= urls.keys()


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_the_pipeline_of_the_readme_runs_with_the_wheel_alone(
    installed: Path, tmp_path: Path, bucket: SampleServer, objects: dict[str, bytes]
) -> None:
    """Copied to an empty folder, with the path that the command prints, it fetches its inputs."""
    blocks = re.findall("```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    (pipeline,) = (block for block in blocks if "module laion:" in block)
    snakefile = run_installed([installed / "laion-fmri", "snakefile"], tmp_path).strip()
    assert "site-packages" in snakefile
    text = pipeline.replace("/path/to/laion_fmri/workflow/Snakefile", snakefile)
    (tmp_path / "Snakefile").write_text(text)
    run_installed([installed / "snakemake", "--cores", "4"], tmp_path)
    for session in ("01", "02"):
        folder = f"derivatives/glmsingle-tedana/sub-03/ses-{session}/func"
        stem = f"{folder}/sub-03_ses-{session}_task-images"
        betas = f"{stem}_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"
        trials = f"{stem}_desc-SingletrialBetas_trials.tsv"
        said = (tmp_path / "results" / f"sub-03_ses-{session}.txt").read_text().split()
        sizes = {path: int(size) for size, path in zip(said[::2], said[1::2], strict=True)}
        assert {f"data/{key}": len(objects[key]) for key in (betas, trials)} == {
            path: size for path, size in sizes.items() if path != "total"
        }


def test_conda_environment_names_every_dependency() -> None:
    """environment.yml installs the package without its dependencies, so it has to name them."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    wanted = {name_of(spec) for spec in project["dependencies"]}
    environment = yaml.safe_load((REPO / "environment.yml").read_text())
    given = {name_of(spec) for spec in environment["dependencies"] if isinstance(spec, str)}
    assert wanted - {name.removesuffix("-minimal") for name in given} == set()
    assert "awscli" in given


def name_of(specification: str) -> str:
    """Return the name of the distribution that a requirement asks for."""
    name = specification
    for mark in "<>=!~[; ":
        name = name.partition(mark)[0]
    return name
