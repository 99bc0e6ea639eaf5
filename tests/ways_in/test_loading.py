"""Loading: accessors give what an independent reading by nibabel gives; bad input is one line."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import sys
import warnings

import nibabel
import numpy as np
import pandas as pd
import pytest
from helpers import run, write_tree

from laion_fmri.config import dataset_initialize
from laion_fmri.errors import (
    DataDirError,
    DataNotDownloadedError,
    ImageError,
    InputTypeError,
    MismatchError,
    MissingDependencyError,
    SelectionError,
    SelectionWarning,
    SubjectNotFoundError,
)
from laion_fmri.group import load_subjects
from laion_fmri.subject import load_subject

GLM = "derivatives/glmsingle-tedana/sub-03/"
ROIS = "derivatives/rois/sub-03/"
ANAT = "derivatives/anatomical/sub-03/ses-PrismaAnat/anat/sub-03_ses-PrismaAnat_space-T1w_"
BRAIN = f"{ANAT}res-1pt8_desc-brain_mask.nii.gz"
R2MEAN = f"{GLM}sub-03_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz"


def stem_of(ses="01"):
    """Return the beginning of the names of a session."""
    return f"{GLM}ses-{ses}/func/sub-03_ses-{ses}_task-images_"


def betas_key(ses="01"):
    """Return the key of the betas of a session."""
    return f"{stem_of(ses)}space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"


def trials_key(ses="01"):
    """Return the key of the trial table of a session."""
    return f"{stem_of(ses)}desc-SingletrialBetas_trials.tsv"


def roi_key(category, label):
    """Return the key of the mask of a region."""
    return f"{ROIS}{category}/sub-03_space-T1w_res-1pt8_label-{label}_mask.nii.gz"


@pytest.fixture
def here(objects, tmp_path):
    """Return a data directory that has all of both subjects."""
    keys = [k for k in objects if re.search("derivatives/(glms|rois|anat).*/sub-0[13]/", k)]
    write_tree(tmp_path, {key: objects[key] for key in keys if "ses-31" not in key})
    return tmp_path


@pytest.fixture
def sub(here):
    """Return a subject all of whose files are here."""
    return load_subject("sub-03", here, fetch=False)


def read(objects, key):
    """Read an image, independently."""
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(objects[key]))
    return np.asarray(image.dataobj)


def same(found, expected):
    """Compare by bits, type and shape."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.fixture
def brain(objects):
    """Return the brain mask."""
    return read(objects, BRAIN) != 0


def test_masks(sub, objects, brain):
    """The brain by both sources, regions by label, category and list, and both spellings."""
    same(sub.get_brain_mask(), brain.ravel())
    same(sub.get_brain_mask("rsquare"), read(objects, R2MEAN).ravel() != 0)
    same(sub.get_brain_mask(res=None), read(objects, f"{ANAT}desc-brain_mask.nii.gz").ravel() != 0)
    assert sub.get_n_voxels() == brain.sum()
    assert sub.get_n_voxels(source="rsquare") == (read(objects, R2MEAN) != 0).sum()
    ffa, sts = (read(objects, roi_key("face", x))[brain] != 0 for x in ("FFA-1", "pSTS-faces"))
    v1 = read(objects, roi_key("retinotopy", "V1"))[brain] != 0
    for query, expected in (
        ("FFA1", ffa),
        ("FFA-1", ffa),
        ("face", ffa | sts),
        ("all", ffa | sts | v1),
        (["V1", "FFA1"], ffa | v1),
        (["retinotopy", "pSTSfaces"], sts | v1),
    ):
        same(sub.get_roi_mask(query), expected)
    masks = sub.get_roi_masks(["V1", "pSTSfaces"])
    assert list(masks) == ["V1", "pSTSfaces"]
    same(masks["V1"], v1)
    same(masks["pSTSfaces"], sts)
    assert sub.get_available_rois() == ["FFA1", "V1", "pSTSfaces"]
    assert sub.get_available_rois("face") == ["FFA1", "pSTSfaces"]
    assert sub.get_available_categories() == ["face", "retinotopy"]


def test_roi_data(sub, objects):
    """Volumes and surfaces, by hemisphere."""
    data = sub.get_roi_data("face")
    assert {k: {f: type(v).__name__ for f, v in d.items()} for k, d in data.items()} == {
        name: {"volume": "ndarray", "func.gii": "dict", "label": "dict"}
        for name in ("FFA1", "pSTSfaces")
    }
    same(data["FFA1"]["volume"], read(objects, roi_key("face", "FFA-1")) != 0)
    key = f"{ROIS}face/sub-03_hemi-R_space-fsnative_label-FFA-1_mask.func.gii"
    expected = nibabel.gifti.GiftiImage.from_bytes(objects[key]).darrays[0].data
    same(data["FFA1"]["func.gii"]["R"], expected)
    assert data["FFA1"]["label"]["L"].tolist() == [0]
    assert list(sub.get_roi_data("V1", format="gii", hemi="L")["V1"]) == ["gii"]
    assert list(sub.get_roi_data("V1", format="gii", hemi="L")["V1"]["gii"]) == ["L"]
    assert list(sub.get_roi_data("V1", "volume")["V1"]) == ["volume"]


@pytest.mark.parametrize("streaming", [False, True])
def test_betas(sub, objects, brain, streaming):
    """Each filter alone and together, equal to a whole reading by nibabel."""
    whole = read(objects, betas_key())[brain].T
    same(sub.get_betas("ses-01", streaming=streaming), whole)
    same(sub.get_betas(session="01", roi="face"), whole[:, sub.get_roi_mask("face")])
    mask = np.arange(brain.sum()) % 7 == 0
    same(sub.get_betas("ses-01", mask=mask), whole[:, mask])
    ceiling = read(objects, f"{stem_of()}space-T1w_desc-Noiseceiling_statmap.nii.gz")[brain]
    high = ceiling >= 20
    assert 0 < high.sum() < len(high)
    same(sub.get_betas("ses-01", nc_threshold=20), whole[:, high])
    roi = sub.get_roi_mask(["FFA1", "V1"])
    rows = np.array([b"\tshared_" in line for line in objects[trials_key()].splitlines()[1:]])
    assert 0 < rows.sum() < len(rows) == 30
    found = sub.get_betas("ses-01", ["FFA1", "V1"], nc_threshold=20, stimuli="shared")
    same(found, whole[rows][:, roi & high])
    same(sub.get_betas("ses-01", stimuli="unique"), whole[~rows])
    other = read(objects, R2MEAN) != 0
    same(sub.get_betas("ses-01", mask_source="rsquare"), read(objects, betas_key())[other].T)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_sessions_are_a_dict(sub, objects, brain, n_jobs):
    """Betas and tables of a list of sessions, in its order."""
    assert sub.get_sessions() == ["ses-01", "ses-02", "ses-04"]
    betas = sub.get_betas(["ses-04", "01"], n_jobs=n_jobs, nc_threshold=20)
    assert list(betas) == ["ses-04", "ses-01"]
    for name, values in betas.items():
        ceiling = read(objects, f"{stem_of(name[-2:])}space-T1w_desc-Noiseceiling_statmap.nii.gz")
        same(values, read(objects, betas_key(name[-2:]))[brain & (ceiling >= 20)].T)
    tables = sub.get_trial_info(["ses-04", "01"])
    assert {name: len(table) for name, table in tables.items()} == {"ses-04": 30, "ses-01": 30}
    assert list(tables["ses-01"])[:4] == ["session", "run", "beta_index", "label"]
    assert sub.metadata["session"].tolist() == [
        s for s in ("ses-01", "ses-02", "ses-04") for _ in range(30)
    ]


def test_trials_are_in_the_order_of_the_betas(sub, here):
    """Row i is that of betas[i], whatever the order in the file."""
    expected = sub.get_trial_info("ses-01")
    expected.iloc[::-1].to_csv(here / trials_key(), sep="\t", index=False)
    pd.testing.assert_frame_equal(sub.get_trial_info("ses-01"), expected)


def test_maps_and_coordinates(sub, objects, brain, tmp_path):
    """Noise ceilings, anatomical images, coordinates, and the way back to an image."""
    ceiling = read(objects, f"{stem_of()}space-T1w_desc-Noiseceiling_statmap.nii.gz")[brain]
    same(sub.get_noise_ceiling("ses-01"), ceiling)
    mean = f"{GLM}sub-03_task-images_space-T1w_desc-Noiseceiling4rep_statmap.nii.gz"
    same(sub.get_noise_ceiling(desc="Noiseceiling4rep"), read(objects, mean)[brain])
    same(sub.get_t1w(), read(objects, f"{ANAT}res-1pt8_T1w.nii.gz"))
    same(sub.get_t1w(res=None), read(objects, f"{ANAT}T1w.nii.gz"))
    same(sub.get_t2w(res=None), read(objects, f"{ANAT}T2w.nii.gz"))
    places = sub.get_voxel_coordinates()
    np.testing.assert_array_equal(places, np.argwhere(brain) * 12.0)
    for values in (ceiling, np.stack([ceiling, ceiling + 1, ceiling])):
        written = nibabel.load(sub.to_nifti(values, tmp_path / "x.nii.gz"))
        back = np.asarray(written.dataobj)
        np.testing.assert_array_equal(back[brain].T, values)
        assert not back[~brain].any()
        np.testing.assert_array_equal(written.affine, np.diag([12, 12, 12, 1]))


def test_a_group(here, objects):
    """Iterates, is indexed, and gives shared betas by subject."""
    group = load_subjects(["sub-01", "03"], here, fetch=False)
    assert [(name, sub.subject_id) for name, sub in group] == [(n, n) for n in ("sub-01", "sub-03")]
    shared = group.get_shared_betas("ses-01")
    assert {name: len(values) for name, values in shared.items()} == {"sub-01": 20, "sub-03": 20}
    same(shared["sub-03"], group["03"].get_betas("ses-01", stimuli="shared"))
    for bad, error in (
        (["sub-03", 1], InputTypeError),
        ("03", InputTypeError),
        ([], SelectionError),
    ):
        with pytest.raises(error):
            load_subjects(bad, here, fetch=False)
    with pytest.raises(SelectionError, match="'sub-07' is not in the group; there is: sub-01"):
        group["sub-07"]


def test_lines_of_the_first_package_run_unchanged(here, tmp_path):
    """Its documented names, keywords and results, one after the other."""
    dataset_initialize(here)
    code = """
import numpy as np
from laion_fmri.config import dataset_initialize, get_data_dir
from laion_fmri.group import load_subjects
from laion_fmri.subject import load_subject

sub = load_subject("sub-03")
assert load_subject("03").subject_id == sub.subject_id == "sub-03"
sessions = sub.get_sessions()
brain_mask = sub.get_brain_mask()
brain_mask = sub.get_brain_mask(source="rsquare")
brain_mask = sub.get_brain_mask(source="anatomical", res=None)
n_voxels = sub.get_n_voxels()
betas = sub.get_betas(session="ses-01")
assert betas.shape == (30, n_voxels) and betas.dtype == np.float32
betas = sub.get_betas(session="ses-01", streaming=True)
betas = sub.get_betas(session="ses-01", roi="FFA1")
betas = sub.get_betas(session="ses-01", roi=["FFA1", "V1"], streaming=True)
betas = sub.get_betas(session="ses-01", roi="face", nc_threshold=20)
betas = sub.get_betas(session="ses-01", mask=sub.get_roi_mask("FFA1"))
shared = sub.get_betas(session="ses-01", stimuli="shared")
unique = sub.get_betas(session="ses-01", stimuli="unique", mask_source="rsquare")
assert len(shared) + len(unique) == 30
by_session = sub.get_betas(session=["ses-01", "ses-02"], roi="FFA1")
assert list(by_session) == ["ses-01", "ses-02"]
trials = sub.get_trial_info(session="ses-01")
assert {"session", "run", "beta_index", "label"} <= set(trials.columns)
assert list(sub.get_trial_info(session=["ses-01", "ses-02"])) == ["ses-01", "ses-02"]
assert len(sub.metadata) == 30 * len(sessions)
roi_mask = sub.get_roi_mask("FFA1")
assert roi_mask.shape == (n_voxels,)
roi_masks = sub.get_roi_masks(["FFA1", "V1"])
assert sub.get_roi_mask("all").sum() >= sub.get_roi_mask("face").sum()
rois = sub.get_available_rois(category="face")
categories = sub.get_available_categories()
data = sub.get_roi_data("FFA1", format="gii", hemi="L")
ceiling = sub.get_noise_ceiling(session="ses-01")
ceiling = sub.get_noise_ceiling(desc="Noiseceiling4rep")
coordinates = sub.get_voxel_coordinates()
assert coordinates.shape == (n_voxels, 3)
sub.to_nifti(ceiling, OUT)
subjects = load_subjects(["sub-01", "sub-03"])
for subject_id, subject in subjects:
    assert subject.subject_id == subject_id
assert list(subjects.get_shared_betas(session="ses-01")) == ["sub-01", "sub-03"]
"""
    exec(code, {"OUT": tmp_path / "ceiling.nii.gz"})
    assert (tmp_path / "ceiling.nii.gz").exists()


def test_names_of_the_package():
    """They can be had from it, and it takes neither numpy nor nibabel for that."""
    code = (
        "import sys, laion_fmri\n"
        "names = {'load_subject', 'load_subjects', 'Subject', 'Group'}\n"
        "assert names <= set(dir(laion_fmri))\n"
        "assert not {'numpy', 'nibabel', 'pandas'} & set(sys.modules)\n"
        "from laion_fmri.subject import Subject\n"
        "assert laion_fmri.Subject is Subject\n"
    )
    done = run([sys.executable, "-W", "error", "-c", code])
    assert (done.returncode, done.stderr) == (0, "")


def test_nan_stays(sub, here, objects, brain):
    """At the edge of the mask, for instance."""
    data = read(objects, betas_key()).copy()
    data[brain, ::2] = np.nan
    nibabel.save(nibabel.Nifti1Image(data, np.diag([12, 12, 12, 1])), here / betas_key())
    found = sub.get_betas("ses-01")
    assert np.isnan(found[::2]).all()
    assert not np.isnan(found[1::2]).any()


BAD = {
    "roi": (
        lambda s: s.get_betas("ses-01", roi="FFA2"),
        SelectionError,
        r"no region .*'FFA2' of sub-03; did you mean 'FFA1'\? regions: FFA1, V1, pSTSfaces; "
        "categories: face, retinotopy",
    ),
    "no roi": (lambda s: s.get_roi_mask([]), SelectionError, "the list of regions .* is empty"),
    "roi of int": (lambda s: s.get_roi_mask([1]), InputTypeError, "'FFA1'.*not 1"),
    "category": (
        lambda s: s.get_available_rois("faces"),
        SelectionError,
        r"no category 'faces'.*did you mean 'face'\? there is: face, retinotopy",
    ),
    "desc": (
        lambda s: s.get_noise_ceiling(desc="Noiseceiling5rep"),
        DataNotDownloadedError,
        "maps here: Noiseceiling12rep, Noiseceiling4rep, NoiseceilingAllrep, R2mean",
    ),
    "neither": (lambda s: s.get_noise_ceiling(), SelectionError, "give one, such as session="),
    "session": (
        lambda s: s.get_betas("ses-77"),
        DataNotDownloadedError,
        r"sessions here: ses-01, ses-02, ses-04\); fetch it: laion-fmri download "
        "--subject sub-03 --scope glmsingle-tedana --ses ses-77",
    ),
    "session of int": (lambda s: s.get_betas(1), InputTypeError, "such as 'ses-01', and is 1"),
    "no session": (lambda s: s.get_trial_info([]), SelectionError, "list of sessions is empty"),
    "a path": (lambda s: s.get_betas("../01"), SelectionError, "'../01' is not a valid name"),
    "both": (
        lambda s: s.get_betas("01", roi="V1", mask=np.ones(3, bool)),
        SelectionError,
        "roi and mask cannot both be given",
    ),
    "mask shape": (
        lambda s: s.get_betas("01", mask=np.ones(3, bool)),
        MismatchError,
        r"shape \(3,\), and the brain mask has \d+ voxels",
    ),
    "mask type": (
        lambda s: s.get_betas("01", mask=np.ones(3)),
        InputTypeError,
        "has to be of bool, and is of float64",
    ),
    "empty mask": (
        lambda s: s.get_betas("01", mask=np.zeros(s.get_n_voxels(), bool)),
        SelectionError,
        "the mask keeps no voxel",
    ),
    "threshold": (
        lambda s: s.get_betas("01", nc_threshold=99.5),
        SelectionError,
        r"nc_threshold=99.5 keeps none of \d+ voxels of ses-01; the highest .* (79|80)[.0-9]* "
        r"\(values run 0 to 100\)",
    ),
    "threshold of str": (
        lambda s: s.get_betas("01", nc_threshold="20"),
        InputTypeError,
        "nc_threshold='20' is not a number from 0 to 100",
    ),
    "stimuli": (lambda s: s.get_betas("01", stimuli="all"), SelectionError, "'shared', 'unique'"),
    "source": (
        lambda s: s.get_brain_mask("rsquared"),
        SelectionError,
        r"did you mean 'rsquare'\? there is: anatomical, rsquare",
    ),
    "resolution": (lambda s: s.get_t2w(), DataNotDownloadedError, "no .*res-1pt8_T2w.nii.gz"),
    "format": (lambda s: s.get_roi_data("V1", "vol"), SelectionError, "did you mean 'volume'"),
    "hemi": (lambda s: s.get_roi_data("V1", hemi="left"), SelectionError, "there is: L, R"),
    "values": (
        lambda s: s.to_nifti(np.ones(4), "x.nii"),
        MismatchError,
        r"shape \(4,\), and the brain mask has \d+",
    ),
    "name": (
        lambda s: s.to_nifti(np.ones(s.get_n_voxels()), "x.txt"),
        SelectionError,
        "end it in .nii or .nii.gz",
    ),
    "folder": (
        lambda s: s.to_nifti(np.ones(s.get_n_voxels()), "/nonexistent/x.nii"),
        DataDirError,
        "/nonexistent/x.nii cannot be written",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(sub, name):
    """What is wrong, what there is, what to do."""
    call, error, said = BAD[name]
    with pytest.raises(error, match=said) as caught:
        call(sub)
    assert "\n" not in str(caught.value)


def test_a_number_of_jobs_that_cannot_be_is_told(sub, objects, brain):
    """The sessions are read all the same."""
    with pytest.warns(UserWarning, match="n_jobs=0 should be a whole number from 1 on; using 1"):
        found = sub.get_betas(["ses-01", "ses-02"], n_jobs=0)
    same(found["ses-02"], read(objects, betas_key("02"))[brain].T)


def test_an_image_that_was_decompressed_beside(sub, here, objects, brain):
    """It is read in place of its own, unless that was replaced since; alone, it is enough."""
    image = here / betas_key()
    values = read(objects, betas_key())[brain].T
    plain = image.with_suffix("")
    other = nibabel.Nifti1Image.from_bytes(gzip.decompress(objects[betas_key()]))
    nibabel.save(nibabel.Nifti1Image(np.asarray(other.dataobj) + 1, other.affine), plain)
    then = image.stat().st_mtime_ns
    os.utime(plain, ns=(then, then))
    same(sub.get_betas("ses-01"), values + 1)
    os.utime(plain, ns=(then - 10**9, then - 10**9))
    same(sub.get_betas("ses-01"), values)
    image.unlink()
    same(sub.get_betas("ses-01"), values + 1)
    assert "ses-01" in sub.get_sessions()
    assert len(sub.get_trial_info("ses-01")) == len(values)
    plain.write_bytes(plain.read_bytes()[:-1])
    with pytest.raises(ImageError, match=r"statmap\.nii is cut short .*remove it, so that the"):
        sub.get_betas("ses-01")


def test_damaged_files_are_named(sub, here, objects):
    """An image cut short, one on another grid, one of another length than its table."""
    image = here / betas_key()
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=f"{image} is cut short.*laion-fmri verify --repair"):
        sub.get_betas("ses-01")
    data = read(objects, betas_key())
    nibabel.save(nibabel.Nifti1Image(data, np.diag([11, 12, 12, 1])), image)
    with pytest.raises(MismatchError, match="their affines differ by up to 1 mm"):
        sub.get_betas("ses-01")
    nibabel.save(nibabel.Nifti1Image(data[..., :29], np.diag([12, 12, 12, 1])), image)
    for call in (sub.get_betas, sub.get_trial_info):
        with pytest.raises(MismatchError, match=r"trials.tsv has 30 trials, and .* has 29 volumes"):
            call("ses-01")
    roi = here / roi_key("face", "FFA-1")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), "u1"), np.eye(4)), roi)
    with pytest.raises(MismatchError, match=r"12 x 14 x 10, and .*FFA-1_mask.nii.gz has 3 x 3 x 3"):
        sub.get_betas("ses-01", roi="FFA1")
    empty = nibabel.Nifti1Image(np.zeros((12, 14, 10), "u1"), np.diag([12, 12, 12, 1]))
    nibabel.save(empty, roi)
    with pytest.raises(SelectionError, match="region of interest 'FFA1' keeps no voxel"):
        sub.get_betas("ses-02", roi="FFA1")


def test_without_the_anatomical_mask(sub, here, objects):
    """The mean-R2 map stands in, and this is said; without either, the command is named."""
    (here / BRAIN).unlink()
    with pytest.warns(SelectionWarning, match="mean-R2 map, since .*--scope anatomical"):
        same(sub.get_brain_mask(), read(objects, R2MEAN).ravel() != 0)
    (here / R2MEAN).unlink()
    with pytest.raises(DataNotDownloadedError, match=r"fetch it: laion-fmri download .*anatomical"):
        load_subject("03", here, fetch=False).get_brain_mask()


def test_a_subject_that_is_not_here(bucket, here, tmp_path_factory):
    """Near misses, here and in the bucket."""
    with pytest.raises(SubjectNotFoundError, match=r"here: sub-01, sub-03; fetch it: laion-fmri"):
        load_subject("sub-09", here, fetch=False)
    with pytest.raises(SubjectNotFoundError, match="there is: sub-01, sub-03, sub-05"):
        load_subject("sub-09", tmp_path_factory.mktemp("empty"))
    with pytest.raises(InputTypeError, match="such as 'sub-01', and is 3"):
        load_subject(3, here)


def test_without_the_extra(monkeypatch, tmp_path):
    """One line with the command."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "nibabel" else find(n, *a)
    )
    with pytest.raises(MissingDependencyError, match=r"pip install 'laion-fmri\[load\]'"):
        load_subject("sub-03", tmp_path)


def test_what_is_missing_is_fetched(bucket, objects, monkeypatch, tmp_path, brain):
    """From nothing: betas of a region above a threshold, and the table; a second time, no word."""
    bucket.add_bucket("loading", {key: v for key, v in objects.items() if "/" in key})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "loading")
    sub = load_subject("sub-03", tmp_path, n_jobs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sub.get_betas(session="ses-01", roi="FFA1", nc_threshold=20)
    roi = read(objects, roi_key("face", "FFA-1")) != 0
    ceiling = read(objects, f"{stem_of()}space-T1w_desc-Noiseceiling_statmap.nii.gz")
    same(found, read(objects, betas_key())[brain & roi & (ceiling >= 20)].T)
    assert len(sub.get_trial_info("ses-01")) == 30
    assert not (tmp_path / betas_key("02")).exists()
    bucket.clear_requests()
    sub.get_betas(session="ses-01", roi="FFA1", nc_threshold=20, stimuli="shared")
    assert bucket.requests == []
    again = load_subject("sub-03", tmp_path, fetch=False)
    same(again.get_betas("ses-01", roi="FFA1", nc_threshold=20), found)
    with pytest.raises(SelectionError, match=r"ses '77' matches nothing .*there is: 01, 02, 04"):
        sub.get_betas("ses-77")
