"""Draw how the scores of each session are distributed, and write the summaries as one table."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from matplotlib.figure import Figure


def main(snakemake: Any) -> None:
    """Write the figure and the table."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    table = []
    for scores, summary in zip(snakemake.input.scores, snakemake.input.summaries, strict=True):
        session = Path(scores).name.partition("_scores")[0]
        values = np.asanyarray(nibabel.load(scores).dataobj)
        axes.hist(values[np.isfinite(values)], np.linspace(-1, 1, 41), histtype="step",
                  density=True, label=session)  # fmt: skip
        table.append({"session": session, **json.loads(Path(summary).read_text())})
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="correlation of predicted and measured responses", ylabel="density of voxels")
    axes.legend()
    figure.savefig(snakemake.output.figure, dpi=100)
    with open(snakemake.output.table, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    Path(snakemake.log[0]).write_text(f"{len(table)} sessions\n")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821 - Snakemake puts it here
