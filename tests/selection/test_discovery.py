"""What the bucket has and what of it is here, counted independently from the sample's objects."""

from __future__ import annotations

import re
from itertools import count

import pandas as pd
import pytest
from helpers import REFUSED, scope_of, write_tree

from laion_fmri.config import dataset_initialize
from laion_fmri.discovery import describe, get_rois, get_scopes, get_subjects, inspect_bucket
from laion_fmri.errors import BucketError, SelectionError, SelectionWarning, SubjectNotFoundError

GLM, ROIS = "derivatives/glmsingle-tedana/", "derivatives/rois/"
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
    """Count files and bytes by subject, session and scope from the text of the keys alone."""
    counts: dict[tuple, list[int]] = {}
    for key, content in objects.items():
        if REFUSED.search(key):
            continue
        scope = scope_of(key) or None
        subject = re.search("(?:^|/)sub-([^/]+)/", key)
        session = re.search("/ses-([^/]+)/", key)
        has_sessions = session and scope != "anatomical"
        group = (subject and subject[1], session[1] if has_sessions else "averages", scope)
        here = key in local
        numbers = [1, len(content), int(here), len(content) * here]
        counts[group] = [a + b for a, b in zip(counts.get(group, [0] * 4), numbers, strict=True)]
    return sorted(
        ((*group[:2], *n, group[2]) for group, n in counts.items()),
        key=lambda row: (str(row[-1]), str(row[0]), row[1]),
    )


def sorted_rows(frame: pd.DataFrame) -> list[tuple]:
    """Return the rows of a table in the order of :func:`holdings`."""
    return sorted(rows_of(frame), key=lambda row: (str(row[-1]), str(row[0]), row[1]))


def rows_of(frame: pd.DataFrame) -> list[tuple]:
    """Return the rows of a table as plain tuples, with None for what is missing."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [tuple(row) for row in plain.itertuples(index=False)]


def test_subjects(bucket):
    """The subjects that the bucket exposes in any scope, in full."""
    assert get_subjects() == ["sub-01", "sub-03", "sub-05"]


def test_subjects_are_folders(make_bucket):
    """A file beside them is none, nor is a folder of another name; they are sorted."""
    make_bucket(
        *[f"{GLM}sub-{label}/x.tsv" for label in ("10", "2", "01")],
        *[f"{GLM}{name}" for name in ("sub-04.tsv", "README", "group/x.tsv", "xsub-07/x.tsv")],
        "sub-08/anat/x.tsv",
        "derivatives/new/sub-09/x.tsv",
        "other/sub-11/x.tsv",
    )
    assert get_subjects() == ["sub-01", "sub-08", "sub-09", "sub-10", "sub-2"]
    assert list(get_scopes()["scope"]) == ["glmsingle-tedana", "raw", "new"]


def test_no_subject(make_bucket):
    """A bucket without any says so, and what to check."""
    make_bucket("README")
    with pytest.raises(SubjectNotFoundError, match="endpoint"):
        get_subjects()


@pytest.mark.parametrize("subject", ["sub-03", "03", "all", None])
def test_rois(bucket, subject):
    """The labels of the masks, sorted, and without hyphens; also those of one category."""
    assert get_rois(subject) == ["FFA1", "V1", "pSTSfaces"]
    assert get_rois(subject, category="face") == ["FFA1", "pSTSfaces"]


def test_rois_of_one_subject(make_bucket):
    """Only volumes in the folder of the subject count, each label once."""
    name = "sub-03_space-T1w_label-{}_mask"
    make_bucket(
        f"{GLM}sub-03/x.tsv",
        f"{GLM}sub-03/rois/sub-03_label-MT_mask.nii.gz",
        f"{GLM}sub-05/x.tsv",
        f"{GLM}sub-07/x.tsv",
        f"{ROIS}sub-03/early/{name.format('V-1')}.nii.gz",
        f"{ROIS}sub-03/early/{name.format('V1')}.nii.gz",
        f"{ROIS}sub-03/early/{name.format('V1')}.json",
        f"{ROIS}sub-03/early/{name.format('V2')}.func.gii",
        f"{ROIS}sub-03/T1w.nii.gz",
        f"{ROIS}sub-05/body/sub-05_space-T1w_label-EBA_mask.nii.gz",
    )
    assert [get_rois(subject) for subject in ("03", "sub-05", "all")] == [
        ["V1"],
        ["EBA"],
        ["EBA", "V1"],
    ]
    with pytest.warns(SelectionWarning, match="no regions of interest of sub-07"):
        assert get_rois("07") == []
    with pytest.raises(SelectionError, match=r"'bod'.*did you mean 'body'.*there is: body, early"):
        get_rois(category="bod")


@pytest.mark.parametrize("function", [get_rois, describe])
def test_unknown_and_malformed_subjects(bucket, function):
    """An unknown one gets the list of those that there are, nonsense is refused at once."""
    with pytest.raises(SubjectNotFoundError, match=r"sub-99.*sub-01, sub-03, sub-05"):
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
    assert " ".join(frame.columns) == "sub ses files bytes local_files local_bytes scope"
    assert holdings(objects) == sorted_rows(frame)


def test_describe_a_subject_and_what_is_here(bucket, objects, tmp_path):
    """Only complete files count as local; the chosen data directory is the one that counts."""
    own = {k: v for k, v in objects.items() if "sub-" not in k or re.search("(^|/)sub-03/", k)}
    local = {k: v for k, v in own.items() if "ses-02" in k or k.endswith("V1_mask.nii.gz")}
    dataset_initialize(tmp_path / "data")
    write_tree(tmp_path / "data", local | {"README": objects["README"][:-1]})
    assert holdings(own, local) == sorted_rows(describe("sub-03"))
    assert holdings(own) == sorted_rows(describe("03", data_dir=tmp_path / "elsewhere"))


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
