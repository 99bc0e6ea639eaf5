import atexit
import sys
from pathlib import Path

# A clone brings its own package along; beside a wheel's workflow there is none to add.
clone = Path(str(workflow.current_basedir)).parent.parent
if (clone / "laion_fmri" / "__init__.py").exists():
    sys.path.insert(0, str(clone))

from snakemake.exceptions import WorkflowError

from laion_fmri.fetch.aws import aws_command
from laion_fmri.config import validate_config
from laion_fmri.errors import LaionFmriError
from laion_fmri.selection.filters import NO_SUBJECT
from laion_fmri.run.pipeline_modules import (
    Process,
    close_targets,
    empty_targets,
    is_first_module,
    open_targets,
    read_allowed_rules,
)
from laion_fmri.run.process import find_workflow
from laion_fmri.run.targets import transfer_command


def place(path):
    """Return what Snakemake makes of a relative path of these rules: a module may have a prefix."""
    return str(workflow.modifier.path_modifier.modify(path))


def open_config():
    """Validate the configuration and find its targets; complain in one line."""
    try:
        validate_config(config, find_workflow() / "schemas" / "config.schema.yaml")
        limits = workflow.resource_settings
        process = Process(
            workflow,
            is_main=workflow.is_main_process,
            workers=limits.cores or limits.nodes or 1,
            # The executor is not known yet, but others than the local one have nodes and no cores.
            on_cluster=limits.nodes is not None and limits.cores is None,
            find_aws=not workflow.deployment_settings.deployment_method,
            rules=read_allowed_rules(sys.argv),
            place=place,
        )
        return open_targets(config, process)
    except (LaionFmriError, TypeError) as error:
        if (
            "--lint" in sys.argv
        ):  # of a clone as it comes, with no data directory and no network
            return empty_targets(config)
        raise WorkflowError(str(error)) from None


def all_targets(wildcards):
    """Return every target of the selection."""
    if config["subject"] == NO_SUBJECT:
        raise WorkflowError(
            'with subject: "none" there is nothing to fetch but what the rules of a pipeline name;'
            ' write a subject, such as "sub-03", or "all"'
        )
    return TARGETS.paths()


def find_all(rules):
    """Return the input of the rule `all`.

    The outputs of the rules themselves where there are any: Snakemake compares a path with all
    outputs of many rules before it knows the one that it is of.
    """
    if config["table"] or config["subject"] == NO_SUBJECT or not TARGETS.jobs:
        return all_targets
    planned = [path for job in TARGETS.jobs for path in getattr(rules, job.name).output]
    fetched = {path for job in TARGETS.jobs for path in TARGETS.outputs(job)}
    return [*planned, *(path for path in TARGETS.paths() if path not in fetched)]


def needs_object(wildcards):
    """Return the input of a single object, which decides whether it is fetched."""
    return TARGETS.needs(wildcards.key)


def tell(texts):
    """Say something to whoever has started Snakemake."""
    for text in texts:
        print(f"laion-fmri: {text}", file=sys.stderr)


def end_run(targets):
    """Say at the end of Snakemake what has not arrived."""
    tell(close_targets(targets))


def describe_object(wildcards):
    """Return what the transfer of a single object has to know."""
    return TARGETS.describe_single(wildcards.key)


TARGETS, TABLE = open_config()
# What is never made, so that a run where something is in the way of files does not end well.
OBSTACLES = [f"{TARGETS.run_dir}/obstacles"] if TABLE.obstacles else []
# Without a network on the nodes of a cluster, the machine that submits has to fetch.
HERE = config["fetch_on"] == "submit-host"
tell(TABLE.warnings + TABLE.notes)
# Handlers of a module (onerror, onsuccess) do not run.
atexit.register(end_run, TARGETS)
