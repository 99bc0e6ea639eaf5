"""The S3 protocol server on loopback that serves the sample bucket."""

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.parse import parse_qsl

from laion_fmri.sample.objects import require, sample_objects

#: Patterns of the keys that are listed but answer 403, as in the published bucket.
HELD_OUT = (
    *("derivatives/glmsingle-tedana/*/ses-3[1-4]/*", "derivatives/tedana/*/ses-3[1-4]/*"),
    *("derivatives/localizers/*/ses-3[1-4]/*_task-[!o]*", "sub-*/ses-3[1-4]/*"),
    "stimuli/task-images_stimuli.h5",
)


class Request(NamedTuple):
    """One request that was answered; `key` is empty for the bucket, `query` is decoded."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    status: int


class SampleServer:
    """A public bucket on 127.0.0.1: anyone may list and read, only signed requests may write.

    Made by :func:`serve_sample`. Where a method takes `bucket`, None means the attribute.

    Attributes
    ----------
    endpoint_url, bucket : str
        What clients take as their endpoint, and the bucket that the server was started with.
    requests : list of Request
        Every request answered so far, oldest first.
    """

    def __init__(self, bucket: str, port: int) -> None:
        require("moto", "flask", "flask_cors")
        from moto.core import utils
        from moto.moto_server.werkzeug_app import create_backend_app
        from moto.s3 import models
        from werkzeug.serving import WSGIRequestHandler, make_server

        # moto's first error would read the user's AWS files for the name of a service it has.
        with patch.object(utils, "Session"):
            utils.service_name_from_moto_package_name("s3")
        # Without a log: nothing on stderr, and no logger of the host program is changed.
        mute = type("Handler", (WSGIRequestHandler,), {"log": lambda *args: None})
        # werkzeug prints and exits when a port is taken, so the socket is opened here.
        with socket.create_server(("127.0.0.1", port), backlog=128) as s:
            self._http = make_server("127.0.0.1", 0, self._answer, True, False, mute, fd=s.fileno())
        port = self._http.port
        self.endpoint_url, self.bucket = f"http://127.0.0.1:{port}", bucket
        self.requests: list[Request] = []
        self._denied: dict[str, tuple[str, ...]] = {}
        # moto's state belongs to the process; an account of its own keeps each server apart.
        self._account = os.environ.get("MOTO_ACCOUNT_ID", f"7{port:011d}")
        self._models, self._store = models, models.s3_backends[self._account]["aws"]
        self._moto = create_backend_app("s3")
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def gets(self, key_prefix: str = "", bucket: str | None = None) -> Counter[str]:
        """Count, by key, the GET requests that carried object data (status 200 or 206)."""
        where = ("GET", bucket or self.bucket)
        full = [r for r in list(self.requests) if r[:2] == where and r.status in (200, 206)]
        return Counter(r.key for r in full if r.key and r.key.startswith(key_prefix))

    def listings(self) -> list[Request]:
        """Pick the list-objects requests, one for each page, of every bucket."""
        return [r for r in list(self.requests) if r.method == "GET" and r.bucket and not r.key]

    def add_bucket(self, name: str, objects: dict[str, bytes], denied: Iterable[str] = ()) -> None:
        """Serve one more bucket; `denied` as in `deny`."""
        self._store.create_bucket(name, "us-west-2")
        # moto registers a name for all accounts; this one stays the server's own.
        self._models.s3_backends.bucket_accounts.pop(name, None)
        for key, content in objects.items():
            self.put(key, content, name)
        self.deny(denied, name)

    def put(self, key: str, content: bytes, bucket: str | None = None) -> None:
        """Store an object, or replace it."""
        self._store.put_object(bucket or self.bucket, key, content, disable_notification=True)

    def delete(self, key: str, bucket: str | None = None) -> None:
        """Take an object away (KeyError if there is none)."""
        del self._store.get_bucket(bucket or self.bucket).keys[key]

    def deny(self, keys: Iterable[str], bucket: str | None = None) -> None:
        """Answer 403 to reads of `keys` (exact, or shell-style patterns) and of no others."""
        self._denied[bucket or self.bucket] = tuple(keys)

    def stop(self) -> None:
        """Stop answering; give back the port and the memory."""
        self._http.shutdown()
        self._thread.join()
        self._store.buckets.clear()
        # moto holds on to every object ever made, and warns of those that were not disposed of.
        tracked = vars(self._models.FakeKey)["instances_tracked"]
        for key in [key for key in tracked if key.account_id == self._account]:
            key.dispose()
            tracked.remove(key)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        bucket, _, key = path.encode("latin-1").decode().removeprefix("/").partition("/")
        query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))

        def record(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # Before the answer leaves, so that a client that has its answer finds it recorded.
            self.requests.append(Request(method, bucket, key, query, int(status[:3])))
            return start_response(status, headers, *rest)

        denied = self._denied.get(bucket, ()) if key else ()
        refused = any(key == name or fnmatchcase(key, name) for name in denied)
        if method not in ("GET", "HEAD"):
            refused = "HTTP_AUTHORIZATION" not in environ
        if refused:  # here, not by a policy: moto's answer would lack the error code that S3 sends
            record("403 Forbidden", [("Content-Type", "application/xml")])
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            return [] if method == "HEAD" else [body]
        # What is left is allowed, so moto gets each request as a signed one.
        environ["HTTP_AUTHORIZATION"] = "Credential=sample/20260101/us-west-2/s3/aws4_request"
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = self._account
        return self._moto(environ, record)


@contextmanager
def serve_sample(
    objects: dict[str, bytes] | None = None, *, bucket: str = "laion-fmri", port: int = 0
) -> Iterator[SampleServer]:
    """Serve `objects` (key -> content, by default the sample) for as long as the context lasts.

    `port` is on 127.0.0.1; 0 takes a free one, and one that is taken raises OSError. The keys of
    `HELD_OUT` answer 403 until `SampleServer.deny` says otherwise.
    """
    server = SampleServer(bucket, port)
    try:
        server.add_bucket(bucket, sample_objects() if objects is None else objects, HELD_OUT)
        yield server
    finally:
        server.stop()
