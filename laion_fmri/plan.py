"""Which keys travel together in one job, and the few aws patterns that name them. Pure.

One start of aws costs about 0.6 s of CPU, so small objects share a recursive copy; large ones, for
which the start is nothing, get a job each and can run side by side.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from laion_fmri.transfer import escape_glob, escape_pattern

MIB = 2**20
#: Objects from this size on (bytes) get a job each.
LARGE = 64 * MIB
#: What an object costs beside its bytes, in bytes that could have been moved in that time.
OBJECT_COST = MIB // 2
#: Work below which a second process is not worth its start, in the same bytes.
BATCH_COST = 32 * MIB
#: Keys listed times patterns that one recursive copy may match, at about 30 microseconds each.
MATCH_BUDGET = 100_000


#: Requests that are under way at once for each worker, however few processes do the work.
CONNECTIONS = 10


@dataclass(frozen=True)
class Job:
    """What one aws process brings: a batch of objects, or a single one.

    Attributes
    ----------
    name : str
    prefix : str or None
        The folder that a recursive copy lists; None for a single object.
    patterns : tuple of str
        Relative to `prefix` and in aws's syntax; they match the keys of the batch and no other.
    objects : tuple of (str, int)
        The keys and their sizes in bytes.
    connections : int
        Requests that are under way at once.
    """

    name: str
    prefix: str | None
    patterns: tuple[str, ...]
    objects: tuple[tuple[str, int], ...]
    connections: int = CONNECTIONS


def plan_jobs(
    objects: Iterable[tuple[str, int]], listed: Sequence[str], workers: int, cpus: int
) -> list[Job]:
    """Share out `objects` (key, size) among at most `workers` processes at a time.

    Small objects keep the CPUs busy, so that more batches than `cpus` would only slow each other
    down; they share the connections of all workers instead. Objects at the root of the bucket,
    below which a recursive copy would list everything, are left to the rule for single objects.

    Returns
    -------
    list of Job
        The largest work first, so that no worker is left with it at the end.
    """
    objects = list(objects)
    processes = max(1, min(workers, cpus))
    jobs = [
        replace(batch, connections=CONNECTIONS * workers // processes)
        for batch in plan_batches(objects, listed, processes)
    ]
    jobs += [make_single(key, size) for key, size in objects if size >= LARGE and _home(key)]
    return sorted(jobs, key=lambda job: -sum(map(_cost, job.objects)))


def make_single(key: str, size: int) -> Job:
    """Return the job that fetches one object alone."""
    return Job(f"object_{_digest(key)}", None, (), ((key, size),))


def plan_batches(
    objects: Iterable[tuple[str, int]], listed: Sequence[str], workers: int
) -> list[Job]:
    """Group the small ones of `objects` (key, size) into batches for `workers` processes.

    Parameters
    ----------
    objects
        What is to be fetched. Large objects and those at the root of the bucket, where a recursive
        copy would list everything, are not in the result: they get a job each.
    listed
        Every key of the trees that the objects are from, selected or not.
    workers
        Processes that run at once, at least 1.

    Returns
    -------
    list of Job
        Of roughly equal work, so that all workers are busy to the end.
    """
    small = sorted((key, size) for key, size in objects if size < LARGE and _home(key))
    share = max(BATCH_COST, -(-sum(map(_cost, small)) // max(workers, 1)))
    listed = sorted(listed)
    return [job for chunk in _cut(small, share) for job in _make_jobs(chunk, listed)]


def _home(key: str) -> str:
    """Return the top folders below which a batch stays: two levels in derivatives, else one."""
    parts = key.split("/")[:-1]
    return "/".join(parts[: 2 if parts[:1] == ["derivatives"] else 1])


def _cost(item: tuple[str, int]) -> int:
    return item[1] + OBJECT_COST


def _cut(items: list[tuple[str, int]], share: int) -> list[list[tuple[str, int]]]:
    """Cut sorted `items` into runs of about `share` work that do not cross their home folder."""
    runs: list[list[tuple[str, int]]] = []
    work = share
    for item in items:
        if work >= share or _home(item[0]) != _home(runs[-1][-1][0]):
            runs.append([])
            work = 0
        runs[-1].append(item)
        work += _cost(item)
    return runs


def _make_jobs(chunk: list[tuple[str, int]], listed: Sequence[str]) -> list[Job]:
    """Make one job of `chunk`, or several under narrower prefixes if matching would be slow."""
    keys = [key for key, _ in chunk]
    prefix = _common_folder(keys)
    start = bisect_left(listed, prefix)
    within = list(takewhile(lambda key: key.startswith(prefix), listed[start:]))
    patterns = cover(keys, within, prefix)
    if len(within) * len(patterns) > MATCH_BUDGET and len(chunk) > 1:
        middle = len(chunk) // 2
        return _make_jobs(chunk[:middle], listed) + _make_jobs(chunk[middle:], listed)
    name = "batch_" + _digest("\n".join(keys))
    return [Job(name, prefix, tuple(patterns), tuple(chunk))]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _common_folder(keys: list[str]) -> str:
    """Return the deepest folder of all `keys`, with its ``/``, that aws cannot take for a glob."""
    first, last = min(keys), max(keys)
    shared = [a for a, b in takewhile(lambda ab: ab[0] == ab[1], zip(first, last, strict=False))]
    folders = "".join(shared).split("/")[:-1]
    plain = takewhile(lambda folder: escape_glob(folder) == folder, folders)
    return "".join(f"{folder}/" for folder in plain)


def cover(keys: Sequence[str], listed: Sequence[str], prefix: str) -> list[str]:
    """Find few aws patterns that match, of the keys `listed` below `prefix`, exactly `keys`.

    A pattern is a beginning, an end, or an end within a folder, each as short as it can be without
    matching a key that is not wanted; a key that none of them can name is named in full.
    """
    wanted = set(keys)
    others = [key[len(prefix) :] for key in listed if key not in wanted]
    names = [key[len(prefix) :] for key in keys]
    if not others:
        return ["*"]
    beginning = _shortest_beginnings(others)
    ending = _shortest_endings(others)
    candidates: dict[str, list[str]] = {}
    for name in names:
        for pattern in {beginning(name), *ending(name), escape_pattern(name)}:
            candidates.setdefault(pattern, []).append(name)
    missing, patterns = set(names), []
    for pattern in sorted(candidates, key=lambda p: (-len(candidates[p]), len(p), p)):
        if not missing.isdisjoint(candidates[pattern]):
            patterns.append(pattern)
            missing.difference_update(candidates[pattern])
    return patterns


def _shortest_beginnings(others: list[str]) -> Callable[[str], str]:
    index = sorted(others)

    def find(name: str) -> str:
        length = _longest_shared(name, index) + 1
        if length > len(name):  # another key goes on where this one ends
            return escape_pattern(name)
        return escape_pattern(name[:length]) + "*"

    return find


def _shortest_endings(others: list[str]) -> Callable[[str], list[str]]:
    by_folder: dict[str, list[str]] = {}
    for other in others:
        for folder in _folders(other):
            by_folder.setdefault(folder, []).append(other[len(folder) :][::-1])
    for index in by_folder.values():
        index.sort()

    def find(name: str) -> list[str]:
        patterns = []
        for folder in _folders(name):
            rest = name[len(folder) :]
            length = _longest_shared(rest[::-1], by_folder.get(folder, [])) + 1
            if length <= len(rest):
                end = escape_glob(rest[len(rest) - length :]) if folder in by_folder else ""
                patterns.append((escape_pattern(folder) if folder else "") + "*" + end)
        return patterns

    return find


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) + "/" * bool(depth) for depth in range(len(parts))]


def _longest_shared(name: str, index: list[str]) -> int:
    """Return the length of the longest beginning that `name` shares with any of sorted `index`."""
    place = bisect_left(index, name)
    return max((_shared(name, near) for near in index[max(place - 1, 0) : place + 1]), default=0)


def _shared(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda ab: ab[0] == ab[1], zip(a, b, strict=False)))
