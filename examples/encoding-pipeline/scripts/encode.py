"""Predict responses to images from their embeddings, and compare with what the noise allows.

The images are dealt into folds; a ridge model that has seen all but one fold predicts the responses
to the images of that fold. The score of a voxel is the correlation of predicted and measured
responses, the mean over the folds, divided by the highest correlation that the noise of the voxel
allows: the square root of its noise ceiling.
"""

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from laion_fmri.subject import load_subject


def read_features(embeddings: str, images: str, labels: list[str]) -> np.ndarray:
    """Return the embedding of the image of each trial, trials by features."""
    with open(images, newline="") as file:
        rows = {row["stimulus"]: n for n, row in enumerate(csv.DictReader(file))}
    with h5py.File(embeddings) as file:
        vectors = file["embeddings"][:]
    return vectors[[rows[label] for label in labels]].astype("float64")


def fit_ridge(features: np.ndarray, responses: np.ndarray, alpha: float) -> np.ndarray:
    """Return the weights, features by voxels, of centred features and responses."""
    # By trials or by features, whichever are fewer: embeddings have a thousand of them.
    if features.shape[0] < features.shape[1]:
        kernel = features @ features.T + alpha * np.eye(len(features))
        return features.T @ np.linalg.solve(kernel, responses)
    kernel = features.T @ features + alpha * np.eye(features.shape[1])
    return np.linalg.solve(kernel, features.T @ responses)


def correlate(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the correlation of each column; NaN where a column does not vary."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))


def score(
    features: np.ndarray, betas: np.ndarray, labels: list[str], alpha: float, folds: int
) -> np.ndarray:
    """Return the correlation of predicted and measured responses of each voxel."""
    names, image = np.unique(labels, return_inverse=True)
    if len(names) < 2 * folds:
        raise SystemExit(f"{len(names)} images are too few for {folds} folds of two or more")
    found = []
    for fold in range(folds):
        test = image % folds == fold
        mean, spread = features[~test].mean(axis=0), features[~test].std(axis=0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1)
        responses = betas[~test] - betas[~test].mean(axis=0)
        weights = fit_ridge(scaled[~test], responses, alpha)
        found.append(correlate(scaled[test] @ weights, betas[test]))
    return np.mean(found, axis=0)


def main(snakemake: Any) -> None:
    """Write a table with a row for each voxel of each region."""
    given, asked = snakemake.input, snakemake.params
    session = snakemake.wildcards.ses
    # What the rule names is here, so nothing is to be fetched.
    folder = snakemake.config["laion"]["data_dir"]
    sub = load_subject(snakemake.wildcards.sub, folder, fetch=False)
    labels = [str(label) for label in sub.get_trial_info(session)["label"]]
    betas = sub.get_betas(session, roi=asked.rois).astype("float64")
    inside = sub.get_roi_mask(asked.rois)
    ceiling, places = (
        values[inside] for values in (sub.get_noise_ceiling(session), sub.get_voxel_coordinates())
    )
    # A voxel at the edge of the brain may lack a value.
    kept = np.isfinite(betas).all(axis=0) & (ceiling >= asked.min_ceiling)
    features = read_features(given.embeddings, given.images, labels)
    raw = np.full(len(ceiling), np.nan)
    raw[kept] = score(features, betas[:, kept], labels, asked.alpha, asked.folds)
    lines = ["roi\tx\ty\tz\tceiling\tcorrelation\tscore\n"]
    for roi, mask in sub.get_roi_masks(asked.rois).items():
        for voxel in np.flatnonzero(mask[inside] & np.isfinite(raw)):
            x, y, z = places[voxel]
            most = np.sqrt(ceiling[voxel] / 100)
            lines.append(
                f"{roi}\t{x:g}\t{y:g}\t{z:g}\t{ceiling[voxel]:.4f}\t{raw[voxel]:.6f}\t"
                f"{raw[voxel] / most:.6f}\n"
            )
    Path(snakemake.output[0]).write_text("".join(lines))
    Path(snakemake.log[0]).write_text(
        f"{len(labels)} trials, {len(set(labels))} images, {kept.sum()} of {len(kept)} voxels\n"
    )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821 - Snakemake puts it here
