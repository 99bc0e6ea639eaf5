import atexit

from snakemake.exceptions import WorkflowError

from laion_fmri.base.text import spell
from laion_fmri.errors import BucketError, LaionFmriError
from laion_fmri.run.pipeline_modules import MODULES, Process, close_module, open_nothing
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
    allowed = read_allowed_rules(sys.argv)
    process = Process(workflow, is_main, crew, allowed, resolve_path)
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
    try:
        return RULES.needs(wildcards.key)
    except BucketError as error:
        stop(error)


def describe_object(wildcards):
    """Return what the transfer of a single object has to know."""
    return RULES.describe_single(wildcards.key)


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


MODULE = open_module()
RULES = MODULE.rules
# An output no rule can create; requesting it fails the run if files are blocked.
OBSTACLES = [f"{RULES.folder.path}/obstacles"] if MODULE.obstacles else []
# Without a network on the nodes of a cluster, the machine that submits has to fetch.
HERE = MODULE.settings.fetch_on == "submit-host"
# The files are outputs, so that the rules of a pipeline can take them.
inputs_of, outputs_of = RULES.needs_of, RULES.outputs
tell(MODULE.messages)
# Handlers of a module (onerror, onsuccess) do not run.
atexit.register(end_run, MODULE)
# Snakemake does not bound what runs on the machine that submits.
if RULES.folder.slots:
    workflow.global_resources["laion_fmri_transfers"] = RULES.folder.slots
