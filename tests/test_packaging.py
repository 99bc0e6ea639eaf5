"""The wheel: what is in it, and that it works with no clone at hand."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers import expected_tree, read_tree

from laion_fmri.sample import SampleServer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of the tree as it is."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out]
    subprocess.run([*command, str(ROOT)], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_the_package_and_the_workflow_and_nothing_else(wheel: Path) -> None:
    """Every module and every file of the workflow is in the wheel, and no other file."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {f"laion_fmri/{path.name}" for path in (ROOT / "laion_fmri").glob("*.py")}
    workflow = {
        f"laion_fmri/{path.relative_to(ROOT)}"
        for path in (ROOT / "workflow").rglob("*")
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


@pytest.mark.timeout(600)
def test_wheel_in_an_empty_environment_downloads_a_session(
    wheel: Path, tmp_path: Path, bucket: SampleServer, objects: dict[str, bytes]
) -> None:
    """Installed away from the clone, with pip alone, the command fetches one session."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, cwd=tmp_path)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    command = [str(environment / "bin" / "laion-fmri"), "download", "--subject", "sub-03"]
    command += ["--ses", "ses-01", "--n-jobs", "2", "--data-dir", str(data_dir)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=tmp_path, env=clean)
    assert read_tree(data_dir) == expected_tree(objects, "03", ses="ses-01")


def test_conda_environment_names_every_dependency() -> None:
    """environment.yml installs the package without its dependencies, so it has to name them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {name_of(spec) for spec in project["dependencies"]}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    given = {name_of(spec) for spec in environment["dependencies"] if isinstance(spec, str)}
    assert wanted - {name.removesuffix("-minimal") for name in given} == set()
    assert "awscli" in given


def name_of(specification: str) -> str:
    """Return the name of the distribution that a requirement asks for."""
    name = specification
    for mark in "<>=!~[; ":
        name = name.partition(mark)[0]
    return name
