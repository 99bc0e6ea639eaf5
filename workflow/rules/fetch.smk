# A run of laion-fmri itself has a job for each target; only a pipeline can name others. Without this
# rule, Snakemake need not weigh it for every file.
if not config["table"]:

    rule fetch_object:
        """Fetch one object that is in no job of the plan, when a pipeline names it."""
        input:
            needs_object,
        output:
            f"{DATA}/{{key}}",
        log:
            f"{DATA}/.laion_fmri/logs/{{key}}",
        wildcard_constraints:
            key=r"(?!\.laion_fmri/).+",
        conda:
            "../envs/awscli.yaml"
        params:
            transfer=transfer_command(),
            job=describe_object,
            aws=aws_command(),
            options=TARGETS.bucket.aws_options(),
        message:
            "fetch {wildcards.key}"
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
            f"{DATA}/.laion_fmri/logs/{job.name}",
        priority: len(TARGETS.jobs) - index
        conda:
            "../envs/awscli.yaml"
        threads: job.workers
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
