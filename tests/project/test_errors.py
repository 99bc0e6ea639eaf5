"""Errors that a user meets: their classes, the bucket's refusals, and what an import costs."""

from __future__ import annotations

import copy
import json
import pickle
import socket
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context

import pandas as pd
import pytest
from helpers import run

from laion_fmri import errors
from laion_fmri.bucket.listing import Bucket
from laion_fmri.errors import BucketError, DownloadError, LaionFmriError, list_some

BUILTINS = {
    "AwsNotFoundError": FileNotFoundError,
    "AccessError": PermissionError,
    "BucketError": OSError,
    "ConfigError": ValueError,
    "DataDirError": OSError,
    "DataDirNotSetError": RuntimeError,
    "DataNotDownloadedError": FileNotFoundError,
    "DownloadError": RuntimeError,
    "ImageError": OSError,
    "InputTypeError": TypeError,
    "LicenseNotAcceptedError": PermissionError,
    "ManifestError": ValueError,
    "MismatchError": ValueError,
    "MissingDependencyError": ImportError,
    "NoSpaceError": OSError,
    "SelectionError": ValueError,
    "ServiceError": OSError,
    "SubjectNotFoundError": ValueError,
    "WorkflowFailedError": RuntimeError,
}
REPORT = pd.DataFrame({"key": ["a", "b"], "outcome": ["fetched", "failed"]})


def all_errors() -> dict[str, type]:
    """Return every exception class of the module but the base, by name."""
    found = {
        n: v
        for n, v in vars(errors).items()
        if isinstance(v, type) and v.__module__ == errors.__name__
    }
    return {n: v for n, v in found.items() if issubclass(v, Exception) and v is not LaionFmriError}


def test_the_list_of_errors_is_complete():
    """A new error gets its builtin in this table, too."""
    assert {*BUILTINS, "SelectionWarning"} == set(all_errors())


@pytest.mark.parametrize("name", BUILTINS)
def test_each_error_is_ours_and_a_builtin(name):
    """One except clause catches them all, and so does the one that users would write anyway."""
    error = getattr(errors, name)
    assert (issubclass(error, LaionFmriError), issubclass(error, BUILTINS[name])) == (True, True)


def test_the_warning_is_a_user_warning():
    """It is shown by default, and is no error of ours."""
    bases = (UserWarning, LaionFmriError)
    assert [issubclass(errors.SelectionWarning, base) for base in bases] == [True, False]


@pytest.mark.parametrize("name", sorted({*BUILTINS} - {"DownloadError"}))
def test_an_error_shows_its_message_and_pickles(name):
    """The builtin base does not change how the one line reads, here or in another process."""
    error = getattr(errors, name)("one line, with 'quotes'")
    again = pickle.loads(pickle.dumps(error))
    assert ("one line, with 'quotes'", type(error), str(error)) == (
        str(error),
        type(again),
        str(again),
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_download_error_pickles_with_its_report(protocol):
    """Through every protocol the message and the report stay together."""
    again = pickle.loads(pickle.dumps(DownloadError("2 files", REPORT), protocol))
    assert ("2 files", DownloadError) == (str(again), type(again))
    pd.testing.assert_frame_equal(REPORT, again.report)


def test_a_download_error_can_be_copied():
    """A copy has the report as well."""
    again = copy.copy(DownloadError("2 files", REPORT))
    assert (str(again), again.report is REPORT) == ("2 files", True)


def fail():
    """Raise what a download raises, in a process of its own."""
    raise DownloadError("2 files", REPORT)


def test_a_download_error_leaves_a_process_pool():
    """A pool hands over the error itself, and not a complaint about pickling."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(fail).exception()
    assert (DownloadError, "2 files", 2) == (type(error), str(error), len(error.report))


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2, ... (1 more)")]
)
def test_lists_are_cut_short(count, expected):
    """A long list ends with how many more there are, a short one does not."""
    assert expected == list_some([str(n) for n in range(count)], limit=3)


HEAVY = ("pandas", "numpy", "boto3", "botocore", "snakemake", "rich", "yaml", "jsonschema", "moto")


@pytest.mark.parametrize(
    "module", ["download", "keys", "discovery", "config", "selection.scopes", "commands.cli"]
)
def test_an_import_takes_no_heavy_modules(module):
    """Importing the package costs next to nothing, reads nothing and writes nothing."""
    code = (
        f"import json, sys, laion_fmri, laion_fmri.{module}\n"
        "print(json.dumps(sorted(name for name in sys.modules if '.' not in name)))"
    )
    done = run([sys.executable, "-W", "error", "-c", code])
    assert (done.returncode, done.stderr) == (0, "")
    assert set() == {*HEAVY} & {*json.loads(done.stdout)}


@contextmanager
def answering(status: int, body: str):
    """Serve one answer to every request; yield the endpoint and the headers seen."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


EMPTY = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></ListBucketResult>'
REFUSAL = "<Error><Code>AccessDenied</Code><Message>Access\nDenied</Message></Error>"


def test_a_listing_is_never_signed():
    """The user's keys, which are for something else, do not leave the machine."""
    with answering(200, EMPTY) as (endpoint, seen):
        assert list(Bucket("laion-fmri", "us-west-2", endpoint).list_objects("x/")) == []
    assert [headers["Authorization"] for headers in seen] == [None]


def test_another_store_of_the_user_is_not_asked(monkeypatch):
    """Without an endpoint of ours it is S3 itself, whatever AWS_ENDPOINT_URL says."""
    asked = []

    def resolve(host, *args, **kwargs):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with answering(200, EMPTY) as (endpoint, seen):
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, endpoint)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with pytest.raises(BucketError):
            list(Bucket("laion-fmri", "us-west-2", None).list_objects("x/"))
    assert ([], {"laion-fmri.s3.us-west-2.amazonaws.com"}) == (seen, set(asked))


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (403, REFUSAL, "AccessDenied"),
        (200, "<html><p>Please log in<br></html>", "listed"),
        (503, "", "503"),
    ],
    ids=["refused", "captive portal", "overloaded"],
)
def test_a_listing_that_fails(monkeypatch, status, body, reason):
    """One line says what happened, of which bucket, and at which endpoint."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with answering(status, body) as (endpoint, seen), pytest.raises(BucketError) as caught:
        list(Bucket("laion-fmri", "us-west-2", endpoint).list_objects("x/"))
    message = str(caught.value)
    assert (reason in message, endpoint in message, message.count("\n")) == (True, True, 0)
    assert (status == 403, True) == (len(seen) == 1, "s3://laion-fmri" in message)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{port}", "not a url", "ftp://127.0.0.1:9"])
def test_an_endpoint_that_is_not_there(monkeypatch, endpoint):
    """Neither a closed port nor nonsense is more than a BucketError that names it."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with socket.socket() as taken:  # bound, but not listening: nobody else can answer here
        taken.bind(("127.0.0.1", 0))
        endpoint = endpoint.format(port=taken.getsockname()[1])
        with pytest.raises(BucketError) as caught:
            list(Bucket("laion-fmri", "us-west-2", endpoint).list_objects("x/"))
    assert (endpoint in str(caught.value), str(caught.value).count("\n")) == (True, 0)
