"""A stand-in of the service that gives out the images, and of where it keeps them, on loopback.

Written from the description of its protocol, and not from the client in the package.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

KEY = "stimuli/task-images_stimuli.h5"
#: What is known to the service; both have to stay secret.
REQUEST_ID = "3f0c7a52-SECRET-id.9+x"
SIGNATURE = "X-Amz-Signature-5ecre7"


class Seen(NamedTuple):
    """A request: its kind, its Range, its headers, and its body."""

    kind: str
    range: str | None
    headers: dict[str, str]
    body: bytes


@dataclass
class Stand:
    """What the service has, how it behaves, and what it was asked."""

    url: str
    content: bytes
    sha256: str = ""
    size: int | None = None  # what it announces, if that is not the truth
    #: Answers in place of the usual ones: (status, body, headers); a body of None hangs.
    refresh: list[tuple] = field(default_factory=list)
    always: tuple | None = None  # the same, for each refresh
    #: What becomes of each download in turn: see `Handler._download`.
    downloads: list = field(default_factory=list)
    every: object = None
    has_ranges: bool = True
    issued: int = 0  # addresses so far; only the last one is valid
    seen: list[Seen] = field(default_factory=list)

    def find(self, kind: str) -> list[Seen]:
        """Return the requests of a kind: ``refresh`` or ``download``."""
        return [request for request in self.seen if request.kind == kind]


class _Handler(BaseHTTPRequestHandler):
    stand: Stand
    protocol_version = "HTTP/1.1"

    def log_message(self, *_words: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer to a refresh."""
        stand = self.stand
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        stand.seen.append(Seen("refresh", None, dict(self.headers), body))
        odd = stand.refresh.pop(0) if stand.refresh else stand.always
        if odd:
            self._send(*odd)
            return
        asked = json.loads(body) if self.path == "/api/v1/refresh" else {}
        if asked != {"request_id": REQUEST_ID, "dataset_version": "v1"}:
            self._send(404, json.dumps({"detail": f"unknown id {asked.get('request_id')}"}))
            return
        stand.issued += 1
        file = {
            "name": "task-images_stimuli.h5",
            "url": f"{stand.url}/files/{stand.issued}?{SIGNATURE}={stand.issued}",
            "size": len(stand.content) if stand.size is None else stand.size,
            "sha256": stand.sha256 or hashlib.sha256(stand.content).hexdigest(),
        }
        self._send(200, json.dumps({"expires_at": "2026-11-26T17:00:00Z", "files": [file]}))

    def do_GET(self) -> None:
        """Give out the file, or part of it."""
        stand = self.stand
        asked = self.headers.get("Range")
        stand.seen.append(Seen("download", asked, dict(self.headers), self.path.encode()))
        if not re.fullmatch(rf"/files/{stand.issued}\?{SIGNATURE}={stand.issued}", self.path):
            self._send(403, "<Error><Code>AccessDenied</Code></Error>")
            return
        self._download(asked, stand.downloads.pop(0) if stand.downloads else stand.every)

    def _download(self, asked: str | None, how: object) -> None:
        """Send all of it; an int cuts it after so many bytes; "expire" does so and renews."""
        stand, content = self.stand, self.stand.content
        if isinstance(how, tuple):
            self._send(*how)
            return
        start = 0
        if asked and stand.has_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self._send(416, "")
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if how is None:
            self.wfile.write(rest)
            return
        kind, count = how if isinstance(how, list) else ("cut", how)
        self.wfile.write(rest[:count])
        self.wfile.flush()
        if kind == "expire":
            stand.issued += 1000
        if kind == "hang":
            time.sleep(60)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, body: str | None, headers: dict[str, str] | None = None) -> None:
        if body is None:
            time.sleep(60)
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


@contextmanager
def serve_images(content: bytes) -> Iterator[Stand]:
    """Serve `content` as the images."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_words: None
    handler.stand = Stand(f"http://127.0.0.1:{server.server_port}", content)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    try:
        yield handler.stand
    finally:
        server.shutdown()
        server.socket.close()
