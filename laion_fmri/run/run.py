"""One run: what is selected, its plan, its fetch, and what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laion_fmri import dataset
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import (
    StrPath,
    check_data_dir,
    clean_config,
    get_data_dir,
    is_writable,
    not_writable,
    state_dir,
)
from laion_fmri.errors import WorkflowFailedError
from laion_fmri.fetch.aws import find_aws_command, read_disk_error
from laion_fmri.fetch.outcomes import Outcome
from laion_fmri.folder.disk_space import count_free_bytes, explain_full_disk
from laion_fmri.folder.licences import check_licenses
from laion_fmri.folder.rates import note_rate
from laion_fmri.folder.staging import Presence, clear_up, enter, has_others
from laion_fmri.run.pipeline_modules import make_targets, read_positive
from laion_fmri.run.process import Snakemake, run_workflow
from laion_fmri.run.profiles import find_profile
from laion_fmri.run.targets import Targets
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.manifest_run import compare_checksums, find_table, read_paths
from laion_fmri.selection.table import Row, Table, compare
from laion_fmri.units import format_size

if TYPE_CHECKING:
    import pandas as pd

#: Seconds for another run to put back a file that is the same for both.
PATIENCE = 30.0

Watch = Callable[[Targets, list[Row]], AbstractContextManager[Callable[[], None]]]


@dataclass
class Report:
    """What happened to each row of a selection.

    Attributes
    ----------
    rows : list of Row
        The key table, compared with the disk after the run.
    outcomes : list of str or None
        ``fetched``, ``present``, ``failed`` or ``denied``; None where nothing was tried (dry run).
    reasons : list of str
        Why a row failed or was denied, else empty.
    """

    rows: list[Row]
    outcomes: list[str | None]
    reasons: list[str]
    log: Path | None = None

    def to_frame(self) -> pd.DataFrame:
        """Return the key table with the columns ``outcome`` and ``reason``."""
        frame = Table(self.rows).to_frame()
        frame["outcome"] = self.outcomes
        frame["reason"] = self.reasons
        return frame

    def failures(self) -> list[tuple[Row, str]]:
        """Return the rows that are not in place after the run, each with its reason."""
        return [
            (row, reason)
            for row, outcome, reason in zip(self.rows, self.outcomes, self.reasons, strict=True)
            if outcome in ("failed", "denied")
        ]

    def explain_failures(self, limit: int = 10) -> str:
        """Say in one line how many files are not in place, which, and what to do."""
        failures = self.failures()
        named = "; ".join(f"{row.key}: {reason}" for row, reason in failures[:limit])
        more = f"; and {len(failures) - limit} more" if len(failures) > limit else ""
        return (
            f"{len(failures)} of {len(self.rows)} files could not be fetched: {named}{more}. "
            "Everything else is in place; run the same again to fetch what is missing"
        )


class Run:
    """One download: the selection found on creation, planned and fetched by :meth:`fetch`.

    To be used in a ``with`` statement, which ends what may have been started ahead of time.

    Parameters
    ----------
    config : mapping
        The configuration of the workflow; see ``workflow/schemas/config.schema.yaml``.
    n_jobs : int
        How many ``aws s3 cp`` processes run at once.
    dry_run : bool
        Whether :meth:`fetch` is only to report what is here.
    profile : str or path, optional
        A Snakemake profile that sends the jobs to a cluster, see :func:`download`.
    checksums : bool
        Whether the manifest that is kept gets the SHA-256 of each file after the run.

    Raises
    ------
    LaionFmriError
        If the input is bad, the data directory unusable, or the bucket cannot be listed.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        n_jobs: int,
        *,
        dry_run: bool = False,
        profile: StrPath | None = None,
        checksums: bool = False,
    ) -> None:
        self.dry_run = dry_run
        self.checksums = checksums
        self.profile = None if profile is None else find_profile(profile)
        self.n_jobs = self.profile.jobs if self.profile and n_jobs == 1 else n_jobs
        for name, unit in (("max_bandwidth", "MB/s"), ("stall_timeout", "seconds")):
            read_positive(config, name, unit)  # complains before anything is listed
        config = {**config, **read_paths(config, checksums=checksums)}
        selection = Selection.from_config(config)
        self.data_dir = get_data_dir(config.get("data_dir"))
        check_data_dir(self.data_dir)
        check_licenses(selection.include_stimuli, self.data_dir)
        self.config = clean_config(config) | selection.to_config()
        self.config["data_dir"] = str(self.data_dir)
        if self.profile:
            self.config["fetch_on"] = "cluster"
        self.bucket = Bucket.from_config(config)
        # The first run in a directory will fetch something: let Snakemake load meanwhile.
        is_first = not state_dir(self.data_dir).exists()
        starts = is_first and not dry_run and is_writable(self.data_dir)
        if not dry_run:
            clear_up(self.data_dir)
        self._presence: Presence | None = None
        self._snakemake = Snakemake() if starts else None
        try:
            self.table, self._sha256 = find_table(config, selection, self.bucket, self.data_dir)
        except BaseException:
            self.close()
            raise
        if is_first:
            self.table.notes.append(dataset.BRAIN_LICENSE)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End a Snakemake that is running or waiting, and clear up after it."""
        if self._snakemake:
            self._snakemake.close()
        if self._presence:
            self._presence.close()
            self._presence = None
            clear_up(self.data_dir)

    def plan(self) -> Targets:
        """Return the targets and the jobs that fetch them; check that they can be fetched."""
        if not is_writable(self.data_dir):
            raise not_writable(self.data_dir)
        find_aws_command()
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        run_dir = state_dir(self.data_dir) / "runs" / f"{started}-{os.getpid()}"
        while run_dir.exists():  # two runs of one process in one second
            run_dir = run_dir.with_name(run_dir.name + "x")
        # What another run has brought meanwhile stays; what it brings from now on, it keeps for us.
        self._presence = enter(run_dir)
        self.table.compare_again()
        targets = make_targets(
            self.table,
            self.config,
            self.bucket,
            str(self.data_dir),
            run_dir,
            workers=self.n_jobs,
            presence=self._presence,
            on_cluster=self.profile is not None,
        )
        targets.write()
        targets.write_stamp(self.table.partial_paths())
        return targets

    def fetch(self, watch: Watch | None = None) -> Report:
        """Fetch what is not complete, and return what happened to each row.

        Without anything to do, nothing is written. `watch` gets the targets and the rows to fetch,
        and its context what is to be called while the run lasts.
        """
        if self.dry_run or not self.table.incomplete():
            rows = self.table.rows
            done = [("present" if row.status == "complete" else None) for row in rows]
            return Report(rows, done, [self.table.obstacles.get(row.key, "") for row in rows])
        said = {key: Outcome("failed", why) for key, why in self.table.obstacles.items()}
        report = Report([], [], [])
        wanted = [row for row in self.table.incomplete() if row.key not in said]
        if wanted:
            targets = self.plan()
            report.log = Path(targets.run_dir, "snakemake.log")
            watching = watch(targets, wanted) if watch else nullcontext(_do_nothing)
            started, full = time.monotonic(), None
            try:
                with watching as on_tick:
                    self._snakemake = self._snakemake or Snakemake()
                    said |= run_workflow(
                        self._snakemake, self.config, targets, self.n_jobs, self.profile, on_tick
                    )
            except KeyboardInterrupt as stop:
                stop.add_note(self._explain_stop())
                raise
            except WorkflowFailedError as error:  # Snakemake itself may have found no room
                full = read_disk_error(str(error), ())
                if full is None:
                    raise
            arrived = [row.size for row in wanted if _is_fetched(said.get(row.key))]
            note_rate(self.data_dir, sum(arrived), time.monotonic() - started)
            said |= self._explain_full_disk(Path(targets.run_dir), said, full)
        for row in self.table.rows:
            outcome, reason = said.get(row.key) or self._explain_untried(row, report.log)
            now = self._look_again(row, is_expected=outcome == "fetched")
            if now.status == "complete":
                outcome, reason = ("present" if row.status == "complete" else "fetched"), ""
            elif outcome == "fetched":
                outcome, reason = "failed", "changed on disk while the run lasted"
            report.rows.append(now)
            report.outcomes.append(outcome)
            report.reasons.append(reason)
        return report

    def _look_again(self, row: Row, *, is_expected: bool) -> Row:
        """Compare `row` with the disk again.

        Another run's Snakemake removes a file for a moment, before its transfer puts it back.
        """
        deadline = time.monotonic() + PATIENCE
        own = self._presence.path if self._presence else None
        while (status := compare(row.path, row.size)) != "complete" and is_expected:
            if time.monotonic() > deadline or not has_others(self.data_dir, own):
                break
            time.sleep(0.1)
        return row._replace(status=status)

    def _explain_stop(self) -> str:
        rows = [row._replace(status=compare(row.path, row.size)) for row in self.table.rows]
        here = [row.size for row in rows if row.status == "complete"]
        return (
            f"{len(here):,} of {len(rows):,} files ({format_size(sum(here))} of "
            f"{format_size(sum(row.size for row in rows))}) are in place; run the same again to "
            "go on where it stopped"
        )

    def _explain_full_disk(
        self, run_dir: Path, said: Mapping[str, Outcome], why: str | None
    ) -> dict[str, Outcome]:
        """Say of all that the disk had no room for how much is needed, if it stopped the run."""
        missing = [row for row in self.table.rows if compare(row.path, row.size) != "complete"]
        needed = sum(row.size for row in missing)
        reason = explain_full_disk(run_dir, self.data_dir, needed, why)
        if reason is None:
            return {}
        refused = {key for key, outcome in said.items() if outcome.outcome == "denied"}
        return {row.key: Outcome("failed", reason) for row in missing if row.key not in refused}

    def _explain_untried(self, row: Row, log: Path | None) -> Outcome:
        """Say why no transfer has recorded an outcome, which takes a disk that can be written."""
        if not is_writable(self.data_dir):
            return Outcome("failed", str(not_writable(self.data_dir)))
        free = count_free_bytes(self.data_dir)
        if free < row.size:
            reason = f"{row.size:,} bytes are needed, and the disk of {self.data_dir} has {free:,}"
            return Outcome("failed", reason)
        return Outcome("failed", f"not tried; see {log}")

    def finish(self, report: Report) -> None:
        """Hold what was fetched against the manifest's checksums, and keep those asked for."""
        compare_checksums(report, self._sha256, self.config, self.bucket, checksums=self.checksums)


def _do_nothing() -> None:
    pass


def _is_fetched(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.outcome == "fetched"
