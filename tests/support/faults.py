"""The fault bench: an S3 endpoint on loopback that hands requests on and breaks some, by rule.

It stands in front of a :class:`laion_fmri.sample.SampleServer` and answers as that does, until
:meth:`FaultServer.break_` says what goes wrong, for which requests, and how often.

========================  =========================================================================
fault                     what the client gets
========================  =========================================================================
403 404 500 503           that status, with the XML that S3 sends (without it for HEAD)
reset-at-once             a reset connection, and no answer
reset                     headers, `after` bytes of the body, then a reset connection
stall-at-once             nothing, until the rule is released; then the connection closes
stall                     headers, `after` bytes, then nothing until the rule is released
short                     headers that announce all, `after` bytes, then an orderly close
slow                      the body in small pieces at `rate` bytes per second
html                      200 and the HTML page of a captive portal
redirect                  302 to ``/login`` of this server, which is that page
hold                      the proper answer, once the rule is released
call                      the proper answer, after ``do()`` was called
delay                     the proper answer (see `delay`, which goes with every fault)
repeat-page               the first page again, whose token leads on to the page that was asked for
loop-page                 the first page again, whose token leads to itself
========================  =========================================================================

The `-page` faults are for continued listings. What HEAD gets has no body: break it at once.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from faults_http import FAULTS, LOGIN, PAGE, BenchServer

from laion_fmri.sample import SampleServer


class Exchange(NamedTuple):
    """One request, and what came of it.

    `time` is that of ``time.monotonic()``, `key` is decoded and empty for the bucket, `query` is
    decoded and as the client sent it, `range` is the header or empty, `fault` is empty for none,
    and `status` is 0 as long as no status line was sent.
    """

    time: float
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    range: str
    fault: str
    status: int


@dataclass(eq=False)
class Rule:
    """What goes wrong, for which requests, and how often.

    Parameters
    ----------
    fault : str
        One of `FAULTS`; the module's table says what each does.
    key : str
        The object's key, or a shell-style pattern of keys.
    method : {"GET", "HEAD", "*"}
        The kind of request.
    listing : bool
        Break requests for the bucket (listings) and not for objects. The `-page` faults do so of
        themselves.
    prefix : str
        The prefix of the listing, or a shell-style pattern of prefixes.
    bucket : str or None
        The bucket; None is any.
    times : int or None
        How often the rule hits; None is for ever.
    skip : int
        How many requests that match go by unbroken before.
    share : float
        Probability of a hit, drawn for each request that matches.
    after : int
        Byte offset in the body of the answer (for a range, in the range).
    rate : float
        Bytes per second of ``slow``.
    delay : float
        Seconds before anything else happens.
    do : callable or None
        What ``call`` calls, without arguments, before the request goes on.

    Attributes
    ----------
    reached, released : threading.Event
        Set when the rule hits for the first time, and by `release`.
    hits : int
        How often the rule was applied so far.

    Raises
    ------
    ValueError
        If there is no such fault or method, or ``call`` has nothing to call.
    """

    fault: str
    key: str = "*"
    method: str = "GET"
    listing: bool = False
    prefix: str = "*"
    bucket: str | None = None
    times: int | None = None
    skip: int = 0
    share: float = 1.0
    after: int = 0
    rate: float = 1000.0
    delay: float = 0.0
    do: Callable[[], Any] | None = None
    reached: threading.Event = field(init=False, default_factory=threading.Event)
    released: threading.Event = field(init=False, default_factory=threading.Event)
    hits: int = field(init=False, default=0)
    _seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f"no fault {self.fault!r}; there are: {', '.join(FAULTS)}")
        if self.method not in ("GET", "HEAD", "*"):
            raise ValueError(f"no method {self.method!r}; there are: GET, HEAD, *")
        if (self.fault == "call") != (self.do is not None):
            raise ValueError("the fault 'call' needs `do`, and no other takes it")
        self.listing = self.listing or self.fault in PAGE

    def release(self) -> None:
        """Let go, now and from now on, of all that hangs by this rule; its delays end too."""
        self.released.set()

    def matches(self, asked: Exchange) -> bool:
        """Whether a request is of the kind that this rule is about."""
        name, pattern = asked.key, self.key
        if self.listing:
            name, pattern = asked.query.get("prefix", ""), self.prefix
        return (
            asked.bucket == (self.bucket or asked.bucket)
            and bool(asked.key) != self.listing
            and self.method in (asked.method, "*")
            and (name == pattern or fnmatchcase(name, pattern))
            and (self.fault not in PAGE or "continuation-token" in asked.query)
        )

    def draw(self, dice: random.Random) -> bool:
        """Decide whether a request that matches is hit, and count it."""
        self._seen += 1
        used_up = self.times is not None and self.hits >= self.times
        if used_up or self._seen <= self.skip or dice.random() >= self.share:
            return False
        self.hits += 1
        return True


class FaultServer:
    """An S3 endpoint that breaks requests by rule; made by :func:`serve_faults`.

    Attributes
    ----------
    endpoint_url : str
        What clients take as their endpoint.
    exchanges : list of Exchange
        Every request so far, in the order in which they came.
    page_size : int or None
        How many keys a page of a listing has at most; None leaves it to the client.
    sent : Counter
        How many bytes of objects were sent, by key.
    crashes : list of Exception
        What a ``do()``, or the bench itself, has raised while it answered.
    """

    def __init__(self, upstream: SampleServer, seed: int = 0) -> None:
        self.exchanges: list[Exchange] = []
        self.sent: Counter[str] = Counter()
        self.page_size: int | None = None
        self.crashes: list[Exception] = []
        self.stopping = False
        address = urlsplit(upstream.endpoint_url)
        self.upstream = (str(address.hostname), address.port)
        self._dice = random.Random(seed)
        self._changed = threading.Condition()
        self._rules: list[Rule] = []
        #: Fresh token of a repeated page -> the token of the page that follows.
        self.onward: dict[str, str] = {}
        self._http = BenchServer(self)
        self.endpoint_url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def break_(self, fault: str, key: str = "*", **about: Any) -> Rule:
        """Break requests from now on; `about` is what :class:`Rule` takes.

        The rules are tried in the order in which they were given: the first that matches a request,
        is not used up and is drawn applies to it, and no other.
        """
        rule = Rule(fault, key, **about)
        with self._changed:
            self._rules.append(rule)
        return rule

    def mend(self) -> None:
        """Drop all rules and release all that hangs."""
        with self._changed:
            for rule in self._rules:
                rule.release()
            self._rules.clear()

    def clear(self) -> None:
        """Forget the exchanges so far."""
        with self._changed:
            self.exchanges.clear()
            self.sent = Counter()  # what is still being sent counts in the old one

    def gets(self, key: str) -> int:
        """Count the GET requests for an object, whatever came of them."""
        return self.gets_by_key()[key]

    def gets_by_key(self) -> Counter[str]:
        """Count, by key, the GET requests for objects, whatever came of them."""
        with self._changed:
            return Counter(e.key for e in self.exchanges if e.key and e.method == "GET")

    def wait_for(self, predicate: Callable[[Exchange], bool], timeout: float) -> bool:
        """Wait until some exchange satisfies `predicate`, `timeout` seconds at most."""
        with self._changed:
            return self._changed.wait_for(lambda: any(map(predicate, self.exchanges)), timeout)

    def stop(self) -> None:
        """Stop answering: release all that hangs, close all connections, give back the port."""
        self._http.shutdown()
        self._thread.join()
        self.stopping = True
        self.mend()
        self._http.server_close()

    def decide(self, method: str, path: str, span: str) -> tuple[Exchange, Rule | None]:
        """Record a request by method, path and range; return it, and the rule that hits it."""
        where, _, query = path.partition("?")
        bucket, _, key = map(unquote, where.removeprefix("/").partition("/"))
        asked = Exchange(
            time.monotonic(), method, bucket, key,
            dict(parse_qsl(query, keep_blank_values=True)), span, "", 0,
        )  # fmt: skip
        # The token of a repeated page goes on properly, or a listing would never end.
        resumed = asked.query.get("continuation-token") in self.onward
        with self._changed:
            rules = (
                rule
                for rule in self._rules
                if where != LOGIN
                and not (resumed and rule.fault == "repeat-page")
                and rule.matches(asked)
                and rule.draw(self._dice)
            )
            if rule := next(rules, None):
                asked = asked._replace(fault=rule.fault)
                rule.reached.set()
            self.exchanges.append(asked)
            self._changed.notify_all()
        return asked, rule

    def record(self, asked: Exchange, status: int) -> Exchange:
        """Record the status of a request that was recorded before, and return it so."""
        answered = asked._replace(status=status)
        with self._changed:
            for index in reversed(range(len(self.exchanges))):
                if self.exchanges[index] is asked:  # not there if forgotten in the meantime
                    self.exchanges[index] = answered
                    self._changed.notify_all()
                    break
        return answered


@contextlib.contextmanager
def serve_faults(upstream: SampleServer, seed: int = 0) -> Iterator[FaultServer]:
    """Stand in front of `upstream` for as long as the context lasts; `seed` is of the draws.

    Raises at its end, as an ExceptionGroup, what went wrong in the bench itself or in a ``do()``.
    """
    server = FaultServer(upstream, seed)
    try:
        yield server
    finally:
        server.stop()
    if server.crashes:
        raise ExceptionGroup("while the fault bench answered", server.crashes)
