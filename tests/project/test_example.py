"""The example pipeline, run as a user runs it: on the sample bucket, with its report."""

from __future__ import annotations

import base64
import gzip
import io
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import DERIVATIVES, REPO, run, sandbox, stat_all
from matplotlib.image import imread

EXAMPLE = REPO / "examples" / "encoding-pipeline"
SESSIONS = [(sub, ses) for sub in ("sub-01", "sub-03") for ses in ("ses-01", "ses-02")]
FIGURES = ["comparison.png"]
#: What a run leaves in the folder of the example.
LEFT = shutil.ignore_patterns(".snakemake", "data", "logs", "results", "report.html")
RULES = {"encode": 4, "compare": 1, "all": 1}


def key_of(sub: str, ses: str, rest: str) -> str:
    """Return the key of an object in the folder of a session."""
    return f"{DERIVATIVES}/{sub}/{ses}/func/{sub}_{ses}_task-images_{rest}"


def keys_of(sub: str, ses: str) -> dict[str, str]:
    """Return the keys that the model of a session takes."""
    anatomical = f"derivatives/anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w"
    masks = f"derivatives/rois/{sub}/{{}}/{sub}_space-T1w_res-1pt8_label-{{}}_mask.nii.gz"
    return {
        "betas": key_of(sub, ses, "space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"),
        "trials": key_of(sub, ses, "desc-SingletrialBetas_trials.tsv"),
        "ceiling": key_of(sub, ses, "space-T1w_desc-Noiseceiling_statmap.nii.gz"),
        "brain": f"{anatomical}_res-1pt8_desc-brain_mask.nii.gz",
        "FFA1": masks.format("face", "FFA-1"),
        "V1": masks.format("retinotopy", "V1"),
        "embeddings": "stimuli/task-images_desc-CLIP_embeddings.h5",
        "images": "stimuli/task-images_metadata.csv",
    }


def count_rules(ended: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return how often each rule of the example has run, from Snakemake's own table."""
    lines = [line.split() for line in ended.stderr.splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[0] in RULES}


def run_example(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run plain ``snakemake`` in a copy of the example."""
    return run([sys.executable, "-m", "snakemake", *arguments], cwd=folder)


@pytest.fixture(scope="module")
def example(server, tmp_path_factory):
    """Run a copy of the example, make its report, run it again; return the folder and the rest."""
    folder = tmp_path_factory.mktemp("example") / "pipeline"
    shutil.copytree(EXAMPLE, folder, ignore=LEFT)
    steps = {"run": ["--cores", "2"], "report": ["--report", "report.html"], "again": ["-c1"]}
    done = {}
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url):
        for name, arguments in steps.items():
            server.clear_requests()
            results = sorted(path for path in folder.rglob("results/*") if path.is_file())
            ended = run_example(folder, *arguments)
            assert ended.returncode == 0, ended.stderr
            done[name] = ended, dict(server.gets()), stat_all(folder, results)
    return folder, done


def test_example_fetches_what_its_rules_name(example):
    """What the model of each session takes, and once each."""
    _, fetched, _ = example[1]["run"]
    expected = {key for session in SESSIONS for key in keys_of(*session).values()}
    assert dict.fromkeys(expected, 1) == fetched


def read_image(objects: dict[str, bytes], key: str) -> nibabel.Nifti1Image:
    """Return a NIfTI object of the bucket."""
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(objects[key]))


def score_session(objects: dict[str, bytes], sub: str, ses: str, config: dict) -> pd.DataFrame:
    """Work out the scores of a session, voxel by voxel, the ridge as least squares with more rows.

    The images are dealt into folds in the order of their names.
    """
    keys = keys_of(sub, ses)
    image = read_image(objects, keys["betas"])
    values = {name: read_image(objects, keys[name]).get_fdata() for name in keys if name != "trials"
              and keys[name].endswith("nii.gz")}  # fmt: skip
    shown = pd.read_csv(io.BytesIO(objects[keys["trials"]]), sep="\t")["label"]
    known = pd.read_csv(io.BytesIO(objects[keys["images"]]))["stimulus"].tolist()
    with h5py.File(io.BytesIO(objects[keys["embeddings"]])) as file:
        features = np.stack([file["embeddings"][known.index(label)] for label in shown])
    fold = np.array([sorted(set(shown)).index(label) % config["folds"] for label in shown])
    rows = []
    for roi in config["rois"]:
        for voxel in np.argwhere((values[roi] > 0) & (values["brain"] > 0)):
            ceiling, betas = values["ceiling"][tuple(voxel)], values["betas"][tuple(voxel)]
            if ceiling < config["min_ceiling"] or np.isnan(betas).any() or np.ptp(betas) == 0:
                continue
            found = []
            for out in range(config["folds"]):
                train = fold != out
                spread = features[train].std(axis=0)
                scaled = (features - features[train].mean(axis=0)) / np.where(spread, spread, 1)
                width = scaled.shape[1]
                design = np.vstack([scaled[train], np.sqrt(config["alpha"]) * np.eye(width)])
                wanted = np.concatenate([betas[train] - betas[train].mean(), np.zeros(width)])
                weights = np.linalg.lstsq(design, wanted, rcond=None)[0]
                found.append(np.corrcoef(scaled[~train] @ weights, betas[~train])[0, 1])
            place = image.affine[:3, :3] @ voxel + image.affine[:3, 3]
            score = np.mean(found) / np.sqrt(ceiling / 100)
            rows.append((roi, *place, ceiling, np.mean(found), score))
    return pd.DataFrame(rows, columns=["roi", "x", "y", "z", "ceiling", "correlation", "score"])


@pytest.mark.parametrize(("sub", "ses"), SESSIONS)
def test_scores_are_those_of_a_plain_computation(example, objects, sub, ses):
    """The tables agree with least squares, voxel by voxel, in both regions."""
    folder, _ = example
    config = yaml.safe_load((folder / "config.yaml").read_text())
    expected = score_session(objects, sub, ses, config)
    found = pd.read_csv(folder / "results" / f"{sub}_{ses}_scores.tsv", sep="\t")
    assert set(expected["roi"]) == {"FFA1", "V1"}
    pd.testing.assert_frame_equal(found, expected, atol=1e-4, rtol=1e-4, check_dtype=False)


def test_table_has_the_median_of_each_region_and_session(example):
    """The table of the report says what those of the sessions say."""
    folder, _ = example
    summary = pd.read_csv(folder / "results" / "comparison.tsv", sep="\t")
    assert len(summary) == 2 * len(SESSIONS)
    for row in summary.itertuples():
        scores = pd.read_csv(folder / "results" / f"{row.session}_scores.tsv", sep="\t")
        chosen = sorted(scores.loc[scores["roi"] == row.roi, "score"])
        assert row.voxels == len(chosen) > 5
        assert row.median == pytest.approx(np.median(chosen), abs=1e-4)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_show_something(example, name):
    """Each figure is a PNG of some size with many colours."""
    pixels = imread(example[0] / "results" / name)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 600
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


def test_report_holds_the_figures_and_their_text(example):
    """The HTML has each figure and the table whole, and says what they are."""
    folder, _ = example
    html = (folder / "report.html").read_text()
    wanted = [*FIGURES, "comparison.tsv"]
    content = {name: (folder / "results" / name).read_bytes() for name in wanted}
    held = [name for name in wanted if base64.b64encode(content[name]).decode() in html]
    assert wanted == held
    for text in (
        "This is an example of a pipeline",
        "the ridge penalty was 100.0",
        "The embeddings are those of",
    ):
        assert text in html


def test_second_run_has_nothing_to_do(example):
    """Nothing is fetched, nothing is computed, no result is touched, by the report neither."""
    folder, done = example
    ended, fetched, results = done["again"]
    assert "Nothing to be done" in ended.stdout + ended.stderr
    assert (done["report"][1], fetched) == ({}, {})
    assert done["report"][2] == results == stat_all(folder, results)
    assert len(results) == len(SESSIONS) + len(FIGURES) + 1


def test_first_run_has_run_each_rule_as_often_as_it_says(example):
    """The counts of Snakemake's own table, but for the rules that fetch."""
    ended, _, _ = example[1]["run"]
    assert count_rules(ended) == RULES


def test_wrong_file_is_healed_and_what_follows_is_computed_again(example, bucket, objects):
    """A table of trials of the wrong size is fetched again, and what is made of it made again."""
    folder, _ = example
    key = keys_of("sub-01", "ses-02")["trials"]
    (folder / "data" / key).write_bytes(b"half")
    ended = run_example(folder, "--cores", "2")
    assert ended.returncode == 0, ended.stderr
    assert {key: 1} == dict(bucket.gets())
    assert objects[key] == (folder / "data" / key).read_bytes()
    assert count_rules(ended) == dict.fromkeys(RULES, 1)


def test_responses_that_follow_the_embeddings_are_predicted(server, objects, tmp_path, monkeypatch):
    """As well as can be; a voxel that has a NaN has no score."""
    keys = keys_of("sub-03", "ses-01")
    shown = pd.read_csv(io.BytesIO(objects[keys["trials"]]), sep="\t")["label"]
    one = read_image(objects, keys["betas"])
    values = np.empty(one.shape, "float32")
    values[:] = [2.5 * int(label[7:12]) for label in shown]
    voxels = (read_image(objects, keys[n]).get_fdata() > 0 for n in ("V1", "FFA1", "brain"))
    v1, ffa, brain = voxels
    ceiling = read_image(objects, keys["ceiling"]).get_fdata()
    inside = np.argwhere(v1 & ~ffa & brain & (ceiling >= 10))
    values[(*inside[0], 3)] = np.nan
    with h5py.File(buffer := io.BytesIO(), "w") as file:
        file["embeddings"] = np.arange(6.0)[:, None] * [1, -2]
    changed = {
        keys["betas"]: gzip.compress(nibabel.Nifti1Image(values, one.affine).to_bytes()),
        keys["embeddings"]: buffer.getvalue(),
    }
    server.add_bucket("planted", {key: objects[key] for key in keys.values()} | changed)
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", server.endpoint_url)
    monkeypatch.setenv("LAION_FMRI_BUCKET", "planted")
    folder = tmp_path / "pipeline"
    shutil.copytree(EXAMPLE, folder, ignore=LEFT)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["laion"] |= {"subject": "sub-03", "ses": "ses-01"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    name = "results/sub-03_ses-01_scores.tsv"
    ended = run_example(folder, "--cores", "1", name)
    assert ended.returncode == 0, ended.stderr
    found = pd.read_csv(folder / name, sep="\t")
    assert (found["roi"] == "V1").sum() == (v1 & brain & (ceiling >= 10)).sum() - 1
    np.testing.assert_allclose(found["correlation"], 1, atol=1e-5)
    np.testing.assert_allclose(found["score"], 10 / np.sqrt(found["ceiling"]), rtol=1e-4)


def test_example_runs_behind_the_sample_server_that_it_starts(tmp_path):
    """``on_sample.py`` needs no bucket, and hands on the command's exit status."""
    folder = tmp_path / "pipeline"
    shutil.copytree(EXAMPLE, folder, ignore=LEFT)
    command = [sys.executable, "on_sample.py", sys.executable, "-m", "snakemake"]
    listed = run([*command, "-n", "--quiet", "rules"], cwd=folder)
    assert listed.returncode == 0, listed.stderr
    assert run([*command, "--cores", "1", "no-such-file"], cwd=folder).returncode == 1


def test_example_passes_lint_and_the_formatter(bucket, tmp_path):
    """Snakemake's linter and snakefmt have nothing to say."""
    folder = tmp_path / "pipeline"
    shutil.copytree(EXAMPLE, folder, ignore=LEFT)
    linted = run_example(folder, "--lint")
    assert linted.returncode == 0, linted.stderr
    formatted = run([sys.executable, "-m", "snakefmt", "--check", EXAMPLE / "Snakefile"])
    assert formatted.returncode == 0, formatted.stderr
