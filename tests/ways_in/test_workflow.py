"""The workflow itself: plain ``snakemake`` in a clone, and as a module of somebody's pipeline."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import yaml
from helpers import (
    HOST,
    REPO,
    ROOT_FILES,
    copy_clone,
    count_aws,
    expected_tree,
    find_aws,
    list_all,
    read_tree,
    run,
    run_command,
    run_snakemake,
    sandbox,
    write_tree,
)

from laion_fmri.download import download
from laion_fmri.errors import AwsNotFoundError

SUBJECT_03 = {"subject": "sub-03"}


@pytest.fixture(scope="module")
def runs(server, objects, tmp_path_factory):
    """Run ``-n``, then ``--cores 4``, in a clone; return what each did, and the folders."""
    clone, data_dir = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("data")
    copy_clone(clone, subject="03", ses=["01", "averages"], extension=".nii.gz",
               data_dir=str(data_dir))  # fmt: skip
    write_tree(data_dir, {key: objects[key] for key in ROOT_FILES})  # saves four starts of aws
    done = {}
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url):
        for arguments in ("-n", "--cores 4"):
            server.clear_requests()
            ended = run_snakemake(clone, *arguments.split())
            done[arguments] = ended, read_tree(data_dir), server.gets()
    return clone, data_dir, done


def test_dry_run_of_snakemake_fetches_nothing(runs, objects):
    """``snakemake -n`` names what it would fetch."""
    ended, tree, gets = runs[2]["-n"]
    assert ended.returncode == 0, ended.stderr
    assert (set(tree), gets) == (ROOT_FILES, Counter())
    assert (
        "sub-03_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz"
        in ended.stdout + ended.stderr
    )


def test_snakemake_in_a_clone_fetches_the_selection(runs, objects):
    """``snakemake --cores 4`` brings what the same filters bring by the other ways in."""
    ended, tree, gets = runs[2]["--cores 4"]
    assert ended.returncode == 0, ended.stderr
    expected = expected_tree(objects, "sub-03", ses=["ses-01", "averages"], extension="nii.gz")
    assert expected == tree
    assert dict.fromkeys(set(expected) - ROOT_FILES, 1) == dict(gets)


def test_the_ways_in_agree_on_what_is_complete(runs, bucket):
    """What Snakemake has fetched is present for ``download()``."""
    _, data_dir, _ = runs
    report = download("sub-03", ses=["01", "averages"], extension="nii.gz", data_dir=data_dir)
    assert {"present"} == set(report["outcome"])


def test_state_lives_in_one_folder(runs, objects):
    """Beside the mirror of the keys there is ``.laion_fmri`` and nothing else."""
    _, data_dir, _ = runs
    assert {".laion_fmri", "derivatives"} == {
        path.name for path in data_dir.iterdir() if path.is_dir()
    }


BAD_CONFIGS = {
    "unquoted session": ("ses: 01", ["ses", "quote"]),
    "unquoted sessions": ("ses: ['01', 02]", ["ses", "quote"]),
    "unknown key": ("n_jobs: 4", ["n_jobs"]),
    "text for a switch": ("include_stimuli: 'yes'", ["include_stimuli", "'yes'"]),
    "empty data directory": ("data_dir: ''", ["data_dir"]),
    "no subject": ("subject: null", ["subject"]),
    "unknown subject": ("subject: sub-99", ["sub-99", "sub-01", "sub-03"]),
    "nothing matches": ("desc: trialbetas\nses: '01'\nstat: effect\nsuffix: statmap",
                        ["'trialbetas'", "SingletrialBetas"]),
    "unknown scope": ("scope: roi", ["'roi'", "did you mean 'rois'"]),
    "unquoted run": ("scope: raw\nrun: 01", ["run", "quote"]),
    "held out": ("ses: ses-31", ["ses-31", "held out"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def spare(tmp_path_factory) -> Path:
    """Copy a clone whose configuration the tests write."""
    return copy_clone(tmp_path_factory.mktemp("spare"))


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_configuration_gets_one_clear_line(name, spare, bucket, tmp_path):
    """Each bad value is named, with what to do, in one line; nothing is fetched or written."""
    text, expected = BAD_CONFIGS[name]
    config = SUBJECT_03 | {"data_dir": str(tmp_path)} | yaml.safe_load(text)
    (spare / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    if text.startswith("ses: 0"):  # as a user writes it: YAML makes a number of it
        (spare / "config" / "config.yaml").write_text(
            f"subject: sub-03\ndata_dir: '{tmp_path}'\n{text}\n"
        )
    done = run_snakemake(spare, "--cores", "1")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if all(word in line for word in expected)]
    assert len(lines) == 1, done.stderr
    assert list_all(tmp_path) == []
    assert Counter() == bucket.gets()


def test_scopes_in_snakemake(spare, bucket, objects, tmp_path):
    """Plain Snakemake fetches what a configuration names; the dataset's own need no subject."""
    config = {"scope": "stimuli", "desc": ["CLIP"], "suffix": ["embeddings", "metadata"]}
    config["data_dir"] = str(tmp_path)
    (spare / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    done = run_snakemake(spare, "--cores", "2")
    assert done.returncode == 0, done.stderr
    names = ("task-images_desc-CLIP_embeddings.h5", "task-images_metadata.csv")
    expected = {f"stimuli/{name}" for name in names} | ROOT_FILES
    assert {key: objects[key] for key in expected} == read_tree(tmp_path)


def test_no_data_directory_in_snakemake(spare, bucket):
    """Plain Snakemake says the same."""
    (spare / "config" / "config.yaml").write_text(yaml.safe_dump(SUBJECT_03))
    done = run_snakemake(spare, "--cores", "1")
    assert done.returncode != 0
    assert re.search("config --data-dir.*LAION_FMRI_DATA_DIR", done.stderr)
    assert "Traceback" not in done.stderr
    assert bucket.requests == []


def test_missing_aws_cli_is_said_before_anything_starts(spare, bucket, tmp_path, monkeypatch):
    """One line with three ways to get it; exit 2; no file, no run. Also where PATH has none."""
    monkeypatch.setenv("LAION_FMRI_AWS", str(tmp_path / "no-aws"))
    with pytest.raises(AwsNotFoundError) as caught:
        download("sub-03", data_dir=tmp_path)
    for way in ("uv tool install awscli", "conda install -c conda-forge awscli", "https://"):
        assert way in str(caught.value)
    words = ["download", "--subject", "03", "--data-dir", tmp_path]
    done = run_command(*words)
    assert (done.returncode, done.stderr) == (2, f"error: {caught.value}\n")
    unset = run_command(*words, LAION_FMRI_AWS=None, PATH=tmp_path)
    assert (unset.returncode, len(unset.stderr.splitlines())) == (2, 1)
    assert "uv tool install awscli" in unset.stderr
    (spare / "config" / "config.yaml").write_text(
        yaml.safe_dump(SUBJECT_03 | {"data_dir": str(tmp_path)})
    )
    ended = run_snakemake(spare, "--cores", "1")
    assert ended.returncode != 0
    assert "uv tool install awscli" in ended.stderr
    assert list_all(tmp_path) == []


def test_no_more_than_cores_transfers_at_once(bucket, objects, tmp_path, monkeypatch):
    """``n_jobs`` bounds the number of AWS CLI processes, and is made use of."""
    tools, log = tmp_path / "my tools", tmp_path / "log"
    for folder in (tmp_path / "data", tools):
        folder.mkdir()
    monkeypatch.setenv("LAION_FMRI_AWS", str(count_aws(tools, log)))
    download("sub-03", ses="ses-01", suffix="trials", data_dir=tmp_path / "data", n_jobs=2)
    assert max(int(line.split()[0]) for line in log.read_text().splitlines()) == 2


def test_files_are_moved_into_place_whole(server, bucket, tmp_path, monkeypatch):
    """Whoever looks at a final path, at any time of a run, sees no file or the whole file."""
    sizes = {f"derivatives/rois/sub-03/big-{n}.bin": 10_000_000 + n for n in range(3)}
    server.add_bucket(
        "big", {key: bytes([n]) * size for n, (key, size) in enumerate(sizes.items())}
    )
    monkeypatch.setenv("LAION_FMRI_BUCKET", "big")
    seen, stop = {key: set() for key in sizes}, threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            for key in sizes:
                if (tmp_path / key).exists():
                    seen[key].add((tmp_path / key).stat().st_size)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        download("sub-03", data_dir=tmp_path)
    finally:
        stop.set()
        thread.join()
    assert {key: {size} for key, size in sizes.items()} == seen


def test_relative_path_of_the_aws_cli(tiny, tiny_objects, tmp_path, monkeypatch):
    """``LAION_FMRI_AWS`` may be relative to where the user is."""
    (tmp_path / "aws").symlink_to(find_aws())
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAION_FMRI_AWS", "./aws")
    download("sub-03", data_dir="data")
    assert tiny_objects == read_tree(tmp_path / "data")


ANALYSIS = (
    HOST
    + """
rule analyse:
    default_target: True
    input: config["laion"]["data_dir"] + "/{key}"
    output: "results/size.txt"
    shell: "wc -c < {{input:q}} | tr -d ' ' > {{output}}"
"""
)


def test_embedded_in_a_pipeline_of_somebody_else(tiny, tiny_objects, tmp_path):
    """An analysis rule gets its input fetched, and healed, and nothing beside it."""
    key = "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz"
    data_dir, host = tmp_path / "data", tmp_path / "host"
    for folder in (data_dir, host):
        folder.mkdir()
    (host / "Snakefile").write_text(
        ANALYSIS.format(workflow=REPO / "workflow" / "Snakefile", key=key)
    )
    (host / "config.yaml").write_text(
        yaml.safe_dump({"laion": SUBJECT_03 | {"data_dir": str(data_dir)}, "mine": 1})
    )
    fetches = []
    for damage in (None, b"", None):  # missing, emptied, complete
        if damage is not None:
            (data_dir / key).write_bytes(damage)
        tiny.clear_requests()
        done = run_snakemake(host, "--cores", "2")
        assert done.returncode == 0, done.stderr
        fetches.append(dict(tiny.gets(bucket="tiny")))
        assert {key: tiny_objects[key]} == read_tree(data_dir)
        assert (host / "results" / "size.txt").read_text() == f"{len(tiny_objects[key])}\n"
    assert [{key: 1}, {key: 1}, {}] == fetches


def test_denied_object_does_not_cost_the_others_in_snakemake(
    server, spare, bucket, tiny_objects, tmp_path
):
    """Plain Snakemake fails, but all that may be had has arrived, and the next run adds nothing."""
    key = sorted(tiny_objects)[1]
    server.add_bucket("denying-snakemake", tiny_objects, denied=[key])
    config = {"data_dir": str(tmp_path), "bucket": "denying-snakemake"}
    (spare / "config" / "config.yaml").write_text(yaml.safe_dump(SUBJECT_03 | config))
    expected = {k: v for k, v in tiny_objects.items() if k != key}
    assert run_snakemake(spare, "--cores", "2").returncode != 0
    assert expected == read_tree(tmp_path)
    assert dict.fromkeys(expected, 1) == dict(bucket.gets(bucket="denying-snakemake"))


def test_denied_object_costs_no_second_fetch_without_our_profile(
    server, spare, bucket, tiny_objects, tmp_path
):
    """Snakemake then removes its batch mates; they are back at its end, and not fetched again."""
    folder = "derivatives/glmsingle-tedana/sub-03/ses-01/func/"
    objects = {f"{folder}sub-03_desc-{name}_trials.tsv": name.encode() for name in "ABC"}
    denied = next(iter(objects))
    server.add_bucket("denying-hosts", objects, denied=[denied])
    config = {"data_dir": str(tmp_path / "data"), "bucket": "denying-hosts"}
    (tmp_path / "data").mkdir()
    (spare / "config" / "config.yaml").write_text(yaml.safe_dump(SUBJECT_03 | config))
    expected = {key: content for key, content in objects.items() if key != denied}
    options = ["--cores", "2", "--workflow-profile", "none"]
    first = run_snakemake(spare, *options)
    assert (first.returncode != 0, expected) == (True, read_tree(tmp_path / "data"))
    assert f"laion-fmri: {denied}: access denied (403)" in first.stderr.splitlines()
    assert run_snakemake(spare, *options).returncode != 0
    assert expected == read_tree(tmp_path / "data")
    assert dict.fromkeys(expected, 1) == dict(bucket.gets(bucket="denying-hosts"))


def test_relative_data_directory_belongs_to_the_pipeline(spare, tiny, tiny_objects, tmp_path):
    """A relative ``data_dir`` lies where Snakemake was started."""
    config = SUBJECT_03 | {"data_dir": "my data"}
    (spare / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    write_tree(spare / "my data", dict(list(tiny_objects.items())[:3]))
    done = run_snakemake(spare, "--cores", "1")
    assert done.returncode == 0, done.stderr
    assert tiny_objects == read_tree(spare / "my data")
    shutil.rmtree(spare / "my data")


def test_lint_is_clean(spare, bucket, tmp_path):
    """``snakemake --lint`` has nothing to say."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(SUBJECT_03 | {"data_dir": str(tmp_path)}))
    command = [sys.executable, "-m", "snakemake", "--lint", "--snakefile"]
    done = run([*command, REPO / "workflow" / "Snakefile", "--configfile", config], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not re.search("^ *[*] ", done.stdout + done.stderr, re.MULTILINE)
