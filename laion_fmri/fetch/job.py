"""What one fetch job is, and all that its transfer has to know, as the run writes it down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
#: Overhead of an object, in bytes that could have been moved in that time: 2.7 ms of CPU at 530 MB
#: for each second of CPU.
OBJECT_COST = 3 * MIB // 2
#: Work below which a second process is not worth its start, in the same bytes: half a start.
BATCH_COST = 96 * MIB
#: Requests that are under way at once for each worker.
CONNECTIONS = 10

#: What the rules run, by its path.
PROGRAM = Path(__file__).parents[1] / "transfer.py"

#: A key and the size of its object in bytes.
Item = tuple[str, int]


@dataclass(frozen=True)
class Job:
    """What one aws process brings: a batch of objects, or a single one.

    Attributes
    ----------
    name : str
    prefix : str or None
        The folder that a recursive copy lists; None for a single object.
    patterns, exclusions : tuple of str
        Relative to `prefix` and in aws's syntax; of the keys that the first match, those that none
        of the second match are the keys of the batch and no other.
    objects : tuple of (str, int)
        The keys and their sizes in bytes.
    workers : int
        Workers that it stands for: its rule takes as many cores.
    connections : int
        Requests that are under way at once.
    """

    name: str
    prefix: str | None
    patterns: tuple[str, ...]
    objects: tuple[Item, ...]
    workers: int = 1
    connections: int = CONNECTIONS
    exclusions: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The bytes of all objects."""
        return sum(size for _, size in self.objects)

    @property
    def work(self) -> int:
        """The bytes, and what the objects cost beside them, in bytes as well."""
        return self.bytes + OBJECT_COST * len(self.objects)

    @property
    def minutes(self) -> int:
        """The time to ask a cluster for: enough at 2 MB/s, and no more than a day."""
        return min(15 + self.bytes // (2_000_000 * 60), 1440)

    @property
    def is_tiny(self) -> bool:
        """Whether it is less work than to submit it to a cluster."""
        return self.work < BATCH_COST and self.prefix is None


@dataclass(frozen=True)
class JobSpec:
    """A job, and what its transfer has to know besides; written by the run.

    Attributes
    ----------
    job : Job
    bucket : str
        The bucket's name.
    data_dir, run_dir : str
        Where the files go, and where the outcomes do.
    modified : mapping of str to int
        When each object was changed, in seconds since 1970, as far as that was listed.
    stall_timeout : float
        Seconds without a byte after which aws is ended and tried again.
    max_bandwidth : int or None
        Bytes per second.
    keeps : bool
        Whether Snakemake may remove what has arrived, once the job has failed.
    presence : str or None
        The sign that the own run lives, see :class:`laion_fmri.folder.presence.Presence`.
    """

    job: Job
    bucket: str
    data_dir: str
    run_dir: str
    modified: Mapping[str, int]
    stall_timeout: float
    max_bandwidth: int | None = None
    keeps: bool = False
    presence: str | None = None

    def to_json(self) -> str:
        """Return it as text for :meth:`from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """Return the job that :meth:`to_json` has written."""
        content: dict[str, Any] = json.loads(text)
        job = content.pop("job")
        job["objects"] = tuple((key, size) for key, size in job["objects"])
        job |= {name: tuple(job[name]) for name in ("patterns", "exclusions")}
        return cls(Job(**job), **content)
