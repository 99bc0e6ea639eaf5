"""One run: its plan, its folder, the rules, the Snakemake process, its report."""
