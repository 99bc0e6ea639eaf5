"""What has to be accepted before stimuli are fetched, and how that is recorded."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from helpers import drop_capabilities, list_all, run

from laion_fmri import download
from laion_fmri.config import dataset_initialize
from laion_fmri.errors import DataDirError, DataDirNotSetError, LicenseNotAcceptedError
from laion_fmri.folder import licences as licenses
from laion_fmri.folder.licences import accept_licenses, check_licenses, has_accepted_stimuli

TERMS = "https://laion-fmri.hebartlab.com/terms"


def record_of(data_dir):
    """Return where an acceptance is recorded: in our own state, and nowhere else."""
    return data_dir / ".laion_fmri" / "licenses.json"


def test_nothing_is_accepted_to_begin_with(tmp_path):
    """Looking leaves no trace."""
    assert (has_accepted_stimuli(tmp_path), list_all(tmp_path)) == (False, [])


def test_brain_data_ask_for_nothing(tmp_path):
    """CC0 is said and nothing is recorded, so the stimuli are not accepted by the way."""
    (said,) = accept_licenses(data_dir=tmp_path)
    assert (
        "CC0 1.0" in said,
        has_accepted_stimuli(tmp_path),
        list_all(tmp_path),
    ) == (True, False, [])
    check_licenses(False, tmp_path)


def test_stimuli_need_an_acceptance(tmp_path):
    """The error has the terms, both ways to accept, and how to go on without."""
    with pytest.raises(LicenseNotAcceptedError) as caught:
        check_licenses(True, tmp_path)
    words = [
        "non-commercial academic research only",
        "no redistribution",
        "no commercial use",
        "no use for commercial AI models",
        TERMS,
        "laion-fmri license --accept-stimuli",
        "accept_licenses(include_stimuli=True)",
        "without include_stimuli",
    ]
    assert [word for word in words if word not in str(caught.value)] == []
    assert str(caught.value).count("\n") == 0


def test_an_acceptance_is_for_one_data_directory(tmp_path):
    """It is recorded once, holds from then on, and says nothing of another directory."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    brain, stimuli = accept_licenses(include_stimuli=True, data_dir=here)
    assert ("CC0" in brain, TERMS in stimuli) == (True, True)
    assert (has_accepted_stimuli(here), has_accepted_stimuli(there)) == (True, False)
    check_licenses(True, here)
    with pytest.raises(LicenseNotAcceptedError):
        check_licenses(True, there)
    assert (list_all(here), list_all(there)) == ([".laion_fmri", ".laion_fmri/licenses.json"], [])


def test_the_record_says_what_was_accepted_and_when(tmp_path):
    """Who, when with a time zone, and the text; accepting again does not change it."""
    accept_licenses(include_stimuli=True, data_dir=tmp_path)
    record = json.loads(record_of(tmp_path).read_text())["stimuli"]
    assert {"accepted_at", "accepted_by", "text"} == set(record)
    assert (TERMS in record["text"], record["accepted_at"].endswith("+00:00")) == (True, True)
    earlier = json.dumps({"stimuli": record | {"accepted_at": "2020-02-02T02:02:02+00:00"}})
    record_of(tmp_path).write_text(earlier)
    accept_licenses(include_stimuli=True, data_dir=tmp_path)
    assert earlier == record_of(tmp_path).read_text()


def test_a_user_without_a_name(tmp_path, monkeypatch):
    """In a container without a user database the acceptance is recorded all the same."""

    def fail():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", fail)
    accept_licenses(include_stimuli=True, data_dir=tmp_path)
    assert True is has_accepted_stimuli(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"stimuli"', b"null", b"\xff\xfe", b"{}", b'["stimuli"]']
)
def test_a_corrupt_record(tmp_path, content):
    """What cannot be read is no acceptance, and can be replaced by one."""
    record_of(tmp_path).parent.mkdir()
    record_of(tmp_path).write_bytes(content)
    assert False is has_accepted_stimuli(tmp_path)
    accept_licenses(include_stimuli=True, data_dir=tmp_path)
    assert True is has_accepted_stimuli(tmp_path)


@pytest.mark.parametrize("content", [{"stimuli": None}, {"stimuli": False}, {"stimuli": {}}])
def test_a_record_that_accepts_nothing(tmp_path, content):
    """The mere word is no acceptance."""
    record_of(tmp_path).parent.mkdir()
    record_of(tmp_path).write_text(json.dumps(content))
    assert False is has_accepted_stimuli(tmp_path)


def test_the_chosen_data_directory(tmp_path, monkeypatch):
    """Without an argument it is the chosen one, and without a choice that is said."""
    with pytest.raises(DataDirNotSetError):
        accept_licenses(include_stimuli=True)
    dataset_initialize(tmp_path / "saved")
    accept_licenses(include_stimuli=True)
    assert True is has_accepted_stimuli(tmp_path / "saved")


def test_a_missing_data_directory(tmp_path):
    """Nothing is made for an acceptance of a directory that is not there."""
    with pytest.raises(DataDirError, match="does not exist"):
        accept_licenses(include_stimuli=True, data_dir=tmp_path / "missing")
    assert list_all(tmp_path) == []


def test_a_read_only_data_directory(tmp_path):
    """What cannot be recorded is not accepted, and the message says why."""
    (tmp_path / "README").touch()
    tmp_path.chmod(0o555)
    code = (
        "from laion_fmri.folder.licences import accept_licenses\n"
        f"accept_licenses(include_stimuli=True, data_dir={str(tmp_path)!r})"
    )
    done = run([*drop_capabilities(), sys.executable, "-c", code])
    tmp_path.chmod(0o755)
    assert (done.returncode, f"{tmp_path} is not writable" in done.stderr) == (1, True)
    assert list_all(tmp_path) == ["README"]


def test_the_download_asks_before_it_lists(bucket, tmp_path):
    """An unaccepted licence stops a call before any request; the name is where users expect it."""
    assert licenses.accept_licenses is download.accept_licenses
    with pytest.raises(LicenseNotAcceptedError):
        download.download("sub-03", include_stimuli=True, data_dir=tmp_path)
    assert (list(bucket.requests), list_all(tmp_path)) == ([], [])


def test_the_licence_of_the_brain_data_is_said_once(tiny, tmp_path, caplog):
    """A dry run into a new directory says CC0, and asks nothing."""
    caplog.set_level(logging.INFO, "laion_fmri")
    download.download("sub-03", data_dir=tmp_path, dry_run=True)
    assert sum("CC0 1.0" in text for text in caplog.messages) == 1
