for index, job in enumerate(RULES.jobs):

    rule:
        name:
            job.name
        input:
            inputs_of(job),
        output:
            outputs_of(job),
        log:
            RULES.log(f"{job.name}.log"),
        priority: len(RULES.jobs) - index
        localrule: HERE or job.is_tiny
        conda:
            "../envs/awscli.yaml"
        threads: job.workers
        resources:
            mem_mb=1000,
            runtime=job.minutes,
            fetch_workers=1,
        params:
            transfer=TRANSFER,
            job=f"@{RULES.folder.job_file(job)}",
            aws=RULES.folder.aws,
            options=RULES.folder.bucket.aws_options(),
            same=RULES.spell_copy(job),
        message:
            RULES.describe(job)
        shell:
            "exec {params.transfer:q} {params.job:q} --"
            " {params.aws:q} s3 cp {params.options:q} 2>> {log:q}  # {params.same}"
