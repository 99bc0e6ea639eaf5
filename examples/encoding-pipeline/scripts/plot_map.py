"""Draw the scores of a subject's sessions on three slices of its mean-R2 map."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from matplotlib.figure import Figure

PLANES = ("sagittal", "coronal", "axial")


def cut(volume: np.ndarray, axis: int, position: int) -> np.ndarray:
    """Return a slice as an image, the last axis upwards."""
    return volume.take(position, axis=axis).T


def main(snakemake: Any) -> None:
    """Write the figure: one row for each session, one column for each plane."""
    background = np.asanyarray(nibabel.load(snakemake.input.background).dataobj)
    centre = [int(np.median(where)) for where in np.nonzero(background > 0)]
    rows = len(snakemake.input.scores)
    figure = Figure(figsize=(8, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, len(PLANES), squeeze=False)
    for row, path in zip(axes, snakemake.input.scores, strict=True):
        scores = np.asanyarray(nibabel.load(path).dataobj)
        for axis, (panel, plane) in enumerate(zip(row, PLANES, strict=True)):
            panel.imshow(cut(background, axis, centre[axis]), cmap="gray", origin="lower")
            drawn = panel.imshow(
                cut(scores, axis, centre[axis]), cmap="RdBu_r", origin="lower", vmin=-1, vmax=1
            )
            panel.set(xticks=[], yticks=[], title=plane)
        row[0].set_ylabel(Path(path).name.partition("_scores")[0])
    figure.colorbar(drawn, ax=axes, label="correlation of predicted and measured responses")
    figure.savefig(snakemake.output[0], dpi=100)
    Path(snakemake.log[0]).write_text(f"{rows} sessions, slices {centre}\n")


if __name__ == "__main__":
    main(snakemake)  # noqa: F821 - Snakemake puts it here
