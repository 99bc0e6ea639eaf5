# Two modules of a pipeline share the rule for objects that only rules of the pipeline name.
if MODULE.is_first:

    rule fetch_object:
        """Fetch one object that is in no job of the plan, when a pipeline names it."""
        input:
            needs_object,
        output:
            f"{RULES.folder.rule_dir}/{{key}}",
        log:
            RULES.log("{key}"),
        wildcard_constraints:
            key=r"(?!\.laion_fmri/).+",
        localrule: HERE
        conda:
            "../envs/awscli.yaml"
        resources:
            mem_mb=1000,
            runtime=240,
            laion_fmri_transfers=1,
        params:
            transfer=TRANSFER,
            job=describe_object,
            aws=RULES.folder.aws,
            options=RULES.folder.bucket.aws_options(),
            named=RULES.name_single,
        message:
            "fetch {params.named}"
        shell:
            "exec {params.transfer:q} {params.job:q} --"
            " {params.aws:q} s3 cp {params.options:q} 2> {log:q}"


if OBSTACLES:

    rule report_obstacles:
        """Fail for the files that something is in the way of, once the others have been fetched."""
        input:
            [path for job in RULES.jobs for path in RULES.outputs(job)],
        output:
            OBSTACLES,
        retries: 0
        localrule: True
        params:
            reasons=MODULE.obstacles[:10],
        message:
            "name what is in the way of files"
        shell:
            "printf 'laion-fmri: %s\\n' {params.reasons:q} >&2; exit 1"
