"""Which keys travel together in one job, and the few aws patterns that name them. Pure.

One start of aws costs about 0.6 s of CPU, so small objects share a recursive copy; large ones, for
which the start is nothing, get a job each and can run side by side.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from laion_fmri.transfer import escape_glob, escape_pattern

MIB = 2**20
#: Sorts behind every character of a key.
LAST = chr(0x10FFFF)
#: Objects from this size on (bytes) get a job each.
LARGE = 64 * MIB
#: What an object costs beside its bytes, in bytes that could have been moved in that time.
OBJECT_COST = MIB // 2
#: Work below which a second process is not worth its start, in the same bytes.
BATCH_COST = 32 * MIB
#: Objects of one batch: Snakemake compares each output of a rule with all others of it.
BATCH_OBJECTS = 400
#: CPU seconds of an aws process: its start, each key that it lists, and each key held against a
#: pattern. Measured with aws-cli 1.46 on Python 3.11; their proportions are what counts.
START_SECONDS, LIST_SECONDS, MATCH_SECONDS = 0.6, 1e-4, 3.6e-5
#: Patterns that are few enough not to look for fewer.
FEW_PATTERNS = 12
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
    objects: Iterable[tuple[str, int]],
    listed: Sequence[str],
    workers: int,
    cpus: int,
    trees: Sequence[str] = (),
) -> list[Job]:
    """Share out `objects` (key, size) among at most `workers` processes at a time.

    Small objects keep the CPUs busy, so that more batches than `cpus` would only slow each other
    down; they share the connections of all workers instead. Large objects, and those at the root of
    the bucket, below which a recursive copy would list everything, get a job each.

    Returns
    -------
    list of Job
        The largest work first, so that no worker is left with it at the end.
    """
    objects = list(objects)
    processes = max(1, min(workers, cpus))
    jobs = [
        replace(batch, connections=CONNECTIONS * workers // processes)
        for batch in plan_batches(objects, listed, processes, trees)
    ]
    jobs += [make_single(key, size) for key, size in objects if not _is_small(key, size)]
    return sorted(jobs, key=lambda job: -sum(map(_cost, job.objects)))


def make_single(key: str, size: int) -> Job:
    """Return the job that fetches one object alone."""
    return Job(f"object_{_digest(key)}", None, (), ((key, size),))


def plan_batches(
    objects: Iterable[tuple[str, int]],
    listed: Sequence[str],
    workers: int,
    trees: Sequence[str] = (),
) -> list[Job]:
    """Group the small ones of `objects` (key, size) into batches for `workers` processes.

    Parameters
    ----------
    objects
        What is to be fetched; those that are large or at the root of the bucket are passed over.
    listed
        Every key of the trees that the objects are from, selected or not.
    workers
        Processes that run at once, at least 1.
    trees
        The prefixes that were listed. A batch stays inside one of them, since beyond it a pattern
        could match what nobody has selected; without them, inside the folder of a subject.

    Returns
    -------
    list of Job
        Of roughly equal work, so that all workers are busy to the end. Objects so scattered that
        it would take longer to name them than to start aws for each of them are jobs of their own.
    """
    small = sorted(item for item in objects if _is_small(*item))
    share = max(BATCH_COST, -(-sum(map(_cost, small)) // max(workers, 1)))
    listed, trees = sorted(listed), sorted(trees)
    return [job for run in _cut(small, share, trees) for job in _make_jobs(run, listed)]


def _is_small(key: str, size: int) -> bool:
    return size < LARGE and "/" in key


def _cost(item: tuple[str, int]) -> int:
    return item[1] + OBJECT_COST


def _cut(
    items: list[tuple[str, int]], share: int, trees: Sequence[str]
) -> list[list[tuple[str, int]]]:
    """Cut sorted `items` into runs of about `share` work that do not leave their tree."""
    runs: list[list[tuple[str, int]]] = []
    work, home = share, ""
    for item in items:
        here = _home(item[0], trees)
        if work >= share or here != home or len(runs[-1]) == BATCH_OBJECTS:
            runs.append([])
            work, home = 0, here
        runs[-1].append(item)
        work += _cost(item)
    return runs


def _home(key: str, trees: Sequence[str]) -> str:
    """Return the tree of `key`, or else its folders down to that of the subject, or the first."""
    place = bisect_right(trees, key) - 1
    if place >= 0 and key.startswith(trees[place]):
        return trees[place]
    folders = key.split("/")[:-1]
    depth = next((i for i, name in enumerate(folders) if name.startswith("sub-")), 0)
    return "/".join(folders[: depth + 1])


def _make_jobs(run: list[tuple[str, int]], listed: Sequence[str]) -> list[Job]:
    """Make one job of `run`, or one for each object if naming them takes longer than starting."""
    keys = [key for key, _ in run]
    prefix = _common_folder(keys)
    within = _slice(listed, prefix)
    patterns = tuple(cover(keys, within, prefix))
    naming = len(within) * (LIST_SECONDS + MATCH_SECONDS * len(patterns))
    if len(run) > 1 and naming > START_SECONDS * len(run):
        return [make_single(key, size) for key, size in run]
    return [Job("batch_" + _digest("\n".join(keys)), prefix, patterns, tuple(run))]


def _slice(listed: Sequence[str], prefix: str) -> Sequence[str]:
    """Return the part of sorted `listed` that begins with `prefix`."""
    return listed[bisect_left(listed, prefix) : bisect_left(listed, prefix + LAST)]


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
    others = sorted(key for key in listed if key not in wanted)
    if not others:
        return ["*"]
    candidates: dict[str, list[str]] = {}
    for key in keys:
        candidates.setdefault(_shortest_beginning(key, others, prefix), []).append(key)
    if len(candidates) > FEW_PATTERNS:
        _add_endings(candidates, keys, others, prefix)
    missing, patterns = set(keys), []
    for pattern in sorted(candidates, key=lambda p: (-len(candidates[p]), len(p), p)):
        if not missing.isdisjoint(candidates[pattern]):
            patterns.append(pattern)
            missing.difference_update(candidates[pattern])
    return patterns


def _shortest_beginning(key: str, others: Sequence[str], prefix: str) -> str:
    length = max(_longest_shared(key, others) + 1, len(prefix))
    if length > len(key):  # another key goes on where this one ends
        return escape_pattern(key[len(prefix) :])
    return escape_pattern(key[len(prefix) : length]) + "*"


def _add_endings(
    candidates: dict[str, list[str]], keys: Sequence[str], others: Sequence[str], prefix: str
) -> None:
    """Add the endings of each folder on the way to each key, if not too much else is in it."""
    indexes: dict[str, list[str]] = {}
    for key in keys:
        for folder in _folders(key, prefix):
            if folder not in indexes:
                inside = _slice(others, folder)
                few = len(inside) <= 10 * len(keys) + 1000
                indexes[folder] = sorted(other[::-1] for other in inside) if few else [key[::-1]]
            length = _longest_shared(key[::-1], indexes[folder]) + 1
            if length <= len(key) - len(folder):
                end = escape_glob(key[len(key) - length :]) if indexes[folder] else ""
                start = escape_pattern(folder[len(prefix) :]) if len(folder) > len(prefix) else ""
                candidates.setdefault(f"{start}*{end}", []).append(key)


def _folders(key: str, prefix: str) -> list[str]:
    """Return `prefix` and the folders below it on the way to `key`, each with its ``/``."""
    ends = [i + 1 for i in range(len(prefix), len(key)) if key[i] == "/"]
    return [prefix, *(key[:end] for end in ends)]


def _longest_shared(name: str, index: Sequence[str]) -> int:
    """Return the length of the longest beginning that `name` shares with any of sorted `index`."""
    place = bisect_left(index, name)
    return max((_shared(name, near) for near in index[max(place - 1, 0) : place + 1]), default=0)


def _shared(a: str, b: str) -> int:
    return sum(1 for _ in takewhile(lambda ab: ab[0] == ab[1], zip(a, b, strict=False)))
