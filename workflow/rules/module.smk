import atexit
import hashlib
import os

from snakemake.exceptions import WorkflowError

from laion_fmri.base.text import spell
from laion_fmri.errors import BucketError, LaionFmriError
from laion_fmri.run.pipeline_modules import (
    MODULES,
    Process,
    close_module,
    follow,
    open_nothing,
)
from laion_fmri.run.plan import Crew
from laion_fmri.run.rules import asks_for_no_file
from laion_fmri.settings import NO_SUBJECT


def resolve_path(path):
    """Return what Snakemake makes of a relative path of these rules: a module may have a prefix."""
    return str(workflow.modifier.path_modifier.modify(path))


def open_module():
    """Read the configuration and find what the rules fetch; complain in one line."""
    limits = workflow.resource_settings
    crew = Crew(
        workers=limits.cores or limits.nodes or 1,
        # The executor is not known yet, but others than the local one have nodes and no cores.
        on_cluster=limits.nodes is not None and limits.cores is None,
        find_aws=not workflow.deployment_settings.deployment_method,
    )
    is_main = workflow.is_main_process
    name = workflow.modifier.namespace
    allowed = read_allowed_rules(sys.argv)
    process = Process(workflow, is_main, crew, allowed, IS_CLONE, name, resolve_path)
    if storage := getattr(workflow.storage_settings, "default_storage_provider", None):
        raise WorkflowError(
            f"--default-storage-provider {storage} would look for the files of the module in that"
            " storage, where local() cannot mark what your rules name; run without it, and mark"
            " the files that are in the storage with storage()"
        )
    try:
        if asks_for_no_file(sys.argv):
            return open_nothing(config)
        return MODULES.open(config, process)
    except LaionFmriError as error:
        raise WorkflowError(str(error)) from None


def all_targets(wildcards):
    """Return every target of the selection."""
    if MODULE.settings.subject == NO_SUBJECT:
        raise WorkflowError(
            'with subject: "none" there is nothing to fetch but what the rules of a pipeline name;'
            ' write a subject, such as "sub-03", or "all"'
        )
    try:
        RULES.check_reach()
    except BucketError as error:
        stop(error)
    return RULES.paths()


def find_all(rules):
    """Return the input of the rule `all`.

    The outputs of the rules themselves where there are any: Snakemake compares a path with all
    outputs of many rules before it knows the one that it is of.
    """
    if MODULE.settings.subject == NO_SUBJECT or not RULES.jobs:
        return all_targets
    planned = [path for job in RULES.jobs for path in getattr(rules, job.name).output]
    fetched = {path for job in RULES.jobs for path in RULES.outputs(job)}
    return [*planned, *(path for path in RULES.paths() if path not in fetched)]


def needs_object(wildcards):
    """Return the input of a single object, which decides whether it is fetched."""
    if workflow.is_main_process:
        follow(MODULE)
    try:
        return RULES.needs(wildcards.key)
    except BucketError as error:
        stop(error)


def list_wanted():
    """Return the keys that this run has a job for; none while it is still finding that out."""
    jobs = workflow.dag.needrun_jobs() if workflow.scheduler else ()
    found = [getattr(job, "wildcards_dict", None) or {} for job in jobs]
    return [wildcards["key"] for wildcards in found if set(wildcards) == {"key"}]


def find_source(wildcards):
    """Return where an object comes from, in the terms of aws."""
    return RULES.find_source(wildcards.key, list_wanted)


def find_minutes(wildcards):
    """Return the minutes that a job of one object may take."""
    return RULES.find_minutes(wildcards.key, list_wanted)


def tell(texts):
    """Say something to whoever has started Snakemake."""
    for text in texts:
        print(f"laion-fmri: {spell(text)}", file=sys.stderr)


def stop(error):
    """End Snakemake in one line: it would add where in the rules an error has come up."""
    tell([str(error)])
    raise SystemExit(1)


def end_run(module):
    """Say at the end of Snakemake what has not arrived."""
    tell(close_module(module))


# Its own Snakefile is the main one.
IS_CLONE = Path(workflow.main_snakefile).resolve() == clone.resolve() / "Snakefile"
MODULE = open_module()
RULES = MODULE.rules
# A variable, so that the command is the same in every folder and environment.
NAME = f"LAION_FMRI_FETCH_{hashlib.sha256(resolve_path(RULES.folder.rule_dir).encode()).hexdigest()[:8]}"
if MODULE.is_first:
    if workflow.is_main_process or NAME not in os.environ:
        os.environ[NAME] = f"{RULES.folder.path}/fetch"
    workflow.register_envvars(NAME)
PROGRAM = f'"${NAME}"'
# An output no rule can create; requesting it fails the run if files are blocked.
OBSTACLES = [f"{RULES.folder.path}/obstacles"] if MODULE.obstacles else []
# Without a network on the nodes of a cluster, the machine that submits has to fetch.
HERE = MODULE.settings.fetch_on == "submit-host"
# The files are outputs, so that the rules of a pipeline can take them.
inputs_of, outputs_of = RULES.needs_of, RULES.outputs
tell(MODULE.messages)
# Handlers of a module (onerror, onsuccess) do not run.
if not MODULE.is_again:
    atexit.register(end_run, MODULE)
# Fetching leaves cores to other rules; --resources fetch_workers=8 says otherwise.
if RULES.folder.slots:
    workflow.global_resources.setdefault("fetch_workers", RULES.folder.slots)
# Some schedulers start a job without any variable. Snakemake gives it those that are registered.
os.environ.update(MODULE.variables)
workflow.register_envvars(*MODULE.variables)
