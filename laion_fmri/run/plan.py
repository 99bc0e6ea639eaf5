"""From settings to a plan, and from a plan to the folder of a run that carries it out."""

import contextlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from laion_fmri.base.text import format_size
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import (
    check_data_dir,
    check_new_dir,
    get_data_dir,
    has_choice,
    is_writable,
    state_dir,
)
from laion_fmri.errors import BucketError
from laion_fmri.fetch.aws import aws_command, find_aws_command
from laion_fmri.folder.disk_space import check_room
from laion_fmri.folder.guard import check_state
from laion_fmri.folder.kept import clear_up
from laion_fmri.folder.login import find_facts
from laion_fmri.folder.presence import Presence
from laion_fmri.folder.unfinished import count_bytes
from laion_fmri.run.jobs import plan_for_cluster, plan_jobs
from laion_fmri.run.run_folder import RunFolder
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.manifest_run import find_table
from laion_fmri.selection.table import NOWHERE, Table
from laion_fmri.settings import NO_SUBJECT, Settings


@dataclass(frozen=True)
class Plan:
    """What a run is for: its settings, and the table of what they select."""

    settings: Settings
    data_dir: Path
    bucket: Bucket
    table: Table
    is_first: bool = False  # in this data directory

    @property
    def wanted(self) -> list[tuple[str, int]]:
        """The keys, and the sizes in bytes, that are to be fetched and can be."""
        if self.bucket.reach.is_cut_off:
            return []
        blocked = self.table.obstacles
        return [(row.key, row.size) for row in self.table.incomplete() if row.key not in blocked]


#: Jobs that fetch at once in a pipeline: each has ten connections.
GUESTS = 4


@dataclass(frozen=True)
class Crew:
    """Who fetches: how many jobs at once, and where."""

    workers: int
    on_cluster: bool = False  # jobs are sent to other machines
    fetches_here: bool = False  # but fetch jobs stay on the machine that submits
    find_aws: bool = True  # the AWS CLI has to be here, and not in the rule's own environment
    is_guest: bool = False  # among the jobs of somebody's pipeline, which need cores as well

    def count_slots(self, given: int | None) -> int | None:
        """Return how many fetch at once beside other jobs; None for as many as there are cores."""
        if self.on_cluster:  # on whose submit host Snakemake bounds nothing
            return (given or GUESTS) if self.fetches_here else None
        if self.is_guest:
            return given or max(1, min(GUESTS, self.workers // 2))
        return None


def prepare(settings: Settings, data_dir: Path | None = None) -> tuple[Selection | None, Path]:
    """Check what can be checked without the network; return the selection and the data directory.

    A pipeline may say ``none`` as its subject: then there is no selection. A directory that is
    named for this run may be one that is still to be made.
    """
    selection = None if settings.subject == NO_SUBJECT else Selection.from_settings(settings)
    data_dir = data_dir or _find_data_dir(settings)
    if str(data_dir) == NOWHERE:
        return selection, data_dir
    if settings.data_dir is not None and not os.path.lexists(data_dir):
        check_new_dir(data_dir)
        return selection, data_dir
    check_data_dir(data_dir)
    check_state(data_dir)
    return selection, data_dir


def _find_data_dir(settings: Settings) -> Path:
    """Return the data directory, which a dry run can do without."""
    if settings.dry_run and settings.data_dir is None and not has_choice():
        return Path(NOWHERE)
    return get_data_dir(settings.data_dir)


def plan_run(
    settings: Settings,
    selection: Selection | None,
    data_dir: Path,
    *,
    reads_only: bool = False,
    prefers_kept: bool = False,
) -> Plan:
    """Clear up after runs that were killed, list the bucket, and compare it with the disk.

    `selection` and `data_dir` are as :func:`prepare` returns them. With `reads_only`, as in a dry
    run, nothing is changed. With `prefers_kept`, the last listing will do.
    """
    bucket = Bucket.from_settings(settings)
    bucket.reach.keeps = True
    if prefers_kept:
        bucket.reach.prefers_kept, bucket.reach.is_cut_off = True, False
    is_first = not state_dir(data_dir).exists()
    if not reads_only:
        clear_up(data_dir)
    table = find_table(settings, selection, bucket, data_dir) if selection else Table()
    return Plan(settings, data_dir, bucket, table, is_first)


def open_run(
    plan: Plan, path: Path, crew: Crew, skip: Collection[str] = ()
) -> tuple[RunFolder, Table, Presence | None]:
    """Share out what `plan` wants as jobs; the keys `skip` come by another module of a pipeline.

    Returns the run folder, to be saved at `path`; the table, compared with the disk again; and the
    sign that the run is alive, to be closed in the end.
    """
    program = find_aws_command() if crew.find_aws and plan.wanted else aws_command()
    # Mark this run alive before comparing again: files that another run has fetched meanwhile
    # count as complete, and it now keeps a hard link to each new one.
    presence = None
    with contextlib.suppress(OSError):  # where nothing can be written
        presence = Presence(plan.data_dir)
    try:
        table = plan.table.compare_again()
        folder = _make_folder(replace(plan, table=table), path, crew, skip, presence)
        folder = replace(folder, aws=program)
    except BaseException:
        if presence:
            presence.close()
        raise
    return folder, table, presence


def _make_folder(
    plan: Plan, path: Path, crew: Crew, skip: Collection[str], presence: Presence | None
) -> RunFolder:
    settings, table = plan.settings, plan.table
    wanted = [item for item in plan.wanted if item[0] not in skip]
    slots = crew.count_slots(settings.fetch_workers)
    workers = slots or crew.workers
    if crew.on_cluster and not slots:
        jobs = plan_for_cluster(wanted, list(table.listed), table.trees)
    else:
        jobs = plan_jobs(wanted, list(table.listed), workers, os.cpu_count() or 1, table.trees)
    if settings.space_check and is_writable(plan.data_dir):
        sizes = dict(item for job in jobs for item in job.objects)
        # Another user's would be copied.
        kept = count_bytes(plan.data_dir, sizes, only_own=True)
        check_room(plan.data_dir, [max(0, size - kept.get(key, 0)) for key, size in sizes.items()])
    sizes = {row.key: row.size for row in table.rows if row.key not in table.obstacles}
    return RunFolder(
        str(path),
        str(plan.data_dir),
        plan.bucket,
        find_facts(settings.facts),
        jobs=tuple(jobs),
        trees=table.trees,
        stall_timeout=settings.stall_timeout,
        max_bandwidth=share_bandwidth(settings, min(workers, len(jobs))),
        single_bandwidth=share_bandwidth(settings, workers),
        slots=slots,
        keeps=crew.on_cluster,
        presence=presence.name if presence else None,
        rule_dir=str(plan.data_dir),
        sizes=sizes,
        others={key: size for key, size in table.listed.items() if key not in sizes},
        modified={row.key: int(row.listed.last_modified.timestamp()) for row in table.incomplete()},
        etags={row.key: row.listed.etag for row in table.incomplete()},
    )


def explain_cut(bucket: Bucket, missing: Sequence[tuple[str, int]], count: int) -> BucketError:
    """Return the error for `missing` files (key, bytes), of `count`, of a bucket out of reach."""
    size = format_size(sum(size for _, size in missing))
    first = f"first {missing[0][0]}" if len(missing) > 1 else missing[0][0]
    verb = "are" if count > 1 else "is"
    advice = ", and without offline" if bucket.offline else ""
    return BucketError(
        f"{len(missing):,} of {count:,} {'files' if count > 1 else 'file'} ({size}) {verb} not "
        f"here, and {bucket.explain_cut()}: {first}; run the same again with a connection{advice}"
    )


def share_bandwidth(settings: Settings, at_once: int) -> int | None:
    """Return what one of `at_once` transfers may take, in bytes per second; None for no limit."""
    limit = settings.max_bandwidth
    return max(1, int(limit * 1e6 / max(1, at_once))) if limit else None
