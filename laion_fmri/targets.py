"""What the Snakefile asks for: the targets, their jobs, and whether a target must be fetched.

The main process of a run lists the bucket and writes what it found to ``<run_dir>/table.json``.
Snakemake parses the Snakefile again in every process that it starts; those only read the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from laion_fmri import transfer
from laion_fmri.bucket import Bucket
from laion_fmri.config import (
    check_data_dir,
    clean_config,
    find_data_dir,
    is_writable,
    make_data_dir,
    not_writable,
    state_dir,
    write_atomically,
)
from laion_fmri.errors import AwsNotFoundError, ConfigError
from laion_fmri.filters import Selection
from laion_fmri.keys import Row, Table, compare, find_keys, is_safe_key
from laion_fmri.licenses import check_licenses
from laion_fmri.plan import Job, make_single, plan_jobs

#: The input of a complete target. No rule can make it, so Snakemake takes the target for the source
#: file that it is, whatever has changed since it was fetched.
COMPLETE = "/dev/null/complete"


@dataclass
class Targets:
    """The targets of one run, as the rules see them."""

    data_dir: str
    run_dir: str
    bucket: Bucket
    #: The size in bytes of every object of the selection, by key.
    sizes: dict[str, int]
    jobs: list[Job] = field(default_factory=list)
    #: What one transfer may take, in bytes per second; None for all that there is.
    max_bandwidth: int | None = None
    #: Whether keys outside the selection may be looked up in the bucket: in the main process only.
    may_list: bool = False
    #: Whether Snakemake was started by somebody else, who may not tell it to keep what arrived.
    is_foreign: bool = False

    def paths(self) -> list[str]:
        """Return the local path of every target of the selection."""
        return [f"{self.data_dir}/{key}" for key in self.sizes]

    def outputs(self, job: Job) -> list[str]:
        """Return the outputs of a planned job."""
        return [f"{self.data_dir}/{key}" for key, _ in job.objects]

    def needs(self, key: str) -> str | list[str]:
        """Return the input of the rule that fetches `key`: it decides whether the rule runs.

        Nothing if the file is missing; the stamp, which is newer, if its size is wrong; and for a
        complete file, or a key that the bucket does not have, a path that cannot exist.
        """
        size = self._find_size(key)
        if size is None:
            return COMPLETE
        match compare(f"{self.data_dir}/{key}", size):
            case "missing":
                return []
            case "partial":
                return self.stamp
            case _:
                return COMPLETE

    def needs_of(self, job: Job) -> list[str]:
        """Return the input of a planned job: the stamp if any of its files has the wrong size."""
        stale = any(self.needs(key) == self.stamp for key, _ in job.objects)
        return [self.stamp] if stale else []

    @property
    def stamp(self) -> str:
        """A file that is written anew whenever a target has the wrong size."""
        return f"{self.data_dir}/.laion_fmri/stamp"

    def describe_single(self, key: str) -> str:
        """Return, as JSON, what the transfer of the single object `key` has to know."""
        return json.dumps(self._describe(make_single(key, self._find_size(key) or 0)))

    def job_file(self, job: Job) -> str:
        """Return the file with what the transfer of a planned job has to know."""
        return f"{self.run_dir}/{job.name}.json"

    def describe(self, job: Job) -> str:
        """Say what a planned job fetches."""
        size = f"{sum(size for _, size in job.objects) / 1e6:,.1f} MB"
        if job.prefix is None:
            return f"fetch {job.objects[0][0]} ({size})"
        return f"fetch {len(job.objects):,} objects below {job.prefix} ({size})"

    def _describe(self, job: Job) -> dict[str, Any]:
        where = {"bucket": self.bucket.name, "data_dir": self.data_dir, "run_dir": self.run_dir}
        how = {"max_bandwidth": self.max_bandwidth, "is_foreign": self.is_foreign}
        return asdict(job) | where | how

    def _find_size(self, key: str) -> int | None:
        """Return the size of `key`, asking the bucket if it is outside the selection."""
        if key not in self.sizes and self.may_list and is_safe_key(key):
            found = next((o for o in self.bucket.list_objects(key) if o.key == key), None)
            if found:
                self.sizes[key] = found.size
        return self.sizes.get(key)

    def write(self) -> None:
        """Write the table and the jobs for the processes that Snakemake starts."""
        run_dir = Path(self.run_dir)
        transfer.sweep_staging(Path(self.data_dir))
        shutil.rmtree(run_dir / "outcomes", ignore_errors=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        for job in self.jobs:
            write_atomically(Path(self.job_file(job)), json.dumps(self._describe(job)))
        content = {
            "data_dir": self.data_dir,
            "bucket": asdict(self.bucket),
            "sizes": self.sizes,
            "jobs": [asdict(job) for job in self.jobs],
            "max_bandwidth": self.max_bandwidth,
        }
        write_atomically(run_dir / "table.json", json.dumps(content))

    def write_stamp(self, partial: list[str]) -> None:
        """Make the stamp newer than the files `partial`, if there are any.

        It gets new content: Snakemake would see through a mere change of its time. A broken file
        from the future, or with the time of another clock, is set back.
        """
        if not partial:
            return
        stamp = Path(self.stamp)
        stamp.parent.mkdir(exist_ok=True)
        write_atomically(stamp, f"{time.time_ns()}\n")
        now = stamp.stat().st_mtime
        for path in map(Path, partial):
            if path.stat().st_mtime >= now:
                os.utime(path, (now - 1, now - 1))


def read_targets(file: Path, *, may_list: bool = False) -> Targets:
    """Read the targets that the main process of a run has written to `file`."""
    content = json.loads(file.read_text())
    jobs = [
        Job(**job | {"objects": tuple((key, size) for key, size in job["objects"])})
        for job in content["jobs"]
    ]
    bucket = Bucket(**content["bucket"])
    return Targets(
        content["data_dir"],
        str(file.parent),
        bucket,
        content["sizes"],
        jobs,
        content["max_bandwidth"],
        may_list,
    )


def open_targets(
    config: Mapping[str, Any], *, is_main: bool, workers: int, find_aws: bool
) -> tuple[Targets, Table]:
    """Return the targets of a workflow's `config`: found by the main process, else read.

    Parameters
    ----------
    config
        The validated configuration.
    is_main
        Whether this is the process that was started by hand, and not one of Snakemake's jobs.
    workers
        How many jobs run at once.
    find_aws
        Whether the AWS CLI has to be on this machine, and not in the rule's own environment.
    """
    if config.get("table"):
        table_file = Path(config["table"])
        return read_targets(table_file, may_list=is_main), Table([])
    data_dir = _choose_data_dir(config)
    digest = hashlib.sha256(json.dumps(clean_config(config), sort_keys=True).encode())
    run_dir = state_dir(data_dir) / "runs" / digest.hexdigest()[:16]
    bucket = Bucket.from_config(config)
    if not is_main:
        file = run_dir / "table.json"
        empty = Targets(data_dir, str(run_dir), bucket, {})
        return (read_targets(file) if file.exists() else empty), Table([])
    selection = Selection.from_config(config)
    check_licenses(selection.include_stimuli, data_dir)
    transfer.restore_kept(Path(data_dir))
    table = find_keys(selection, bucket, data_dir)
    obstacles = table.obstacles()
    rows = [row for row in table.rows if row.key not in obstacles]
    limit = read_max_bandwidth(config)
    targets = make_targets(table, rows, bucket, data_dir, run_dir, workers, limit)
    targets.may_list = targets.is_foreign = True
    if table.incomplete():
        if find_aws:
            find_aws_command()
        if not is_writable(Path(data_dir)):
            raise not_writable(Path(data_dir))
    if is_writable(Path(data_dir)):
        targets.write()
        targets.write_stamp(table.partial_paths())
    table.warnings += [f"{key}: {why}" for key, why in obstacles.items()]
    return targets, table


def make_targets(
    table: Table,
    rows: Sequence[Row],
    bucket: Bucket,
    data_dir: str,
    run_dir: Path,
    workers: int,
    max_bandwidth: float | None,
) -> Targets:
    """Return `rows` of `table` as targets, with jobs for those that are not complete.

    `max_bandwidth`, in MB/s, is divided among the transfers that can run at once.
    """
    wanted = [(row.key, row.size) for row in rows if row.status != "complete"]
    jobs = plan_jobs(wanted, table.listed, workers, os.cpu_count() or 1, table.trees)
    sizes = {row.key: row.size for row in rows}
    at_once = max(1, min(workers, len(jobs)))
    share = max(1, int(max_bandwidth * 1e6 / at_once)) if max_bandwidth else None
    return Targets(data_dir, str(run_dir), bucket, sizes, jobs, share)


def read_max_bandwidth(config: Mapping[str, Any]) -> float | None:
    """Return the limit of the whole run in MB/s, or None.

    Raises
    ------
    ConfigError
        If it is no number above 0.
    """
    value = config.get("max_bandwidth")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"max_bandwidth={value!r} is no number of MB/s above 0")
    return float(value)


def _choose_data_dir(config: Mapping[str, Any]) -> str:
    """Return the data directory as the configuration spells it: Snakemake compares paths as text.

    A relative one belongs to the pipeline, like any folder of its results, and is made for it.
    """
    given = config.get("data_dir")
    if given and not Path(given).expanduser().is_absolute():
        data_dir = str(make_data_dir(Path(given)))
    else:
        data_dir = str(find_data_dir(given)[0])
    check_data_dir(Path(data_dir))
    return data_dir


def aws_command() -> str:
    """Return the name or path of the AWS CLI: ``$LAION_FMRI_AWS``, else ``aws``."""
    command = os.environ.get("LAION_FMRI_AWS") or "aws"
    # The jobs run in another working directory than the user's.
    return str(Path(command).expanduser().absolute()) if "/" in command else command


def find_aws_command() -> str:
    """Return the full path of the AWS CLI.

    Raises
    ------
    AwsNotFoundError
        With three ways to get it.
    """
    command = aws_command()
    found = shutil.which(command)
    if found is None:
        raise AwsNotFoundError(
            f"the AWS CLI ({command}) is not found; get it with 'uv tool install awscli', "
            "'conda install -c conda-forge awscli' or from https://aws.amazon.com/cli, or set "
            "LAION_FMRI_AWS to its path"
        )
    return found


def transfer_command() -> list[str]:
    """Return the command that runs one fetch job, without its arguments."""
    return [sys.executable, os.fspath(transfer.__file__)]
