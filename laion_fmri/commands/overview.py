"""What ``download`` shows before it begins, and at its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from laion_fmri import dataset
from laion_fmri.selection.filters import AVERAGES, FILTERS
from laion_fmri.units import format_seconds, format_size

if TYPE_CHECKING:
    from rich.table import Table

    from laion_fmri.run.run import Report, Run
    from laion_fmri.selection.table import Row

#: The group of files that belong to no subject.
ROOT = "dataset"


class Group(NamedTuple):
    """Rows of the selection that are shown as one line."""

    subject: str
    sessions: str
    rows: list[Row]


def describe_plan(run: Run) -> str:
    """Say in one line how much is selected, here, and to be fetched."""
    rows, wanted = run.table.rows, run.table.incomplete()
    partial = sum(row.status == "partial" for row in wanted)
    again = f" ({partial:,} of them partial)" if partial else ""
    return (
        f"{len(rows):,} files, {format_total(rows)}: {len(rows) - len(wanted):,} here already, "
        f"{len(wanted):,} to fetch{again}, {format_total(wanted)}, into {run.data_dir}"
    )


def describe_room(run: Run) -> str:
    """Say in one line what room there is on the disk, and how long the last run's rate takes."""
    from laion_fmri.folder.disk_space import count_free_bytes
    from laion_fmri.folder.rates import read_rate

    text = f"free on that disk: {format_size(count_free_bytes(run.data_dir))}"
    wanted = sum(row.size for row in run.table.incomplete())
    if rate := read_rate(run.data_dir):
        seconds = format_seconds(max(round(wanted / rate), 1))
        text += f"; about {seconds} at the rate of the last run, {format_size(rate)}/s"
    return text


def make_plan(rows: Sequence[Row]) -> Table:
    """Return the table of a selection: what is here and what is to be fetched, by group."""
    from rich import box
    from rich.table import Table

    plan = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("subject", "sessions"):
        plan.add_column(name, overflow="ellipsis", no_wrap=name == "subject")
    for name in ("files", "size", "here", "to fetch", "size"):
        plan.add_column(name, justify="right", no_wrap=True)
    groups = group_rows(rows)
    for group in groups:
        plan.add_row(group.subject, group.sessions, *_count(group.rows))
    if len(groups) > 1:
        plan.add_section()
        plan.add_row("all", "", *_count(rows), style="bold")
    return plan


def group_rows(rows: Iterable[Row]) -> list[Group]:
    """Group the rows of a selection, sorted: by session if they are of one subject, else by it."""
    from laion_fmri.selection.overview import name_sessions

    by_subject: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.sub is None:
            subject = "stimuli" if row.key.startswith(dataset.STIMULI_PREFIX) else ROOT
            session = ""
        else:
            subject, session = f"sub-{row.sub}", row.ses or AVERAGES
        by_subject.setdefault(subject, {}).setdefault(session, []).append(row)
    names = sorted(name for name in by_subject if name.startswith("sub-"))
    others = sorted(set(by_subject) - set(names))
    groups = []
    for name in (*names, *others):
        found = by_subject[name]
        sessions = sorted(found, key=lambda session: (session == AVERAGES, session))
        if len(names) == 1 and name in names:
            groups += [Group(name, name_sessions([ses]), found[ses]) for ses in sessions]
        else:
            rest = [row for ses in sessions for row in found[ses]]
            groups.append(Group(name, name_sessions(sessions), rest))
    return groups


def _count(rows: Sequence[Row]) -> list[str]:
    wanted = [row for row in rows if row.status != "complete"]
    return [
        f"{len(rows):,}",
        format_total(rows),
        f"{len(rows) - len(wanted):,}",
        f"{len(wanted):,}",
        format_total(wanted),
    ]


def summarize(report: Report, seconds: float) -> str:
    """Say in one line what a run has done, in how many seconds."""
    fetched = [row for row, o in zip(report.rows, report.outcomes, strict=True) if o == "fetched"]
    failures = report.failures()
    if not fetched and not failures:
        return "nothing to do: everything is here"
    rate = format_size(int(sum(row.size for row in fetched) / max(seconds, 1e-9)))
    failed = f", {len(failures):,} failed" if failures else ""
    return (
        f"fetched {len(fetched):,} files, {format_total(fetched)} in {format_seconds(seconds)} "
        f"({rate}/s); {report.outcomes.count('present'):,} were here{failed}"
    )


def suggest_next(report: Report) -> str:
    """Say in one line what to do about what has failed."""
    failed = {o for o in report.outcomes if o in ("failed", "denied")}
    log = f"; the log is {report.log}" if report.log else ""
    if failed == {"denied"}:
        return f"what is denied can be asked for at {dataset.REQUEST_URL}{log}"
    return f"run the same command again to fetch what is missing{log}"


def suggest_verify(given: Mapping[str, Any]) -> str:
    """Return the command that checks the content of what the options `given` have selected."""
    words = ["laion-fmri", "verify"]
    for name in ("subject", *FILTERS, "manifest", "data_dir"):
        value = given.get(name)
        if value is None or (name == "subject" and given.get("manifest") and value == "all"):
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    if given.get("include_stimuli"):
        words.append("--include-stimuli")
    return shlex.join(words)


def format_total(rows: Sequence[Row]) -> str:
    """Return the bytes of all `rows`, readably."""
    return format_size(sum(row.size for row in rows))
