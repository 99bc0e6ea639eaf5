"""The sample bucket, read from outside: every file with its own reader, the server over HTTP."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from urllib.parse import urlsplit

import boto3
import h5py
import nibabel
import numpy as np
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from laion_fmri.errors import MissingDependencyError
from laion_fmri.sample import Request, SampleServer, sample_objects, serve_sample

GLM = "derivatives/glmsingle-tedana"
README = "README"
BETAS = "stat-effect_desc-SingletrialBetas_statmap.nii.gz"
# The layout of the published bucket, spelled out here once more: a name lost there must show.
SESSION_FILES = """
    {stem}_desc-GLMsingle_summary.json
    {stem}_desc-SingletrialBetas_trials.tsv
    {stem}_desc-SingletrialBetas_trials.json
    {stem}_space-T1w_desc-GLMsingle_model.h5
    {stem}_space-T1w_desc-GLMsingle_model.json
    {stem}_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz
    {stem}_space-T1w_stat-effect_desc-SingletrialBetas_statmap.json
    {stem}_space-T1w_stat-rsquare_desc-R2_statmap.nii.gz
    {stem}_space-T1w_stat-rsquare_desc-R2_statmap.json
    {stem}_space-T1w_desc-Noiseceiling_statmap.nii.gz
    {stem}_space-T1w_desc-Noiseceiling_statmap.json
    {stem}_space-T1w_desc-Fracridge_statmap.nii.gz
    {stem}_space-T1w_desc-Fracridge_statmap.json
    {stem}_space-T1w_desc-HRFindex_dseg.nii.gz
    {stem}_space-T1w_desc-HRFindex_dseg.json
    figures/{sub}_{ses}_dnoise.png
    figures/{sub}_{ses}_hrf.png
    figures/{sub}_{ses}_r2.png
    figures/{sub}_{ses}_ridge.png
"""
SUBJECT_FILES = """
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.json
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_desc-Noiseceiling4rep_statmap.nii.gz
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_desc-Noiseceiling4rep_statmap.json
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_desc-Noiseceiling12rep_statmap.nii.gz
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_desc-Noiseceiling12rep_statmap.json
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_desc-NoiseceilingAllrep_statmap.nii.gz
    glmsingle-tedana/{sub}/{sub}_task-images_space-T1w_desc-NoiseceilingAllrep_statmap.json
    rois/{sub}/face/{sub}_space-T1w_res-1pt8_label-FFA-1_mask.nii.gz
    rois/{sub}/face/{sub}_space-T1w_res-1pt5_label-FFA-1_mask.nii.gz
    rois/{sub}/face/{sub}_hemi-L_space-fsnative_label-FFA-1_mask.func.gii
    rois/{sub}/face/{sub}_hemi-L_space-fsnative_label-FFA-1_mask.label
    rois/{sub}/face/{sub}_hemi-R_space-fsnative_label-FFA-1_mask.func.gii
    rois/{sub}/face/{sub}_hemi-R_space-fsnative_label-FFA-1_mask.label
    rois/{sub}/face/{sub}_space-T1w_res-1pt8_label-pSTS-faces_mask.nii.gz
    rois/{sub}/face/{sub}_space-T1w_res-1pt5_label-pSTS-faces_mask.nii.gz
    rois/{sub}/face/{sub}_hemi-L_space-fsnative_label-pSTS-faces_mask.func.gii
    rois/{sub}/face/{sub}_hemi-L_space-fsnative_label-pSTS-faces_mask.label
    rois/{sub}/face/{sub}_hemi-R_space-fsnative_label-pSTS-faces_mask.func.gii
    rois/{sub}/face/{sub}_hemi-R_space-fsnative_label-pSTS-faces_mask.label
    rois/{sub}/retinotopy/{sub}_space-T1w_res-1pt8_label-V1_mask.nii.gz
    rois/{sub}/retinotopy/{sub}_space-T1w_res-1pt5_label-V1_mask.nii.gz
    rois/{sub}/retinotopy/{sub}_hemi-L_space-fsnative_label-V1_mask.func.gii
    rois/{sub}/retinotopy/{sub}_hemi-L_space-fsnative_label-V1_mask.label
    rois/{sub}/retinotopy/{sub}_hemi-R_space-fsnative_label-V1_mask.func.gii
    rois/{sub}/retinotopy/{sub}_hemi-R_space-fsnative_label-V1_mask.label
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_T1w.nii.gz
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_T1w.json
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_res-1pt8_T1w.nii.gz
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_res-1pt8_T1w.json
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_T2w.nii.gz
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_T2w.json
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_desc-brain_mask.nii.gz
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_desc-brain_mask.json
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_res-1pt8_desc-brain_mask.nii.gz
    anatomical/{sub}/ses-PrismaAnat/anat/{sub}_ses-PrismaAnat_space-T1w_res-1pt8_desc-brain_mask.json
    freesurfer/{sub}/label/lh.BA1_exvivo.label
    freesurfer/{sub}/mri/T1.mgz
    freesurfer/{sub}/mri/aparc+aseg.mgz
    freesurfer/{sub}/mri/transforms/talairach.xfm
    freesurfer/{sub}/stats/aseg.stats
    freesurfer/{sub}/surf/lh.white
    freesurfer/{sub}/surf/rh.white
"""
RAW_FILES = """
    anat/{stem}_echo-1_MEGRE.nii.gz
    fmap/{stem}_magnitude1.nii.gz
    fmap/{stem}_phasediff.nii.gz
    func/{stem}_task-images_run-01_events.tsv
    func/{stem}_task-images_run-01_echo-1_part-mag_sbref.nii.gz
    func/{stem}_task-images_run-01_echo-1_part-mag_bold.nii.gz
    func/{stem}_task-images_run-01_echo-1_part-mag_bold.json
    func/{stem}_task-images_run-01_echo-1_part-phase_bold.nii.gz
    func/{stem}_task-images_run-01_echo-1_part-phase_bold.json
    func/{stem}_task-images_run-01_echo-2_part-mag_bold.nii.gz
    func/{stem}_task-images_run-01_echo-2_part-mag_bold.json
    func/{stem}_task-images_run-01_echo-2_part-phase_bold.nii.gz
    func/{stem}_task-images_run-01_echo-2_part-phase_bold.json
"""
TEDANA_FILES = """
    {stem}_task-images_run-01_space-T1w_desc-optcom_bold.nii.gz
    {stem}_task-images_run-01_space-T1w_desc-optcom_bold.json
    {stem}_task-images_run-02_space-T1w_desc-optcom_bold.nii.gz
    {stem}_task-images_run-02_space-T1w_desc-optcom_bold.json
"""
#: Session, task and contrast of each localizer, and what there is of it.
LOCALIZERS = (
    ("ses-4BarScreenfLoc", "floc", "body"),
    ("ses-MotionLocBarsSML", "motionloc", "motion"),
    ("ses-31", "oloc", "object"),
    ("ses-31", "floc", "face"),
)
LOCALIZER_FILES = """
    {stem}_hemi-L_space-fsnative_{end}.func.gii
    {stem}_hemi-R_space-fsnative_{end}.func.gii
    {stem}_space-T1w_res-1pt8_{end}.nii.gz
"""
OTHER_FILES = """
    README
    dataset_description.json
    participants.json
    participants.tsv
    stimuli/task-images_stimuli.h5
    stimuli/task-images_metadata.csv
    stimuli/task-images_desc-CLIP_embeddings.h5
    stimuli/task-images_desc-DINOv2_embeddings.h5
    stimuli/task-images_desc-PEcore_embeddings.h5
    stimuli/task-images_desc-SigLIP2_embeddings.h5
    stimuli/task-images_desc-segmentations.h5
    stimuli/task-images_desc-segmentations_metadata.csv
    stimuli/task-images_desc-captions.csv
    archive/embeddings/v1/task-images_desc-CLIP_embeddings.h5
    derivatives/glmsingle-tedana/sub-03/sub-03_task-images_space-T1w_desc-meanR2gt15mask_mask.nii.gz
"""
SUBJECTS = ("sub-01", "sub-03")
OPEN_SESSIONS = ("ses-01", "ses-02", "ses-04")
RUNS = list(itertools.product(SUBJECTS, (*OPEN_SESSIONS, "ses-31")))


@pytest.fixture(scope="module")
def objects():
    """The sample's objects."""
    return sample_objects()


@pytest.fixture(scope="module")
def running(objects):
    """One server of the sample for the tests that only read."""
    with serve_sample() as server:
        yield server


@pytest.fixture
def server(running):
    """The shared server, with an empty request log."""
    running.clear_requests()
    return running


def connect(server, **credentials):
    """A client that signs nothing, or signs with `credentials`, whatever the user's settings."""
    return make_client(server.endpoint_url, tuple(credentials.items()))


@lru_cache
def make_client(endpoint_url, credentials):
    """One client for each endpoint: making one takes longer than most tests."""
    signing = {} if credentials else {"signature_version": UNSIGNED}
    nowhere = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    session = Session(session_vars=nowhere | {"profile": (None, None, None, None)})
    return boto3.Session(botocore_session=session).client(
        "s3",
        region_name="us-west-2",
        endpoint_url=endpoint_url,
        config=Config(**signing, proxies={}, retries={"total_max_attempts": 1}),
        **dict(credentials),
    )


def fetch(server, key, bucket="laion-fmri"):
    """The content of an object, read by an anonymous client."""
    return connect(server).get_object(Bucket=bucket, Key=key)["Body"].read()


def name_of(stem, sub, ses):
    """The key of one file in the folder of a session."""
    name = stem.format(sub=sub, ses=ses, stem=f"{sub}_{ses}_task-images")
    return f"{GLM}/{sub}/{ses}/func/{name}"


def image_of(objects, key):
    """The values of a NIfTI object."""
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(objects[key]))
    return np.asanyarray(image.dataobj)


def t1w_of(objects, sub, ses, rest):
    """The values of a session's map in T1w space."""
    return image_of(objects, name_of(f"{{stem}}_space-T1w_{rest}", sub, ses))


def rows_of(objects, key):
    """The rows of a table as dictionaries."""
    return list(csv.DictReader(io.StringIO(objects[key].decode()), delimiter="\t"))


def run_python(code, **environ):
    """Run `code` in a process of its own, warnings being errors; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---------------------------------------------------------------------------- the objects


def test_layout_is_the_published_one(objects):
    """The keys are those of the published layout, all of them and no others."""
    expected = set(OTHER_FILES.split())
    expected |= {name_of(name, sub, ses) for sub, ses in RUNS for name in SESSION_FILES.split()}
    expected |= {
        f"derivatives/{name.format(sub=sub)}" for sub in SUBJECTS for name in SUBJECT_FILES.split()
    }
    raw = [("sub-05", "ses-01"), *itertools.product(SUBJECTS, ("ses-01", "ses-31"))]
    for sub, ses in raw:
        names = RAW_FILES.format(stem=f"{sub}_{ses}").split()
        expected |= {f"{sub}/{ses}/{name}" for name in names}
    for sub, ses in raw[1:]:
        names = TEDANA_FILES.format(stem=f"{sub}_{ses}").split()
        expected |= {f"derivatives/tedana/{sub}/{ses}/func/{name}" for name in names}
    for sub, (ses, task, contrast) in itertools.product(SUBJECTS, LOCALIZERS):
        stem, end = f"{sub}_{ses}_task-{task}_run-01", f"contrast-{contrast}_stat-effect_statmap"
        names = LOCALIZER_FILES.format(stem=stem, end=end).split()
        expected |= {f"derivatives/localizers/{sub}/{ses}/func/{name}" for name in names}
    assert expected == set(objects)


def test_objects_are_the_same_in_every_process(objects):
    """Another process with other hash seeds builds the same bytes."""
    code = (
        "import hashlib; from laion_fmri.sample import sample_objects\n"
        "for k, v in sample_objects().items(): print(hashlib.md5(v).hexdigest(), k)"
    )
    here = [f"{hashlib.md5(content).hexdigest()} {key}" for key, content in objects.items()]
    assert here == run_python(code, PYTHONHASHSEED="7").splitlines()


def test_objects_are_small_and_betas_the_largest(objects):
    """The whole sample stays under 4 MB, and the largest objects are the betas."""
    assert sum(map(len, objects.values())) < 4_000_000
    largest = sorted(objects, key=lambda key: len(objects[key]))[-len(RUNS) :]
    assert {name_of("{stem}_space-T1w_" + BETAS, *run) for run in RUNS} == set(largest)
    assert min(len(objects[key]) for key in largest) > 50_000


def test_every_nifti_loads_on_one_grid(objects):
    """nibabel reads every image: one grid in mm, finite values that are not all the same."""
    read = {
        key: nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
        for key, content in objects.items()
        if key.endswith(".nii.gz")
    }
    assert all(np.isfinite(image.get_fdata()).all() for image in read.values())
    images = {key: image for key, image in read.items() if key.startswith(GLM)}
    assert len(images) == len(RUNS) * 5 + len(SUBJECTS) * 4 + 1
    assert {image.shape[:3] for image in images.values()} == {(12, 14, 10)}
    assert {image.header.get_xyzt_units()[0] for image in images.values()} == {"mm"}
    assert all(np.array_equal(i.affine, np.diag([12, 12, 12, 1])) for i in images.values())
    values = {key: image.get_fdata() for key, image in images.items()}
    assert [key for key, data in values.items() if not np.isfinite(data).all()] == []
    assert [key for key, data in values.items() if np.ptp(data) == 0] == []


@pytest.mark.parametrize(("sub", "ses"), RUNS)
def test_trials_describe_the_volumes_of_the_betas(objects, sub, ses):
    """The table has one row for each volume, with times in the order of the runs."""
    betas = t1w_of(objects, sub, ses, BETAS)
    rows = rows_of(objects, name_of("{stem}_desc-SingletrialBetas_trials.tsv", sub, ses))
    assert betas.shape == (12, 14, 10, len(rows))
    names = ["session", "run", "beta_index", "label", "onset", "duration", "repetition"]
    assert names == list(rows[0])
    assert list(range(30)) == [int(row["beta_index"]) for row in rows]
    assert {ses} == {row["session"] for row in rows}
    times = [(int(row["run"]), float(row["onset"])) for row in rows]
    assert times == sorted(set(times))
    assert {run for run, _ in times} == {1, 2, 3}
    assert all(0 < float(row["duration"]) < 4 for row in rows)
    known = {row["stimulus"] for row in csv_of(objects, "stimuli/task-images_metadata.csv")}
    assert {row["label"] for row in rows} == known


def test_repetitions_go_on_from_session_to_session(objects):
    """Over a subject's sessions each image is seen for the first to the last time in order."""
    seen = {}
    for ses in (*OPEN_SESSIONS, "ses-31"):
        for row in rows_of(
            objects, name_of("{stem}_desc-SingletrialBetas_trials.tsv", "sub-03", ses)
        ):
            seen.setdefault(row["label"], []).append(int(row["repetition"]))
    assert len(seen) == 6
    assert all(times == list(range(1, 21)) for times in seen.values())


@pytest.mark.parametrize("sub", SUBJECTS)
def test_mean_r2_is_the_mean_over_the_open_sessions(objects, sub):
    """The pinned map agrees with the sessions, is in percent, and is zero outside the brain."""
    stem = f"{GLM}/{sub}/{sub}_task-images_space-T1w_"
    mean = image_of(objects, stem + "stat-rsquare_desc-R2mean_statmap.nii.gz")
    r2 = [t1w_of(objects, sub, s, "stat-rsquare_desc-R2_statmap.nii.gz") for s in OPEN_SESSIONS]
    np.testing.assert_allclose(mean, np.mean(r2, axis=0), rtol=1e-5)
    assert 0 <= mean.min() <= mean.max() <= 100
    brain = mean > 0
    assert 0.3 < brain.mean() < 0.7
    betas = t1w_of(objects, sub, "ses-01", BETAS)
    assert np.array_equal(brain, betas.any(axis=-1))
    mask = objects.get(stem + "desc-meanR2gt15mask_mask.nii.gz")
    assert (mask is None) == (sub == "sub-01")
    if mask is not None:
        mask = image_of(objects, stem + "desc-meanR2gt15mask_mask.nii.gz")
        assert np.array_equal(mask, (mean > 15).astype(mask.dtype))


def test_label_images_hold_integers(objects):
    """The index of the response function is 0 to 20, a region of interest 0 and 1."""
    hrf = t1w_of(objects, "sub-03", "ses-01", "desc-HRFindex_dseg.nii.gz")
    assert hrf.dtype.kind == "i"
    assert set(range(21)) == set(hrf.ravel().tolist())
    masks = [key for key in objects if "rois/sub-03" in key and key.endswith(".nii.gz")]
    for key in masks:
        inside = image_of(objects, key)
        assert inside.dtype.kind == "u"
        assert {0, 1} == set(inside.ravel().tolist())


def test_every_hdf5_opens(objects):
    """h5py opens every model, which holds the same R2 as the map, and the restricted stimuli."""
    for sub, ses in RUNS:
        key = name_of("{stem}_space-T1w_desc-GLMsingle_model.h5", sub, ses)
        with h5py.File(io.BytesIO(objects[key])) as file:
            assert {"R2", "HRFindex", "FRACvalue"} == set(file)
            r2 = t1w_of(objects, sub, ses, "stat-rsquare_desc-R2_statmap.nii.gz")
            assert np.array_equal(r2, file["R2"][()])
    with h5py.File(io.BytesIO(objects["stimuli/task-images_stimuli.h5"])) as file:
        assert file["images"].shape == (6, 8, 8)


def test_every_json_holds_fields(objects):
    """Every JSON object parses to an object with fields; maps say their units."""
    fields = {key: json.loads(text) for key, text in objects.items() if key.endswith(".json")}
    assert [key for key, found in fields.items() if not (isinstance(found, dict) and found)] == []
    maps = [found for key, found in fields.items() if key.endswith(("_statmap.json", "_dseg.json"))]
    assert len(maps) == len(RUNS) * 5 + len(SUBJECTS) * 4
    assert {"percent", "1"} == {found["Units"] for found in maps}
    assert all({"Description", "SpatialReference"} < set(found) for found in maps)
    description = fields["dataset_description.json"]
    assert description["DatasetType"] == "derivative"
    assert re.fullmatch(r"\d+\.\d+\.\d+", description["BIDSVersion"])
    assert description["Name"]
    assert description["GeneratedBy"][0]["Name"]


def csv_of(objects, key):
    """The rows of a table with commas."""
    return list(csv.DictReader(io.StringIO(objects[key].decode())))


def test_tables_agree_with_the_tree(objects):
    """The tables of participants and stimuli list the subjects and images that are there."""
    participants = rows_of(objects, "participants.tsv")
    assert [*SUBJECTS, "sub-05"] == [row["participant_id"] for row in participants]
    tables = {key: csv_of(objects, key) for key in objects if key.endswith(".csv")}
    assert len(tables) == 3
    assert {tuple(row["stimulus"] for row in rows) for rows in tables.values()} == {
        (*(f"shared_0000{n}.jpg" for n in range(4)), "unique_00004.jpg", "unique_00005.jpg")
    }


def test_embeddings_have_a_row_for_each_image(objects):
    """Four models, each with values of its own; the replaced ones have another width."""
    keys = [key for key in objects if key.endswith("_embeddings.h5")]
    shapes = {}
    for key in keys:
        with h5py.File(io.BytesIO(objects[key])) as file:
            shapes[key] = file["embeddings"].shape
    assert Counter(shapes.values()) == {(6, 16): 4, (6, 8): 1}
    assert len({objects[key] for key in keys}) == len(keys)


def test_surfaces_and_volumes_of_freesurfer_load(objects, tmp_path):
    """nibabel reads them: six vertices, eight faces, and what maps on surfaces have of them."""
    folder = "derivatives/freesurfer/sub-01"
    (tmp_path / "white").write_bytes(objects[f"{folder}/surf/lh.white"])
    corners, faces = nibabel.freesurfer.read_geometry(tmp_path / "white")
    assert (corners.shape, faces.shape) == ((6, 3), (8, 3))
    (tmp_path / "lh.label").write_bytes(objects[f"{folder}/label/lh.BA1_exvivo.label"])
    assert nibabel.freesurfer.read_label(tmp_path / "lh.label").ravel().tolist() == [0]
    volume = gzip.decompress(objects[f"{folder}/mri/aparc+aseg.mgz"])
    assert nibabel.MGHImage.from_bytes(volume).shape == (12, 14, 10)
    for key in [key for key in objects if key.endswith(".func.gii")]:
        (array,) = nibabel.gifti.GiftiImage.from_bytes(objects[key]).darrays
        assert array.data.shape == (6,)


def test_figures_are_png(objects):
    """Every figure is a sequence of PNG chunks with right checksums, from IHDR to IEND."""
    figures = [content for key, content in objects.items() if key.endswith(".png")]
    assert len(figures) == 4 * len(RUNS)
    for content in set(figures):
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        names, rest = [], content[8:]
        while rest:
            end = 8 + int.from_bytes(rest[:4], "big")
            assert zlib.crc32(rest[4:end]) == int.from_bytes(rest[end : end + 4], "big")
            names.append(rest[4:8])
            rest = rest[end + 4 :]
        assert names == [b"IHDR", b"IDAT", b"IEND"]


# ----------------------------------------------------------------------------- the server


def test_anonymous_listing_is_paged(server, objects):
    """An anonymous client lists every key, held out or not, in pages; each page is recorded."""
    pages = (
        connect(server)
        .get_paginator("list_objects_v2")
        .paginate(Bucket="laion-fmri", PaginationConfig={"PageSize": 50})
    )
    listed = {item["Key"]: item["Size"] for page in pages for item in page["Contents"]}
    assert {key: len(content) for key, content in objects.items()} == listed
    assert len(server.listings()) == -(-len(objects) // 50)
    assert {"2"} == {request.query["list-type"] for request in server.listings()}
    assert server.gets() == Counter()


def test_all_but_the_held_out_can_be_read(server, objects):
    """An anonymous GET brings each object as it is, and 403 for exactly those held out."""
    client = connect(server)
    read, denied = {}, {}
    for key in objects:
        try:
            read[key] = client.get_object(Bucket="laion-fmri", Key=key)["Body"].read()
        except ClientError as error:
            denied[key] = error.response
    assert {r["Error"]["Code"] for r in denied.values()} == {"AccessDenied"}
    assert {r["ResponseMetadata"]["HTTPStatusCode"] for r in denied.values()} == {403}
    restricted = {"stimuli/task-images_stimuli.h5"}
    held_out = {key for key in objects if "/ses-31/" in key and "_task-oloc_" not in key}
    assert held_out | restricted == set(denied)
    assert {key: objects[key] for key in objects if key not in denied} == read
    assert Counter(read.keys()) == server.gets()


def test_held_out_answers_403_to_head(server):
    """A HEAD of a restricted object is refused as its GET is."""
    with pytest.raises(ClientError, match="403"):
        connect(server).head_object(Bucket="laion-fmri", Key="stimuli/task-images_stimuli.h5")
    assert [(r.method, r.status) for r in server.requests] == [("HEAD", 403)]


def test_etag_is_the_md5(server, objects):
    """The ETag of an object is the MD5 of its content, as on S3 for small uploads."""
    head = connect(server).head_object(Bucket="laion-fmri", Key=README)
    assert f'"{hashlib.md5(objects[README]).hexdigest()}"' == head["ETag"]


def test_gets_count_what_carried_data(server):
    """Whole and ranged reads count; HEAD, missing, refused, and listings do not."""
    client = connect(server)
    where = {"Bucket": "laion-fmri"}
    client.get_object(**where, Key=README)["Body"].read()
    part = client.get_object(**where, Key=README, Range="bytes=2-10")["Body"].read()
    client.get_object(**where, Key="participants.tsv")["Body"].read()
    client.head_object(**where, Key=README)
    client.list_objects_v2(**where, Prefix=README)
    for key in ("nothing-here", "stimuli/task-images_stimuli.h5"):
        with pytest.raises(ClientError):
            client.get_object(**where, Key=key)
    assert part == sample_objects()[README][2:11]
    assert Counter({README: 2, "participants.tsv": 1}) == server.gets()
    assert Counter({"participants.tsv": 1}) == server.gets("part")
    assert [r.status for r in server.requests] == [200, 206, 200, 200, 200, 404, 403]
    server.clear_requests()
    assert server.requests == []
    assert server.gets() == Counter()


@pytest.mark.parametrize(
    ("asked", "code", "status"),
    [
        ({"Key": "nothing-here"}, "NoSuchKey", 404),
        ({"Key": README, "Bucket": "nowhere"}, "NoSuchBucket", 404),
        ({"Key": README, "Range": "bytes=1000-"}, "InvalidRange", 416),
        ({"Key": README, "IfMatch": '"another"'}, "PreconditionFailed", 412),
    ],
)
def test_errors_are_those_of_s3(server, asked, code, status):
    """A client is told what is wrong as S3 would tell it, and nothing counts as read."""
    with pytest.raises(ClientError) as caught:
        connect(server).get_object(**({"Bucket": "laion-fmri"} | asked))
    answer = caught.value.response
    assert answer["Error"]["Code"] == code
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    assert [request.status for request in server.requests] == [status]
    assert server.gets() == Counter()


def test_requests_tell_what_was_asked(server):
    """A record holds method, bucket, key, decoded query and status."""
    connect(server).list_objects_v2(Bucket="laion-fmri", Prefix="derivatives/rois/", Delimiter="/")
    (request,) = server.requests
    assert isinstance(request, Request)
    assert (*request[:3], request.status) == ("GET", "laion-fmri", "", 200)
    assert request.query["prefix"] == "derivatives/rois/"
    assert request.query["delimiter"] == "/"


def test_many_clients_at_once_are_all_recorded(server):
    """Reads from eight threads all arrive and all count."""
    client = connect(server)

    def read(_):
        return client.get_object(Bucket="laion-fmri", Key=README)["Body"].read()

    with ThreadPoolExecutor(8) as pool:
        contents = set(pool.map(read, range(80)))
    assert contents == {sample_objects()[README]}
    assert server.gets() == Counter({README: 80})


def test_objects_can_be_put_replaced_and_deleted():
    """The owner changes objects; the changes are no requests."""
    with serve_sample({"a": b"one"}) as server:
        server.put("a", b"another")
        server.put("folder/ü +%[1].txt", b"odd")
        assert server.requests == []
        assert (fetch(server, "a"), fetch(server, "folder/ü +%[1].txt")) == (b"another", b"odd")
        assert server.gets("folder/") == Counter({"folder/ü +%[1].txt": 1})
        server.delete("a")
        with pytest.raises(ClientError, match="NoSuchKey"):
            fetch(server, "a")
        with pytest.raises(KeyError):
            server.delete("a")


def test_deny_replaces_the_refused_keys():
    """`deny` takes exact keys and patterns, and lifts what it does not name."""
    odd = "a[1].txt"
    with serve_sample({odd: b"1", "a1.txt": b"2", "b/c": b"3"}) as server:
        for patterns, refused in (
            ((), set()),
            ((odd,), {odd, "a1.txt"}),  # a key that reads as a pattern refuses both its meanings
            (("b/*",), {"b/c"}),
            (("*",), {odd, "a1.txt", "b/c"}),
        ):
            server.deny(patterns)
            server.clear_requests()
            for key in (odd, "a1.txt", "b/c"):
                try:
                    fetch(server, key)
                except ClientError:
                    assert key in refused
            assert refused == {r.key for r in server.requests if r.status == 403}
        listing = connect(server).list_objects_v2(Bucket="laion-fmri")
        assert listing["KeyCount"] == 3


def test_buckets_are_apart():
    """A second bucket has its own objects and refusals, and its reads are counted apart."""
    with serve_sample({"a": b"first"}, bucket="one-bucket") as server:
        server.add_bucket("two-bucket", {"a": b"second", "b": b""}, denied=["b"])
        assert server.bucket == "one-bucket"
        assert fetch(server, "a", "one-bucket") == b"first"
        assert fetch(server, "a", "two-bucket") == b"second"
        server.put("a", b"third", bucket="two-bucket")
        assert fetch(server, "a", "two-bucket") == b"third"
        with pytest.raises(ClientError, match="AccessDenied"):
            fetch(server, "b", "two-bucket")
        assert Counter({"a": 1}) == server.gets()
        assert Counter({"a": 2}) == server.gets(bucket="two-bucket")
        server.deny([], "two-bucket")
        server.delete("a", "two-bucket")
        assert fetch(server, "b", "two-bucket") == b""
        with pytest.raises(ClientError, match="NoSuchBucket"):
            fetch(server, "a", "three-bucket")


def test_servers_of_one_process_are_apart():
    """Two servers have a bucket of the same name and neither sees or stops the other."""
    with serve_sample({"a": b"outer"}) as outer:
        with serve_sample({"a": b"inner", "b": b""}) as inner:
            inner.add_bucket("only-inner", {})
            assert (fetch(outer, "a"), fetch(inner, "a")) == (b"outer", b"inner")
            with pytest.raises(ClientError, match="NoSuchBucket"):
                fetch(outer, "a", "only-inner")
            assert len(outer.requests) == 2
        assert fetch(outer, "a") == b"outer"


def test_only_signed_requests_write():
    """An anonymous upload or deletion is refused; a signed upload in parts is stored."""
    with serve_sample({"a": b"kept"}) as server:
        with pytest.raises(ClientError, match="AccessDenied"):
            connect(server).put_object(Bucket="laion-fmri", Key="a", Body=b"changed")
        with pytest.raises(ClientError, match="AccessDenied"):
            connect(server).delete_object(Bucket="laion-fmri", Key="a")
        assert fetch(server, "a") == b"kept"
        writer = connect(server, aws_access_key_id="any", aws_secret_access_key="any")
        content = bytes(9 << 20)
        writer.upload_fileobj(io.BytesIO(content), "laion-fmri", "big")
        assert connect(server).head_object(Bucket="laion-fmri", Key="big")["ETag"].endswith('-2"')
        assert fetch(server, "big") == content


def test_port_is_free_again_after_the_context():
    """The server is on loopback, gives its port back, and says so when a port is taken."""
    with serve_sample({"a": b"one"}) as server:
        url = urlsplit(server.endpoint_url)
        assert url.hostname == "127.0.0.1"
        with pytest.raises(OSError, match="in use"), serve_sample({}, port=url.port):
            pass
        assert fetch(server, "a") == b"one"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((url.hostname, url.port), timeout=5)
    with serve_sample({"a": b"two"}, port=url.port) as server:
        assert urlsplit(server.endpoint_url).port == url.port
        assert fetch(server, "a") == b"two"


def test_host_program_is_left_alone():
    """Hostile settings of the user do no harm; no output, no variable, no logger is changed."""
    code = """
import logging, os, urllib.request
before = dict(os.environ)
from laion_fmri.sample import serve_sample
with serve_sample({"a": b"content"}) as server:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(server.endpoint_url + "/laion-fmri/a") as answer:
        assert answer.read() == b"content"
    assert server.gets() == {"a": 1}
assert dict(os.environ) == before
for name in (None, "werkzeug", "flask", "moto"):
    logger = logging.getLogger(name)
    assert logger.handlers == [] and logger.level == (30 if name is None else 0), name
"""
    hostile = {
        "AWS_PROFILE": "no-such-profile",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_CONFIG_FILE": "/nonexistent",
        "MOTO_ACCOUNT_ID": "999999999999",
        "http_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    assert run_python(code, **hostile) == ""


def test_import_is_cheap():
    """Importing the module brings none of the heavy packages along."""
    code = "import sys, laion_fmri.sample; print(*sys.modules)"
    heavy = {"numpy", "nibabel", "h5py", "moto", "flask", "werkzeug", "boto3", "botocore", "pandas"}
    assert heavy & set(run_python(code).split()) == set()


@pytest.mark.parametrize(
    ("missing", "call"),
    [
        ("nibabel", sample_objects.__wrapped__),
        ("h5py", sample_objects.__wrapped__),
        ("moto", lambda: SampleServer("laion-fmri", 0)),
        ("flask_cors", lambda: SampleServer("laion-fmri", 0)),
    ],
)
def test_missing_package_is_named(monkeypatch, missing, call):
    """Without the extra, one line names the package and says how to get it."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError) as caught:
        call()
    expected = f"The sample bucket needs {missing}: pip install 'laion-fmri[demo]'"
    assert expected == str(caught.value)
