"""What the rules of the workflow ask: inputs, outputs, logs, and whether a file is to be fetched.

Sizes decide. Snakemake only sees whether a file exists and how old it is, so the input of a rule is
computed: nothing for a missing file, a stamp that is newer for a file of the wrong size, and for a
complete file a path that cannot exist, so that Snakemake takes it for a source file.
"""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from laion_fmri import dataset
from laion_fmri.base.bids import parse_key
from laion_fmri.base.files import write_atomically
from laion_fmri.base.text import format_size
from laion_fmri.errors import SelectionError
from laion_fmri.fetch.aws import make_filters
from laion_fmri.fetch.job import PROGRAM, Job
from laion_fmri.fetch.mates import Groups, forget_groups
from laion_fmri.folder.obstacles import Obstacles
from laion_fmri.run.jobs import make_single, plan_jobs
from laion_fmri.run.listing import Listing
from laion_fmri.run.plan import explain_cut
from laion_fmri.run.run_folder import RunFolder, write_stamp
from laion_fmri.selection.table import compare

#: The input of a complete target: no rule can make it.
COMPLETE = "/dev/null/complete"
#: The command that runs one fetch job, without its arguments.
TRANSFER = (sys.executable, os.fspath(PROGRAM))


#: Characters of a command that is shown.
MOST_SHOWN = 4000


class Rules:
    """The questions of the rules about one module, answered from its run folder.

    Only the process that was started by hand (`is_main`) lists the bucket. With `runs_single`, the
    process is there for an object that is in no job. `obstacles` keep keys from being fetched.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        is_main: bool = False,
        runs_single: bool = False,
        obstacles: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        self.folder = folder
        self.is_main = is_main
        self.runs_single = runs_single
        self.obstacles = dict(obstacles or {})
        self.listing = Listing(folder, is_main=is_main)
        self.workers = workers
        self._stale: set[str] = set()
        self._groups: dict[str, Job] = {}  # key -> the job that fetches it with others

    @property
    def jobs(self) -> Sequence[Job]:
        """The planned jobs that this process has rules for, the largest first."""
        return self.folder.jobs

    @property
    def stamp(self) -> str:
        """A file that is written anew whenever a target has the wrong size."""
        return f"{self.folder.path}/stamp"

    def paths(self) -> list[str]:
        """Return the local path of every target of the selection."""
        return [f"{self.folder.rule_dir}/{key}" for key in self.listing.selected]

    def check_reach(self) -> None:
        """Raise BucketError for what is selected and missing, if the bucket cannot be reached."""
        folder, selected = self.folder, self.listing.selected
        if self.is_main and folder.bucket.reach.is_cut_off:
            missing = [
                (key, size)
                for key, size in selected.items()
                if compare(f"{folder.data_dir}/{key}", size) != "complete"
            ]
            if missing:
                raise explain_cut(folder.bucket, missing, len(selected))

    def outputs(self, job: Job) -> list[str]:
        """Return the outputs of a planned job."""
        return [f"{self.folder.rule_dir}/{key}" for key, _ in job.objects]

    def needs(self, key: str) -> str | list[str]:
        """Return the input of the rule that fetches `key`: it decides whether the rule runs."""
        if not self.is_main:  # the main process has decided: what this one is for is to be fetched
            return [] if self.runs_single else COMPLETE
        size = self.listing.find_size(key)
        if size is None:
            return COMPLETE
        path = f"{self.folder.data_dir}/{key}"
        status = compare(path, size)
        if status == "complete":
            return COMPLETE
        if self.folder.facts.is_held_out(key, parse_key(key)):
            raise SelectionError(
                f"{key} is held out: listed, but not given out; ask at {dataset.REQUEST_URL}"
            )
        if conflict := self.listing.find_conflicts().get(key):
            raise SelectionError(f"{key!r} {conflict}, and is not fetched")
        if obstacle := self.obstacles.get(key) or Obstacles(self.folder.data_dir).find(path):
            raise SelectionError(f"{key}: {obstacle}")
        if self.folder.bucket.reach.is_cut_off:
            raise explain_cut(self.folder.bucket, [(key, size)], 1)
        if status == "missing":
            return []
        if key not in self._stale:
            self._stale.add(key)
            write_stamp(self.folder.path, self.folder.data_dir, [key])
        return self.stamp

    def needs_of(self, job: Job) -> list[str]:
        """Return the input of a planned job: the stamp if any of its files has the wrong size."""
        stale = self.is_main and any(
            compare(f"{self.folder.data_dir}/{key}", size) == "partial" for key, size in job.objects
        )
        return [self.stamp] if stale else []

    def log(self, name: str) -> str:
        """Return the log of a rule; `name` may have wildcards."""
        return f"{self.folder.path}/logs/{name}"

    def describe(self, job: Job) -> str:
        """Say what a planned job fetches: a line, and in a dry run each object of a batch."""
        size = format_size(job.bytes)
        if job.prefix is None:
            return f"fetch {job.objects[0][0]} ({size})"
        text = f"fetch {len(job.objects):,} objects below {job.prefix or 'the root'} ({size})"
        if not is_dry_run(sys.argv):
            return text
        return "\n".join([f"{text}:", *(f"  {key} ({format_size(n)})" for key, n in job.objects)])

    def spell_copy(self, job: Job) -> str:
        """Return the command, to be read or pasted, that copies what a planned job fetches.

        Many patterns are only counted: the shell line that it is shown in may not be of any length.
        """
        source, target = f"s3://{self.folder.bucket.name}/", f"{self.folder.rule_dir}/"
        what: list[str] = []
        if job.prefix is None:
            place = job.objects[0][0]
        else:
            place = job.prefix
            what = ["--recursive", *make_filters(job.patterns, job.exclusions)]
        start = ["aws", "s3", "cp", *self.folder.bucket.aws_options()]
        end = [source + place, target + place]
        said = shlex.join([*start, *what, *end])
        if len(said) <= MOST_SHOWN:
            return said
        return f"{shlex.join([*start, '--recursive', *end])} with {len(job.patterns):,} patterns"

    def find_source(self, key: str, wanted: Callable[[], Iterable[str]]) -> str:
        """Return where the object `key` comes from; `wanted` are the keys that have a job.

        Snakemake asks for it again when a job is about to start. It knows all jobs by then, so that
        what they fetch can be shared out.
        """
        self._share_out(key, wanted)
        return f"s3://{self.folder.bucket.name}/{key}"

    def find_minutes(self, key: str, wanted: Callable[[], Iterable[str]]) -> int:
        """Return the time to ask a cluster for: that of all that is fetched with `key`."""
        self._share_out(key, wanted)
        return self._groups.get(key, make_single(key, self.listing.find_size(key) or 0)).minutes

    def _share_out(self, key: str, wanted: Callable[[], Iterable[str]]) -> None:
        """Put `key`, and all that is `wanted` by now, into groups that are fetched together."""
        if not self.is_main or key in self._groups or not (keys := {*wanted()}):
            return
        keys = {key, *keys} - self._groups.keys()
        if not self._groups:
            forget_groups(self.folder.path)
        sizes = {key: self.listing.find_size(key) or 0 for key in sorted(keys)}
        jobs = plan_jobs(
            sizes.items(), self.listing.keys, self.workers, os.cpu_count() or 1, self.listing.trees
        )
        for job in jobs:
            spec = self.folder.specify(job)
            spec = spec._replace(max_bandwidth=self.folder.single_bandwidth)
            write_atomically(Path(self.folder.job_file(job)), spec.to_json())
            self._groups |= {key: job for key, _ in job.objects}
        names = {key: job.name for key, job in self._groups.items()}
        Groups(self.folder.aws, names).save(self.folder.path)


def load_rules(path: Path, *, is_main: bool, rules: Sequence[str] | None = None) -> Rules:
    """Return the rules of the run at `path`, with the jobs of those that this process runs."""
    names = None if rules is None else [find_job(rule) for rule in rules]
    folder = RunFolder.load(path, lambda name: names is None or name in names)
    return Rules(folder, is_main=is_main, runs_single="object" in (names or ()))


def find_job(rule: str) -> str:
    """Return the name of a job from that of its rule, to which a pipeline may have added."""
    planned = re.search("(batch|object)_[0-9a-f]{10}", rule)
    if planned:
        return planned[0]
    return "object" if "fetch_object" in rule else rule


#: Options of Snakemake's with which it reads the rules, and asks for no file.
WITHOUT_FILES = {
    *("--lint", "--unlock", "--list-rules", "--list", "-l", "--list-target-rules", "--lt"),
    *("--cleanup-metadata", "--cm", "--print-compilation"),
}


def asks_for_no_file(argv: Sequence[str]) -> bool:
    """Whether Snakemake's command line has it read the rules alone: no network is needed then."""
    return not WITHOUT_FILES.isdisjoint(word.partition("=")[0] for word in argv)


#: Options of Snakemake's that show a pipeline and run nothing of it.
SHOWS = {
    *("--report", "--dag", "--rulegraph", "--filegraph", "--d3dag"),
    *("--summary", "-S", "--detailed-summary", "-D"),
}


def only_shows(argv: Sequence[str]) -> bool:
    """Whether Snakemake's command line has it show the pipeline: the last listing will do."""
    return not SHOWS.isdisjoint(word.partition("=")[0] for word in argv)


def is_dry_run(argv: Sequence[str]) -> bool:
    """Whether Snakemake's command line asks for a dry run, which it does not tell its rules."""
    return any(re.fullmatch("--dry-?run|-[a-zA-Z]{0,3}n[a-zA-Z]{0,3}", word) for word in argv)
