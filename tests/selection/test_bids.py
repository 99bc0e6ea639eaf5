"""A key and its entities: the true layout by hand, and odd names by an independent reading."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from laion_fmri.base.bids import ENTITIES, Parsed, parse_key

GLM = "derivatives/glmsingle-tedana/"
SES_01 = GLM + "sub-03/ses-01/func/sub-03_ses-01_"

#: On a busy machine an example may take its time.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
#: key -> sub, ses, task, space, desc, stat, suffix, extension; a dash where there is none.
LAYOUT = {
    SES_01 + "task-images_desc-GLMsingle_summary.json": "03 01 images - GLMsingle - summary json",
    SES_01 + "task-images_desc-SingletrialBetas_trials.tsv": (
        "03 01 images - SingletrialBetas - trials tsv"
    ),
    SES_01 + "task-images_space-T1w_desc-GLMsingle_model.h5": (
        "03 01 images T1w GLMsingle - model h5"
    ),
    SES_01 + "task-images_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz": (
        "03 01 images T1w SingletrialBetas effect statmap nii.gz"
    ),
    SES_01 + "task-images_space-T1w_stat-rsquare_desc-R2_statmap.json": (
        "03 01 images T1w R2 rsquare statmap json"
    ),
    SES_01 + "task-images_space-T1w_desc-HRFindex_dseg.nii.gz": (
        "03 01 images T1w HRFindex - dseg nii.gz"
    ),
    GLM + "sub-05/ses-34/func/figures/sub-05_ses-34_dnoise.png": "05 34 - - - - dnoise png",
    GLM + "sub-03/sub-03_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz": (
        "03 - images T1w R2mean rsquare statmap nii.gz"
    ),
    GLM + "sub-03/sub-03_task-images_space-T1w_desc-Noiseceiling12rep_statmap.nii.gz": (
        "03 - images T1w Noiseceiling12rep - statmap nii.gz"
    ),
    GLM + "sub-03/sub-03_task-images_space-T1w_desc-meanR2gt15mask_mask.nii.gz": (
        "03 - images T1w meanR2gt15mask - mask nii.gz"
    ),
    "derivatives/rois/sub-03/face/sub-03_space-T1w_res-1pt8_label-FFA-1_mask.nii.gz": (
        "03 - - T1w - - mask nii.gz - - - - 1pt8 FFA1"
    ),
    "derivatives/rois/sub-03/face/sub-03_hemi-L_space-fsnative_label-pSTS-faces_mask.func.gii": (
        "03 - - fsnative - - mask func.gii - - - L - pSTSfaces"
    ),
    "derivatives/freesurfer/sub-03/surf/lh.white": "03 - - - - - lh white",
    "derivatives/freesurfer/sub-03/mri/aparc+aseg.mgz": "03 - - - - - aparc+aseg mgz",
    "derivatives/freesurfer/sub-03/label/lh.BA1_exvivo.label": ("03 - - - - - lh BA1_exvivo.label"),
    "derivatives/freesurfer/sub-03/mri/transforms/talairach.xfm": "03 - - - - - talairach xfm",
    "derivatives/localizers/sub-03/ses-31/func/sub-03_ses-31_task-oloc_run-01_hemi-L"
    "_space-fsnative_contrast-object_stat-effect_statmap.func.gii": (
        "03 31 oloc fsnative - effect statmap func.gii 01 - - L - - object"
    ),
    "sub-03/ses-01/func/sub-03_ses-01_task-images_run-01_echo-2_part-phase_bold.nii.gz": (
        "03 01 images - - - bold nii.gz 01 2 phase"
    ),
    "stimuli/task-images_desc-CLIP_embeddings.h5": "- - images - CLIP - embeddings h5",
    "stimuli/task-images_stimuli.h5": "- - images - - - stimuli h5",
    "dataset_description.json": "- - - - - - description json",
    "participants.tsv": "- - - - - - participants tsv",
    "README": "- - - - - - README -",
}

#: The same for names that no dataset should have.
ODD = {
    "": "- - - - - - - -",
    "sub-03/": "03 - - - - - - -",
    "sub-03/no_dot": "03 - - - - - dot -",
    "sub-03/.bidsignore": "03 - - - - - - bidsignore",
    "sub-03/..": "03 - - - - - - .",
    "sub-03/name.": "03 - - - - - name -",
    "sub-03/name_.tsv": "03 - - - - - - tsv",
    "sub-03/_.tsv": "03 - - - - - - tsv",
    "sub-03/a.b_c.d": "03 - - - - - a b_c.d",
    "sub-03_ses-_desc-_x.tsv": "03 - - - - - x tsv",
    "sub-_ses-01.tsv": "- 01 - - - - ses-01 tsv",
    "xsub-03_Ses-01_SPACE-T1w_y.tsv": "- - - - - - y tsv",
    "desc-a-b_z.tsv": "- - - - a-b - z tsv",
    "-03_-_z.tsv": "- - - - - - z tsv",
    "x.desc-A_z.tsv": "- - - - - - x desc-A_z.tsv",
    "sub-03/ses-01/sub-05_ses-02_x.tsv": "05 02 - - - - x tsv",
    "sub-03/ses-01/sub-05_x.tsv": "05 01 - - - - x tsv",
    "sub-03/ses-01/sub-_ses-_x.tsv": "03 01 - - - - x tsv",
    "sub-03_ses-01/desc-A_stat-b/x": "03 01 - - A b x -",
    "//sub-03//x": "03 - - - - - x -",
    "sub-03/sub-05/x": "05 - - - - - x -",
    "sub-Ä_desc-µ b_x y.tsv": "Ä - - - µ_b - x_y tsv",
}


def read_expected(text: str) -> Parsed:
    """Return the fields that a row of a table above spells; ``_`` in the last row is a space."""
    return Parsed(*(None if field == "-" else field for field in text.split()))


@pytest.mark.parametrize("key", LAYOUT)
def test_reads_a_key_of_the_layout(key):
    """Each kind of key of the published layout is read as a person reads it."""
    assert read_expected(LAYOUT[key]) == parse_key(key)


@pytest.mark.parametrize("key", ODD)
def test_reads_an_odd_key(key):
    """A name without dot, suffix or value has none of them, and nothing is made up."""
    expected = read_expected(ODD[key])
    if " " in key:
        expected = Parsed(*(field and field.replace("_", " ") for field in expected))
    assert expected == parse_key(key)


def test_a_directory_is_not_a_file_name():
    """Neither suffix nor extension is read from a directory, however much it looks like a file."""
    expected = Parsed("03", None, None, None, "A", None, "model", None)
    assert expected == parse_key("sub-03/desc-A_statmap.nii.gz/model")


def test_reads_the_run_of_a_key():
    """Raw data has several runs of one task in a session."""
    raw = parse_key("sub-03/ses-01/func/sub-03_ses-01_task-images_run-02_bold.nii.gz")
    assert (raw.sub, raw.ses, raw.task, raw.run, raw.suffix) == ("03", "01", "images", "02", "bold")


def test_fields_are_the_columns_of_the_key_table():
    """The entities come first, in the order of the key table."""
    first = ("sub", "ses", "task", "space", "desc", "stat", "suffix", "extension")
    later = ("run", "echo", "part", "hemi", "res", "label", "contrast")
    assert (*first, *later) == Parsed._fields
    assert {*Parsed._fields} - {"suffix", "extension"} == {*ENTITIES}


def test_does_not_mix_up_keys_of_one_directory():
    """What one file name says does not stick to its directory."""
    assert parse_key("sub-03/desc-A_x.tsv").desc == "A"
    assert None is parse_key("sub-03/x.tsv").desc


TOKENS = st.sampled_from(
    [
        "sub-03",
        "ses-01",
        "ses-",
        "-01",
        "desc-R2",
        "desc",
        "x",
        "",
        "-",
        "Sub-1",
        "stat-a-b",
        ".",
        "µ",
    ]
)
NAMES = st.lists(TOKENS, max_size=6).map("_".join)
KEYS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
TEXTS = st.text() | st.text("abs-_./sub123\n\0 ", max_size=40) | KEYS | st.from_regex(r"\A[^/]+\Z")


@UNHURRIED
@given(TEXTS)
@example("sub-03\n_ses-01")
@example("ses-01\0/..//")
def test_suffix_and_extension_by_another_reading(key):
    """Suffix and extension are what a regular expression finds in the last path component."""
    found = re.search(r"(?P<stem>[^/.]*)(?:\.(?P<extension>[^/]*))?\Z", key)
    parts = re.search(r"[^_]*\Z", found["stem"])
    parsed = parse_key(key)
    assert (parts[0] or None, found["extension"] or None) == (parsed.suffix, parsed.extension)


@UNHURRIED
@given(TEXTS, st.sampled_from(ENTITIES))
def test_entities_by_another_reading(key, entity):
    """The last ``key-value`` between separators is the entity, and no value is empty."""
    directories, _, name = key.rpartition("/")
    text = directories + "/" + name.split(".")[0]
    found = re.findall(rf"(?<![^/_]){entity}-([^/_]+)", text)
    assert (found[-1] if found else None) == getattr(parse_key(key), entity)
