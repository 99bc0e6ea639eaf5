"""What came of a run: the table after it, and for each row what happened and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from laion_fmri.base.etags import hash_files
from laion_fmri.bucket.listing import Bucket
from laion_fmri.fetch.outcomes import Outcome
from laion_fmri.selection.manifest_run import explain_mismatches, save_rows
from laion_fmri.selection.table import Row, Table
from laion_fmri.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


class Result(NamedTuple):
    """A row as it is on disk after a run, and what happened to it.

    The outcome is ``fetched``, ``present``, ``failed``, ``denied``, or None if nothing was tried.
    """

    row: Row
    outcome: str | None
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What came of each row of a selection."""

    results: tuple[Result, ...]
    log: Path | None = None

    @property
    def rows(self) -> list[Row]:
        return [result.row for result in self.results]

    def to_frame(self) -> "pd.DataFrame":
        """Return the key table with the columns ``outcome`` and ``reason``."""
        frame = Table(tuple(self.rows)).to_frame()
        frame["outcome"] = [result.outcome for result in self.results]
        frame["reason"] = [result.reason for result in self.results]
        return frame

    def select(self, *outcomes: str) -> list[Result]:
        """Return the results with one of these outcomes."""
        return [result for result in self.results if result.outcome in outcomes]

    def failures(self) -> list[Result]:
        """Return the results of what is not in place after the run."""
        return self.select("failed", "denied")

    def explain_failures(self, limit: int = 10) -> str:
        """Say in one line how many files are not in place, which, and what to do."""
        failures = self.failures()
        named = "; ".join(f"{result.row.key}: {result.reason}" for result in failures[:limit])
        more = f"; and {len(failures) - limit} more" if len(failures) > limit else ""
        return (
            f"{len(failures)} of {len(self.results)} files could not be fetched: {named}{more}. "
            "Everything else is in place; run the same again to fetch what is missing"
        )


def report_as_it_is(table: Table) -> Report:
    """Return the report of a run that tried nothing."""
    return Report(
        tuple(
            Result(row, "present" if row.status == "complete" else None)
            if row.key not in table.obstacles
            else Result(row, None, table.obstacles[row.key])
            for row in table.rows
        )
    )


def make_result(before: Row, now: Row, said: Outcome) -> Result:
    """Return what came of a row, from before and after a run, and what the transfers have said."""
    if now.status == "complete":
        return Result(now, "present" if before.status == "complete" else "fetched")
    if said.outcome == "fetched":
        return Result(now, "failed", "changed on disk while the run lasted")
    return Result(now, *said)


def compare_checksums(
    report: Report, known: Mapping[str, str], settings: Settings, bucket: Bucket
) -> Report:
    """Compare what was fetched with the SHA-256 that is `known`; what differs has failed.

    With ``checksums``, the manifest that is kept gets those of all complete files. One that was
    known before stays, since it is that of the version that was asked for.
    """
    keeps = settings.checksums and settings.save_manifest
    wanted = {
        row.key: row.path
        for row, outcome, _ in report.results
        if (outcome == "fetched" if row.key in known else keeps and row.status == "complete")
    }
    found = hash_files(wanted)
    mismatches = explain_mismatches(found, known, settings.manifest or "")
    if keeps:
        taken = {key: digest for key, digest in found.items() if digest}
        save_rows(keeps, report.rows, {**taken, **known}, bucket)
    judged = (
        Result(result.row, "failed", mismatches[result.row.key])
        if result.row.key in mismatches
        else result
        for result in report.results
    )
    return Report(tuple(judged), report.log)
