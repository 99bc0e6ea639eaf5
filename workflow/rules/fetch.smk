rule fetch_object:
    """Fetch one object: large ones, and those that another pipeline names."""
    input:
        lambda wildcards: TARGETS.needs(wildcards.key),
    output:
        f"{TARGETS.data_dir}/{{key}}",
    log:
        f"{TARGETS.data_dir}/.laion_fmri/logs/{{key}}",
    params:
        transfer=transfer_command(),
        job=lambda wildcards: TARGETS.describe_single(wildcards.key),
        aws=aws_command(),
        options=TARGETS.bucket.aws_options(),
    wildcard_constraints:
        key=r"(?!\.laion_fmri/).+",
    conda:
        "../envs/awscli.yaml"
    message:
        "fetch {wildcards.key}"
    shell:
        "exec {params.transfer:q} {params.job:q} --"
        " {params.aws:q} s3 cp {params.options:q} 2> {log:q}"


for job in TARGETS.batches:

    rule:
        name:
            job.name
        input:
            TARGETS.needs_of(job),
        output:
            TARGETS.outputs(job),
        log:
            f"{TARGETS.data_dir}/.laion_fmri/logs/{job.name}",
        params:
            transfer=transfer_command(),
            job=f"@{TARGETS.job_file(job)}",
            aws=aws_command(),
            options=TARGETS.bucket.aws_options(),
        conda:
            "../envs/awscli.yaml"
        message:
            f"fetch {len(job.objects)} objects below {job.prefix}"
        shell:
            "exec {params.transfer:q} {params.job:q} --"
            " {params.aws:q} s3 cp {params.options:q} 2> {log:q}"
