"""The Snakemake process: it loads ahead of time, and never outlives the one that wanted it."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest
from faults import serve_faults
from helpers import list_all
from runs import start, wait_until

from laion_fmri.download import download
from laion_fmri.errors import BucketError, WorkflowFailedError
from laion_fmri.run.process import Snakemake
from laion_fmri.run.run import Run
from laion_fmri.settings import Settings


@pytest.fixture
def find_children():
    """Return a function that finds the processes that the test has started and that are alive."""
    before = set(psutil.Process().children())
    return lambda: [child for child in psutil.Process().children() if child not in before]


def test_a_listing_that_fails_leaves_no_process(find_children, monkeypatch, tmp_path):
    """What was started ahead of time is ended with the run that wanted it."""
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketError):
        download("sub-03", data_dir=tmp_path)
    assert find_children() == []


@pytest.mark.cold
def test_only_the_first_run_loads_ahead(find_children, tiny, tiny_objects, tmp_path):
    """A new data directory will be fetched into; later, or in a dry run, nobody knows yet."""
    settings = Settings("03", data_dir=tmp_path)
    with Run(replace(settings, dry_run=True)):
        assert find_children() == []
    with Run(settings):
        assert len(find_children()) == 1
    assert find_children() == []
    download("sub-03", data_dir=tmp_path)
    with Run(settings):
        assert find_children() == []


def test_a_dry_run_leaves_what_was_kept(tiny, tiny_objects, tmp_path):
    """Nothing is written: not even what an earlier job has left is put back."""
    kept = tmp_path / ".laion_fmri" / "kept" / next(iter(tiny_objects))
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"kept")
    before = list_all(tmp_path)
    download("sub-03", data_dir=tmp_path, dry_run=True)
    assert before == list_all(tmp_path)


def test_it_ends_with_its_parent(server, tiny, monkeypatch, tmp_path):
    """Killed in the middle of the listing, a command leaves no Snakemake that waits for ever."""
    with serve_faults(server) as bench:
        monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", bench.endpoint_url)
        listing = bench.break_("stall-at-once", listing=True)
        with start("command", tmp_path / "data", tmp_path / "place") as run:
            assert listing.reached.wait(60)
            assert wait_until(lambda: len(run.list_processes()) == 2), run.said()
            run.kill("starter")
            assert run.is_gone(), run.list_processes()


@pytest.mark.parametrize("is_first", [True, False], ids=["ahead", "later"])
def test_a_snakemake_that_cannot_be_loaded_is_told(tiny, monkeypatch, tmp_path, is_first):
    """The error is one line that says why, and names the log."""
    broken = tmp_path / "broken" / "snakemake"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    if not is_first:
        (data_dir / ".laion_fmri").mkdir()
    with pytest.raises(WorkflowFailedError, match=r"broken on purpose.*its log is"):
        download("sub-03", data_dir=data_dir)


def test_its_exit_status_is_snakemakes(tmp_path):
    """A Snakefile that does not exist is a failure, said in the log."""
    log = tmp_path / "log"
    snakemake = Snakemake()
    status = snakemake.run(
        ["--snakefile", str(tmp_path / "none"), "--cores", "1"], log, lambda: None
    )
    assert (status, "none" in log.read_text()) == (1, True)
