# Two modules of a pipeline share the rule for objects that only rules of the pipeline name.
if MODULE.is_first:

    rule fetch_object:
        """Fetch one object of the bucket, together with those that other jobs of this rule are for."""
        input:
            needs_object,
        output:
            # Not removed before the job starts: another run may have fetched it for both.
            update(f"{RULES.folder.rule_dir}/{{key}}"),
        log:
            RULES.log("{key}.log"),
        wildcard_constraints:
            key=r"(?!\.laion_fmri/).+",
        localrule: HERE
        conda:
            "../envs/awscli.yaml"
        resources:
            mem_mb=1000,
            runtime=find_minutes,
            fetch_workers=1,
        params:
            source=find_source,
            options=RULES.folder.bucket.aws_options(),
        message:
            "fetch {wildcards.key}"
        shell:
            PROGRAM + " {wildcards.key:q} --"
            " aws s3 cp {params.options:q} {params.source:q} {output:q} 2>> {log:q}"


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
