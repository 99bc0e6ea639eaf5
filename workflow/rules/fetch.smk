# A run of laion-fmri itself has a job for each target; only a pipeline can name others. Without this
# rule, Snakemake need not weigh it for every file. Two modules of a pipeline share one.
if not config["table"] and is_first_module(TARGETS):

    rule fetch_object:
        """Fetch one object that is in no job of the plan, when a pipeline names it."""
        input:
            needs_object,
        output:
            f"{TARGETS.rule_dir}/{{key}}",
        log:
            TARGETS.log("{key}"),
        wildcard_constraints:
            key=r"(?!\.laion_fmri/).+",
        localrule: HERE
        conda:
            "../envs/awscli.yaml"
        resources:
            mem_mb=1000,
            runtime=240,
        params:
            transfer=transfer_command(),
            job=describe_object,
            aws=aws_command(),
            options=TARGETS.bucket.aws_options(),
            named=TARGETS.describe_named,
        message:
            "fetch {params.named}"
        shell:
            "exec {params.transfer:q} {params.job:q} --"
            " {params.aws:q} s3 cp {params.options:q} 2> {log:q}"


for index, job in enumerate(TARGETS.jobs):

    rule:
        name:
            job.name
        input:
            TARGETS.needs_of(job),
        output:
            TARGETS.outputs(job),
        log:
            TARGETS.log(job.name),
        priority: len(TARGETS.jobs) - index
        localrule: HERE or job.is_tiny
        conda:
            "../envs/awscli.yaml"
        threads: job.workers
        resources:
            mem_mb=1000,
            runtime=job.minutes,
        params:
            transfer=transfer_command(),
            job=f"@{TARGETS.job_file(job)}",
            aws=aws_command(),
            options=TARGETS.bucket.aws_options(),
        message:
            TARGETS.describe(job)
        shell:
            "exec {params.transfer:q} {params.job:q} --"
            " {params.aws:q} s3 cp {params.options:q} 2> {log:q}"


if OBSTACLES:

    rule report_obstacles:
        """Fail for the files that something is in the way of, once the others have been fetched."""
        input:
            [path for job in TARGETS.jobs for path in TARGETS.outputs(job)],
        output:
            OBSTACLES,
        retries: 0
        localrule: True
        params:
            reasons=[f"{key}: {why}" for key, why in TABLE.obstacles.items()][:10],
        message:
            "name what is in the way of files"
        shell:
            "printf 'laion-fmri: %s\\n' {params.reasons:q} >&2; exit 1"
