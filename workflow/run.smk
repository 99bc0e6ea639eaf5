"""Fetch what a run of laion-fmri itself has planned. Pipelines embed the Snakefile beside this."""


include: "rules/common.smk"


RULES = load_rules(
    Path(config["run_folder"]),
    is_main=workflow.is_main_process,
    rules=None if workflow.is_main_process else read_allowed_rules(sys.argv),
)
HERE = False  # whoever sends the jobs to a cluster has them fetch there


include: "rules/fetch.smk"


rule all:
    default_target: True
    input:
        [path for job in RULES.jobs for path in getattr(rules, job.name).output],
