"""One fetch job: the ``aws s3 cp`` of a rule, from a staging folder into place.

What arrives in ``<data_dir>/.laion_fmri/partial/`` is compared with the listing and moved into
place at once, so that a batch that is stopped keeps what it has. What fails is tried again, unless
the bucket answered 403 or 404, or has another object there now; of a large object, only what has
not arrived. What another run is fetching is waited for. The outcome of each object goes to
``<run_dir>/outcomes/<job>.jsonl``.
"""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping

from laion_fmri.errors import DataDirError
from laion_fmri.fetch import aws
from laion_fmri.fetch.agenda import OBJECT, OBJECTS, Agenda
from laion_fmri.fetch.arrival import CHANGED, ELSEWHERE, EXCESS, SCRATCH, UNLISTED, Arrivals
from laion_fmri.fetch.aws_process import (
    TICK,
    UNUSABLE,
    find_fault,
    find_target,
    run_aws,
)
from laion_fmri.fetch.job import JobSpec
from laion_fmri.fetch.outcomes import WAITING, Outcome, read_outcomes, record_outcome
from laion_fmri.fetch.resume import RESUMED, Resumer
from laion_fmri.folder import kept
from laion_fmri.folder.claims import Claims
from laion_fmri.folder.guard import (
    NO_FOLDER,
    Mirror,
)
from laion_fmri.folder.presence import has_others
from laion_fmri.folder.staging import list_files, make_staging, move

#: Attempts in a row that bring nothing of an object, after which it is given up; each run of aws
#: retries every request by itself as well.
ATTEMPTS = 3
#: Seconds before the next attempt after one that has brought nothing; doubled after a second.
BACKOFF = 2.0
#: Seconds between two looks at whether another run is done with an object, at most.
LONGEST_PAUSE = 5.0
#: Seconds of waiting for another run after which that is said, and after which an object is fetched
#: all the same; each MB adds a second, since a large object takes its time.
QUIET, PATIENCE = 10.0, 3600.0


class Transfer(Agenda):
    """One job: a single object, or the objects of a batch under a common prefix."""

    def __init__(self, spec: JobSpec, aws_words: list[str]) -> None:
        super().__init__(spec)
        self.aws = [*aws_words, *aws.make_timeouts(spec.stall_timeout)]
        start = len(spec.job.prefix or "")
        self.names = {key: key[start:] for key in self.sizes}  # as a recursive copy has them
        self.config = self.run_dir / f"{spec.job.name}.aws.config"
        self.arrivals = Arrivals(spec, self.aws, self.config)
        self.resumer = Resumer(spec, self.aws, self.config, self._check_wanted)
        self.has_tried = False  # whether aws has run before
        self.is_cut = False  # whether aws was ended because of an object that did not end

    def run(self) -> int:
        """Fetch all objects of the job; return 0 if every one is in place, else 1."""
        name = f"{self.run_dir.name}-{self.job.name}"  # which the view of a run reads
        try:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with (
                Mirror(self.data_dir) as self.mirror,
                make_staging(self.data_dir, name) as self.staging,
            ):
                self._fetch_all()
                self._drop_kept()
        except DataDirError as error:
            self._give_up(str(error))
        except OSError as error:
            if not self._is_full(error):
                self._give_up(f"cannot write {error.filename or self.data_dir}: {error.strerror}")
        return int(self.failed)

    def _fetch_all(self) -> None:
        """Fetch what nobody else is fetching, then wait for the rest, or fetch it after all."""
        claims = Claims(self.data_dir)
        pause, since, said = TICK, time.monotonic(), ""
        while self._is_waiting():
            taken = claims.take(self.unsettled)
            waited = time.monotonic() - since
            if taken:
                since = time.monotonic()
            elif waited > PATIENCE + sum(self.sizes[key] for key in self.unsettled) / 1e6:
                taken = list(self.unsettled)  # whoever holds the claims is not fetching
            elif waited > QUIET and not said:
                said = "waiting for another run that is fetching it"
                for key in self.unsettled:
                    record_outcome(self.record, key, Outcome(WAITING, said))
                sys.stderr.write(f"{said}: {len(self.unsettled)} objects\n")
            self._recall()
            self.wanted = dict.fromkeys(key for key in taken if key in self.unsettled)
            if self.wanted:
                self._fetch_wanted()
            claims.drop(taken)
            if self._is_waiting():
                pause = TICK if taken else min(1.5 * pause, LONGEST_PAUSE)
                self._wait(pause)

    def _is_waiting(self) -> bool:
        """Whether there is something that this job does not end without."""
        return bool(self.unsettled)

    def _check_wanted(self) -> bool:
        """Obey orders; return whether anything is still to be fetched here and now."""
        self._check_orders()
        return bool(self.wanted)

    def _make_config(self) -> str:
        is_mirror = "--endpoint-url" in self.aws
        return aws.make_config(self.job.connections, self.spec.max_bandwidth, is_mirror)

    def _is_here(self, key: str) -> bool:
        try:
            return (self.data_dir / key).stat().st_size == self.sizes[key]
        except OSError:
            return False

    def _fetch_wanted(self) -> None:
        kept = self.resumer.count(self.wanted)
        most = Counter(kept)  # the most bytes kept so far, by key; only more is progress
        idle: Counter[str] = Counter()  # attempts in a row that have brought nothing, by key
        self.config.write_text(self._make_config())
        self.arrivals.watch_version()
        while self._check_wanted():
            self._attempt(kept)
            kept = self.resumer.count(self.wanted)
            for key in self.wanted.copy():
                has_more = kept.get(key, 0) > most[key]
                most[key] = max(most[key], kept.get(key, 0))
                idle[key] = 0 if has_more else idle[key] + (not self.is_cut)
                if idle[key] >= ATTEMPTS:
                    self._settle(key, "failed", self._explain_kept(key, kept.get(key, 0)))
            fewest = min((idle[key] for key in self.wanted), default=0)
            self._wait(BACKOFF * 2 ** (fewest - 1) if fewest else 0)

    def _attempt(self, kept: Mapping[str, int]) -> None:
        """Make one attempt: first go on with what is kept, then copy the rest."""
        self.is_cut = False
        before = len(self.unsettled)
        resumed = [key for key in kept if key in self.wanted and self._go_on(key)]
        # Not copied: the next attempt goes on with them.
        self.wanted = {key: None for key in self.wanted if key not in resumed}
        if self.wanted:
            messages = self._run_aws()
            times_count = aws.NO_TIMES not in messages.replace("\n", " ")
            self._collect(times_count=times_count)
            if said := aws.read_disk_error(messages, self.names.values()):
                self._stop_run(said)
            self._judge(messages, times_count=times_count)
            self.resumer.clear(self.staging)
            if len(self.unsettled) == before and not self.has_tried:
                self._check_program(messages)
            self.has_tried = True
        self.wanted |= dict.fromkeys(key for key in resumed if key in self.unsettled)

    def _settle(self, key: str, outcome: str, reason: str) -> None:
        super()._settle(key, outcome, reason)
        if outcome == "fetched":
            self.resumer.drop(key)

    def _go_on(self, key: str) -> bool:
        """Fetch the rest of an object of which some is kept; return whether there was any."""
        ended = self.resumer.go_on(key, self.staging)
        if ended is None or key not in self.wanted:  # given up meanwhile
            return False
        if ended.outcome == "fetched":
            self._move_into_place(key, RESUMED)
        elif ended.outcome:
            self._settle(key, ended.outcome, ended.reason)
        else:
            self.unsettled[key] = ended.reason
        return key in self.wanted

    def _explain_kept(self, key: str, kept: int) -> str:
        if not kept:
            return self.unsettled[key]
        share = f"{kept:,} of {self.sizes[key]:,} bytes are kept"
        return f"{self.unsettled[key]}; {share}, and the same again goes on there"

    def _check_program(self, messages: str) -> None:
        """Give up if aws, which has brought nothing, does not work at all."""
        fault = messages if messages.startswith(UNUSABLE) else find_fault(self.aws[0], self.config)
        if fault:
            self._give_up(f"{fault} (on {os.uname().nodename})")

    def _run_aws(self, single: str | None = None) -> str:
        """Run aws once for what is wanted, or a `single` key of it; return its complaints."""
        source = f"s3://{self.spec.bucket}/"
        if self.job.prefix is None:
            (key,) = self.sizes
            what = [f"{source}{key}", find_target(self.staging, OBJECT)]
        elif single is not None:
            target = find_target(self.staging, f"{OBJECTS}/{self.names[single]}")
            what = [f"{source}{single}", target]
        else:
            target = find_target(self.staging, OBJECTS)
            what = ["--recursive", source + self.job.prefix, target]
            what += aws.choose_filters(self.job, self.names, self.wanted)
        # What is archived and has been restored can be read.
        command = [*self.aws, "--force-glacier-transfer", *what]
        return run_aws(command, self.staging, self.config, self.spec.stall_timeout, self._look)

    def _look(self, messages: str) -> object:
        """Move what has arrived; return what changes with each byte, or None to end aws."""
        self._check_orders()
        if self.job.prefix is not None:
            self._collect()
        # On a full disk aws would still ask for every other object.
        if not self.wanted or aws.read_disk_error(messages, self.names.values()):
            return None
        found = list_files(self.staging)
        arriving: dict[str, str] = {}
        for name, stat in found.items():
            key = self._find_key(name) or self._find_key(SCRATCH.sub("", name))
            if key is None and stat.st_size > EXCESS:
                return None  # aws was shown another listing; counts as an attempt
            if key in self.wanted and stat.st_size > self.sizes[key] + EXCESS:
                self._settle(key, "failed", f"{CHANGED}: more bytes arrive than were listed")
                self.resumer.drop(key)
                self.is_cut = True
            if key is not None:
                arriving[name] = key
        if self.is_cut:
            return None
        self.resumer.watch(self.staging, arriving)
        stats = [(stat.st_size, stat.st_blocks, stat.st_mtime_ns) for stat in found.values()]
        return len(self.wanted), stats

    def _find_key(self, name: str) -> str | None:
        """Return the key of the object that is staged as `name`, if it is one of the job's."""
        if self.job.prefix is None:
            return next(iter(self.sizes)) if name == OBJECT else None
        key = self.job.prefix + name.removeprefix(f"{OBJECTS}/")
        return key if name.startswith(f"{OBJECTS}/") and key in self.sizes else None

    def _collect(self, *, times_count: bool = True) -> None:
        """Move the staged files that are what was listed into place."""
        # aws renames each when it is complete, and then gives it the time of its object.
        find_flaw, here = self.arrivals.find_flaw, self.staging
        for staged, stat in list_files(here).items():
            key = self._find_key(staged)
            if key in self.wanted:
                with contextlib.suppress(FileNotFoundError):
                    if not find_flaw(here, key, staged, stat, times_count=times_count)[0]:
                        self._move_into_place(key, staged)

    def _move_into_place(self, key: str, staged: str) -> None:
        here, target = self.staging, self.data_dir / key
        try:
            with self.mirror.folder_of(key, make=True) as (folder, name):
                with contextlib.suppress(PermissionError):  # a file system that takes no times
                    # aws sets LastModified, which is older than the stamp.
                    os.utime(staged, dir_fd=here, follow_symlinks=False)
                self._place(key, staged, name, folder)
        except OSError as error:
            if error.errno in NO_FOLDER:
                why = "a folder of it is a link that leads out of the data directory, or a file"
                self._settle(key, "failed", f"cannot write {target}: {why}")
            elif not self._is_full(error):
                self._settle(key, "failed", f"cannot write {target}: {error.strerror}")
        else:
            self._settle(key, "fetched", "")

    def _place(self, key: str, staged: str, name: str, folder: int) -> None:
        kept.keep(self.data_dir, key, self.staging, staged)
        move(staged, self.staging, name, folder)

    def _judge(self, messages: str, *, times_count: bool) -> None:
        """Settle what need not be tried again, and note what went wrong with the rest."""
        staged = {
            self._find_key(name): (name, stat) for name, stat in list_files(self.staging).items()
        }
        lines = [line for line in map(str.strip, messages.splitlines()) if line]
        for key in self.wanted.copy():
            name = None if self.job.prefix is None else key
            line = aws.find_message(lines, self.spec.bucket, name)
            if key in staged:
                file, stat = staged[key]
                reason, is_final = self.arrivals.find_flaw(
                    self.staging, key, file, stat, times_count=times_count
                )
                os.unlink(file, dir_fd=self.staging)
                self.resumer.drop(key)
                self.unsettled[key] = reason
                if is_final:
                    self._settle(key, "failed", reason)
            elif refusal := aws.read_refusal(line, key):
                self._settle(key, *refusal)
            elif line:
                is_from_s3 = not aws.NOT_S3.search(line)
                self.unsettled[key] = line if is_from_s3 else f"{aws.PAGE} ({line})"
            elif self.is_cut:
                continue
            elif self.job.prefix is None:
                self._settle(key, "failed", ELSEWHERE.format(self.aws[0]))
            elif self.unsettled[key] == UNLISTED:
                self._ask_singly(key)
            else:
                self.unsettled[key] = UNLISTED

    def _ask_singly(self, key: str) -> None:
        """Fetch by itself what copies of its folder pass over: S3 says why, if it is gone."""
        messages = self._run_aws(key)
        self._collect()
        if key not in self.wanted:
            return
        line = aws.find_message(messages.strip().splitlines(), self.spec.bucket, key)
        refusal = aws.read_refusal(line, key) or ("failed", line or ELSEWHERE.format(self.aws[0]))
        self._settle(key, *refusal)

    def _recall(self) -> None:
        """Settle what an earlier attempt or another run has fetched, or was refused for good."""
        has_kept = kept.has_any(self.data_dir)
        for key in list(self.unsettled):
            if self._is_here(key) or (has_kept and self._recall_kept(key)):
                self._settle(key, "fetched", "")
        if self.spec.keeps:
            for key, said in read_outcomes(self.record.parent, self.record.name).items():
                if key in self.unsettled and said in aws.FINAL.values():
                    self._settle(key, *said)

    def _recall_kept(self, key: str) -> bool:
        return kept.recall(self.data_dir, key, self.sizes[key], self.staging)

    def _drop_kept(self) -> None:
        """Drop the second links to what is in place, unless somebody may still remove that."""
        if self.spec.keeps and self.failed:
            return
        if not has_others(self.data_dir, self.spec.presence):
            for key in self.sizes:
                kept.drop(self.data_dir, key)
