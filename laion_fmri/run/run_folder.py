"""The folder of a run: its jobs, and what the processes that Snakemake starts have to know.

The main process writes it; all others, which Snakemake starts for its jobs, read it. It belongs to
the user alone, since whoever could write there could have the jobs do anything.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any, Self

from laion_fmri.base.files import write_atomically
from laion_fmri.bucket.listing import Bucket
from laion_fmri.dataset import Facts
from laion_fmri.errors import DataDirError
from laion_fmri.fetch.job import Job, JobSpec
from laion_fmri.folder.disk_space import STOP
from laion_fmri.folder.guard import Mirror, make_own_folder, read_own_file
from laion_fmri.settings import Values

#: The file with all of it but the jobs and the sizes.
TABLE = "table.json"


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves for the processes of its jobs, of which each reads its own."""

    path: str
    data_dir: str
    bucket: Bucket
    facts: Facts
    subject: Values = None  # these three: of a pipeline's inputs that do not say what they are of
    ses: Values = None
    scope: Values = None
    jobs: tuple[Job, ...] = ()
    trees: tuple[str, ...] = ()  # the prefixes that were listed
    stall_timeout: float = 60.0
    max_bandwidth: int | None = None  # bytes per second of one transfer
    single_bandwidth: int | None = None  # the same for objects that only a pipeline names
    slots: int | None = None  # transfers at once on a machine that submits to a cluster
    keeps: bool = False  # see JobSpec
    presence: str | None = None
    rule_dir: str = ""  # data_dir as the rules spell it, to which Snakemake may add a prefix
    # Bytes of all that is selected, and of what was listed beside it. Read on demand elsewhere.
    sizes: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)
    modified: Mapping[str, int] = field(default_factory=dict)  # seconds since 1970
    etags: Mapping[str, str] = field(default_factory=dict)
    aws: str = "aws"  # the program, as the machine that plans has found it

    def specify(self, job: Job) -> JobSpec:
        """Return what the transfer of `job` has to know."""
        return JobSpec(
            job,
            self.bucket.name,
            self.data_dir,
            self.path,
            {key: self.modified[key] for key, _ in job.objects if key in self.modified},
            {key: self.etags[key] for key, _ in job.objects if key in self.etags},
            self.stall_timeout,
            self.max_bandwidth,
            self.keeps,
            self.presence,
        )

    def job_file(self, job: Job) -> str:
        """Return the file with what the transfer of a planned job has to know."""
        return f"{self.path}/{job.name}.json"

    def save(self) -> None:
        """Write everything; what an earlier run of the same folder has recorded goes."""
        try:
            self._save(Path(self.path))
        except OSError as error:
            raise DataDirError(
                f"the run cannot be written to {self.path}: {error.strerror}; make room on its "
                "disk, or, for runs of the command, set XDG_STATE_HOME to another folder"
            ) from None

    def _save(self, folder: Path) -> None:
        shutil.rmtree(folder / "outcomes", ignore_errors=True)
        (folder / STOP).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for job in self.jobs:
            write_atomically(Path(self.job_file(job)), self.specify(job).to_json())
        write_atomically(folder / "sizes.json", json.dumps([self.sizes, self.others]))
        elsewhere = ("jobs", "sizes", "others", "modified", "etags")
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content = {name: value for name, value in content.items() if name not in elsewhere}
        content |= {"bucket": self.bucket.to_record(), "facts": asdict(self.facts)}
        content["jobs"] = [job.name for job in self.jobs]
        write_atomically(folder / TABLE, json.dumps(content))

    @classmethod
    def load(cls, path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Self:
        """Read what the main process of a run has written to `path`, with the jobs `wanted`."""
        content: dict[str, Any] = json.loads(read_own_file(path / TABLE))
        files = [path / f"{name}.json" for name in content["jobs"] if wanted(name)]
        files = [file for file in files if file.exists()]
        content["jobs"] = tuple(JobSpec.from_json(read_own_file(file)).job for file in files)
        content["bucket"] = Bucket(**content["bucket"])
        facts = {name: tuple(values) for name, values in content["facts"].items()}
        content |= {"facts": Facts(**facts), "trees": tuple(content["trees"]), "path": str(path)}
        return cls(**content)

    @cached_property
    def saved_sizes(self) -> tuple[dict[str, int], dict[str, int]]:
        """`sizes` and `others` as they were saved; loading the rest does not read them."""
        try:
            selected, others = json.loads(Path(self.path, "sizes.json").read_text())
        except FileNotFoundError:
            return {}, {}
        return selected, others


def make_run_dir(data_dir: Path) -> Path:
    """Make the folder of a run of our own, in the user's home, or else in the temporary folder.

    The jobs of a cluster find it in a home that the nodes share.
    """
    from platformdirs.unix import Unix

    # Unix on every system: $XDG_STATE_HOME is documented for macOS as well.
    home = Unix("laion_fmri").user_state_path
    digest = hashlib.sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()[:16]
    started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    # The user of a container may have no home, and a home may be full.
    spare = Path(tempfile.gettempdir(), f"laion_fmri-{os.geteuid()}")
    for place in (home, spare):
        try:
            make_own_folder(place)
            (place / digest).mkdir(exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{started}-", dir=place / digest))
        except DataDirError:
            raise
        except OSError as error:
            reason = error.strerror
    raise DataDirError(
        f"the folder of a run cannot be made in {home} or {spare}: {reason}; set "
        "XDG_STATE_HOME to a folder of yours with room in it"
    )


def write_stamp(run_dir: str, data_dir: str, partial: Iterable[str]) -> None:
    """Make the stamp of a run newer than the files of the keys `partial`, if there are any.

    It gets new content, since Snakemake ignores a mere change of its time. A broken file whose time
    is in the future is set back.
    """
    keys = list(partial)
    if not keys:
        return
    stamp = Path(run_dir, "stamp")
    write_atomically(stamp, f"{time.time_ns()}\n")
    now = stamp.stat().st_mtime
    with Mirror(data_dir) as mirror:
        for key in keys:
            with contextlib.suppress(OSError), mirror.folder_of(key) as (folder, name):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                is_single = S_ISREG(found.st_mode) and found.st_nlink == 1
                if is_single and found.st_mtime >= now:
                    times = (now - 1, now - 1)
                    os.utime(name, times, dir_fd=folder, follow_symlinks=False)
