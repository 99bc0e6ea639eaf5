"""What came of a run: the table after it, and for each row what happened and why."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from laion_fmri.base.etags import hash_files
from laion_fmri.bucket.listing import Bucket
from laion_fmri.fetch.outcomes import Outcome
from laion_fmri.selection.manifest_run import explain_mismatches, save_rows
from laion_fmri.selection.table import Row, Table
from laion_fmri.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """What happened to each row of a selection, as it is on disk after the run.

    An outcome is ``fetched``, ``present``, ``failed``, ``denied``, or None if nothing was tried.
    """

    rows: tuple[Row, ...]
    outcomes: tuple[str | None, ...]
    reasons: tuple[str, ...]
    log: Path | None = None

    def to_frame(self) -> "pd.DataFrame":
        """Return the key table with the columns ``outcome`` and ``reason``."""
        frame = Table(self.rows).to_frame()
        frame["outcome"] = list(self.outcomes)
        frame["reason"] = list(self.reasons)
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


def report_as_it_is(table: Table) -> Report:
    """Return the report of a run that tried nothing."""
    done = tuple("present" if row.status == "complete" else None for row in table.rows)
    reasons = tuple(table.obstacles.get(row.key, "") for row in table.rows)
    return Report(table.rows, done, reasons)


def make_report(
    rows: Iterable[Row],
    explain: Callable[[Row], Outcome],
    look_again: Callable[[Row, bool], Row],
    log: Path | None,
) -> Report:
    """Return the report of a run, whose `rows` are as they were before.

    `explain` returns what the transfers have said of a row, and `look_again` compares it with the
    disk, knowing whether it should be complete.
    """
    done: list[tuple[Row, str, str]] = []
    for row in rows:
        outcome, reason = explain(row)
        now = look_again(row, outcome == "fetched")
        if now.status == "complete":
            outcome, reason = ("present" if row.status == "complete" else "fetched"), ""
        elif outcome == "fetched":
            outcome, reason = "failed", "changed on disk while the run lasted"
        done.append((now, outcome, reason))
    found, outcomes, reasons = zip(*done, strict=True) if done else ((), (), ())
    return Report(found, outcomes, reasons, log)


def compare_checksums(
    report: Report, known: Mapping[str, str], settings: Settings, bucket: Bucket
) -> Report:
    """Compare what was fetched with the SHA-256 that is `known`; what differs has failed.

    With ``checksums``, the manifest that is kept gets those of all complete files. One that was
    known before stays, since it is that of the version that was asked for.
    """
    wanted = {
        row.key: row.path
        for row, outcome in zip(report.rows, report.outcomes, strict=True)
        if (
            outcome == "fetched"
            if row.key in known
            else settings.checksums and row.status == "complete"
        )
    }
    found = hash_files(wanted)
    mismatches = explain_mismatches(found, known, settings.manifest or "")
    if settings.checksums and settings.save_manifest:
        taken = {key: digest for key, digest in found.items() if digest}
        save_rows(settings.save_manifest, report.rows, {**taken, **known}, bucket)
    pairs = zip(report.rows, report.outcomes, report.reasons, strict=True)
    judged = [
        ("failed", mismatches[row.key]) if row.key in mismatches else (outcome, reason)
        for row, outcome, reason in pairs
    ]
    return replace(
        report,
        outcomes=tuple(outcome for outcome, _ in judged),
        reasons=tuple(reason for _, reason in judged),
    )
