"""The fault bench itself: each fault does what its name says, to the requests that were meant."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections import Counter
from urllib.parse import quote, urlencode

import pytest
from faults import FaultServer, serve_faults
from helpers import find_aws, run

BUCKET = "faulty"
A, B, C, D, E = KEYS = [f"data/{name}.bin" for name in "abcde"]
ODD = "odd/a b+c%/µ?.tsv"
BODY = bytes(range(256)) * 4
OBJECTS = dict.fromkeys(KEYS, BODY) | {ODD: b"odd"}


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


@contextlib.contextmanager
def connect(server, timeout: float = 20):
    """Open one connection."""
    with contextlib.closing(
        http.client.HTTPConnection(server.endpoint_url.removeprefix("http://"), timeout=timeout)
    ) as connection:
        yield connection


def ask(server, key="", method="GET", headers=None, bucket=BUCKET, **query):
    """Return status, headers and body of one request on a connection of its own."""
    path = f"/{bucket}" + (f"/{quote(key)}" if key else "?" + urlencode({"list-type": 2} | query))
    with connect(server) as connection:
        connection.request(method, path, headers=headers or {})
        with connection.getresponse() as response:
            return response.status, response.headers, response.read()


def read_raw(server, key, method="GET", timeout=20.0):
    """Return what one request brings until the connection ends, and how it ends."""
    host, port = server.endpoint_url.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(f"{method} /{BUCKET}/{key} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            while piece := connection.recv(65536):
                got += piece
        except ConnectionResetError:
            return got, "reset"
        except TimeoutError:
            return got, "silence"
    return got, "close"


def split_raw(answer: bytes) -> tuple[int, int, bytes]:
    """Return status, announced length and body of what came over the wire."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return int(head.split()[1]), int(length[1]), body


def list_keys(server, **query) -> list[list[str]]:
    """Follow a listing to its end, ten pages at most; return the keys of each page."""
    pages, token = [], {}
    while len(pages) < 10:
        status, _, page = ask(server, **query, **token)
        assert status == 200
        pages.append(re.findall("<Key>([^<]*)</Key>", page.decode()))
        found = re.search("<NextContinuationToken>([^<]*)<", page.decode())
        if not found:
            break
        token = {"continuation-token": found[1]}
    return pages


def run_aws(server, *words):
    """Run the real AWS CLI, which tries three times."""
    options = ["--endpoint-url", server.endpoint_url, "--no-sign-request", "--region", "us-west-2"]
    clean = {"AWS_PROFILE": None, "AWS_CONFIG_FILE": "/dev/null", "AWS_MAX_ATTEMPTS": 3}
    clean |= {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true"}
    return run([find_aws(), *words, *options], **clean)


def outcomes(server: FaultServer) -> list[tuple[str, str, int]]:
    """Return key, fault and status of each exchange."""
    return [(e.key, e.fault, e.status) for e in server.exchanges]


# What is not broken


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (A, {}),
        (A, {"Range": "bytes=2-5"}),
        (A, {"Range": "bytes=5000-6000"}),
        (ODD, {}),
        ("data/no.bin", {}),
        ("", {}),
    ],
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
    """A key is decoded, a query too, and the range is there."""
    ask(bench, ODD, headers={"Range": "bytes=0-1"})
    ask(bench, prefix="odd/a b")
    ask(bench, A, "HEAD")
    listing = {"list-type": "2", "prefix": "odd/a b"}
    assert [
        ("GET", BUCKET, ODD, {}, "bytes=0-1", "", 206),
        ("GET", BUCKET, "", listing, "", "", 200),
        ("HEAD", BUCKET, A, {}, "", "", 200),
    ] == [exchange[1:] for exchange in bench.exchanges]
    times = [exchange.time for exchange in bench.exchanges]
    assert sorted(times) == times
    assert 0 <= time.monotonic() - times[-1] < 60


def test_keeps_connections_alive(bench):
    """A client asks again on the same connection, also after an error."""
    bench.break_("503", A)
    bench.break_("html", B)
    with connect(bench) as connection:
        sockets = set()
        for key in (A, B, C, D):
            connection.request("GET", f"/{BUCKET}/{key}")
            connection.getresponse().read()
            sockets.add(connection.sock)
    assert len(sockets) == 1
    assert None not in sockets


def test_large_bodies_arrive_whole(bench, upstream):
    """More than fits into any buffer on the way."""
    body = bytes(range(256)) * 10_000
    upstream.put("large/1", body, BUCKET)
    assert (200, body) == ask(bench, "large/1")[::2]
    bench.break_("flip", "large/1", after=2_000_001)
    changed = ask(bench, "large/1")[2]
    upstream.delete("large/1", BUCKET)
    assert [i for i, (x, y) in enumerate(zip(body, changed, strict=True)) if x != y] == [2_000_001]


# Each fault


@pytest.mark.parametrize(
    ("fault", "code"),
    [("403", "AccessDenied"), ("404", "NoSuchKey"), ("500", "InternalError"), ("503", "SlowDown")],
)
def test_statuses(bench, fault, code):
    """They come with the XML of S3; HEAD brings the status alone."""
    bench.break_(fault, A, method="*")
    status, headers, body = ask(bench, A)
    assert (int(fault), "application/xml") == (status, headers["Content-Type"])
    assert f"<Error><Code>{code}</Code><Message>".encode() in body
    assert (int(fault), b"") == ask(bench, A, "HEAD")[::2]
    assert [(A, fault, int(fault))] * 2 == outcomes(bench)


def test_a_listing_is_refused(bench):
    """What is missing then is the bucket."""
    bench.break_("404", listing=True)
    status, _, body = ask(bench)
    assert status == 404
    assert b"<Code>NoSuchBucket</Code>" in body


@pytest.mark.parametrize("after", [0, 100, 1024])
def test_reset(bench, after):
    """All is announced, so much arrives, then the connection is reset."""
    bench.break_("reset", A, after=after)
    answer, end = read_raw(bench, A)
    assert ((200, 1024, BODY[:after]), "reset") == (split_raw(answer), end)
    assert outcomes(bench) == [(A, "reset", 200)]


def test_reset_of_a_large_body(bench, upstream):
    """A client that is slow to read gets all that was promised."""
    upstream.put("large/2", body := bytes(9_000_000), BUCKET)
    bench.break_("reset", "large/2", after=5_000_000)
    answer, end = read_raw(bench, "large/2")
    upstream.delete("large/2", BUCKET)
    assert ((200, 9_000_000, body[:5_000_000]), "reset") == (split_raw(answer), end)


def test_reset_at_once(bench):
    """Nothing arrives."""
    bench.break_("reset-at-once", A)
    assert read_raw(bench, A) == (b"", "reset")
    assert outcomes(bench) == [(A, "reset-at-once", 0)]


def test_stall(bench):
    """So much arrives, then nothing, until the bench is mended."""
    bench.break_("stall", A, after=100)
    answer, end = read_raw(bench, A, timeout=1)
    assert ((200, 1024, BODY[:100]), "silence") == (split_raw(answer), end)
    with connect(bench) as connection:
        connection.request("GET", f"/{BUCKET}/{A}")
        response = connection.getresponse()
        assert BODY[:100] == response.read(100)
        bench.mend()
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert outcomes(bench) == [(A, "stall", 200)] * 2


def test_stall_at_once(bench):
    """Nothing arrives, and it is recorded while it hangs."""
    rule = bench.break_("stall-at-once", A, method="*")
    assert read_raw(bench, A, timeout=1) == (b"", "silence")
    assert outcomes(bench) == [(A, "stall-at-once", 0)]
    with connect(bench) as connection:
        connection.request("HEAD", f"/{BUCKET}/{A}")
        assert bench.wait_for(lambda exchange: exchange.method == "HEAD", 20)
        rule.release()
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()


@pytest.mark.parametrize("after", [0, 100])
def test_short(bench, after):
    """All is announced, so much arrives, then comes an orderly end."""
    bench.break_("short", A, after=after)
    answer, end = read_raw(bench, A)
    assert ((200, 1024, BODY[:after]), "close") == (split_raw(answer), end)


def test_slow(bench):
    """The body takes its time, and its pieces come one by one."""
    bench.break_("slow", A, rate=4096)
    start, pieces = time.monotonic(), []
    with connect(bench) as connection:
        connection.request("GET", f"/{BUCKET}/{A}")
        response = connection.getresponse()
        while piece := response.read1(65536):
            pieces.append(piece)
        seconds = time.monotonic() - start
    assert b"".join(pieces) == BODY
    assert len(pieces) > 2
    assert seconds >= 0.25  # 1024 bytes at 4096 a second


def test_slow_ends_when_it_is_mended(bench):
    """The rest comes at once."""
    rule = bench.break_("slow", A, rate=1)
    threading.Thread(target=lambda: rule.reached.wait(20) and bench.mend()).start()
    assert ask(bench, A)[::2] == (200, BODY)


@pytest.mark.parametrize(("after", "where"), [(0, 0), (700, 700), (5000, 1023)])
def test_flip(bench, after, where):
    """One byte is another, and nothing else."""
    bench.break_("flip", A, after=after)
    status, headers, body = ask(bench, A)
    assert (status, headers["Content-Length"]) == (200, "1024")
    assert [where] == [i for i, (x, y) in enumerate(zip(BODY, body, strict=True)) if x != y]


@pytest.mark.parametrize("fault", ["grow", "other-size"])
@pytest.mark.parametrize(("extra", "expected"), [(7, BODY + b"+" * 7), (-24, BODY[:1000])])
def test_another_size(bench, fault, extra, expected):
    """The body has another length than listed, and says so itself."""
    bench.break_(fault, A, extra=extra, method="*")
    for method, body in (("GET", expected), ("HEAD", b"")):
        status, headers, got = ask(bench, A, method)
        assert (200, str(len(expected)), body) == (status, headers["Content-Length"], got)


def test_another_size_of_a_range(bench):
    """The range tells of the longer object."""
    bench.break_("grow", A, extra=2)
    status, headers, body = ask(bench, A, headers={"Range": "bytes=1000-1023"})
    assert (status, headers["Content-Range"]) == (206, "bytes 1000-1025/1026")
    assert BODY[1000:] + b"++" == body


def test_html(bench):
    """A captive portal answers everything alike."""
    for method in ("GET", "HEAD"):
        bench.break_("html", method=method)
        bench.break_("html", method=method, listing=True)
        for key in (A, ""):
            status, headers, body = ask(bench, key, method)
            assert (status, headers["Content-Type"]) == (200, "text/html")
            assert int(headers["Content-Length"]) > 0
            assert (method == "GET") == body.startswith(b"<!DOCTYPE html>")


def test_redirect(bench):
    """Or it sends everyone to its login page, which is never broken."""
    bench.break_("503", listing=True, skip=1)
    bench.break_("redirect", method="*")
    status, headers, _ = ask(bench, A)
    assert (302, f"{bench.endpoint_url}/login") == (status, headers["Location"])
    assert ask(bench, A, "HEAD")[::2] == (302, b"")
    for _ in range(2):
        with connect(bench) as connection:
            connection.request("GET", "/login")
            with connection.getresponse() as response:
                assert (response.status, response.headers["Content-Type"]) == (200, "text/html")
                assert response.read().startswith(b"<!DOCTYPE html>")
    last = bench.exchanges[-1]
    assert (last.bucket, last.key, last.fault, last.status) == ("login", "", "", 200)


def test_hold(bench):
    """The answer is the proper one, once it may leave."""
    rule = bench.break_("hold", A)
    with connect(bench) as connection:
        connection.request("GET", f"/{BUCKET}/{A}")
        assert rule.reached.wait(20)
        assert outcomes(bench) == [(A, "hold", 0)]
        rule.release()
        assert connection.getresponse().read() == BODY
    assert outcomes(bench) == [(A, "hold", 200)]


def test_call(bench, upstream):
    """What it does comes before the answer."""
    upstream.put("call/1", b"old", BUCKET)
    bench.break_("call", "call/1", do=lambda: upstream.put("call/1", b"new", BUCKET), times=1)
    assert ask(bench, "call/1")[::2] == (200, b"new")
    bench.break_("call", "call/1", do=lambda: upstream.delete("call/1", BUCKET), times=1)
    assert ask(bench, "call/1")[0] == 404


@pytest.mark.parametrize(("fault", "status"), [("delay", 200), ("503", 503)])
def test_delay(bench, fault, status):
    """It goes with any fault, or alone."""
    bench.break_(fault, A, delay=0.2)
    start = time.monotonic()
    assert status == ask(bench, A)[0]
    assert time.monotonic() - start >= 0.2


# Listings


def test_pages_as_small_as_wanted(bench):
    """The bench sets the size, whatever the client asks for."""
    bench.page_size = 2
    assert list_keys(bench, prefix="data/") == [[A, B], [C, D], [E]]
    assert list_keys(bench, prefix="data/", **{"max-keys": 1000}) == [[A, B], [C, D], [E]]
    bench.page_size = None
    assert list_keys(bench, prefix="data/") == [KEYS]


def test_repeat_page(bench):
    """The first page comes again, and the listing goes on where it was."""
    bench.page_size = 2
    rule = bench.break_("repeat-page", times=1)
    assert list_keys(bench, prefix="data/") == [[A, B], [A, B], [C, D], [E]]
    assert rule.hits == 1
    assert list_keys(bench, prefix="data/") == [[A, B], [C, D], [E]]


def test_repeat_page_for_ever(bench):
    """Each page has the first before it, and the listing still ends."""
    bench.page_size = 2
    bench.break_("repeat-page")
    assert list_keys(bench, prefix="data/") == [[A, B], [A, B], [C, D], [A, B], [E]]


def test_loop_page(bench):
    """A listing that never ends: the token leads to itself."""
    bench.page_size = 2
    bench.break_("loop-page")
    assert list_keys(bench, prefix="data/") == [[A, B]] * 10
    tokens = [e.query.get("continuation-token") for e in bench.exchanges]
    assert [None] + [tokens[1]] * 9 == tokens


@pytest.mark.parametrize(
    ("skip", "expected"),
    [(0, [[A, B], [E]]), (1, [[A, B], [C, D], []]), (2, [[A, B], [C, D], [E]])],
)
def test_drop_page(bench, skip, expected):
    """One page is missing, and nothing tells so."""
    bench.page_size = 2
    bench.break_("drop-page", times=1, skip=skip)
    assert expected == list_keys(bench, prefix="data/")


def test_a_page_in_the_middle_fails(bench):
    """A listing breaks like anything else."""
    bench.page_size = 2
    bench.break_("503", listing=True, skip=1, times=1)
    assert ask(bench, prefix="data/")[0] == 200
    assert ask(bench, prefix="data/")[0] == 503
    assert ask(bench, prefix="data/")[0] == 200


# Which requests, and how often


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, [A, B, ODD]),
        ({"key": A}, [A]),
        ({"key": "data/*"}, [A, B]),
        ({"key": ODD}, [ODD]),
        ({"method": "HEAD"}, ["HEAD"]),
        ({"method": "*"}, [A, B, ODD, "HEAD"]),
        ({"listing": True}, ["data/", "odd/"]),
        ({"listing": True, "prefix": "o*"}, ["odd/"]),
        ({"bucket": BUCKET, "key": A}, [A]),
        ({"bucket": "other"}, []),
        ({"times": 2}, [A, B]),
        ({"times": 0}, []),
        ({"skip": 1}, [B, ODD]),
        ({"skip": 1, "times": 1}, [B]),
        ({"share": 0.0}, []),
    ],
)
def test_what_a_rule_is_about(bench, about, expected):
    """Requests of another kind are left alone."""
    rule = bench.break_("503", **about)
    answers = {key: ask(bench, key)[0] for key in (A, B, ODD)}
    answers |= {"HEAD": ask(bench, A, "HEAD")[0]}
    answers |= {prefix: ask(bench, prefix=prefix)[0] for prefix in ("data/", "odd/")}
    assert expected == [name for name, status in answers.items() if status == 503]
    assert len(expected) == rule.hits


def test_times_of_each_key(bench):
    """Every object fails once."""
    bench.break_("503", times=1, per_key=True)
    assert [ask(bench, key)[0] for key in (A, B, A, B)] == [503, 503, 200, 200]


def test_skips_of_each_key(bench):
    """Every object fails the second time that it is asked for."""
    bench.break_("503", times=1, skip=1, per_key=True)
    keys = (A, B, A, A, B, B)
    assert [ask(bench, key)[0] for key in keys] == [200, 200, 503, 200, 503, 200]


def test_times_of_each_prefix(bench):
    """Every listing fails once."""
    bench.break_("503", listing=True, times=1, per_key=True)
    prefixes = ("data/", "odd/", "data/", "odd/")
    assert [ask(bench, prefix=prefix)[0] for prefix in prefixes] == [503, 503, 200, 200]


def test_the_first_rule_that_hits_applies(bench):
    """One that is used up or not drawn leaves the request to the next."""
    bench.break_("404", A, share=0.0)
    bench.break_("503", A, times=1)
    bench.break_("500", "data/*", times=2)
    assert [ask(bench, key)[0] for key in (A, A, B, A)] == [503, 500, 500, 200]


def test_a_share_of_the_requests(upstream):
    """The draws are the same for the same seed."""
    drawn = []
    for seed in (1, 1, 2):
        with serve_faults(upstream, seed=seed) as bench:
            bench.break_("503", A, share=0.5)
            drawn.append([ask(bench, A)[0] for _ in range(30)])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert {200, 503} == set(drawn[0])


def test_mend(bench):
    """No rule is left, and those that come later are new."""
    bench.break_("503", A)
    bench.mend()
    assert ask(bench, A)[0] == 200
    bench.break_("500", A)
    assert ask(bench, A)[0] == 500


def test_counts(bench):
    """Every GET of an object counts, whatever came of it; nothing else does."""
    bench.break_("503", A, times=1)
    bench.break_("reset-at-once", B, times=1)
    with pytest.raises(ConnectionResetError):
        ask(bench, B)
    for key, method in ((A, "GET"), (A, "GET"), (A, "HEAD"), ("", "GET"), (B, "GET")):
        ask(bench, key, method)
    assert (bench.gets(A), bench.gets(B), bench.gets(C)) == (2, 2, 0)
    assert Counter({A: 2, B: 2}) == bench.gets_by_key()
    bench.clear()
    assert (Counter(), []) == (bench.gets_by_key(), bench.exchanges)


def test_wait_for(bench):
    """It tells whether what was waited for has come."""
    assert not bench.wait_for(lambda exchange: exchange.key == A, 0.05)
    asking = threading.Thread(target=ask, args=(bench, A))
    asking.start()
    assert bench.wait_for(lambda exchange: exchange.key == A and exchange.status == 200, 20)
    asking.join()
    assert bench.wait_for(lambda exchange: exchange.key == A, 0)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"fault": "teapot"}, "no fault 'teapot'; there are: 403, 404, .*, drop-page"),
        ({"fault": "503", "method": "PUT"}, "no method 'PUT'; there are: GET, HEAD, *"),
        ({"fault": "call"}, "the fault 'call' needs `do`"),
        ({"fault": "503", "do": print}, "the fault 'call' needs `do`, and no other takes it"),
    ],
)
def test_a_rule_that_makes_no_sense(bench, about, message):
    """It is refused when it is given."""
    with pytest.raises(ValueError, match=message):
        bench.break_(**about)


# The server


def test_stops_at_once(upstream, capfd):
    """A hundred and more that hang in every way hold nothing up, and nothing is printed."""
    with serve_faults(upstream) as bench, contextlib.ExitStack() as stack:
        kinds = ("stall-at-once", "stall", "hold", "slow", "delay")
        for kind, key in zip(kinds, KEYS, strict=True):
            bench.break_(kind, key, after=10, rate=1, delay=60 if kind == "delay" else 0)
        for key in KEYS * 24:
            connection = stack.enter_context(connect(bench))
            connection.request("GET", f"/{BUCKET}/{key}")
        idle = stack.enter_context(connect(bench))
        idle.request("GET", f"/{BUCKET}/{quote(ODD)}")
        idle.getresponse().read()
        assert bench.wait_for(lambda _: len(bench.exchanges) == 121, 30)
        start = time.monotonic()
        bench.stop()
        seconds = time.monotonic() - start
        with pytest.raises(ConnectionRefusedError):
            ask(bench, A)
        bench.stop()  # twice is once
    assert seconds < 10  # they hang for ever, or for a minute
    assert capfd.readouterr() == ("", "")


def test_stops_while_a_call_does_not_return(upstream):
    """It is left to itself."""
    end = threading.Event()
    with serve_faults(upstream) as bench, connect(bench) as connection:
        rule = bench.break_("call", A, do=lambda: end.wait(60))
        connection.request("GET", f"/{BUCKET}/{A}")
        assert rule.reached.wait(20)
        start = time.monotonic()
        bench.stop()
        assert time.monotonic() - start < 10
        end.set()


def test_clients_that_go_away(bench, capfd, upstream):
    """They are no mishap."""
    upstream.put("large/3", bytes(9_000_000), BUCKET)
    for _ in range(5):
        with connect(bench) as connection:
            connection.request("GET", f"/{BUCKET}/large/3")
            connection.getresponse().read(10)
    assert ask(bench, A)[0] == 200
    bench.stop()
    upstream.delete("large/3", BUCKET)
    assert bench.crashes == []
    assert capfd.readouterr() == ("", "")


def test_a_call_that_fails(upstream, capfd):
    """What it raises comes out at the end, and not on the screen."""
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(serve_faults(upstream))
        bench.break_("call", A, do=lambda: 1 // 0)
        with pytest.raises(http.client.RemoteDisconnected):
            ask(bench, A)
        with pytest.raises(ExceptionGroup, match="while the fault bench answered") as caught:
            stack.close()
    assert [ZeroDivisionError] == [type(error) for error in caught.value.exceptions]
    assert capfd.readouterr() == ("", "")


# The real client


def test_aws_fetches_through_it(bench, tmp_path):
    """Nothing is broken: one HEAD, one GET."""
    done = run_aws(bench, "s3", "cp", f"s3://{BUCKET}/{ODD}", tmp_path / "file")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == b"odd"
    assert [(e.method, e.key) for e in bench.exchanges] == [("HEAD", ODD), ("GET", ODD)]


@pytest.mark.parametrize("fault", ["503", "500", "reset", "reset-at-once", "short"])
def test_aws_tries_again(bench, tmp_path, fault):
    """What passes is fetched whole, and each attempt is counted."""
    bench.break_(fault, A, times=1, after=500)
    done = run_aws(bench, "s3", "cp", f"s3://{BUCKET}/{A}", tmp_path / "file")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == BODY
    assert bench.gets(A) == 2


def test_aws_is_refused(bench, tmp_path):
    """It understands the errors, asks once, and fetches the rest of a batch."""
    bench.break_("403", A)
    bench.break_("404", B)
    words = ["s3", "cp", "--recursive", "--only-show-errors", f"s3://{BUCKET}/data/", tmp_path]
    done = run_aws(bench, *words)
    assert done.returncode == 1
    assert "(AccessDenied) when calling the GetObject operation" in done.stderr
    assert "(NoSuchKey) when calling the GetObject operation" in done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.bin", "d.bin", "e.bin"]
    assert Counter(dict.fromkeys(KEYS, 1)) == bench.gets_by_key()


def test_aws_takes_what_it_is_given(bench, tmp_path):
    """A flipped bit and another size go unnoticed; that is what the bench is for."""
    bench.break_("flip", A)
    bench.break_("grow", B)
    words = ["s3", "cp", "--recursive", "--only-show-errors", f"s3://{BUCKET}/data/", tmp_path]
    assert run_aws(bench, *words).returncode == 0
    assert b"\xff" + BODY[1:] == (tmp_path / "a.bin").read_bytes()
    assert (tmp_path / "b.bin").read_bytes() == BODY + b"+" * 7


def test_aws_lists_through_it(bench):
    """Repeated pages are taken as they are; a loop is noticed."""
    bench.page_size = 2
    listing = ("s3api", "list-objects-v2", "--bucket", BUCKET, "--prefix", "data/")
    query = ("--query", "Contents[].Key", "--output", "text")
    rule = bench.break_("repeat-page", times=1)
    assert [A, B, *KEYS] == run_aws(bench, *listing, *query).stdout.split()
    assert rule.hits == 1
    bench.break_("loop-page")
    done = run_aws(bench, *listing, *query)
    assert done.returncode != 0
    assert "The same next token was received twice" in done.stderr
