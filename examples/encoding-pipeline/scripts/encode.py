"""Fit a ridge model with one weight for each image, and test it on other runs of the session.

Such a model knows which image was shown and nothing else about it, so that its score is about the
best that any model of single images could reach with as many trials.
"""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np


def read_trials(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the image of each trial, and the position of its run in the session, from 0."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    column = "label" if "label" in rows[0] else "stimulus"
    runs = list(dict.fromkeys(row["run"] for row in rows))
    return (
        np.array([row[column] for row in rows]),
        np.array([runs.index(row["run"]) for row in rows]),
    )


def read_betas(path: str, inside: np.ndarray) -> np.ndarray:
    """Return the responses, trials by voxels, of the voxels `inside`.

    One volume at a time: a whole session takes more than 10 GB.
    """
    image = nibabel.load(path, keep_file_open=True)
    betas = np.empty((image.shape[3], np.count_nonzero(inside)), "float32")
    for trial in range(len(betas)):
        betas[trial] = image.dataobj[..., trial][inside]
    return betas


def predict(
    responses: np.ndarray, images: np.ndarray, wanted: np.ndarray, alpha: float
) -> np.ndarray:
    """Return the responses to the images `wanted` that a ridge model expects."""
    known, shown = np.unique(images, return_inverse=True)
    design = np.eye(len(known), dtype="float32")[shown]
    penalty = alpha * np.eye(len(known), dtype="float32")
    mean = responses.mean(axis=0)
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ (responses - mean))
    return mean + weights[np.searchsorted(known, wanted)]


def correlate(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the correlation of each column; NaN where a column does not vary."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))


def main(snakemake: Any) -> None:
    """Write the map of scores, NaN where there is none, and a summary."""
    images, runs = read_trials(snakemake.input.trials)
    r2 = nibabel.load(snakemake.input.r2)
    inside = np.asanyarray(r2.dataobj) >= snakemake.params.min_r2
    betas = read_betas(snakemake.input.betas, inside)
    train = runs % 2 == 0
    test = ~train & np.isin(images, images[train])
    if len(np.unique(images[test])) < 2:
        raise SystemExit("no two images of the odd runs are shown again in the even runs")
    predicted = predict(betas[train], images[train], images[test], snakemake.params.alpha)
    scores = np.full(r2.shape, np.nan, "float32")
    scores[inside] = correlate(predicted, betas[test])
    nibabel.save(nibabel.Nifti1Image(scores, r2.affine), snakemake.output.scores)
    summary = {
        "images": len(np.unique(images[test])),
        "training trials": int(train.sum()),
        "test trials": int(test.sum()),
        "voxels": int(np.isfinite(scores).sum()),
        "median score": round(float(np.nanmedian(scores)), 4),
    }
    text = json.dumps(summary, indent=2) + "\n"
    for path in (snakemake.output.summary, snakemake.log[0]):
        Path(path).write_text(text)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821 - Snakemake puts it here
