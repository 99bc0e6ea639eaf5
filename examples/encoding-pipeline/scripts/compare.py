"""Draw the scores of each region, subject and session, and write their medians as one table."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

mpl.use("agg")
import matplotlib.pyplot as plt


def main(snakemake: Any) -> None:
    """Write the figure and the table."""
    tables = []
    for path in snakemake.input:
        session = Path(path).name.removesuffix("_scores.tsv")
        tables.append(pd.read_csv(path, sep="\t").assign(session=session))
    scores = pd.concat(tables)
    summary = scores.groupby(["roi", "session"])["score"].agg(voxels="size", median="median")
    summary.round(4).to_csv(snakemake.output.table, sep="\t")
    rois = snakemake.params.rois
    figure, _ = plt.subplots(
        1, len(rois), figsize=(1 + 3.5 * len(rois), 4), sharey=True, layout="constrained"
    )
    sessions = sorted(scores["session"].unique())
    for panel, roi in zip(figure.axes, rois, strict=True):
        chosen = scores[scores["roi"] == roi]
        panel.boxplot([chosen.loc[chosen["session"] == one, "score"] for one in sessions])
        panel.axhline(0, color="gray", linewidth=0.8)
        panel.set_xticks(range(1, len(sessions) + 1), sessions, rotation=45, ha="right")
        panel.set_title(roi)
    figure.axes[0].set_ylabel("correlation, as a share of what the noise allows")
    figure.savefig(snakemake.output.figure, dpi=100)
    Path(snakemake.log[0]).write_text(f"{len(sessions)} sessions, {len(scores)} scores\n")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821 - Snakemake puts it here
