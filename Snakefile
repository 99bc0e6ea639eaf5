# Entry from a clone: `snakemake --cores 4` reads config/config.yaml and fetches the selection.
configfile: "config/config.yaml"


module laion:
    snakefile:
        "workflow/Snakefile"
    config:
        config


use rule * from laion
