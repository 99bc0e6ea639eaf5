"""The limit on how much bandwidth a run may take, in all three ways in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers import copy_clone, read_tree, run_command, run_snakemake

from laion_fmri.download import download
from laion_fmri.errors import ConfigError

pytestmark = pytest.mark.faults


@pytest.fixture
def large(server, bucket, monkeypatch, tmp_path) -> Path:
    """Serve one object of 3 MB and return an empty data directory."""
    key = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_desc-X_statmap.nii.gz"
    server.add_bucket("large", {key: bytes(3_000_000)})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "large")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def limited_by_python(data_dir: Path) -> None:
    """Download with a limit through the function."""
    download("sub-03", n_jobs=4, data_dir=data_dir, max_bandwidth=0.5)


def limited_by_command(data_dir: Path) -> None:
    """Download with a limit through the command."""
    limit = ["--max-bandwidth", "0.5", "--data-dir", data_dir]
    assert run_command("download", "--subject", "03", "--n-jobs", "4", *limit).returncode == 0


def limited_by_snakemake(data_dir: Path) -> None:
    """Download with a limit through plain Snakemake."""
    settings = {"subject": "03", "data_dir": str(data_dir), "max_bandwidth": 0.5}
    clone = copy_clone(data_dir.parent / "clone", **settings)
    assert run_snakemake(clone, "--cores", "4").returncode == 0


@pytest.mark.parametrize("way", [limited_by_python, limited_by_command, limited_by_snakemake])
def test_bandwidth_is_limited(large, way):
    """Three megabytes at half a megabyte a second take six seconds; a burst may save some."""
    started = time.monotonic()
    way(large)
    assert time.monotonic() - started > 4
    assert [len(content) for content in read_tree(large).values()] == [3_000_000]


@pytest.mark.parametrize("value", [0, -1, True, "fast", float("nan"), float("inf")])
def test_bandwidth_that_is_no_rate(large, bucket, value):
    """It is refused, by name, before anything is listed."""
    with pytest.raises(ConfigError, match="max_bandwidth"):
        download("sub-03", data_dir=large, max_bandwidth=value)
    assert bucket.requests == []
