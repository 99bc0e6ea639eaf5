import sys
from pathlib import Path

# A clone brings its own package along; beside a wheel's workflow there is none to add.
clone = Path(str(workflow.current_basedir)).parent.parent
if (clone / "laion_fmri" / "__init__.py").exists():
    sys.path.insert(0, str(clone))

from snakemake.exceptions import WorkflowError

from laion_fmri.config import validate_config
from laion_fmri.errors import LaionFmriError
from laion_fmri.runner import find_workflow
from laion_fmri.targets import aws_command, open_targets, transfer_command


def open_config():
    """Validate the configuration and find its targets; complain in one line."""
    try:
        validate_config(config, find_workflow() / "schemas" / "config.schema.yaml")
        return open_targets(
            config,
            is_main=workflow.is_main_process,
            workers=workflow.cores or workflow.nodes or 1,
            find_aws=not workflow.deployment_settings.deployment_method,
        )
    except (LaionFmriError, TypeError) as error:
        raise WorkflowError(str(error)) from None


def needs_object(wildcards):
    """Return the input of a single object, which decides whether it is fetched."""
    return TARGETS.needs(wildcards.key)


def describe_object(wildcards):
    """Return what the transfer of a single object has to know."""
    return TARGETS.describe_single(wildcards.key)


TARGETS, TABLE = open_config()
DATA = TARGETS.data_dir
for text in TABLE.warnings + TABLE.notes:
    print(f"laion-fmri: {text}", file=sys.stderr)
