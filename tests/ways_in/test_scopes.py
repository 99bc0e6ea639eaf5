"""Each scope of the bucket, by one command; and what a scope that nobody has described does."""

from __future__ import annotations

import re
from itertools import count

import pytest
from helpers import (
    REFUSED,
    ROOT_FILES,
    complaints,
    list_all,
    matched_keys,
    read_tree,
    run_command,
    run_script,
    scope_of,
    write_tree,
)

import laion_fmri
from laion_fmri.download import (
    download,
    download_captions,
    download_embeddings,
    download_raw,
    download_segmentations,
    download_stimuli,
)
from laion_fmri.errors import SelectionError, SelectionWarning, SubjectNotFoundError
from laion_fmri.keys import key_table

GLM = "derivatives/glmsingle-tedana"
_numbers = count()


@pytest.fixture
def make_bucket(bucket, monkeypatch):
    """Return a function that serves keys in a new bucket and points the package at it."""

    def make(*keys: str) -> dict[str, bytes]:
        name = f"scopes-{next(_numbers)}"
        made = {key: key.encode() for key in keys}
        bucket.add_bucket(name, made)
        monkeypatch.setenv("LAION_FMRI_BUCKET", name)
        return made

    return make


#: A command for each scope, and what it has to bring beside the root files, by a look at the keys.
COMMANDS = {
    "--scope glmsingle-tedana --subject sub-01": f"{GLM}/sub-01/",
    "--scope rois --subject all": "derivatives/rois/",
    "--scope anatomical --subject 03": "derivatives/anatomical/sub-03/",
    "--scope freesurfer --subject sub-01": "derivatives/freesurfer/sub-01/",
    "--scope tedana --subject 03 --ses ses-01": "derivatives/tedana/sub-03/ses-01/",
    "--scope localizers --subject 03 --ses 31": "derivatives/localizers/sub-03/ses-31/.*task-oloc",
    "--scope localizers --subject 01": "derivatives/localizers/sub-01/",
    "--scope raw --subject sub-05 --run 01": "sub-05/",
    "--scope raw --subject 03 --suffix bold --echo 2 --part mag": ".*03_.*echo-2_part-mag_bold",
    "--scope stimuli": "stimuli/",
    "--scope stimuli --desc CLIP --suffix embeddings": "stimuli/.*desc-CLIP_embeddings",
    "--scope archive": "archive/",
}


@pytest.mark.parametrize("words", COMMANDS)
def test_each_scope_is_one_command(bucket, objects, tmp_path, words):
    """Its files arrive with their bytes, and nothing else but the root files."""
    expected = {k for k in objects if re.match(COMMANDS[words], k) and not REFUSED.search(k)}
    assert expected
    write_tree(tmp_path, {key: objects[key] for key in ROOT_FILES})  # saves four starts of aws
    done = run_command("download", *words.split(), "--n-jobs", "2", "--data-dir", tmp_path)
    said = [line for line in complaints(done) if "ses-31 is held out but for task-oloc" not in line]
    assert (done.returncode, said) == (0, [])
    assert {key: objects[key] for key in expected | ROOT_FILES} == read_tree(tmp_path)


def test_the_images_alone_are_refused_with_where_to_ask(bucket, tmp_path):
    """Exit 2, one line, nothing written."""
    words = ["--scope", "stimuli", "--suffix", "stimuli"]
    done = run_command("download", *words, "--data-dir", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "stimuli/task-images_stimuli.h5" in line
    assert "https://laion-fmri.hebartlab.com/request" in line
    assert list_all(tmp_path) == []


def test_all_of_all_is_said_before_it_begins(bucket, objects, tmp_path):
    """The plan counts what is public of every scope; a full disk would stop it there."""
    done = run_command(
        *["download", "--scope", "all", "--subject", "all", "--dry-run", "--data-dir", tmp_path]
    )
    keys = {key for key in objects if not REFUSED.search(key)}
    size = sum(len(objects[key]) for key in keys)
    assert done.returncode == 0
    assert f"{len(keys)} files, {size / 1e6:.1f} MB: 0 here already" in done.stdout
    for word in ("ses-31", "stimuli/task-images_stimuli.h5"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("call", "scopes"),
    [
        ({}, []),
        ({"include_freesurfer": True}, ["freesurfer"]),
        ({"include_anatomical": True}, ["anatomical"]),
        ({"include_localizers": True}, ["localizers"]),
        ({"include_stimuli": True}, ["stimuli"]),
        ({"include_freesurfer": True, "include_stimuli": True}, ["freesurfer", "stimuli"]),
    ],
    ids=str,
)
def test_flags_add_whole_scopes(bucket, objects, tmp_path, call, scopes):
    """Whatever the filters are about: they add to what comes by default."""
    filters = {"ses": "01", "desc": "singletrial", "suffix": "statmap"}
    plain = set(key_table("03", **filters, data_dir=tmp_path)["key"])
    found = set(key_table("03", **filters, **call, data_dir=tmp_path)["key"])
    added = matched_keys(objects, "03", scope=scopes) if scopes else set()
    assert (plain, found) == (found - added, plain | added)


def test_flags_for_raw_data_and_embeddings(bucket, objects, tmp_path):
    """Raw data obey the filters; embeddings come without the rest of the stimuli."""
    found = key_table("03", ses="01", extension="nii.gz", include_raw=True, data_dir=tmp_path)
    raw = matched_keys(objects, "03", scope="raw", ses="01", extension="nii.gz")
    assert raw == {key for key in found["key"] if scope_of(key) == "raw"}
    found = key_table("03", ses="01", include_embeddings=True, data_dir=tmp_path)
    embeddings = {key for key in objects if re.match("stimuli/.*_embeddings[.]h5", key)}
    assert embeddings == {key for key in found["key"] if scope_of(key) == "stimuli"}


@pytest.mark.parametrize(
    ("function", "arguments", "pattern"),
    [
        (download_raw, ("sub-03", "01", "images", "01", "1", "mag", "bold"), ".*echo-1_part-mag_b"),
        (download_stimuli, (), "stimuli/"),
        (download_embeddings, (), "stimuli/.*_embeddings"),
        (download_embeddings, (["CLIP", "PEcore"],), "stimuli/.*-(CLIP|PEcore)_embeddings"),
        (download_segmentations, (), "stimuli/.*(segmentations|_metadata)"),
        (download_captions, (), "stimuli/.*-captions"),
    ],
)
def test_functions_of_the_datasets_own_package(
    bucket, objects, tmp_path, function, arguments, pattern
):
    """They are downloads of one scope, with the options of a download."""
    expected = {key for key in objects if re.match(pattern, key) and not REFUSED.search(key)}
    if function is download_raw:
        expected = {key for key in expected if key.startswith("sub-03/ses-01/")}
    report = function(*arguments, data_dir=tmp_path, dry_run=True)
    assert expected | ROOT_FILES == set(report["key"])
    assert getattr(laion_fmri, function.__name__) is function


#: The lines that a user of the dataset's own package has, but for the loader's.
QUICK_START = """
import os
from laion_fmri.config import dataset_initialize, get_data_dir

data_dir = os.path.join(os.getcwd(), "laion_fmri_quickstart")
os.makedirs(data_dir, exist_ok=True)
dataset_initialize(data_dir)
print(get_data_dir())

from laion_fmri.discovery import describe, get_rois, get_subjects, inspect_bucket

print(get_subjects())
describe()
print(get_rois("sub-03"), get_rois(), get_rois(subject="sub-01", category="face"))
inspect_bucket()

from laion_fmri.download import accept_licenses, download

accept_licenses(include_stimuli=True)
subject_id = get_subjects()[0]
download(subject=subject_id, ses="ses-01", include_stimuli=True, n_jobs=4)
download(subject="sub-03", ses="averages")
download(subject="sub-03", ses=["ses-01", "averages"], desc="singletrial", suffix="trials")

import laion_fmri

assert laion_fmri.get_subjects() == get_subjects()
assert laion_fmri.download.download is download
laion_fmri.download("sub-03", ses="averages", n_jobs=2)
"""


def test_the_quick_start_of_the_datasets_own_package(bucket, objects, tmp_path):
    """Its lines run unchanged, and bring what they say."""
    done = run_script(QUICK_START, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder, subjects, rois = done.stdout.splitlines()
    assert folder == str(tmp_path / "laion_fmri_quickstart")
    assert subjects == "['sub-01', 'sub-03', 'sub-05']"
    every = ["FFA1", "V1", "pSTSfaces"]
    assert rois == f"{every} {every} {['FFA1', 'pSTSfaces']}"
    arrived = read_tree(tmp_path / "laion_fmri_quickstart")
    assert arrived == {key: objects[key] for key in arrived}
    expected = matched_keys(objects, "01", ses="01") | matched_keys(objects, "03", ses="averages")
    stimuli = {key for key in objects if key.startswith("stimuli/") and not REFUSED.search(key)}
    assert expected | stimuli | ROOT_FILES <= set(arrived)


@pytest.mark.parametrize(
    ("filters", "pattern"),
    [
        # A session does not keep masks away, nor need it be one of the betas' where these are out.
        (
            {"ses": "01", "suffix": "mask"},
            f"derivatives/rois/sub-03/|{GLM}/sub-03/.*(meanR2gt15mask|R2mean_.*gz)",
        ),
        ({"ses": "4BarScreenfLoc", "label": "V1"}, "derivatives/rois/sub-03/retinotopy/"),
        ({"scope": "anatomical", "ses": "ses-PrismaAnat"}, "derivatives/anatomical/sub-03/"),
        # A flag adds to what is chosen, and takes nothing away.
        ({"scope": "stimuli", "include_embeddings": True}, "stimuli/(?!task-images_stimuli)"),
        (
            {"scope": ["rois", "stimuli"], "suffix": "metadata", "include_embeddings": True},
            "stimuli/.*(_metadata|_embeddings)",
        ),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:nothing of the scope rois passes")
def test_combinations(bucket, objects, tmp_path, filters, pattern):
    """What passes is selected, however filters, scopes and flags come together."""
    found = set(key_table("03", **filters, data_dir=tmp_path)["key"]) - ROOT_FILES
    assert found == {key for key in objects if re.match(pattern, key)}


def test_flags_for_data_of_subjects_need_one(bucket, tmp_path):
    """A scope of the dataset needs no subject; what is added to it may."""
    with pytest.raises(TypeError, match="subject=None: name one"):
        key_table(None, scope="stimuli", include_raw=True, data_dir=tmp_path)
    done = run_command("download", "--scope", "stimuli", "--include-freesurfer")
    assert (done.returncode, done.stdout) == (2, "")
    assert "name a --subject" in done.stderr


def test_a_value_of_hyphens_is_no_label(bucket, tmp_path):
    """It is refused in a line."""
    done = run_command("download", "--subject", "03", "--label=-", "--data-dir", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: label='-' has no value; leave it out to select all\n",
    )


def test_status_of_the_datasets_scopes(bucket, tmp_path):
    """What is public is not called held out, and the next command brings what was counted."""
    done = run_command("status", "--scope", "stimuli", "--data-dir", tmp_path)
    assert "to fetch what is missing, " in done.stdout
    words = ["--subject", "sub-03", "--suffix", "trials", "--include-embeddings"]
    done = run_command("status", *words, "--data-dir", tmp_path)
    advice = done.stdout.splitlines()[-1].split()
    assert advice[:2] == ["laion-fmri", "download"]
    assert "--scope" not in advice
    fetched = run_command(*advice[1:], "--dry-run")
    assert fetched.returncode == 0
    assert "stimuli" in fetched.stdout
    (tmp_path / "sub-03").mkdir()
    again = run_command("status", *words, "--data-dir", tmp_path).stdout.splitlines()[-1]
    assert "--scope glmsingle-tedana rois raw" in again


def test_a_manifest_of_all_scopes(bucket, objects, tmp_path):
    """Filters and scopes thin it as they thin the bucket, in a download and in a check alike."""
    file = tmp_path / "all.tsv"
    words = ["--subject", "all", "--scope", "all", "--save-manifest", file, "--dry-run"]
    assert run_command("download", *words, "--data-dir", tmp_path).returncode == 0
    call = {"manifest": str(file), "data_dir": tmp_path, "dry_run": True}
    found = download("sub-03", scope="stimuli", **call)
    assert {scope_of(key) for key in found["key"]} == {"", "stimuli"}
    found = set(download("sub-03", ses="01", suffix="trials", **call)["key"])
    expected = matched_keys(objects, "03", scope="all", ses="01", suffix="trials")
    pinned = {key for key in found if "R2mean" in key or "meanR2gt15mask" in key}
    assert found - pinned == expected | ROOT_FILES
    write_tree(tmp_path, {key: objects[key] for key in found})
    words = ["--subject", "03", "--ses", "01", "--suffix", "trials", "--manifest", file]
    done = run_command("verify", *words, "--data-dir", tmp_path)
    assert f"checked {len(found)} files" in done.stdout


# A scope that nobody has described.

NEW = "derivatives/new-maps"


def test_a_scope_that_is_not_described_is_found(make_bucket, tmp_path):
    """By its folder, with subjects; its keys say whether it is organised by session."""
    keys = [f"{NEW}/sub-03/ses-{n}/sub-03_ses-{n}_map.nii.gz" for n in ("01", "02")]
    keys += [f"{NEW}/sub-03/sub-03_mean.nii.gz", "derivatives/flat/sub-03/sub-03_mask.nii.gz"]
    made = make_bucket(*keys, "derivatives/group/all.tsv", f"{GLM}/sub-01/sub-01_x.tsv")
    report = download("03", scope=["new-maps", "flat"], ses="01", data_dir=tmp_path)
    assert {keys[0], keys[3]} == set(report["key"])
    assert {key: made[key] for key in (keys[0], keys[3])} == read_tree(tmp_path)
    assert list(report["scope"]) == ["flat", "new-maps"]
    found = key_table("all", scope="all", data_dir=tmp_path)
    assert {*made} - {"derivatives/group/all.tsv"} == set(found["key"])
    with pytest.raises(
        SelectionError, match=r"'group' is not in .*there is: glm.*, flat, new-maps"
    ):
        key_table("03", scope="group", data_dir=tmp_path)


def test_hostile_keys_of_a_scope_that_is_not_described(make_bucket, tmp_path):
    """They are refused by name, and the rest arrives."""
    good = f"{NEW}/sub-03/fine.tsv"
    bad = [f"{NEW}/sub-03/../../../up", f"{NEW}/sub-03/{{ses}}.txt", f"{NEW}/sub-03/new\nline"]
    made = make_bucket(good, *bad, "derivatives/{x}/sub-03/brace", "derivatives/a b/sub-03/y")
    with pytest.warns(SelectionWarning, match="4 keys cannot be files"):
        report = download("03", scope="all", data_dir=tmp_path)
    fine = {good, "derivatives/a b/sub-03/y"}
    assert fine == set(report["key"])
    assert {key: made[key] for key in fine} == read_tree(tmp_path)


def test_a_subject_with_raw_data_alone(bucket, tmp_path):
    """Where it is named, the message says where it is; all subjects are those of the scopes."""
    with pytest.raises(SubjectNotFoundError, match="there is: sub-01, sub-03; sub-05 is in: raw"):
        key_table("05", data_dir=tmp_path)
    assert {"05"} == set(key_table("05", scope="raw", data_dir=tmp_path)["sub"].dropna())
    found = key_table("all", scope=["raw", "rois"], data_dir=tmp_path)
    assert {"01", "03", "05"} == set(found["sub"].dropna())


def test_what_a_named_scope_lacks_is_said(bucket, tmp_path):
    """A scope that brings nothing is no error beside others, but is not passed over."""
    with pytest.warns(SelectionWarning, match="the scope rois has nothing of sub-05"):
        key_table("05", scope=["raw", "rois"], data_dir=tmp_path)
    with pytest.warns(SelectionWarning, match="nothing of the scope localizers passes the filters"):
        key_table("03", scope=["raw", "localizers"], ses="01", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--scope stimuli --subject sub-03", "stimuli: not organised by subject or session"),
        ("--scope stimuli --ses ses-01", "stimuli: not organised by subject or session"),
        ("--scope rois --subject 03 --ses 01", "rois: not organised by session"),
        ("--scope freesurfer --subject 03 --extension mgz", "freesurfer: comes whole"),
        ("--subject 03 --ses 01 --desc singletrial", "stands for 'SingletrialBetas'"),
    ],
)
def test_what_a_filter_does_not_do_is_said_in_a_line(bucket, tmp_path, words, said):
    """It works, and nobody is left to wonder."""
    done = run_command("download", *words.split(), "--dry-run", "--data-dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len([line for line in done.stdout.splitlines() if said in line]) == 1
