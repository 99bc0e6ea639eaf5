"""The fault bench itself: each fault does what its name says, to the requests that were meant."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from urllib.parse import quote, urlencode

import pytest
from faults import serve_faults

BUCKET = "faulty"
A, B, C, D, E = KEYS = [f"data/{name}.bin" for name in "abcde"]
ODD = "odd/a b+c%/µ?.tsv"
BODY = bytes(range(256)) * 4
OBJECTS = dict.fromkeys(KEYS, BODY) | {ODD: b"odd", "large": bytes(9_000_000)}


@pytest.fixture(scope="module")
def upstream(server):
    """Serve this module's objects as a bucket of its own."""
    server.add_bucket(BUCKET, OBJECTS)
    return server


@pytest.fixture
def bench(upstream):
    """Stand in front of the sample server."""
    with serve_faults(upstream) as running:
        yield running


def connect(server):
    """Return one connection, to be closed."""
    address = server.endpoint_url.removeprefix("http://")
    return contextlib.closing(http.client.HTTPConnection(address, timeout=20))


def ask(server, key="", method="GET", headers=None, **query):
    """Return status, headers and body of one request on a connection of its own."""
    path = f"/{BUCKET}" + (f"/{quote(key)}" if key else "?" + urlencode({"list-type": 2} | query))
    with connect(server) as connection:
        connection.request(method, path, headers=headers or {})
        with connection.getresponse() as response:
            return response.status, response.headers, response.read()


def read_raw(server, key, timeout=20.0) -> tuple[bytes, bytes, str]:
    """Return the head and the body that one request brings, and how the connection ends."""
    host, port = server.endpoint_url.removeprefix("http://").split(":")
    got, end = b"", "close"
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(f"GET /{BUCKET}/{key} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            while piece := connection.recv(65536):
                got += piece
        except ConnectionResetError:
            end = "reset"
        except TimeoutError:
            end = "silence"
    head, _, body = got.partition(b"\r\n\r\n")
    return head, body, end


def list_keys(server, **query) -> list[list[str]]:
    """Follow a listing to its end, ten pages at most; return the keys of each page."""
    pages, more = [], query
    while more and len(pages) < 10:
        page = ask(server, **more)[2].decode()
        pages.append(re.findall("<Key>([^<]*)</Key>", page))
        found = re.search("<NextContinuationToken>([^<]*)<", page)
        more = found and query | {"continuation-token": found[1]}
    return pages


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("key", "headers"),
    [(A, {}), (A, {"Range": "bytes=2-5"}), (ODD, {}), ("large", {}), ("data/no.bin", {}), ("", {})],
)
def test_passes_on_what_it_does_not_break(bench, upstream, method, key, headers):
    """Status, headers and body are those of the server behind it."""
    odd_ones = ("date", "connection", "x-amzn-requestid")  # differ from answer to answer
    answers = []
    for server in (upstream, bench):
        status, said, body = ask(server, key, method, headers)
        body = re.sub(b"<(RequestId|HostId)>[^<]*", b"", body)
        said = sorted((k.lower(), v) for k, v in said.items() if k.lower() not in odd_ones)
        answers.append((status, said, body))
    assert answers[0] == answers[1]


def test_records_what_was_asked(bench):
    """A key is decoded, a query too, the range is there, and GET requests for objects count."""
    ask(bench, ODD, headers={"Range": "bytes=0-1"})
    ask(bench, prefix="odd/a b")
    ask(bench, A, "HEAD")
    listing = {"list-type": "2", "prefix": "odd/a b"}
    assert [
        ("GET", BUCKET, ODD, {}, "bytes=0-1", "", 206),
        ("GET", BUCKET, "", listing, "", "", 200),
        ("HEAD", BUCKET, A, {}, "", "", 200),
    ] == [exchange[1:] for exchange in bench.exchanges]
    assert dict(bench.gets_by_key()) == {ODD: 1}


@pytest.mark.parametrize(
    ("fault", "code"),
    [("403", "AccessDenied"), ("404", "NoSuchKey"), ("500", "InternalError"), ("503", "SlowDown")],
)
def test_statuses(bench, fault, code):
    """They come with the XML of S3; HEAD brings the status alone; and they end with the rules."""
    bench.break_(fault, A, method="*")
    status, headers, body = ask(bench, A)
    assert (int(fault), "application/xml") == (status, headers["Content-Type"])
    assert f"<Error><Code>{code}</Code><Message>".encode() in body
    assert (int(fault), b"") == ask(bench, A, "HEAD")[::2]
    assert [int(fault)] * 2 == [exchange.status for exchange in bench.exchanges]
    bench.mend()
    assert ask(bench, A)[0] == 200


@pytest.mark.parametrize(
    ("fault", "after", "expected"),
    [
        ("reset-at-once", 0, (b"", 0, "reset")),
        ("stall-at-once", 0, (b"", 0, "silence")),
        ("reset", 5_000_000, (b"9000000", 5_000_000, "reset")),
        ("short", 100, (b"9000000", 100, "close")),
        ("stall", 100, (b"9000000", 100, "silence")),
    ],
)
def test_an_answer_that_breaks_off(bench, fault, after, expected):
    """All is announced or nothing, so much arrives, and the connection ends in its own way."""
    bench.break_(fault, "large", after=after)
    head, body, end = read_raw(bench, "large", timeout=1)
    announced = re.search(rb"(?i)content-length: (\d+)", head)
    assert expected == (announced[1] if announced else b"", len(body), end)
    status = 200 if announced else 0
    assert [("large", fault, status)] == [(e.key, e.fault, e.status) for e in bench.exchanges]


@pytest.mark.parametrize(
    ("fault", "about"),
    [
        ("slow", {"rate": 4096}),
        ("delay", {"delay": 0.25}),
        ("hold", {}),
        ("call", {"do": lambda: time.sleep(0.25)}),
    ],
)
def test_what_takes_its_time(bench, fault, about):
    """The answer is the proper one, and no earlier than was said."""
    rule = bench.break_(fault, A, **about)
    start = time.monotonic()
    threading.Timer(0.25, bench.mend if fault == "hold" else bool).start()
    assert ask(bench, A)[::2] == (200, BODY)
    assert (time.monotonic() - start >= 0.25, rule.hits) == (True, 1)  # 1024 bytes at 4096 a second


def test_a_captive_portal(bench):
    """It answers everything alike, or sends everyone to its login page, which is never broken."""
    for about in ({"method": "*"}, {"listing": True}):
        bench.break_("html", times=2, **about)
        bench.break_("redirect", **about)
    for key in (A, ""):
        for expected in ((200, None), (200, None), (302, f"{bench.endpoint_url}/login")):
            status, headers, body = ask(bench, key)
            assert expected == (status, headers["Location"])
            assert (headers["Content-Type"], body[:15]) == ("text/html", b"<!DOCTYPE html>")
    with connect(bench) as connection:
        connection.request("GET", "/login")
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("fault", "times", "expected"),
    [
        (None, None, [[A, B], [C, D], [E]]),
        ("repeat-page", 1, [[A, B], [A, B], [C, D], [E]]),
        ("repeat-page", None, [[A, B], [A, B], [C, D], [A, B], [E]]),
        ("loop-page", None, [[A, B]] * 10),
    ],
)
def test_pages_of_a_listing(bench, fault, times, expected):
    """They are as small as wanted; one may come again, and then the listing goes on or does not."""
    bench.page_size = 2
    if fault:
        bench.break_(fault, times=times)
    assert expected == list_keys(bench, prefix="data/")


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, [A, B, ODD]),
        ({"key": "data/*"}, [A, B]),
        ({"key": ODD}, [ODD]),
        ({"method": "HEAD"}, ["HEAD"]),
        ({"method": "*"}, [A, B, ODD, "HEAD"]),
        ({"listing": True}, ["data/", "odd/"]),
        ({"listing": True, "prefix": "o*"}, ["odd/"]),
        ({"bucket": "other"}, []),
        ({"times": 2}, [A, B]),
        ({"skip": 1, "times": 1}, [B]),
    ],
)
def test_what_a_rule_is_about(bench, about, expected):
    """Requests of another kind are left alone, or to the next rule."""
    rule = bench.break_("503", **about)
    bench.break_("500", C)
    answers = {key: ask(bench, key)[0] for key in (A, B, ODD)}
    answers |= {"HEAD": ask(bench, A, "HEAD")[0]}
    answers |= {prefix: ask(bench, prefix=prefix)[0] for prefix in ("data/", "odd/")}
    assert expected == [name for name, status in answers.items() if status == 503]
    assert len(expected) == rule.hits


def test_stops_at_once(upstream, capfd):
    """What hangs in any way holds nothing up, and nothing is printed."""
    with serve_faults(upstream) as bench, contextlib.ExitStack() as stack:
        kinds = ("stall-at-once", "stall", "hold", "slow", "delay")
        for kind, key in zip(kinds, KEYS, strict=True):
            bench.break_(kind, key, after=10, rate=1, delay=60 if kind == "delay" else 0)
        for key in KEYS * 10:
            connection = stack.enter_context(connect(bench))
            connection.request("GET", f"/{BUCKET}/{key}")
        assert bench.wait_for(lambda _: len(bench.exchanges) == 50, 30)
        start = time.monotonic()
        bench.stop()
        assert time.monotonic() - start < 40  # they hang for ever, or for a minute
        with pytest.raises(ConnectionRefusedError):
            ask(bench, A)
    assert capfd.readouterr() == ("", "")


def test_a_call_that_fails(upstream):
    """What it raises comes out at the end, so that no test passes by mistake."""
    stack = contextlib.ExitStack()
    bench = stack.enter_context(serve_faults(upstream))
    bench.break_("call", A, do=lambda: 1 // 0)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(bench, A)
    with pytest.raises(ExceptionGroup) as caught:
        stack.close()
    assert [ZeroDivisionError] == [type(error) for error in caught.value.exceptions]
