"""Measure calls inside one Python: ``probe.py CALL ARGUMENTS``, with the arguments as JSON.

Prints JSON. Run by path in a process of its own, so that imports and peak memory are the call's.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def take_time(call: Callable[[], Any]) -> tuple[float, int]:
    """Return the wall seconds of `call` and the length of what it returns."""
    started = time.perf_counter()
    length = len(call())
    return time.perf_counter() - started, length


def probe_listing(endpoint: str, bucket: str, prefix: str) -> dict[str, Any]:
    """Measure the bare listing of `prefix` by boto3: with imports and client, and without."""

    def first() -> Any:
        from clients import list_sizes, make_client

        nonlocal again
        client = make_client(endpoint)
        again = lambda: list_sizes(client, bucket, prefix)  # noqa: E731
        return again()

    again: Callable[[], Any]
    return _take_both(first, lambda: again())


def probe_table(subject: str, data_dir: str) -> dict[str, Any]:
    """Measure ``key_table(subject)``: with imports, and without."""

    def call() -> Any:
        from laion_fmri.keys import key_table

        return key_table(subject, data_dir=data_dir)

    return _take_both(call, call)


def probe_again(
    endpoint: str, bucket: str, prefixes: list[str], selection: dict[str, Any], n: int
) -> dict[str, list[float]]:
    """Measure, `n` times in turn, listings by boto3 and ``download()`` with nothing to do.

    The listings are that of the first of `prefixes`, and those of all, one after the other. The
    caller has fetched the selection; the first call of each warms up and does not count.
    """
    from clients import list_sizes, make_client

    from laion_fmri.download import download

    client = make_client(endpoint)

    def list_all() -> list[int]:
        # The last one is the root of the bucket, of which only the files matter.
        ends = [""] * (len(prefixes) - 1) + ["/"]
        pairs = zip(prefixes, ends, strict=True)
        return [len(list_sizes(client, bucket, prefix, end)) for prefix, end in pairs]

    calls: dict[str, Callable[[], Any]] = {
        "listing": lambda: list_sizes(client, bucket, prefixes[0]),
        "listings": list_all,
        "download": lambda: download(**selection),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(n + 1):
        for name, call in calls.items():
            times[name].append(take_time(call)[0])
    return {name: values[1:] for name, values in times.items()}


def _take_both(first: Callable[[], Any], again: Callable[[], Any]) -> dict[str, Any]:
    seconds, length = take_time(first)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"first": seconds, "again": take_time(again)[0], "peak": peak, "length": length}


if __name__ == "__main__":
    calls = {"listing": probe_listing, "table": probe_table, "again": probe_again}
    print(json.dumps(calls[sys.argv[1]](**json.loads(sys.argv[2]))))
