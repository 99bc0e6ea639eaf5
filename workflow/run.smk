"""Fetch what a run of laion-fmri itself has planned. Pipelines embed the Snakefile beside this."""


include: "rules/common.smk"


RULES = load_rules(
    Path(config["run_folder"]),
    is_main=workflow.is_main_process,
    rules=None if workflow.is_main_process else read_allowed_rules(sys.argv),
)
HERE = False  # whoever sends the jobs to a cluster has them fetch there


def inputs_of(job):
    """Return the input of a planned job: none, since each has to run."""
    return []


def outputs_of(job):
    """Return the output of a planned job: a mark, and not the files.

    Snakemake removes the outputs of a job before it starts, by their paths, and whoever shares the
    data directory can make these paths lead anywhere by then.
    """
    return touch(f"{RULES.folder.path}/done/{job.name}")


include: "rules/fetch.smk"


rule all:
    default_target: True
    input:
        [path for job in RULES.jobs for path in getattr(rules, job.name).output],
