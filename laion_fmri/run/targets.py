"""What the Snakefile asks for: the targets, their jobs, and whether a target must be fetched.

The main process of a run lists the bucket and writes what it found to the folder of the run.
Snakemake parses the Snakefile again in every process that it starts; those only read there, and no
more than their own job needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from laion_fmri import dataset
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import write_atomically
from laion_fmri.errors import SelectionError
from laion_fmri.fetch import transfer
from laion_fmri.folder import staging
from laion_fmri.folder.licences import check_licenses
from laion_fmri.folder.obstacles import find_conflicts, find_obstacle, is_safe_key
from laion_fmri.run.jobs import Job, make_single
from laion_fmri.selection.bids import Parsed, parse_key
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.table import compare, list_subjects
from laion_fmri.units import format_size

#: The input of a complete target. No rule can make it, so Snakemake takes the target for the source
#: file that it is, whatever has changed since it was fetched.
COMPLETE = "/dev/null/complete"


class Targets:
    """The targets of one run, as the rules see them.

    Parameters
    ----------
    data_dir, run_dir : str
        Where the files go, and what the processes of the run tell each other.
    bucket : Bucket
    config : mapping
        The configuration of the workflow.
    jobs : list of Job
        What the rules fetch: in the main process all of it, elsewhere what that process is for.
    sizes : dict of str to int, optional
        The size in bytes of every object of the selection; read from the run's folder by default.
    others : dict of str to int
        The same of what was listed beside the selection.
    modified : dict of str to int
        When each object of the selection was changed, in seconds since 1970.
    trees : sequence of str
        The prefixes that were listed.
    limits : mapping
        What a transfer has to heed, see :class:`laion_fmri.transfer.Transfer`.
    is_main : bool
        Whether this is the process that was started by hand: it alone lists the bucket.
    rule_dir : str, optional
        `data_dir` as the rules spell it, to which Snakemake may add a prefix.
    runs_single : bool
        Whether this process was started to fetch an object that is in no job.
    """

    def __init__(
        self,
        data_dir: str,
        run_dir: str,
        bucket: Bucket,
        config: Mapping[str, Any],
        jobs: Sequence[Job],
        *,
        sizes: dict[str, int] | None = None,
        others: dict[str, int] | None = None,
        modified: dict[str, int] | None = None,
        trees: Sequence[str] = (),
        limits: Mapping[str, Any] | None = None,
        is_main: bool = False,
        rule_dir: str | None = None,
        runs_single: bool = False,
    ) -> None:
        self.data_dir = data_dir
        self.run_dir = run_dir
        self.bucket = bucket
        self.config = config
        self.jobs = list(jobs)
        self.modified = modified or {}
        self.trees = list(trees)
        self.limits = dict(limits or {})
        self.is_main = is_main
        self.rule_dir = rule_dir or data_dir
        self.runs_single = runs_single
        #: What keeps a key of the selection from being fetched, in words.
        self.obstacles: dict[str, str] = {}
        #: The sign that the run lives, in the process that has made it.
        self.presence: staging.Presence | None = None
        self._looked: set[str] = set()
        self._stale: set[str] = set()
        self._conflicts: dict[str, str] | None = None
        self._subjects: dict[str, list[tuple[str, Parsed]]] = {}
        if sizes is not None:
            self.listed = sizes, others or {}

    @cached_property
    def listed(self) -> tuple[dict[str, int], dict[str, int]]:
        """The sizes of the selection, and those of what was listed beside it."""
        try:
            selected, others = json.loads(Path(self.run_dir, "sizes.json").read_text())
        except FileNotFoundError:
            return {}, {}
        return selected, others

    @property
    def sizes(self) -> dict[str, int]:
        """The size in bytes of every object of the selection, by key."""
        return self.listed[0]

    @cached_property
    def facts(self) -> Selection:
        """What is known of the bucket, whatever is selected."""
        return Selection.from_config({**self.config, "subject": "all"})

    # What the rules ask.

    def paths(self) -> list[str]:
        """Return the local path of every target of the selection."""
        return [f"{self.rule_dir}/{key}" for key in self.sizes]

    def outputs(self, job: Job) -> list[str]:
        """Return the outputs of a planned job."""
        return [f"{self.rule_dir}/{key}" for key, _ in job.objects]

    def needs(self, key: str) -> str | list[str]:
        """Return the input of the rule that fetches `key`: it decides whether the rule runs.

        Nothing if the file is missing; the stamp, which is newer, if its size is wrong; and for a
        complete file, or a key that the bucket does not have, a path that cannot exist.

        Raises
        ------
        SelectionError
            If the object is listed but not given out, or something is in its place on disk.
        LicenseNotAcceptedError
            If it is one of the stimuli, and their licence has not been accepted.
        """
        if not self.is_main:  # the main process has decided: what this one is for is to be fetched
            return [] if self.runs_single else COMPLETE
        size = self.find_size(key)
        if size is None:
            return COMPLETE
        status = compare(f"{self.data_dir}/{key}", size)
        if status == "complete":
            return COMPLETE
        if refusal := self.facts.explain_held_out(key):
            raise SelectionError(refusal)
        if conflict := self._find_conflicts().get(key):
            raise SelectionError(f"{key!r} {conflict}, and is not fetched")
        obstacle = find_obstacle(f"{self.data_dir}/{key}", self.data_dir)
        if obstacle := self.obstacles.get(key) or obstacle:
            raise SelectionError(f"{key}: {obstacle}")
        check_licenses(key.startswith(dataset.STIMULI_PREFIX), self.data_dir)
        if status == "missing":
            return []
        if key not in self._stale:
            self._stale.add(key)
            self.write_stamp([f"{self.data_dir}/{key}"])
        return self.stamp

    def needs_of(self, job: Job) -> list[str]:
        """Return the input of a planned job: the stamp if any of its files has the wrong size."""
        stale = self.is_main and any(
            compare(f"{self.data_dir}/{key}", size) == "partial" for key, size in job.objects
        )
        return [self.stamp] if stale else []

    @property
    def stamp(self) -> str:
        """A file that is written anew whenever a target has the wrong size."""
        return f"{self.rule_dir}/.laion_fmri/stamp"

    def log(self, name: str) -> str:
        """Return the log of a rule; `name` may have wildcards."""
        return f"{self.rule_dir}/.laion_fmri/logs/{name}"

    def describe_single(self, key: str) -> str:
        """Return, as JSON, what the transfer of the single object `key` has to know."""
        job = self._describe(make_single(key, self.find_size(key) or 0))
        return json.dumps(job | {"max_bandwidth": self.limits.get("single_bandwidth")})

    def job_file(self, job: Job) -> str:
        """Return the file with what the transfer of a planned job has to know."""
        return f"{self.run_dir}/{job.name}.json"

    def describe(self, job: Job) -> str:
        """Say what a planned job fetches: a line, and in a dry run each object of a batch."""
        size = format_size(job.bytes)
        if job.prefix is None:
            return f"fetch {job.objects[0][0]} ({size})"
        text = f"fetch {len(job.objects):,} objects below {job.prefix or 'the root'} ({size})"
        if not _is_dry_run(sys.argv):
            return text
        return "\n".join([f"{text}:", *(f"  {key} ({format_size(n)})" for key, n in job.objects)])

    def describe_named(self, wildcards: Any) -> str:
        """Say which single object a pipeline has named; Snakemake's `wildcards` have its key."""
        return f"{wildcards.key} ({format_size(self.find_size(wildcards.key) or 0)})"

    def _describe(self, job: Job) -> dict[str, Any]:
        where = {"bucket": self.bucket.name, "data_dir": self.data_dir, "run_dir": self.run_dir}
        listed = {key: self.modified[key] for key, _ in job.objects if key in self.modified}
        return asdict(job) | where | {"modified": listed} | self.limits

    # What the bucket has, beyond the selection.

    def find_size(self, key: str) -> int | None:
        """Return the size of `key` in bytes, or None if the bucket does not have it.

        Outside what was listed, the main process lists the folder of the key, once.
        """
        if not is_safe_key(key):
            return None
        for known in self.listed:
            if key in known:
                return known[key]
        if not key.startswith(tuple(self.trees)):
            self._look(key.rpartition("/")[0] + "/" if "/" in key else "", deep=False)
        return self.listed[1].get(key)

    @cached_property
    def subjects(self) -> list[str]:
        """The labels of all subjects of the bucket."""
        file = Path(self.run_dir, "subjects.json")
        if not self.is_main:
            return list(json.loads(file.read_text())) if file.exists() else []
        labels = list_subjects(self.bucket)
        write_atomically(file, json.dumps(labels))
        return labels

    def find_subject(self, label: str) -> list[tuple[str, Parsed]]:
        """Return the keys of all public objects of the subject `label`, parsed and sorted."""
        if label not in self._subjects:
            self._subjects[label] = list(self._find_subject(label))
        return self._subjects[label]

    def _find_subject(self, label: str) -> Iterator[tuple[str, Parsed]]:
        trees = tuple(tree.format(subject=f"sub-{label}") for tree in self.facts.trees)
        for tree in trees:
            if tree not in self.trees:
                self._look(tree, deep=True)
        for key in sorted(key for known in self.listed for key in known if key.startswith(trees)):
            parsed = parse_key(key)
            refused = not is_safe_key(key) or key in self._find_conflicts()
            if not (refused or self.facts.is_held_out(key, parsed)):
                yield key, parsed

    def _find_conflicts(self) -> dict[str, str]:
        """Return what of all that is listed cannot be side by side on every disk, and why not."""
        if self._conflicts is None:
            self._conflicts = find_conflicts(chain(*self.listed))
        return self._conflicts

    def _look(self, prefix: str, *, deep: bool) -> None:
        """List `prefix` once in a run; the other processes read what the main one has found."""
        name = hashlib.sha256(f"{deep}{prefix}".encode()).hexdigest()[:16]
        if name in self._looked:
            return
        self._looked.add(name)
        found = Path(self.run_dir, f"found-{name}.json")
        if self.is_main:
            sizes = {item.key: item.size for item in self.bucket.list_objects(prefix, deep=deep)}
            write_atomically(found, json.dumps(sizes))
        else:
            sizes = json.loads(found.read_text()) if found.exists() else {}
        self.listed[1].update(sizes)
        self._conflicts = None

    # What the main process leaves for the others.

    def write(self) -> None:
        """Write the table and the jobs for the processes that Snakemake starts."""
        run_dir = Path(self.run_dir)
        shutil.rmtree(run_dir / "outcomes", ignore_errors=True)
        (run_dir / transfer.STOP).unlink(missing_ok=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        for job in self.jobs:
            write_atomically(Path(self.job_file(job)), json.dumps(self._describe(job)))
        write_atomically(run_dir / "sizes.json", json.dumps(self.listed))
        content = {
            "data_dir": self.data_dir,
            "rule_dir": self.rule_dir,
            "bucket": asdict(self.bucket),
            "config": self.config,
            "jobs": [job.name for job in self.jobs],
            "trees": self.trees,
            "limits": self.limits,
        }
        write_atomically(run_dir / "table.json", json.dumps(content))

    def write_stamp(self, partial: Iterable[str]) -> None:
        """Make the stamp newer than the files `partial`, if there are any.

        It gets new content: Snakemake would see through a mere change of its time. A broken file
        from the future, or with the time of another clock, is set back.
        """
        files = [Path(path) for path in partial]
        if not files:
            return
        stamp = Path(self.data_dir, ".laion_fmri", "stamp")
        stamp.parent.mkdir(exist_ok=True)
        write_atomically(stamp, f"{time.time_ns()}\n")
        now = stamp.stat().st_mtime
        for file in files:
            if file.is_file() and file.lstat().st_mtime >= now:
                os.utime(file, (now - 1, now - 1), follow_symlinks=False)


def read_targets(
    run_dir: Path, *, is_main: bool = False, rules: Iterable[str] | None = None
) -> Targets:
    """Read the targets that the main process of a run has written to `run_dir`.

    Parameters
    ----------
    is_main
        Whether this is Snakemake's main process, which is not the one that has listed the bucket.
    rules
        Names of the rules that this process may run; all by default. A pipeline may have put a
        prefix before them.
    """
    content = json.loads((run_dir / "table.json").read_text())
    names = content["jobs"] if rules is None else [find_job(rule) for rule in rules]
    files = [run_dir / f"{name}.json" for name in names]
    return Targets(
        content["data_dir"],
        str(run_dir),
        Bucket(**content["bucket"]),
        content["config"],
        [_read_job(file) for file in files if file.exists()],
        trees=content["trees"],
        limits=content["limits"],
        is_main=is_main,
        rule_dir=content["rule_dir"],
        runs_single="object" in names,
    )


def find_job(rule: str) -> str:
    """Return the name of a job from that of its rule, to which a pipeline may have added."""
    planned = re.search("(batch|object)_[0-9a-f]{10}", rule)
    if planned:
        return planned[0]
    return "object" if "fetch_object" in rule else rule


def _read_job(file: Path) -> Job:
    content = json.loads(file.read_text())
    known = {item.name: content[item.name] for item in fields(Job)}
    objects = tuple((key, size) for key, size in known.pop("objects"))
    return Job(**known, objects=objects)


def _is_dry_run(argv: Sequence[str]) -> bool:
    """Whether Snakemake's command line asks for a dry run, which it does not tell its rules."""
    return any(re.fullmatch("--dry-?run|-[a-zA-Z]{0,3}n[a-zA-Z]{0,3}", word) for word in argv)


def transfer_command() -> list[str]:
    """Return the command that runs one fetch job, without its arguments."""
    return [sys.executable, os.fspath(transfer.PROGRAM)]
