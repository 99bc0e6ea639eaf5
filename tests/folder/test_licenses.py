"""The licences: nothing is asked for what is public, and an old record harms nobody."""

from __future__ import annotations

import pytest
from helpers import list_all, run_command, write_tree

from laion_fmri import accept_license
from laion_fmri.download import accept_licenses

TERMS = "https://laion-fmri.hebartlab.com/terms"
REQUEST = "https://laion-fmri.hebartlab.com/request"


def test_brain_data_ask_for_nothing(tmp_path):
    """CC0 is said and nothing is recorded."""
    (said,) = accept_licenses(data_dir=tmp_path)
    assert ("CC0 1.0" in said, list_all(tmp_path)) == (True, [])


def test_the_images_are_given_out_elsewhere(tmp_path):
    """Their licence has its terms, and where the images can be had; both names do the same."""
    words = [
        "non-commercial academic research only",
        "no redistribution",
        "no commercial use",
        "no use for commercial AI models",
        TERMS,
        REQUEST,
    ]
    for accept in (accept_licenses, accept_license):
        brain, images = accept(include_stimuli=True, data_dir=tmp_path)
        assert "CC0 1.0" in brain
        assert [word for word in words if word not in images] == []
    assert list_all(tmp_path) == []


@pytest.mark.parametrize("words", [[], ["--accept-stimuli"]], ids=str)
def test_the_command_says_the_same(tmp_path, words):
    """With the flag of earlier versions too; nothing is written."""
    done = run_command("license", *words, "--data-dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in ("CC0 1.0", TERMS, REQUEST, "nothing to accept"))
    assert list_all(tmp_path) == []


def test_the_record_of_an_earlier_version_stays(tmp_path, bucket):
    """A data directory that has one is used as any other."""
    record = {".laion_fmri/licenses.json": b'{"stimuli": {"accepted_by": "somebody"}}'}
    write_tree(tmp_path, record)
    words = ["--scope", "stimuli", "--suffix", "metadata", "--data-dir", tmp_path]
    done = run_command("download", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".laion_fmri/licenses.json").read_bytes() == next(iter(record.values()))
