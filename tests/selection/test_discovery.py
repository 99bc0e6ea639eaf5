"""What the bucket has and what of it is here, counted independently from the sample's objects."""

from __future__ import annotations

from itertools import count

import pandas as pd
import pytest
from helpers import REFUSED, ROOT_FILES, write_tree

from laion_fmri.config import dataset_initialize
from laion_fmri.discovery import describe, get_rois, get_subjects, inspect_bucket
from laion_fmri.errors import BucketError, SubjectNotFoundError

GLM, ATLASES = "derivatives/glmsingle-tedana/", "derivatives/atlases/"
_numbers = count()


@pytest.fixture
def make_bucket(bucket, monkeypatch):
    """Return a function that serves keys in a new bucket and points the package at it."""

    def make(*keys: str) -> None:
        name = f"discovery-{next(_numbers)}"
        bucket.add_bucket(name, {key: key.encode() for key in keys})
        monkeypatch.setenv("LAION_FMRI_BUCKET", name)

    return make


def holdings(objects, local=()) -> list[tuple]:
    """Count files and bytes by subject and session from the text of the keys alone."""
    counts: dict[tuple, list[int]] = {}
    for key, content in objects.items():
        parts = key.split("/")
        if key in ROOT_FILES:
            group = (None, "averages")
        elif key.startswith((GLM, ATLASES)) and not REFUSED.search(key):
            session = parts[3].removeprefix("ses-") if parts[3].startswith("ses-") else "averages"
            group = (parts[2].removeprefix("sub-"), session)
        else:
            continue
        here = key in local
        numbers = [1, len(content), int(here), len(content) * here]
        counts[group] = [a + b for a, b in zip(counts.get(group, [0] * 4), numbers, strict=True)]
    return sorted(
        (group + tuple(n) for group, n in counts.items()), key=lambda r: (r[0] or "", r[1])
    )


def rows_of(frame: pd.DataFrame) -> list[tuple]:
    """Return the rows of a table as plain tuples, with None for what is missing."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [tuple(row) for row in plain.itertuples(index=False)]


def test_subjects(bucket):
    """The subjects that the bucket exposes, in full, by one request."""
    assert (get_subjects(), len(bucket.listings())) == (["sub-01", "sub-03"], 1)


def test_subjects_are_folders(make_bucket):
    """A file beside them is none, nor is a folder of another name; they are sorted."""
    make_bucket(
        *[f"{GLM}sub-{label}/x.tsv" for label in ("10", "2", "01")],
        *[f"{GLM}{name}" for name in ("sub-04.tsv", "README", "group/x.tsv", "xsub-07/x.tsv")],
        "sub-08/anat/x.tsv",
    )
    assert get_subjects() == ["sub-01", "sub-10", "sub-2"]


def test_no_subject(make_bucket):
    """A bucket without any says so, and what to check."""
    make_bucket("README")
    with pytest.raises(SubjectNotFoundError, match="endpoint"):
        get_subjects()


@pytest.mark.parametrize("subject", ["sub-03", "03", "all"])
def test_rois(bucket, subject):
    """The names of the masks, sorted."""
    assert get_rois(subject) == ["FFA1", "PPA", "V1", "V2"]


def test_rois_of_one_subject(make_bucket):
    """Only masks in the folder of the subject count, each once, whatever lies beside them."""
    make_bucket(
        f"{GLM}sub-03/x.tsv",
        f"{GLM}sub-03/rois/MT.nii.gz",
        f"{GLM}sub-05/x.tsv",
        f"{GLM}sub-07/x.tsv",
        f"{ATLASES}sub-03/rois/V1.nii.gz",
        f"{ATLASES}sub-03/rois/V1.json",
        f"{ATLASES}sub-03/rois/labels.tsv",
        f"{ATLASES}sub-03/T1w.nii.gz",
        f"{ATLASES}sub-05/rois/EBA.nii.gz",
    )
    assert [get_rois(subject) for subject in ("03", "sub-05", "07", "all")] == [
        ["V1"],
        ["EBA"],
        [],
        ["EBA", "V1"],
    ]


@pytest.mark.parametrize("function", [get_rois, describe])
def test_unknown_and_malformed_subjects(bucket, function):
    """An unknown one gets the list of those that there are, nonsense is refused at once."""
    with pytest.raises(SubjectNotFoundError, match=r"sub-99.*sub-01, sub-03"):
        function("sub-99")
    bucket.clear_requests()
    with pytest.raises(TypeError, match="subject=3"):
        function(3)
    with pytest.raises(SubjectNotFoundError):
        function("sub-")
    assert list(bucket.requests) == []


def test_describe_everything(bucket, objects):
    """Files and bytes by subject and session, without a data directory: nothing is local."""
    frame = describe()
    assert " ".join(frame.columns) == "sub ses files bytes local_files local_bytes"
    assert holdings(objects) == rows_of(frame)


def test_describe_a_subject_and_what_is_here(bucket, objects, tmp_path):
    """Only complete files count as local; the chosen data directory is the one that counts."""
    own = {k: v for k, v in objects.items() if "/sub-03/" in k or k in ROOT_FILES}
    local = {k: v for k, v in own.items() if "ses-02" in k or k.endswith("V1.nii.gz")}
    dataset_initialize(tmp_path / "data")
    write_tree(tmp_path / "data", local | {"README": objects["README"][:-1]})
    assert holdings(own, local) == rows_of(describe("sub-03"))
    assert holdings(own) == rows_of(describe("03", data_dir=tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    "prefix",
    ["", "derivatives", "derivatives/", GLM + "sub-03/", GLM + "sub-03/ses-01/func", "stimuli/"],
)
def test_inspect(bucket, objects, prefix):
    """Folders first, without a size, then objects, of one level."""
    folder = prefix.rstrip("/") + "/" if prefix else ""
    rest = {k.removeprefix(folder): len(v) for k, v in objects.items() if k.startswith(folder)}
    folders = sorted({name.split("/")[0] + "/" for name in rest if "/" in name})
    files = sorted(name for name in rest if "/" not in name)
    frame = inspect_bucket(prefix)
    assert list(frame.columns) == ["name", "size"]
    assert [(f, None) for f in folders] + [(f, rest[f]) for f in files] == rows_of(frame)


def test_inspect_what_is_not_there(bucket):
    """Nothing is an empty table of the same columns."""
    frame = inspect_bucket("nowhere")
    assert (list(frame.columns), len(frame)) == (["name", "size"], 0)


@pytest.mark.parametrize("function", [get_subjects, inspect_bucket, describe])
def test_a_bucket_that_is_not_there(bucket, monkeypatch, function):
    """The error names the bucket and the endpoint."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "no-such-bucket")
    with pytest.raises(BucketError, match=f"no-such-bucket at {bucket.endpoint_url}.*NoSuchBucket"):
        function()
