"""The modules of a pipeline that embed the workflow: opened when their rules are read, then closed.

Snakemake reads the Snakefile again in every process that it starts. The main process lists the
bucket and writes the folder of the run; the others only read there, and no more than their own job
needs.
"""

import atexit
import contextlib
import hashlib
import itertools
import json
import os
import re
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from laion_fmri.base.files import StrPath, expand_path
from laion_fmri.bucket.listing import Bucket
from laion_fmri.config import (
    check_data_dir,
    find_data_dir,
    is_writable,
    make_data_dir,
    not_writable,
    state_dir,
)
from laion_fmri.errors import ConfigError, DataDirError
from laion_fmri.fetch.mates import write_program
from laion_fmri.fetch.outcomes import read_outcomes
from laion_fmri.folder import unfinished
from laion_fmri.folder.disk_space import explain_full_disk
from laion_fmri.folder.guard import ALIVE, make_own_folder
from laion_fmri.folder.kept import clear_up
from laion_fmri.folder.presence import Presence
from laion_fmri.run.plan import Crew, open_run, plan_run, prepare
from laion_fmri.run.rules import Rules, is_dry_run, load_rules, only_shows
from laion_fmri.run.run_folder import TABLE, RunFolder, write_stamp
from laion_fmri.selection.table import compare
from laion_fmri.settings import Settings, Values, read_config


@dataclass(frozen=True)
class Process:
    """What the rules know of the Snakemake process that they are read in."""

    workflow: object  # Snakemake's, which all modules of a pipeline share
    is_main: bool  # started by hand, and not one of Snakemake's jobs
    crew: Crew
    rules: Sequence[str] | None  # that the process may run; None for all
    is_clone: bool  # its main Snakefile is our own, which fetches a selection in batches
    module: str | None  # how the pipeline calls the module; None for a clone
    resolve_path: Callable[[str], str]  # what Snakemake makes of a path: a module may have a prefix


@dataclass
class Module:
    """A module of the pipeline: its settings, its rules, and what there is to say of it."""

    settings: Settings
    rules: Rules
    data_dir: Path = Path()  # absolute
    messages: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    is_first: bool = True  # in its data directory
    presence: Presence | None = None
    is_again: bool = False  # it has been read before
    # What a job needs to find the data directory, where a scheduler starts it without a variable.
    variables: Mapping[str, str] = field(default_factory=dict)


class Modules:
    """The modules that this process has read so far, of one workflow of Snakemake's."""

    def __init__(self) -> None:
        self._workflow: Callable[[], object] = lambda: None
        self._opened: dict[str, Module] = {}

    def open(self, config: Mapping[str, Any], process: Process) -> Module:
        """Read a module's `config` and find what its rules fetch; raises LaionFmriError."""
        if self._workflow() is not process.workflow:
            self._workflow, self._opened = weakref.ref(process.workflow), {}
        settings = read_config(config)
        if is_dry_run(sys.argv):  # which writes nothing, whoever has written the configuration
            settings = replace(settings, save_manifest=None)
        data_dir, rule_dir = _choose_data_dir(settings, process.resolve_path)
        # Snakemake reads a module again for each `use rule`.
        name = json.dumps([process.module, data_dir, config], sort_keys=True, default=str)
        if again := self._opened.get(name):
            again.messages, again.is_again = (), True
            return again
        others = self._find_same(data_dir)
        module = _open(config, settings, data_dir, rule_dir, process, others)
        told = {
            _find_subject(text) for earlier in self._opened.values() for text in earlier.messages
        }
        module.messages = tuple(t for t in module.messages if _find_subject(t) not in told)
        module.is_first = not others
        self._opened[name] = module
        return module

    def find(self, data_dir: str | None = None) -> list[Rules]:
        """Return the rules of all modules, or of those with their files in `data_dir`.

        A module with a prefix is also known by the data directory of its configuration, if no other
        is.
        """
        opened = [module.rules for module in self._opened.values()]
        if data_dir is None:
            return opened
        exact = [rules for rules in opened if rules.folder.data_dir == data_dir]
        return exact or [rules for rules in opened if rules.folder.rule_dir == data_dir]

    def _find_same(self, data_dir: str) -> list[Rules]:
        """Return the rules of the modules so far that have the same data directory."""
        real = os.path.realpath(data_dir)
        same = [r for r in self.find() if os.path.realpath(r.folder.data_dir) == real]
        for rules in same:
            if rules.folder.data_dir != data_dir:
                raise ConfigError(
                    f"two modules spell one data directory as {rules.folder.data_dir!r} and "
                    f"{data_dir!r}; Snakemake compares paths as text, so write it the same way in "
                    "both"
                )
        return same


#: Those of this process: input functions have no other way to the module that they are about.
MODULES = Modules()


def _find_subject(message: str) -> str:
    """Return a message without the time of a listing, which modules need not say twice."""
    return message.partition("; using its listing")[0]


def open_nothing(config: Mapping[str, Any]) -> Module:
    """Return a module without a data directory or a bucket: nothing to fetch."""
    settings = read_config(config)
    folder = RunFolder("data", "data", Bucket.from_settings(settings), settings.facts)
    return Module(settings, Rules(replace(folder, rule_dir="data")))


def read_allowed_rules(argv: Sequence[str]) -> list[str]:
    """Return the rules that a process of Snakemake's may run, from its own command line `argv`.

    The workflow object does not know them yet when the Snakefile is read.
    """
    place = argv.index("--allowed-rules") + 1 if "--allowed-rules" in argv else len(argv)
    return list(itertools.takewhile(lambda word: not word.startswith("-"), argv[place:]))


def _open(
    config: Mapping[str, Any],
    settings: Settings,
    data_dir: str,
    rule_dir: str,
    process: Process,
    others: Sequence[Rules],
) -> Module:
    given = {name: value for name, value in config.items() if value is not None}
    identity = json.dumps([given, data_dir], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    # In the folder of the pipeline, which the nodes of a cluster see; one for each user of it.
    run_dir = Path(".snakemake", "laion_fmri", f"{os.geteuid()}-{digest}").absolute()
    if not process.is_main:
        if (run_dir / TABLE).exists():
            rules = load_rules(run_dir, is_main=False, rules=process.rules or None)
            return Module(settings, rules)
        empty = RunFolder(str(run_dir), data_dir, Bucket.from_settings(settings), settings.facts)
        return Module(settings, Rules(replace(empty, rule_dir=rule_dir)))
    selection, _ = prepare(settings, Path(data_dir))
    prefers_kept = only_shows(sys.argv)
    plan = plan_run(settings, selection, Path(data_dir), prefers_kept=prefers_kept)
    fetches_here = settings.fetch_on == "submit-host"
    crew = replace(process.crew, fetches_here=fetches_here, is_guest=not process.is_clone)
    skip = {key for rules in others for job in rules.jobs for key, _ in job.objects}
    if not process.is_clone:  # each object that a rule asks for has a job of its own
        skip.update(key for key, _ in plan.wanted)
    opened, table, presence = open_run(plan, run_dir, crew, skip)
    if presence:
        atexit.register(presence.close)  # if it does not get as far as the end of the run
    subject = _list_values(settings.subject)
    opened = replace(opened, rule_dir=rule_dir, keeps=True, subject=subject)
    opened = replace(opened, ses=settings.filters.get("ses"), scope=_list_values(settings.scope))
    if opened.jobs and not is_writable(Path(data_dir)):
        raise not_writable(Path(data_dir))
    make_own_folder(run_dir)
    opened.save()
    if not process.is_clone:
        write_program(opened.path, data_dir, opened.presence)
    write_stamp(opened.path, data_dir, table.partial_keys())
    obstacles = tuple(f"{key}: {why}" for key, why in table.obstacles.items())
    made = Rules(
        opened, is_main=True, obstacles=table.obstacles, workers=opened.slots or crew.workers
    )
    messages = (*table.warnings, *obstacles, *table.notes)
    return Module(
        settings,
        made,
        Path(data_dir).absolute(),
        messages,
        obstacles,
        presence=presence,
        variables=_find_variables(settings.data_dir, data_dir),
    )


def follow(module: Module) -> None:
    """Go along with a `workdir` after the module, below which a relative data directory is."""
    here = Path(module.rules.folder.data_dir).absolute()
    if here == module.data_dir:
        return
    if module.presence:
        module.presence.close()
        with contextlib.suppress(OSError):  # there is something in it
            os.removedirs(state_dir(module.data_dir) / ALIVE)
    here.parent.mkdir(parents=True, exist_ok=True)
    make_data_dir(here)
    module.data_dir, module.presence = here, Presence(here)
    module.rules.folder = replace(module.rules.folder, presence=module.presence.name)
    module.rules.folder.save()
    write_program(module.rules.folder.path, module.rules.folder.data_dir, module.presence.name)


def _list_values(values: Values) -> Values:
    return values if values is None or isinstance(values, str) else [*values]


def close_module(module: Module) -> list[str]:
    """Clear up at the end of the main process, and return what there is to say of its run.

    Nothing, if all has arrived, or nothing was to be fetched.
    """
    if not module.rules.is_main:
        return []
    folder, data_dir = module.rules.folder, module.data_dir
    if module.presence:
        module.presence.close()
        clear_up(data_dir)
    said = read_outcomes(Path(folder.path, "outcomes"))
    # What no rule has asked for has not been tried.
    tried = [job for job in folder.jobs if any(key in said for key, _ in job.objects)]
    sizes = {key: size for job in tried for key, size in job.objects}
    missing = [key for key, n in sizes.items() if compare(f"{data_dir}/{key}", n) != "complete"]
    # Objects with a job of their own, which may have been used and removed by now.
    asked = dict.fromkeys((*module.rules.asked, *said))
    single = {key: module.rules.listing.find_size(key) or 0 for key in asked if key not in sizes}
    sizes |= single
    missing += [key for key in single if key not in said or said[key].outcome != "fetched"]
    needed = sum(sizes[key] for key in missing)
    stopped = explain_full_disk(folder.path, data_dir, needed)
    if said and not (stopped or is_writable(data_dir)):
        stopped = str(not_writable(data_dir))
    if not (stopped or (said and missing)):  # nothing has begun in a dry run
        return []
    reasons = [f"{key}: {said[key].reason}" for key in missing if key in said and said[key].reason]
    kept = unfinished.explain(data_dir, missing)
    there = f"; {kept}" if kept else ""
    return [
        *([stopped] if stopped else reasons),
        f"{len(sizes) - len(missing):,} of {len(sizes):,} files have arrived{there}; run the same "
        "again to fetch what is missing",
    ]


def _fill_in(given: StrPath | None) -> str | None:
    """Return a data directory with its variables filled in, such as ``$SCRATCH``.

    One that exists as it is written means itself.
    """
    if given is None or os.path.lexists(given):
        return None if given is None else os.fspath(given)
    filled = os.path.expandvars(given)
    if unset := re.search(r"\$(\w+|\{\w+\})", filled):
        raise ConfigError(
            f"data_dir: {os.fspath(given)!r}: the variable {unset[0]} is not set; set it, or write "
            "the whole path"
        )
    return os.fspath(filled)


def _find_variables(given: StrPath | None, data_dir: str) -> dict[str, str]:
    """Return the variables, with their values, with which the `given` data directory is found."""
    if given is None:
        return {"LAION_FMRI_DATA_DIR": data_dir}
    names = re.findall(r"\$\{?(\w+)", os.fspath(given), re.ASCII)
    names += ["HOME"] if os.fspath(given).startswith("~") else []
    return {name: os.environ[name] for name in names if name in os.environ}


def _choose_data_dir(settings: Settings, resolve_path: Callable[[str], str]) -> tuple[str, str]:
    """Return the data directory, and how the rules spell it: Snakemake compares paths as text.

    A relative one belongs to the pipeline, like any folder of its results, and is made for it; the
    prefix of a module goes before it.
    """
    given = _fill_in(settings.data_dir)
    if given and not expand_path(given).is_absolute():
        rule_dir = str(Path(given))
        data_dir = resolve_path(rule_dir)
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
