"""One run of our own: its plan, its fetch, and its report."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Self

from laion_fmri import dataset
from laion_fmri.base.text import format_size
from laion_fmri.config import is_writable, make_data_dir, not_writable, state_dir
from laion_fmri.errors import WorkflowFailedError
from laion_fmri.fetch.aws import find_aws_command, read_disk_error
from laion_fmri.fetch.outcomes import WAITING, Outcome
from laion_fmri.folder import unfinished
from laion_fmri.folder.disk_space import count_free_bytes, explain_full_disk
from laion_fmri.folder.kept import clear_up
from laion_fmri.folder.presence import Presence, has_others
from laion_fmri.run.plan import Crew, explain_cut, open_run, plan_run, prepare
from laion_fmri.run.process import Snakemake, run_workflow
from laion_fmri.run.profiles import find_profile
from laion_fmri.run.report import Report, compare_checksums, make_result, report_as_it_is
from laion_fmri.run.run_folder import RunFolder, make_run_dir
from laion_fmri.selection.table import NOWHERE, Row, Table, compare
from laion_fmri.settings import Settings

#: Seconds for another run to put back a file that is the same for both.
PATIENCE = 30.0

Watch = Callable[[RunFolder, Sequence[Row]], AbstractContextManager[Callable[[], None]]]


class Run:
    """One download: the plan is made on creation, and carried out by :meth:`fetch`.

    To be used in a ``with`` statement, which ends what may have been started ahead of time.
    """

    def __init__(self, settings: Settings) -> None:
        self.profile = None if settings.profile is None else find_profile(settings.profile)
        if self.profile and settings.workers == 1:
            settings = replace(settings, workers=self.profile.jobs)
        selection, data_dir = prepare(settings)
        # The first run in a directory will fetch something: let Snakemake load meanwhile.
        is_new = not data_dir.exists()
        can_write = is_writable(data_dir.parent if is_new else data_dir)
        starts = not (state_dir(data_dir).exists() or settings.dry_run) and can_write
        self._presence: Presence | None = None
        self._patience = 0.0  # when to wait no longer
        self._snakemake = Snakemake() if starts else None
        self.settings = settings
        try:
            plan = plan_run(settings, selection, data_dir, reads_only=settings.dry_run or is_new)
            if is_new and not settings.dry_run:  # now that something is selected
                make_data_dir(data_dir)
        except BaseException:
            self.close()
            raise
        if plan.is_first:
            notes = (*plan.table.notes, dataset.BRAIN_LICENSE)
            plan = replace(plan, table=replace(plan.table, notes=notes))
        self.plan = plan

    @property
    def table(self) -> Table:
        """What is selected, as it was before the run."""
        return self.plan.table

    @property
    def data_dir(self) -> Path:
        return self.plan.data_dir

    @property
    def has_place(self) -> bool:
        """Whether a data directory is chosen, which a dry run can do without."""
        return str(self.data_dir) != NOWHERE

    def __enter__(self) -> Self:
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

    def fetch(self, watch: Watch | None = None) -> Report:
        """Fetch what is not complete, and return what happened to each row.

        Without anything to do, nothing is written. `watch` gets the folder of the run and the rows
        to fetch, and its context what is to be called while the run lasts.
        """
        table = self.plan.table
        if self.settings.dry_run or not table.incomplete():
            return report_as_it_is(table)
        said = {key: Outcome("failed", why) for key, why in table.obstacles.items()}
        wanted = [row for row in table.incomplete() if row.key not in said]
        if wanted and self.plan.bucket.reach.is_cut_off:
            missing = [(row.key, row.size) for row in wanted]
            raise explain_cut(self.plan.bucket, missing, len(table.rows))
        log = None
        if wanted:
            folder = self._open()
            log = Path(folder.path, "snakemake.log")
            said |= self._carry_out(folder, wanted, said, watch)
        results = []
        for row in table.rows:
            outcome = said.get(row.key) or self._explain_untried(row, log)
            now = self._look_again(row, is_expected=outcome.outcome == "fetched")
            results.append(make_result(row, now, outcome))
        return Report(tuple(results), log)

    def finish(self, report: Report) -> Report:
        """Compare what was fetched with the manifest's checksums, and keep those asked for."""
        return compare_checksums(report, self.table.sha256, self.settings, self.plan.bucket)

    def _open(self) -> RunFolder:
        if not is_writable(self.data_dir):
            raise not_writable(self.data_dir)
        find_aws_command()
        path = make_run_dir(self.data_dir)
        crew = Crew(self.settings.workers, on_cluster=self.profile is not None)
        folder, table, self._presence = open_run(self.plan, path, crew)
        self.plan = replace(self.plan, table=table)
        folder.save()
        return folder

    def _carry_out(
        self,
        folder: RunFolder,
        wanted: Sequence[Row],
        said: Mapping[str, Outcome],
        watch: Watch | None,
    ) -> dict[str, Outcome]:
        full = None
        outcomes: dict[str, Outcome] = {}
        try:
            with watch(folder, wanted) if watch else nullcontext(lambda: None) as on_tick:
                self._snakemake = self._snakemake or Snakemake()
                workers = self.settings.workers
                outcomes = run_workflow(self._snakemake, folder, workers, self.profile, on_tick)
        except KeyboardInterrupt as stop:
            stop.add_note(self._explain_stop())
            raise
        except WorkflowFailedError as error:  # Snakemake itself may have found no room
            full = read_disk_error(str(error), ())
            if full is None:
                raise
        outcomes = {key: said for key, said in outcomes.items() if said.outcome != WAITING}
        return outcomes | self._explain_full_disk(folder.path, {**said, **outcomes}, full)

    def _look_again(self, row: Row, *, is_expected: bool) -> Row:
        """Compare `row` with the disk again.

        Another run's Snakemake removes a file for a moment, before its transfer puts it back.
        """
        own = self._presence.name if self._presence else None
        while (status := compare(row.path, row.size)) != "complete" and is_expected:
            self._patience = self._patience or time.monotonic() + PATIENCE  # for all rows together
            if time.monotonic() > self._patience or not has_others(self.data_dir, own):
                break
            time.sleep(0.1)
        return row._replace(status=status)

    def _explain_stop(self) -> str:
        rows = self.table.rows
        here = [row.size for row in rows if compare(row.path, row.size) == "complete"]
        kept = unfinished.explain(self.data_dir, (row.key for row in rows))
        there = f"; {kept}, and" if kept else ";"
        return (
            f"{len(here):,} of {len(rows):,} files ({format_size(sum(here))} of "
            f"{format_size(sum(row.size for row in rows))}) are in place{there} the same command "
            "goes on there"
        )

    def _explain_full_disk(
        self, path: str, said: Mapping[str, Outcome], why: str | None
    ) -> dict[str, Outcome]:
        """Say of all that the disk had no room for how much is needed, if it stopped the run."""
        missing = [row for row in self.table.rows if compare(row.path, row.size) != "complete"]
        needed = sum(row.size for row in missing)
        reason = explain_full_disk(path, self.data_dir, needed, why)
        if reason is None:
            return {}
        refused = {key for key, outcome in said.items() if outcome.outcome == "denied"}
        return {row.key: Outcome("failed", reason) for row in missing if row.key not in refused}

    def _explain_untried(self, row: Row, log: Path | None) -> Outcome:
        """Say why no transfer has recorded an outcome, although the disk can be written."""
        if not is_writable(self.data_dir):
            return Outcome("failed", str(not_writable(self.data_dir)))
        free = count_free_bytes(self.data_dir)
        if free < row.size:
            reason = f"{row.size:,} bytes are needed, and the disk of {self.data_dir} has {free:,}"
            return Outcome("failed", reason)
        return Outcome("failed", f"not tried; see {log}")
