"""From a workflow's configuration to its targets: found by the main process, read by all others."""

from __future__ import annotations

import atexit
import hashlib
import itertools
import json
import math
import os
import shutil
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import (
    check_data_dir,
    clean_config,
    find_data_dir,
    is_writable,
    make_data_dir,
    not_writable,
    state_dir,
)
from laion_fmri.errors import ConfigError, DataDirError
from laion_fmri.fetch.aws import find_aws_command
from laion_fmri.fetch.outcomes import read_outcomes
from laion_fmri.folder import staging
from laion_fmri.folder.disk_space import check_room, explain_full_disk
from laion_fmri.folder.licences import check_licenses
from laion_fmri.run.jobs import plan_for_cluster, plan_jobs
from laion_fmri.run.targets import Targets, read_targets
from laion_fmri.selection.filters import NO_SUBJECT, Selection
from laion_fmri.selection.manifest_run import find_table
from laion_fmri.selection.table import Table, compare


class Process(NamedTuple):
    """What the rules know of the Snakemake process that they are read in.

    Attributes
    ----------
    workflow : object
        Snakemake's workflow, which all modules of a pipeline share.
    is_main : bool
        Whether it was started by hand, and is not one of Snakemake's jobs.
    workers : int
        Jobs that run at once.
    on_cluster : bool
        Whether jobs are sent to other machines, but for local rules.
    find_aws : bool
        Whether the AWS CLI has to be on this machine, and not in the rule's own environment.
    rules : collection of str or None
        The rules that the process may run; None for all.
    place : callable
        What Snakemake makes of a path of the rules: a module may have a prefix.
    """

    workflow: object
    is_main: bool
    workers: int
    on_cluster: bool
    find_aws: bool
    rules: Collection[str] | None
    place: Callable[[str], str]


class _Opened:
    """The targets of all modules of the pipeline that this process reads, in their order."""

    workflow: Callable[[], object] = staticmethod(lambda: None)
    targets: tuple[Targets, ...] = ()


def open_targets(config: Mapping[str, Any], process: Process) -> tuple[Targets, Table]:
    """Return the targets of a workflow's validated `config`, and what there is to say of them.

    Raises
    ------
    LaionFmriError, TypeError
        If the selection or the data directory cannot be used, or the bucket not be listed.
    """
    if config.get("table"):
        run_dir = Path(config["table"]).parent
        rules = None if process.is_main else process.rules
        return read_targets(run_dir, is_main=process.is_main, rules=rules), Table([])
    if _Opened.workflow() is not process.workflow:
        _Opened.workflow, _Opened.targets = weakref.ref(process.workflow), ()
    targets, table = _open(config, process)
    _Opened.targets += (targets,)
    return targets, table


def empty_targets(config: Mapping[str, Any]) -> tuple[Targets, Table]:
    """Return what there is without a data directory or a bucket: nothing to fetch."""
    bucket = Bucket.from_config(config)
    return Targets("data", "data", bucket, clean_config(config), [], sizes={}), Table([])


def find_opened(data_dir: str | None = None) -> tuple[Targets, ...]:
    """Return the targets of the modules read so far: all, or those with their files in `data_dir`.

    A module with a prefix is also known by the data directory of its configuration, if no other is.
    """
    if data_dir is None:
        return _Opened.targets
    exact = tuple(opened for opened in _Opened.targets if opened.data_dir == data_dir)
    return exact or tuple(opened for opened in _Opened.targets if opened.rule_dir == data_dir)


def read_allowed_rules(argv: Sequence[str]) -> list[str]:
    """Return the rules that a process of Snakemake's may run, from its own command line `argv`.

    The workflow object does not know them yet when the Snakefile is read.
    """
    place = argv.index("--allowed-rules") + 1 if "--allowed-rules" in argv else len(argv)
    return list(itertools.takewhile(lambda word: not word.startswith("-"), argv[place:]))


def is_first_module(targets: Targets) -> bool:
    """Whether no module before that of `targets` has rules for any object of its data directory."""
    return find_opened(targets.data_dir)[:1] == (targets,)


def _open(config: Mapping[str, Any], process: Process) -> tuple[Targets, Table]:
    data_dir, rule_dir = _choose_data_dir(config, process.place)
    given = clean_config(config)
    identity = json.dumps([given, data_dir], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    run_dir = state_dir(data_dir) / "runs" / digest
    # Where nothing may be written, the processes meet in the folder of the pipeline.
    spare_dir = Path(".snakemake", "laion_fmri", digest).absolute()
    bucket = Bucket.from_config(config)
    if not process.is_main:
        for folder in (spare_dir, run_dir):
            if (folder / "table.json").exists():
                return read_targets(folder, rules=process.rules or None), Table([])
        return Targets(data_dir, str(run_dir), bucket, given, [], sizes={}), Table([])
    staging.clear_up(Path(data_dir))
    table = _find(config, bucket, data_dir)
    others = _find_others(data_dir)
    if process.find_aws and any(row.key not in table.obstacles for row in table.incomplete()):
        find_aws_command()
    # What another run has brought meanwhile stays; what it brings from now on, it keeps for us.
    if presence := staging.enter(run_dir):
        atexit.register(presence.close)  # if it does not get as far as close_targets
    table.compare_again()
    targets = make_targets(
        table,
        given,
        bucket,
        data_dir,
        run_dir,
        workers=process.workers,
        presence=presence,
        on_cluster=process.on_cluster,
        skip={key for opened in others for job in opened.jobs for key, _ in job.objects},
    )
    targets.rule_dir = rule_dir
    targets.obstacles = table.obstacles
    targets.limits["keeps"] = True
    # Of single objects that a pipeline names, any number may be under way.
    at_once = targets.limits["slots"] or process.workers
    targets.limits["single_bandwidth"] = share_bandwidth(config, at_once)
    shutil.rmtree(spare_dir, ignore_errors=True)
    try:
        targets.write()
        targets.write_stamp(table.partial_paths())
    except OSError as error:
        if targets.jobs:
            raise not_writable(Path(data_dir)) from error
        targets.run_dir = str(spare_dir)
        targets.write()
    return targets, table


def close_targets(targets: Targets) -> list[str]:
    """Clear up at the end of the main process, and return what there is to say of its run.

    Nothing, if all has arrived, or nothing was to be fetched.
    """
    if targets.presence:
        targets.presence.close()
        staging.clear_up(Path(targets.data_dir))
    said = read_outcomes(Path(targets.run_dir, "outcomes"))
    paths = {key: f"{targets.data_dir}/{key}" for job in targets.jobs for key, _ in job.objects}
    missing = [key for key in paths if compare(paths[key], targets.sizes[key]) != "complete"]
    needed = sum(targets.sizes[key] for key in missing)
    stopped = explain_full_disk(targets.run_dir, targets.data_dir, needed)
    if not (stopped or is_writable(Path(targets.data_dir))):  # nothing has been recorded, then
        stopped = str(not_writable(Path(targets.data_dir)))
    if not (targets.is_main and (said or stopped) and missing):  # nothing has begun in a dry run
        return []
    reasons = [f"{key}: {said[key].reason}" for key in missing if key in said and said[key].reason]
    return [
        *([stopped] if stopped else reasons),
        f"{len(paths) - len(missing):,} of {len(paths):,} files have arrived; run the same again "
        "to fetch what is missing",
    ]


def _find_others(data_dir: str) -> list[Targets]:
    """Return the targets of the modules before this one that have the same data directory.

    Raises
    ------
    ConfigError
        If one spells it in another way: Snakemake would take its files for others.
    """
    same = [
        opened
        for opened in _Opened.targets
        if os.path.realpath(opened.data_dir) == os.path.realpath(data_dir)
    ]
    for opened in same:
        if opened.data_dir != data_dir:
            raise ConfigError(
                f"two modules spell one data directory as {opened.data_dir!r} and {data_dir!r};"
                " Snakemake compares paths as text, so write it the same way in both"
            )
    return same


def _find(config: Mapping[str, Any], bucket: Bucket, data_dir: str) -> Table:
    """Return the key table; an empty one, without listing, if the configuration selects nothing."""
    if config["subject"] == NO_SUBJECT:
        return Table([])
    selection = Selection.from_config(config)
    check_licenses(selection.include_stimuli, data_dir)
    table, _ = find_table(config, selection, bucket, data_dir)
    table.warnings += [f"{key}: {why}" for key, why in table.obstacles.items()]
    return table


def make_targets(
    table: Table,
    config: Mapping[str, Any],
    bucket: Bucket,
    data_dir: str,
    run_dir: Path,
    *,
    workers: int,
    presence: staging.Presence | None = None,
    on_cluster: bool = False,
    skip: Collection[str] = (),
) -> Targets:
    """Return the rows of `table` as targets, with jobs for those that can and have to be fetched.

    Parameters
    ----------
    workers, on_cluster
        See :class:`Process`.
    presence
        The sign that the run lives.
    skip
        Keys that the jobs of another module of the same pipeline bring.

    Raises
    ------
    NoSpaceError
        If the disk has no room for them, unless ``space_check`` is false.
    """
    blocked = table.obstacles
    without = {*blocked, *skip}
    wanted = [(row.key, row.size) for row in table.incomplete() if row.key not in without]
    slots = None
    if on_cluster and config.get("fetch_on") != "cluster":
        workers = slots = int(config.get("fetch_workers") or 1)
    if on_cluster and not slots:
        jobs = plan_for_cluster(wanted, list(table.listed), table.trees)
    else:
        jobs = plan_jobs(wanted, list(table.listed), workers, os.cpu_count() or 1, table.trees)
    if config.get("space_check", True) and is_writable(Path(data_dir)):
        check_room(data_dir, [size for job in jobs for _, size in job.objects])
    sizes = {row.key: row.size for row in table.rows if row.key not in blocked}
    targets = Targets(
        data_dir,
        str(run_dir),
        bucket,
        config,
        jobs,
        sizes=sizes,
        others={key: size for key, size in table.listed.items() if key not in sizes},
        modified={row.key: int(row.last_modified.timestamp()) for row in table.incomplete()},
        trees=table.trees,
        limits={
            "stall_timeout": read_positive(config, "stall_timeout", "seconds"),
            "max_bandwidth": share_bandwidth(config, min(workers, len(jobs))),
            "slots": slots,
            "keeps": on_cluster,
            "presence": str(presence.path) if presence else None,
        },
        is_main=True,
    )
    targets.presence = presence
    return targets


def read_positive(config: Mapping[str, Any], name: str, unit: str) -> float | None:
    """Return the number that the setting `name` is, in `unit`, or None.

    Raises
    ------
    ConfigError
        If it is no number above 0.
    """
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{name}={value!r} is no number of {unit} above 0")
    return float(value)


def share_bandwidth(config: Mapping[str, Any], at_once: int) -> int | None:
    """Return what one of `at_once` transfers may take, in bytes per second; None for no limit."""
    limit = read_positive(config, "max_bandwidth", "MB/s")
    return max(1, int(limit * 1e6 / max(1, at_once))) if limit else None


def _choose_data_dir(config: Mapping[str, Any], place: Callable[[str], str]) -> tuple[str, str]:
    """Return the data directory, and how the rules spell it: Snakemake compares paths as text.

    A relative one belongs to the pipeline, like any folder of its results, and is made for it; the
    prefix of a module goes before it.
    """
    given = config.get("data_dir")
    if given and not Path(given).expanduser().is_absolute():
        rule_dir = str(Path(given))
        data_dir = place(rule_dir)
        try:
            Path(data_dir).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot create {Path(data_dir).parent}: {error.strerror}"
            raise DataDirError(f"{reason}; choose another data_dir") from None
        make_data_dir(Path(data_dir))
    else:
        data_dir = rule_dir = str(find_data_dir(given)[0])
    check_data_dir(Path(data_dir))
    return data_dir, rule_dir
