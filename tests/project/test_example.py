"""The example pipeline, run as a user runs it: on the sample bucket, with its report."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from helpers import DERIVATIVES, REPO, run, sandbox, stat_all
from matplotlib.image import imread

EXAMPLE = REPO / "examples" / "encoding-pipeline"
SESSIONS = [(sub, ses) for sub in ("sub-01", "sub-03") for ses in ("ses-01", "ses-02")]
FIGURES = ["comparison.png", "sub-01_map.png", "sub-03_map.png"]
#: What a run leaves in the folder of the example.
LEFT = shutil.ignore_patterns(".snakemake", "data", "logs", "results", "report.html")
RULES = {"encode": 4, "plot_map": 2, "compare": 1, "all": 1}


def key_of(sub: str, ses: str, rest: str) -> str:
    """Return the key of an object in the folder of a session."""
    return f"{DERIVATIVES}/{sub}/{ses}/func/{sub}_{ses}_task-images_{rest}"


def keys_of(sub: str, ses: str) -> dict[str, str]:
    """Return the keys that the model of a session takes."""
    return {
        "betas": key_of(sub, ses, "space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"),
        "trials": key_of(sub, ses, "desc-SingletrialBetas_trials.tsv"),
        "r2": key_of(sub, ses, "space-T1w_stat-rsquare_desc-R2_statmap.nii.gz"),
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
    """Betas, trials and R2 of each session, the mean R2 of each subject, and once each."""
    _, fetched, _ = example[1]["run"]
    expected = {key for session in SESSIONS for key in keys_of(*session).values()}
    stem = "task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz"
    expected |= {f"{DERIVATIVES}/{sub}/{sub}_{stem}" for sub, _ in SESSIONS}
    assert dict.fromkeys(expected, 1) == fetched


def read_image(objects: dict[str, bytes], key: str) -> np.ndarray:
    """Return the values of a NIfTI object of the bucket."""
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(objects[key])).get_fdata()


def score_session(objects: dict[str, bytes], sub: str, ses: str, config: dict) -> np.ndarray:
    """Work out the scores of a session, image by image and voxel by voxel.

    The ridge weight of an image, in a design with nothing but images, is the sum of its deviations
    from the mean over the number of its trials and the penalty.
    """
    keys = keys_of(sub, ses)
    betas, r2 = read_image(objects, keys["betas"]), read_image(objects, keys["r2"])
    rows = list(csv.DictReader(io.StringIO(objects[keys["trials"]].decode()), delimiter="\t"))
    train = [n for n, row in enumerate(rows) if row["run"] in ("1", "3")]
    test = [n for n, row in enumerate(rows) if row["run"] == "2"]
    trials = {n: [m for m in train if rows[m]["label"] == rows[n]["label"]] for n in test}
    test = [n for n in test if trials[n]]
    scores = np.full(r2.shape, np.nan)
    for voxel in np.argwhere(r2 >= config["min_r2"]):
        values = betas[tuple(voxel)]
        mean = values[train].mean()
        predicted = [
            sum(values[m] - mean for m in trials[n]) / (len(trials[n]) + config["alpha"])
            for n in test
        ]
        scores[tuple(voxel)] = np.corrcoef(predicted, values[test])[0, 1]
    return scores


@pytest.mark.parametrize(("sub", "ses"), SESSIONS)
def test_scores_are_those_of_a_plain_computation(example, objects, sub, ses):
    """The maps agree with sums over trials, and have no score where the GLM explains little."""
    folder, _ = example
    image = nibabel.load(folder / "results" / f"{sub}_{ses}_scores.nii.gz")
    scores = np.asanyarray(image.dataobj)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    expected = score_session(objects, sub, ses, config)
    assert 300 < np.isfinite(expected).sum() < expected.size
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    r2 = nibabel.load(folder / "data" / keys_of(sub, ses)["r2"])
    np.testing.assert_array_equal(r2.affine, image.affine)


def test_scores_of_random_responses_lie_around_zero(example):
    """The sample bucket has no signal, and the model finds none."""
    folder, _ = example
    maps = [
        np.asanyarray(nibabel.load(path).dataobj)
        for path in sorted(folder.glob("results/*_scores.nii.gz"))
    ]
    scores = np.concatenate([values[np.isfinite(values)] for values in maps])
    assert len(maps) == len(SESSIONS)
    assert abs(scores.mean()) < 0.1


def test_table_has_a_row_for_each_session(example):
    """The table of the report says for each session what its summary says."""
    folder, _ = example
    with open(folder / "results" / "comparison.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    expected = []
    for sub, ses in SESSIONS:
        summary = json.loads((folder / "results" / f"{sub}_{ses}_scores.json").read_text())
        assert (summary["training trials"], summary["test trials"]) == (20, 10)
        expected.append({"session": f"{sub}_{ses}"} | {k: str(v) for k, v in summary.items()})
    assert expected == rows


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
        "This is a demonstration of a pipeline",
        "Scores of sub-01, one session a row",
        "The ridge penalty was 1.0",
    ):
        assert text in html


def test_second_run_has_nothing_to_do(example):
    """Nothing is fetched, nothing is computed, no result is touched, by the report neither."""
    folder, done = example
    ended, fetched, results = done["again"]
    assert "Nothing to be done" in ended.stdout + ended.stderr
    assert (done["report"][1], fetched) == ({}, {})
    assert done["report"][2] == results == stat_all(folder, results)
    assert len(results) == 4 * 2 + len(FIGURES) + 1


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


def test_tables_and_maps_as_published(example, server, bucket, objects, tmp_path, monkeypatch):
    """Where images are called labels and a voxel of the betas is NaN, the other scores stay."""
    keys = keys_of("sub-03", "ses-01")
    rows = list(csv.DictReader(io.StringIO(objects[keys["trials"]].decode()), delimiter="\t"))
    table = [("session", "run", "beta_index", "label")]
    table += [("ses-01", row["run"], row["beta_index"], row["label"]) for row in rows]
    betas = nibabel.Nifti1Image.from_bytes(gzip.decompress(objects[keys["betas"]]))
    values = betas.get_fdata(dtype="float32")
    values[6, 7, 5, 3] = np.nan
    holed = nibabel.Nifti1Image(values, betas.affine).to_bytes()
    text = "".join("\t".join(row) + "\n" for row in table)
    changed = {keys["trials"]: text.encode(), keys["betas"]: gzip.compress(holed)}
    server.add_bucket("published", {key: objects[key] for key in keys.values()} | changed)
    monkeypatch.setenv("LAION_FMRI_BUCKET", "published")
    folder = tmp_path / "pipeline"
    shutil.copytree(EXAMPLE, folder, ignore=LEFT)
    name = "results/sub-03_ses-01_scores.nii.gz"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["laion"] |= {"subject": "sub-03", "ses": "ses-01"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    ended = run_example(folder, "--cores", "1", name)
    assert ended.returncode == 0, ended.stderr
    expected = np.asanyarray(nibabel.load(example[0] / name).dataobj).copy()
    assert np.isfinite(expected[6, 7, 5])
    expected[6, 7, 5] = np.nan
    np.testing.assert_allclose(nibabel.load(folder / name).get_fdata(), expected, atol=1e-6)


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
