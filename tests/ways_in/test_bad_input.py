"""Bad input, by interface and command alike: what is said, when, and what stays untouched."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import (
    drop_capabilities,
    expected_tree,
    list_all,
    read_tree,
    run,
    run_command,
    write_tree,
)

from laion_fmri.config import get_data_dir
from laion_fmri.discovery import describe, get_rois, get_subjects, inspect_bucket
from laion_fmri.download import download
from laion_fmri.errors import (
    BucketError,
    ConfigError,
    DataDirNotSetError,
    LaionFmriError,
    SelectionError,
    SubjectNotFoundError,
)
from laion_fmri.keys import key_table


@pytest.fixture
def complete(tiny, tiny_objects, tmp_path):
    """A data directory with all of the bucket ``tiny``: a download has nothing to fetch."""
    write_tree(tmp_path, tiny_objects)
    return tmp_path


def refuse(data_dir, *arguments: object, **settings: object) -> str:
    """Run a download that has to end with 2, one line and no file; return what it said."""
    words = ["download", *arguments, "--data-dir", data_dir]
    done = run_command(*words, **settings)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert list_all(data_dir) == []
    return done.stderr


CAP = max(8, 4 * (os.cpu_count() or 1))


@pytest.mark.parametrize(
    ("value", "used"),
    [(0, 1), (-3, 1), ("four", 1), (2.5, 1), (True, 1), (None, 1), ([4], 1), (10000, CAP)],
)
def test_odd_n_jobs_warn_once_and_go_on(value, used, complete):
    """The warning names the value and the one that is used instead."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = download("sub-03", n_jobs=value, data_dir=complete)
    assert {"present"} == set(report["outcome"])
    (said,) = [str(warning.message) for warning in caught]
    assert repr(value) in said
    assert re.search(rf"\busing {used}\b", said)


@pytest.mark.parametrize("value", [1, 4, CAP])
def test_sensible_n_jobs_pass_without_a_word(value, complete):
    """No warning where there is nothing to warn of."""
    assert {"present"} == set(download("sub-03", n_jobs=value, data_dir=complete)["outcome"])


@pytest.mark.parametrize(
    ("value", "used"),
    [("0", 1), ("-3", 1), ("four", 1), ("2.5", 1), ("True", 1), ("10000", CAP)],
)
def test_odd_n_jobs_of_the_command_warn_once_and_go_on(value, used, complete):
    """The command warns in the same words, and ends well."""
    done = run_command(
        "download", "--subject", "03", "--n-jobs", value, LAION_FMRI_DATA_DIR=complete
    )
    assert done.returncode == 0
    (said,) = done.stderr.splitlines()
    assert said.startswith("warning: ")
    assert value in said
    assert re.search(rf"\busing {used}\b", said)


def test_nonsense_n_jobs_still_fetch(tiny, tiny_objects, tmp_path):
    """The download goes on for real."""
    with pytest.warns(UserWarning, match="n_jobs=10000"):
        download("sub-03", n_jobs=10000, data_dir=tmp_path)
    assert tiny_objects == read_tree(tmp_path)


def test_unknown_subject_lists_those_that_exist(bucket, tmp_path):
    """An unknown subject names those of the bucket; exit 2; nothing is written."""
    for subject in ("sub-02", "2", ["sub-03", "sub-02"]):
        with pytest.raises(SubjectNotFoundError, match="sub-01, sub-03") as caught:
            download(subject, data_dir=tmp_path)
        assert "sub-" + ("2" if subject == "2" else "02") in str(caught.value)
    said = refuse(tmp_path, "--subject", "sub-03", "sub-02")
    assert "sub-02" in said
    assert "sub-01, sub-03" in said
    assert Counter() == bucket.gets()


MALFORMED = [3, 3.0, None, True, b"sub-03", {"sub": "03"}, ["sub-03", 3], [None]]
EMPTY = [
    "",
    "sub-",
    [],
    ["sub-03", ""],
    " ",
    "../sub-03",
    "sub-03/ses-01",
    "sub-0*",
    "all ",
    "ALL ",
]


@pytest.mark.parametrize("subject", MALFORMED + EMPTY, ids=repr)
@pytest.mark.parametrize("function", [download, key_table])
def test_malformed_subject_is_refused_before_any_network_use(function, subject, bucket, tmp_path):
    """Another type is a TypeError, an empty or odd name is not found; no request is made."""
    with pytest.raises((TypeError, SubjectNotFoundError)) as caught:
        function(subject, data_dir=tmp_path)
    assert "subject" in str(caught.value)
    expected = TypeError if subject in MALFORMED else SubjectNotFoundError
    assert isinstance(caught.value, expected)
    assert bucket.requests == []
    assert list_all(tmp_path) == []


def test_malformed_subject_of_the_command(bucket, tmp_path):
    """The command refuses in one line, before any network use."""
    for subject in ("", "sub-", "../sub-03"):
        assert "subject" in refuse(tmp_path, "--subject", subject)
    assert bucket.requests == []


NO_STRINGS = [1, 1.5, ["01", 2], True, b"01"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("task", "desc", "extension") for value in NO_STRINGS),
        *(("ses", value) for value in (1.5, True, b"01", -1)),  # 1 is the session of this number
    ],
    ids=repr,
)
def test_filter_of_another_type_says_to_quote_it(name, value, bucket, tmp_path):
    """A number is not guessed at; the message shows how to write it."""
    with pytest.raises(TypeError, match=f"{name}=.*quote"):
        download("sub-03", data_dir=tmp_path, **{name: value})
    assert bucket.requests == []


@pytest.mark.parametrize("value", ["yes", 1, "false"], ids=repr)
def test_include_stimuli_is_a_switch(value, bucket, tmp_path):
    """Text is not taken for True, nor is a number."""
    with pytest.raises(TypeError, match="include_stimuli"):
        download("sub-03", include_stimuli=value, data_dir=tmp_path)
    assert bucket.requests == []


def test_value_without_a_match_warns_and_the_rest_is_fetched(bucket, objects, tmp_path):
    """The warning has the near miss and what there is; the other value's files arrive."""
    filters = {"ses": "01", "desc": ["trialbetas", "R2"], "suffix": "statmap"}
    expected = expected_tree(objects, "sub-03", **filters)
    write_tree(tmp_path, expected)
    gone = next(key for key in sorted(expected) if "_desc-R2_" in key)
    (tmp_path / gone).unlink()
    with pytest.warns(UserWarning, match="desc 'trialbetas' matches nothing") as caught:
        report = download("sub-03", **filters, data_dir=tmp_path)
    assert "SingletrialBetas" in str(caught[0].message)
    assert "R2mean" in str(caught[0].message)
    assert len(caught) == 1
    assert {gone} == set(report["key"][report["outcome"] == "fetched"])
    assert expected == read_tree(tmp_path)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"ses": "ses-01", "desc": "trialbetas", "suffix": "statmap"}, "'SingletrialBetas'"),
        ({"ses": "1"}, "'01'"),
        ({"ses": ["99", "98"]}, "'99'"),
        ({"suffix": "Statmap"}, "'statmap'"),
        ({"extension": "nii"}, "nii.gz"),
        ({"ses": "averages", "extension": "h5"}, "no key matches them all"),
    ],
    ids=str,
)
def test_selection_of_nothing_is_an_error_with_help(filters, said, bucket, tmp_path):
    """Pinned maps and root files alone are no selection: an error, and nothing is written."""
    with pytest.raises(SelectionError, match=said):
        download("sub-03", **filters, data_dir=tmp_path)
    assert list_all(tmp_path) == []
    flags = [
        word
        for name, value in filters.items()
        for word in (f"--{name}", *([value] if isinstance(value, str) else value))
    ]
    assert re.search(said, refuse(tmp_path, "--subject", "sub-03", *flags))
    assert Counter() == bucket.gets()


def test_held_out_session_alone_is_an_error(bucket, tmp_path):
    """It says that the session is held out and where to ask; exit 2; no object is asked for."""
    with pytest.raises(
        SelectionError, match=r"ses-31 is held out.*laion-fmri.hebartlab.com/request"
    ):
        download("sub-03", ses="31", data_dir=tmp_path)
    assert "held out" in refuse(tmp_path, "--subject", "sub-03", "--ses", "ses-31")
    assert {r.key for r in bucket.requests} == {""}


def test_held_out_session_beside_others_warns(bucket, objects, tmp_path):
    """The warning comes once; the other session is selected, and no key of the held-out one."""
    expected = expected_tree(objects, "sub-03", ses="01")
    write_tree(tmp_path, expected)
    with pytest.warns(UserWarning, match="ses-31 is held out") as caught:
        report = download("sub-03", ses=["ses-01", "31"], data_dir=tmp_path)
    assert len(caught) == 1
    assert sorted(expected) == list(report["key"])


def test_no_data_directory_says_how_to_choose(bucket, monkeypatch):
    """DataDirNotSetError names the command, the variable and the argument; exit 2 in one line."""
    calls = [
        get_data_dir,
        lambda: download("sub-03"),
        lambda: key_table("sub-03"),
    ]
    for call in calls:
        with pytest.raises(DataDirNotSetError, match=r"config --data-dir.*LAION_FMRI_DATA_DIR"):
            call()
    done = run_command("download", "--subject", "03")
    assert done.returncode == 2
    assert re.match("error: .*config --data-dir.*LAION_FMRI_DATA_DIR.*\n$", done.stderr)
    assert bucket.requests == []


def test_unusable_data_directory_is_said_before_anything_is_listed(bucket, tmp_path):
    """A missing folder, a file in its place, an impossible name: one line, no request."""
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "{ses}").mkdir()
    bad = {"a/b": "not exist", "file": "is a file", "{ses}": "brace", "file/b": "is a file"}
    for path, said in bad.items():
        with pytest.raises(LaionFmriError, match=said) as caught:
            download("sub-03", data_dir=tmp_path / path)
        assert str(tmp_path / path) in str(caught.value)
        done = run_command("download", "--subject", "03", "--data-dir", tmp_path / path)
        assert (done.returncode, done.stderr) == (2, f"error: {caught.value}\n")
    with pytest.raises(LaionFmriError, match="empty"):
        download("sub-03", data_dir="")
    assert bucket.requests == []
    assert list_all(tmp_path) == ["file", "{ses}"]


def download_unwritable(data_dir: Path):
    """Run the command with a data directory that nobody may write to."""
    folders = [data_dir, *(path for path in data_dir.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    words = [sys.executable, "-m", "laion_fmri", "download", "--subject", "03"]
    done = run([*drop_capabilities(), *words], LAION_FMRI_DATA_DIR=data_dir)
    for folder in folders:
        folder.chmod(0o755)
    return done


@pytest.mark.parametrize("count", [0, 2], ids=["empty", "partly filled"])
def test_unwritable_data_directory_is_said_before_listing(count, tiny, tiny_objects, tmp_path):
    """Exit 2, one line, nothing started; nothing listed, unless what is there may be complete."""
    write_tree(tmp_path, dict(list(tiny_objects.items())[:count]))
    before = list_all(tmp_path)
    done = download_unwritable(tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"{tmp_path} is not writable" in done.stderr
    assert before == list_all(tmp_path)
    assert count or tiny.requests == []


def test_complete_selection_in_an_unwritable_data_directory(tiny, tiny_objects, tmp_path):
    """There is nothing to do, so nothing needs to be written."""
    write_tree(tmp_path, tiny_objects)
    before = list_all(tmp_path)
    done = download_unwritable(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert before == list_all(tmp_path)


@pytest.fixture
def babbling_url() -> Iterator[str]:
    """Serve, on loopback, what is no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def answer() -> None:
            while not done.is_set():
                client, _ = listener.accept()
                with client:
                    client.recv(1024)
                    client.sendall(b"what?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = listener.getsockname()
        yield f"http://127.0.0.1:{address[1]}"
        done.set()
        socket.create_connection(address).close()
        thread.join()


@pytest.mark.parametrize("command", ["download --subject 03", "info"])
def test_unreachable_bucket_is_one_line_with_the_endpoint(command, tmp_path):
    """Nobody listens: one line that names the endpoint, no traceback, nothing written."""
    nobody = {"LAION_FMRI_ENDPOINT_URL": "http://127.0.0.1:9", "LAION_FMRI_DATA_DIR": tmp_path}
    done = run_command(*command.split(), **nobody)
    assert done.returncode in (1, 2)
    assert re.fullmatch("error: .*http://127.0.0.1:9.*\n", done.stderr)
    assert list_all(tmp_path) == []


def test_endpoint_that_is_no_bucket_is_a_bucket_error(babbling_url, tmp_path, monkeypatch):
    """Something else listens there, or the address is none: the error names the endpoint."""
    wrong = dict.fromkeys(("127.0.0.1:9", "http://", "http://127.0.0.1:99999"), ConfigError)
    for url, error in {babbling_url: BucketError, **wrong}.items():
        monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", url)
        with pytest.raises(error, match=re.escape(url)) as caught:
            download("sub-03", data_dir=tmp_path)
        assert len(str(caught.value).splitlines()) == 1
    assert list_all(tmp_path) == []


def test_listing_refused_is_a_bucket_error(bucket, tmp_path, monkeypatch):
    """A bucket that cannot be listed is named, with the endpoint, by every function that lists."""
    name = "no-such-bucket"
    monkeypatch.setenv("LAION_FMRI_BUCKET", name)
    calls = [lambda: download("sub-03", data_dir=tmp_path), get_subjects, describe]
    for call in [*calls, lambda: get_rois("sub-03"), inspect_bucket]:
        with pytest.raises(BucketError) as caught:
            call()
        assert name in str(caught.value)
        assert bucket.endpoint_url in str(caught.value)
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path)
    assert done.returncode in (1, 2)
    assert re.fullmatch(f"error: .*{re.escape(bucket.endpoint_url)}.*\n", done.stderr)
    assert list_all(tmp_path) == []


def test_missing_aws_cli_is_no_matter_when_all_is_here(complete, monkeypatch):
    """Who has everything needs no AWS CLI."""
    monkeypatch.setenv("LAION_FMRI_AWS", "/nonexistent")
    assert {"present"} == set(download("sub-03", data_dir=complete)["outcome"])


@pytest.mark.parametrize(
    "words",
    [["download"], ["download", "--subject"], ["frobnicate"], ["download", "--sesion", "1"]],
    ids=" ".join,
)
def test_bad_usage_ends_with_2(words, bucket):
    """What argparse refuses ends with 2 and the usage."""
    done = run_command(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: laion-fmri")
    assert bucket.requests == []


def test_config_wants_a_parent(tmp_path):
    """A folder whose parent is missing is refused, and the choice stays as it was."""
    done = run_command("config", "--data-dir", tmp_path / "a" / "b")
    assert done.returncode == 2
    assert f"{tmp_path}/a" in done.stderr
    assert list_all(tmp_path) == []
    assert run_command("config").returncode == 2
