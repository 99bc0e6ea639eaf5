"""The Snakemake process: it loads ahead of time, and never outlives the one that wanted it."""

from __future__ import annotations

import time
from dataclasses import replace

import psutil
import pytest
from helpers import list_all, run_script

from laion_fmri.download import download
from laion_fmri.errors import BucketError, WorkflowFailedError
from laion_fmri.run.process import Snakemake
from laion_fmri.run.run import Run
from laion_fmri.settings import Settings


def find_children() -> list[str]:
    """Return the command lines of the Snakemake processes that this one has started."""
    found = (child.cmdline() for child in psutil.Process().children())
    return [" ".join(words) for words in found if any("loader.py" in word for word in words)]


def test_a_listing_that_fails_leaves_no_process(monkeypatch, tmp_path):
    """What was started ahead of time is ended with the run that wanted it."""
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketError):
        download("sub-03", data_dir=tmp_path)
    assert find_children() == []


def test_only_the_first_run_loads_ahead(tiny, tiny_objects, tmp_path):
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


def test_it_ends_with_its_parent():
    """Killed in the middle of the listing, a command leaves no Snakemake that waits for ever."""
    script = "import os; from laion_fmri.run.process import Snakemake; s = Snakemake()"
    pid = int(run_script(f"{script}; print(s._process.pid, flush=True); os._exit(0)").stdout)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


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
