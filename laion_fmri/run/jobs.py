"""Which keys travel together in one job. Pure.

One start of aws costs about half a second of CPU, so small objects share a recursive copy; large
ones, for which the start is nothing, get a job each and can run side by side.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, takewhile
from os.path import commonprefix

from laion_fmri.dataset import PUBLISHED
from laion_fmri.fetch.aws import escape_glob
from laion_fmri.fetch.job import BATCH_COST, CONNECTIONS, MIB, OBJECT_COST, Item, Job
from laion_fmri.run.patterns import name_keys, slice_listing

#: Objects from this size on (bytes) get a job each.
LARGE = 64 * MIB
#: Jobs that a cluster gets for everything, or one for each tree if these are more: each takes
#: seconds to submit, and the queue is shared.
CLUSTER_JOBS = 24
#: Objects of one batch: Snakemake compares each output of a rule with all others of it.
BATCH_OBJECTS = 1_000
#: CPU seconds of an aws process: its start, each key that it lists, and each key compared with a
#: pattern. Measured with aws-cli 1.46 on Python 3.11; their proportions are what counts.
START_SECONDS, LIST_SECONDS, MATCH_SECONDS = 0.45, 1e-4, 3.6e-5
#: Keys that a folder above several trees is taken to hold, for each that was listed: it may also
#: have trees that nobody has selected.
UNLISTED = 2
#: Requests of one process, beyond which its threads only wait for each other.
MOST_CONNECTIONS = 60


def plan_jobs(
    objects: Iterable[Item],
    listed: Sequence[str],
    workers: int,
    cpus: int,
    trees: Sequence[str] = (),
) -> list[Job]:
    """Share out `objects` (key, size) among at most `workers` processes at a time.

    Small objects keep the CPUs busy, so that more batches than `cpus` would only slow each other
    down; where there are more workers, a batch has the connections of several. Large objects, and
    those at the root of the bucket, below which a recursive copy would list everything, get a job
    each. The largest work comes first, so that no worker is left with it at the end; small ones
    at the root come last.
    """
    objects = list(objects)
    processes = max(1, min(workers, cpus))
    batches = plan_batches(objects, listed, processes, trees)
    most = min(CONNECTIONS * workers, MOST_CONNECTIONS)
    share = workers // max(1, min(processes, len(batches)))
    for number, batch in enumerate(batches):
        # As many workers as it stands for, if it has objects for all their connections.
        each = min(share, -(-len(batch.objects) // CONNECTIONS))
        connections = min(2 * CONNECTIONS * each, most)
        batches[number] = batch._replace(workers=each, connections=connections)
    return _add_singles(batches, objects, LARGE)


def plan_for_cluster(
    objects: Iterable[Item], listed: Sequence[str], trees: Sequence[str]
) -> list[Job]:
    """Share out `objects` (key, size) among few jobs, each of which has a CPU of its own.

    Large objects travel with others, up to a share of all the work, and only those at the root of
    the bucket alone. The largest work comes first.
    """
    objects = list(objects)
    batches = plan_batches(objects, listed, CLUSTER_JOBS, trees, large=math.inf)
    batches = [batch._replace(connections=2 * CONNECTIONS) for batch in batches]
    return _add_singles(batches, objects, math.inf)


def _add_singles(batches: list[Job], objects: Iterable[Item], large: float) -> list[Job]:
    """Add a job for each object that batches pass over, and put the largest work first.

    Small ones at the root come last: nobody waits for them, and each takes a start of aws.
    """
    singles = [make_single(*item) for item in objects if not _is_small(item, large)]
    return sorted([*batches, *singles], key=lambda job: (_can_wait(job), -job.work))


def _can_wait(job: Job) -> bool:
    return job.prefix is None and "/" not in job.objects[0][0] and job.bytes < LARGE


def make_single(key: str, size: int) -> Job:
    """Return the job that fetches one object alone."""
    is_gated = key in PUBLISHED.restricted_keys
    return Job(f"object_{_digest(key)}", None, (), ((key, size),), is_gated=is_gated)


def plan_batches(
    objects: Iterable[Item],
    listed: Sequence[str],
    workers: int,
    trees: Sequence[str] = (),
    *,
    large: float = LARGE,
) -> list[Job]:
    """Group the small ones of `objects` (key, size) into batches for `workers` processes.

    They are of roughly equal work, so that all workers are busy to the end. Objects so scattered
    that naming them takes longer than to start aws for each are jobs of their own. Those that are
    large, or at the root of the bucket, are passed over. `listed` are all keys of the `trees`, the
    prefixes that were listed; without them, the folder of each subject is one. A pattern stays
    inside a tree, since beyond it could match what nobody has selected, and so does a batch, unless
    it brings little of several trees side by side.
    """
    small = sorted(item for item in objects if _is_small(item, large))
    share = max(BATCH_COST, -(-sum(map(_cost, small)) // max(workers, 1)))
    listed, trees = sorted(listed), sorted(trees)
    groups = _group(_cut(small, share, trees), share, trees)
    return [job for group in groups for job in _make_jobs(group, listed, trees)]


def _is_small(item: Item, large: float) -> bool:
    # What is gated does not come by aws, so it has a job of its own.
    return item[1] < large and "/" in item[0] and item[0] not in PUBLISHED.restricted_keys


def _cost(item: Item) -> int:
    return item[1] + OBJECT_COST


def _cut(items: list[Item], share: int, trees: Sequence[str]) -> list[list[Item]]:
    """Cut sorted `items` into runs of about `share` work that do not leave their tree."""
    runs: list[list[Item]] = []
    work, home = share, ""
    for item in items:
        here = _find_tree(item[0], trees)
        if work >= share or here != home or len(runs[-1]) == BATCH_OBJECTS:
            runs.append([])
            work, home = 0, here
        runs[-1].append(item)
        work += _cost(item)
    return runs


def _group(runs: list[list[Item]], share: int, trees: Sequence[str]) -> list[list[list[Item]]]:
    """Group runs of trees in the same folder that have no more than `share` work together."""
    groups: list[list[list[Item]]] = []
    work, objects, home = 0, 0, ""
    for run in runs:
        tree = _find_tree(run[0][0], trees)
        here = tree[: tree.rfind("/", 0, -1) + 1]
        work += sum(map(_cost, run))
        objects += len(run)
        # What is above the trees of the bucket's root is the whole bucket, of unknown size.
        if not (groups and here) or work > share or here != home or objects > BATCH_OBJECTS:
            groups.append([])
            work, objects, home = sum(map(_cost, run)), len(run), here
        groups[-1].append(run)
    return groups


def _find_tree(key: str, trees: Sequence[str]) -> str:
    """Return the tree of `key`, or else its folders down to that of the subject, or the first."""
    for place in range(bisect_right(trees, key) - 1, -1, -1):
        if key.startswith(trees[place]):
            return trees[place]
        if not trees[place].startswith(key[:1]):  # no tree before it can hold the key
            break
    folders = key.split("/")[:-1]
    depth = next((i for i, name in enumerate(folders) if name.startswith("sub-")), 0)
    return "".join(f"{folder}/" for folder in folders[: depth + 1])


def _make_jobs(group: list[list[Item]], listed: Sequence[str], trees: Sequence[str]) -> list[Job]:
    """Make one job of `group`, or several if naming its objects takes longer than more starts."""
    run = list(chain.from_iterable(group))
    keys = [key for key, _ in run]
    prefix = _common_folder(keys)
    within = slice_listing(listed, prefix)
    tops = {key: max(prefix, _find_tree(key, trees), key=len) for key in keys}
    patterns, exclusions = name_keys(tops, within, prefix)
    naming = LIST_SECONDS + MATCH_SECONDS * (len(patterns) + len(exclusions))
    naming *= len(within)
    if len(group) > 1 and naming * UNLISTED > START_SECONDS * (len(group) - 1):
        return [job for run in group for job in _make_jobs([run], listed, trees)]
    if len(run) > 1 and naming > START_SECONDS * len(run):
        return [make_single(key, size) for key, size in run]
    name = "batch_" + _digest("\n".join(keys))
    return [Job(name, prefix, tuple(patterns), tuple(run), exclusions=tuple(exclusions))]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _common_folder(keys: list[str]) -> str:
    """Return the deepest folder of all `keys`, with its ``/``, that aws cannot take for a glob."""
    folders = commonprefix(keys).split("/")[:-1]
    plain = takewhile(lambda folder: escape_glob(folder) == folder, folders)
    return "".join(f"{folder}/" for folder in plain)
