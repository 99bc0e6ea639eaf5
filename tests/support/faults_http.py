"""The wire side of the fault bench: a thread for each connection, and what each fault sends."""

from __future__ import annotations

import contextlib
import fcntl
import re
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from faults import FaultServer, Rule

#: Status -> code and message, as in "Error responses" of the Amazon S3 API Reference.
ERRORS = {
    "403": ("AccessDenied", "Access Denied"),
    "404": ("NoSuchKey", "The specified key does not exist."),
    "500": ("InternalError", "We encountered an internal error. Please try again."),
    "503": ("SlowDown", "Please reduce your request rate."),
}
AT_ONCE = ("reset-at-once", "stall-at-once", "html", "redirect")
PROPER = ("hold", "call", "delay")
BODY = ("reset", "stall", "short", "slow")
PAGE = ("repeat-page", "loop-page")
FAULTS = (*ERRORS, *AT_ONCE, *PROPER, *BODY, *PAGE)

LOGIN = "/login"
PORTAL = b"<!DOCTYPE html>\n<html><body><h1>Guest Wi-Fi</h1>Please sign in.</body></html>\n"
#: Bytes that are read and written at a time.
PIECE = 65536
#: Seconds between the pieces of a slow body.
TICK = 0.02
#: What upstream says of its own connection.
HOP = ("connection", "content-length", "transfer-encoding")

Headers = list[tuple[str, str]]


class Gone(Exception):  # noqa: N818 - it is no error
    """The exchange ends here: nothing more is sent, and the connection closes."""


class BenchServer(ThreadingHTTPServer):
    """A thread for each connection, and all of them ended at once."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, bench: FaultServer) -> None:
        self.bench = bench
        self._open: set[socket.socket] = set()
        self._closed = threading.Condition()
        super().__init__(("127.0.0.1", 0), BenchHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection."""
        with self._closed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection; one that is to be reset gets no orderly end before."""
        with contextlib.suppress(OSError):
            if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER) == 0:
                request.shutdown(socket.SHUT_WR)
        with self._closed:
            request.close()
            self._open.discard(request)
            self._closed.notify_all()

    def server_close(self) -> None:
        """Give the port back, and end all connections, idle ones too."""
        super().server_close()
        with self._closed:
            for request in self._open:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)
            # A `do()` that does not come back is left to itself.
            self._closed.wait_for(lambda: not self._open, 0.7)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong, but for clients that went away."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            self.bench.crashes.append(error)


class BenchHandler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: BenchServer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer, or not."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer, or not."""
        self.asked, rule = self.server.bench.decide(
            self.command, self.path, self.headers.get("Range", "")
        )
        try:
            if rule is None and f"/{self.asked.bucket}" == LOGIN:
                self.send_whole(200, "text/html", PORTAL)
            elif rule is None:
                self.relay()
            else:
                self.apply(rule)
        except Gone:
            self.close_connection = True

    def apply(self, rule: Rule) -> None:
        """Do what a rule says."""
        if rule.delay:
            self.wait(rule, rule.delay)
        if rule.fault in ERRORS:
            self.send_refusal(rule.fault)
        elif rule.fault == "reset-at-once":
            self.reset()
        elif rule.fault == "stall-at-once":
            self.hang(rule)
        elif rule.fault == "html":
            self.send_whole(200, "text/html", PORTAL)
        elif rule.fault == "redirect":
            location = self.server.bench.endpoint_url + LOGIN
            self.send_whole(302, "text/html", PORTAL, Location=location)
        elif rule.fault in PAGE:
            self.send_page(rule.fault)
        else:
            if rule.fault == "hold":
                self.wait(rule, None)
            elif rule.do:
                rule.do()
            self.relay(rule)

    def wait(self, rule: Rule, seconds: float | None) -> None:
        """Wait until a rule is released, `seconds` at most; end with the bench."""
        rule.released.wait(seconds)
        if self.server.bench.stopping:
            raise Gone

    def hang(self, rule: Rule) -> None:
        """Say nothing more until the rule is released."""
        rule.released.wait()
        raise Gone

    def reset(self) -> None:
        """Break the connection, once what was sent is with the client's machine."""
        end = time.monotonic() + 1
        with contextlib.suppress(OSError):  # not every system tells what is under way
            while any(fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4))):
                if time.monotonic() > end:
                    break
                time.sleep(0.001)
        # A close that lingers for no seconds is a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone

    def send_head(self, status: int, headers: Headers, length: int | None) -> None:
        """Send the status line and the headers, with `length` as that of the body."""
        self.asked = self.server.bench.record(self.asked, status)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_whole(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        """Send an answer of our own; HEAD gets all but the body."""
        self.send_head(status, [("Content-Type", kind), *headers.items()], len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_refusal(self, status: str) -> None:
        """Send an error as S3 does."""
        code, message = ERRORS[status]
        if status == "404" and not self.asked.key:
            code, message = "NoSuchBucket", "The specified bucket does not exist"
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{message}</Message>"
            "<RequestId>FAULTS</RequestId><HostId>FAULTS</HostId></Error>"
        )
        self.send_whole(int(status), "application/xml", body.encode())

    @contextlib.contextmanager
    def ask(self, token: str | None = None) -> Iterator[HTTPResponse]:
        """Hand the request on, with another continuation token if one is given ("": none)."""
        bench, query = self.server.bench, dict(self.asked.query)
        if not self.asked.key and bench.page_size is not None:
            query["max-keys"] = str(bench.page_size)
        given = query.pop("continuation-token", "") if token is None else token
        query.pop("continuation-token", None)
        if given:
            query["continuation-token"] = bench.onward.get(given, given)
        where = self.path.partition("?")[0]
        if query:
            where += "?" + urlencode(query, quote_via=quote)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", *HOP)}
        with contextlib.closing(HTTPConnection(*bench.upstream)) as connection:
            connection.request(self.command, where, headers=headers)
            with connection.getresponse() as response:
                yield response

    def relay(self, rule: Rule | None = None) -> None:
        """Send what upstream answers, or as much of it, and as, a rule says."""
        fault, sent = rule.fault if rule else "", self.server.bench.sent
        with self.ask() as response:
            headers, length = response.getheaders(), response.headers["Content-Length"]
            pieces: Iterator[bytes] = iter(lambda: response.read(PIECE), b"")
            if length is None and self.command != "HEAD":  # it comes in chunks, and is short
                length, pieces = len(body := response.read()), iter([body])
            length = None if length is None else int(length)
            self.send_head(response.status, headers, length)
            if self.command == "HEAD":
                pieces = iter(())
            if rule and fault in ("reset", "stall", "short"):
                pieces = cut(pieces, rule.after)
            elif rule and fault == "slow":
                pieces = self.slow_down(pieces, rule)
            for piece in pieces:
                self.wfile.write(piece)
                sent[self.asked.key] += len(piece)
        if rule and fault == "reset":
            self.reset()
        elif rule and fault == "stall":
            self.hang(rule)
        elif fault == "short":
            raise Gone

    def slow_down(self, pieces: Iterator[bytes], rule: Rule) -> Iterator[bytes]:
        """Take a body apart, at so many bytes per second."""
        size = max(1, round(rule.rate * TICK))
        for piece in pieces:
            for start in range(0, len(piece), size):
                part = piece[start : start + size]
                self.wait(rule, len(part) / rule.rate)
                yield part

    def send_page(self, fault: str) -> None:
        """Answer a continued listing with the first page instead of the one asked for."""
        bench, token = self.server.bench, self.asked.query["continuation-token"]
        with self.ask("") as response:
            status, headers, page = response.status, response.getheaders(), response.read()
        if fault == "repeat-page":
            bench.onward[again := f"again-{token}"] = token
            token = again
        page = write_token(page, token)
        self.send_head(status, headers, len(page))
        self.wfile.write(page)


def cut(pieces: Iterator[bytes], left: int) -> Iterator[bytes]:
    """Yield the first `left` bytes."""
    while left > 0 and (piece := next(pieces, b"")):
        yield piece[:left]
        left -= len(piece)


def write_token(page: bytes, token: str) -> bytes:
    """Make a page lead to `token`."""
    return re.sub(rb"(<NextContinuationToken>)[^<]*", rb"\g<1>" + token.encode(), page)
