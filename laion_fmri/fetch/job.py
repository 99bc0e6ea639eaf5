"""What a fetch job is, and everything that its transfer has to know, as the run writes it down.

Named tuples, since every transfer loads this: dataclasses would add 7 ms to its 30.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

MIB = 2**20
#: What an object costs beside its bytes, in bytes that could have been moved in that time: 2.7 ms
#: of CPU at 530 MB for each second of CPU.
OBJECT_COST = 3 * MIB // 2
#: Work below which a second process is not worth its start, in the same unit: half a start.
BATCH_COST = 96 * MIB
#: Requests at once for each worker.
CONNECTIONS = 10

#: What the rules run, by its path.
PROGRAM = Path(__file__).parents[1] / "transfer.py"

#: A key and the size of its object in bytes.
Item = tuple[str, int]


class Job(NamedTuple):
    """What one aws process fetches: a batch of objects, or a single one.

    The keys of a batch, and no others, match one of `patterns` and none of `exclusions`.
    """

    name: str
    prefix: str | None  # the folder that a recursive copy lists; None for a single object
    patterns: tuple[str, ...]  # in aws's syntax, relative to the prefix
    objects: tuple[Item, ...]
    workers: int = 1  # how many it stands for: its rule takes as many cores
    connections: int = CONNECTIONS  # requests at once
    exclusions: tuple[str, ...] = ()
    is_gated: bool = False  # a single object that the service for the images gives out

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.objects)

    @property
    def work(self) -> int:
        """The bytes, and what the objects cost beside them, in bytes as well."""
        return self.bytes + OBJECT_COST * len(self.objects)

    @property
    def minutes(self) -> int:
        """The time to ask a cluster for: enough at 2 MB/s, and at most a day."""
        return min(15 + self.bytes // (2_000_000 * 60), 1440)

    @property
    def is_tiny(self) -> bool:
        """Whether it is less work than to submit it to a cluster."""
        return self.work < BATCH_COST and self.prefix is None


class JobSpec(NamedTuple):
    """A job, and what else its transfer has to know; written by the run."""

    job: Job
    bucket: str
    data_dir: str
    run_dir: str
    modified: Mapping[str, int]  # key -> time of change in seconds since 1970, where it was listed
    etags: Mapping[str, str]  # key -> ETag, where it was listed
    stall_timeout: float  # seconds without a byte after which aws is ended and run again
    max_bandwidth: int | None = None  # bytes per second
    keeps: bool = False  # whether Snakemake may remove what has arrived, if the job fails
    presence: str | None = None  # the lock file of its run, see folder/presence.py

    def to_json(self) -> str:
        """Return it as text for :meth:`from_json`."""
        return json.dumps(self._asdict() | {"job": self.job._asdict()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the job that :meth:`to_json` has written."""
        content: dict[str, Any] = json.loads(text)
        job = content.pop("job")
        job["objects"] = tuple(map(tuple, job["objects"]))
        job |= {name: tuple(job[name]) for name in ("patterns", "exclusions")}
        return cls(Job(**job), **content)
