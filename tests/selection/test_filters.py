"""The selection rules: by hand from the contract, and against a brute-force reading of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laion_fmri.base.bids import FILTERS, Parsed, parse_key
from laion_fmri.dataset import find_scope, make_scope
from laion_fmri.errors import SelectionError, SubjectNotFoundError
from laion_fmri.selection.filters import Selection, explain_unmatched
from laion_fmri.settings import read_settings

#: On a busy machine an example may take its time.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
GLM = "derivatives/glmsingle-tedana/sub-03/"
STEM = GLM + "ses-01/func/sub-03_ses-01_task-images_"
#: One key of each kind, under a short name.
KEYS = {
    "betas": STEM + "space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz",
    "betas-json": STEM + "space-T1w_stat-effect_desc-SingletrialBetas_statmap.json",
    "trials": STEM + "desc-SingletrialBetas_trials.tsv",
    "r2": STEM + "space-T1w_stat-rsquare_desc-R2_statmap.nii.gz",
    "model": STEM + "space-T1w_desc-GLMsingle_model.h5",
    "figure": GLM + "ses-01/func/figures/sub-03_ses-01_hrf.png",
    "trials-02": STEM.replace("ses-01", "ses-02") + "desc-SingletrialBetas_trials.tsv",
    "r2mean": GLM + "sub-03_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz",
    "r2mean-json": GLM + "sub-03_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.json",
    "mask": GLM + "sub-03_task-images_space-T1w_desc-meanR2gt15mask_mask.nii.gz",
    "ceiling": GLM + "sub-03_task-images_space-T1w_desc-Noiseceiling4rep_statmap.nii.gz",
    "roi": "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz",
}
ALL = set(KEYS)
SUMMARIES = {"r2mean", "r2mean-json", "mask", "ceiling", "roi"}
SES_01 = {"betas", "betas-json", "trials", "r2", "model", "figure"}
NO_DESC = {"figure", "roi"}  # keys that do not carry the entity pass a filter on it
NO_STAT = {"trials", "trials-02", "model", "figure", "mask", "ceiling", "roi"}

CASES = [
    ({}, ALL),
    # Masks are not organised by session, and come with any.
    ({"ses": "ses-01"}, SES_01 | {"roi"}),
    ({"ses": "01"}, SES_01 | {"roi"}),
    ({"ses": ["ses-01", "02"]}, SES_01 | {"trials-02", "roi"}),
    ({"ses": "averages"}, SUMMARIES),
    ({"ses": ["averages", "ses-02"]}, SUMMARIES | {"trials-02"}),
    ({"ses": "1"}, {"roi"}),
    ({"ses": "Averages"}, {"roi"}),
    ({"ses": "ses-99"}, {"roi"}),
    ({"task": "images"}, ALL),
    ({"task": "task-rest"}, {"figure", "roi"}),
    ({"space": "T1w"}, ALL),
    ({"space": "MNI"}, {"trials", "trials-02", "figure"}),
    ({"desc": "SingletrialBetas"}, {"betas", "betas-json", "trials", "trials-02"} | NO_DESC),
    ({"desc": "desc-SingletrialBetas"}, {"betas", "betas-json", "trials", "trials-02"} | NO_DESC),
    ({"desc": "singletrialbetas"}, NO_DESC),
    ({"desc": "Singletrial"}, NO_DESC),
    ({"desc": ["R2", "desc-R2mean"]}, {"r2", "r2mean", "r2mean-json"} | NO_DESC),
    ({"stat": "effect"}, {"betas", "betas-json"} | NO_STAT),
    ({"stat": "stat-rsquare"}, {"r2", "r2mean", "r2mean-json"} | NO_STAT),
    ({"suffix": "statmap"}, {"betas", "betas-json", "r2", "r2mean", "r2mean-json", "ceiling"}),
    ({"suffix": "mask"}, {"mask", "roi"}),
    ({"label": "V1"}, ALL),
    ({"label": "V-1"}, ALL),
    ({"label": "V2"}, ALL - {"roi"}),
    ({"res": ["1pt5", "res-1pt8"]}, ALL),
    ({"suffix": ["_statmap", "suffix-statmap"]}, set()),
    ({"extension": "nii.gz"}, {"betas", "r2", "r2mean", "mask", "ceiling", "roi"}),
    ({"extension": ".nii.gz"}, {"betas", "r2", "r2mean", "mask", "ceiling", "roi"}),
    ({"extension": ["tsv", ".h5"]}, {"trials", "trials-02", "model"}),
    ({"extension": ["gz", "..tsv", "extension-tsv"]}, set()),
    ({"ses": "01", "desc": "R2", "extension": "nii.gz"}, {"r2", "roi"}),
    ({"ses": "01", "desc": "R2"}, {"r2", "figure", "roi"}),
    ({"ses": "averages", "desc": "R2"}, {"roi"}),
    ({"desc": "SingletrialBetas", "stat": "effect", "suffix": "statmap"}, {"betas", "betas-json"}),
]


def select(**filters) -> Selection:
    """Return the selection of a configuration for one subject."""
    return Selection.from_settings(read_settings({"subject": "sub-03"} | filters))


def matches(selection: Selection, key: str) -> bool:
    """Whether a key in a scope passes."""
    return selection.matches(parse_key(key), find_scope(key))


@pytest.mark.parametrize(("filters", "expected"), CASES, ids=[str(case[0]) for case in CASES])
def test_selects_what_the_contract_says(filters, expected):
    """Permissive for every entity but ses, alternatives within a filter, all filters together."""
    selection = select(**filters)
    assert expected == {name for name, key in KEYS.items() if matches(selection, key)}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, set()),
        ({"ses": "averages"}, set()),
        ({"desc": "R2"}, set()),
        ({"ses": "01"}, {"r2mean", "mask"}),
        ({"ses": ["averages", "ses-01"]}, {"r2mean", "mask"}),
        ({"ses": "01", "desc": "R2", "suffix": "trials", "extension": "tsv"}, {"r2mean", "mask"}),
    ],
    ids=str,
)
def test_pins_the_mean_r2_map_and_the_mask(filters, expected):
    """Both come along whenever a session is named, whatever the other filters say."""
    selection = select(**filters)
    assert expected == {name for name, key in KEYS.items() if selection.is_pinned(parse_key(key))}


def test_a_session_is_not_pinned():
    """A map of one session with the name of the mean is not the subject's."""
    parsed = parse_key(KEYS["r2mean"])._replace(ses="02")
    assert False is select(ses="01").is_pinned(parsed)


@pytest.mark.parametrize(
    "many",
    [
        ["ses-01", "02"],
        ("01", "ses-02"),
        {"01", "02"},
        frozenset({"01", "02"}),
        {"01": 1, "02": 2}.keys(),
        np.array(["01", "ses-02"]),
        pd.Series(["01", "02"], index=[7, 8]),
        (ses for ses in ["01", "02", "ses-01"]),
    ],
    ids=lambda many: type(many).__name__,
)
def test_takes_any_collection_of_strings(many):
    """A list, tuple, set, array, column or generator of strings is a list of alternatives."""
    assert {"01", "02"} == set(select(ses=many).filters["ses"])


NO_STRINGS = [1.5, True, b"01", {"01": "02"}, [None], [["01"]], np.array([1, 2])]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *((name, bad) for name in FILTERS for bad in NO_STRINGS),
        # The number of a session is known by the sessions that there are.
        *((name, bad) for name in FILTERS if name != "ses" for bad in (1, ["01", 2])),
    ],
)
def test_refuses_what_is_no_string(name, bad):
    """A number or a nested list is named in the error, which says to put it in quotes."""
    with pytest.raises(TypeError, match=f"{name}=.*quotes"):
        select(**{name: bad})


@pytest.mark.parametrize(
    "bad",
    [None, 3, True, b"sub-03", {"sub": "03"}, ["sub-03", 5], [["03"]], np.array([3])],
    ids=str,
)
def test_refuses_a_subject_of_another_type(bad):
    """A subject that is no string is a TypeError, without any look at the bucket."""
    with pytest.raises(TypeError, match="subject="):
        Selection.from_settings(read_settings({"subject": bad}))


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "sub-",
        [],
        ["03", ""],
        "sub-*",
        "..",
        "03/",
        "sub-03/ses-01",
        "{subject}",
        " 03",
        "3\n",
    ],
)
def test_refuses_a_subject_that_is_no_label(bad):
    """What cannot be a BIDS label is no subject, and never becomes part of a prefix."""
    with pytest.raises(SubjectNotFoundError):
        Selection.from_settings(read_settings({"subject": bad}))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("bad", ["", [], [""], ["a", ""], ()])
def test_refuses_an_empty_filter(name, bad):
    """An empty value would select all or nothing; neither is guessed."""
    with pytest.raises(SelectionError, match=f"^{name}"):
        select(**{name: bad})


@pytest.mark.parametrize(("name", "bad"), [("ses", "ses-"), ("desc", "desc-"), ("extension", ".")])
def test_refuses_a_token_without_value(name, bad):
    """A prefix alone is as empty as nothing."""
    with pytest.raises(SelectionError, match=f"^{name}"):
        select(**{name: bad})


@pytest.mark.parametrize("bad", ["yes", "false", 1, [True], 2.0])
def test_refuses_include_stimuli_that_is_no_truth_value(bad):
    """The text "false" must not fetch the stimuli."""
    with pytest.raises(TypeError, match="include_stimuli"):
        select(include_stimuli=bad)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("sub-03", ("03",)),
        ("03", ("03",)),
        (["sub-05", "03", "sub-03"], ("03", "05")),
        (np.array(["sub-03"]), ("03",)),
        ("all", None),
        (["all"], None),
    ],
    ids=str,
)
def test_reads_subjects(subject, expected):
    """A full and a bare label are one subject, named once; "all" is left for the bucket to say."""
    assert expected == Selection.from_settings(read_settings({"subject": subject})).subjects


def test_held_out_sessions_and_restricted_keys_are_data():
    """The configuration can say what is held out, with bare values and full tokens alike."""
    given = {"held_out_sessions": ["ses-01"], "restricted_keys": ["a/b"]}
    usual, other = read_settings({}).facts, read_settings(given).facts
    keys = [
        KEYS["r2"],
        KEYS["r2"].replace("ses-01", "ses-33"),
        "stimuli/task-images_stimuli.h5",
        "a/b",
    ]
    assert [usual.is_held_out(key, parse_key(key)) for key in keys] == [
        False,
        True,
        True,
        False,
    ]
    assert [other.is_held_out(key, parse_key(key)) for key in keys] == [
        True,
        False,
        False,
        True,
    ]


VALUES = ["01", "02", "R2", "r2", "1", "a-b", "nii", "nii.gz", "statmap"]


@st.composite
def filters_of(draw) -> dict:
    """Draw filters: bare values and full tokens, single and in lists."""
    chosen = {}
    for name in draw(st.sets(st.sampled_from(FILTERS))):
        tokens = (
            [f".{v}" for v in VALUES] if name == "extension" else [f"{name}-{v}" for v in VALUES]
        )
        known = VALUES + (["averages"] if name == "ses" else []) + tokens * (name != "suffix")
        some = st.lists(st.sampled_from(known), min_size=1, max_size=3)
        chosen[name] = draw(st.sampled_from(known) | some | some.map(tuple) | some.map(np.array))
    return chosen


def passes(carried: dict, filters: dict) -> bool:
    """Read the contract once more: does a key with these entities pass all of `filters`?"""
    for name, given_values in filters.items():
        accepted = [given_values] if isinstance(given_values, str) else list(given_values)
        value = carried[name]
        if value is None:
            if name == "ses" and "averages" not in accepted:
                return False
            continue
        spellings = {
            "suffix": {value},
            "extension": {value, "." + value},
        }.get(name, {value, f"{name}-{value}"})
        if name == "label":  # read without hyphens, wherever it is written
            spellings = {spelling.replace("-", "") for spelling in spellings}
            accepted = [word.replace("-", "") for word in accepted]
        if spellings.isdisjoint(accepted):
            return False
    return True


@UNHURRIED
@given(
    st.fixed_dictionaries({name: st.none() | st.sampled_from(VALUES) for name in Parsed._fields}),
    filters_of(),
)
def test_agrees_with_a_brute_force_reading(carried, filters):
    """Any entities and any filters: the same verdict as the contract read word by word."""
    carried["label"] = (carried["label"] or "").replace("-", "") or None
    scope = make_scope("glmsingle-tedana")
    assert passes(carried, filters) is select(**filters).matches(Parsed(**carried), scope)


THERE = ["SingletrialBetas", "R2", "R2mean", "Fracridge", "GLMsingle", "HRFindex"]


@pytest.mark.parametrize(
    ("name", "value", "existing", "near"),
    [
        ("desc", "singletrial", THERE, ["SingletrialBetas"]),
        ("desc", "SINGLETRIALBETAS", THERE, ["SingletrialBetas"]),
        ("desc", "SingletrailBetas", THERE, ["SingletrialBetas"]),
        ("desc", "r2", THERE, ["R2", "R2mean"]),
        ("ses", "1", ["01", "02", "averages"], ["01"]),
        ("ses", "002", ["01", "02", "averages"], ["02"]),
        ("ses", "average", ["01", "averages"], ["averages"]),
        ("extension", "nii", ["json", "nii.gz", "tsv"], ["nii.gz"]),
    ],
)
def test_names_near_misses(name, value, existing, near):
    """The message has the value, the place, what was probably meant, and all that there is."""
    text = explain_unmatched(name, value, "sub-03", existing)
    head, _, there_is = text.partition("there is: ")
    assert f"{name} {value!r} matches nothing under sub-03; " in head
    assert near == [known for known in sorted(existing) if repr(known) in head]
    assert (near, set(existing)) == (
        there_is.split(", ")[: len(near)],
        set(there_is.split(", ")),
    )


def test_invents_no_near_miss():
    """Nothing is proposed when nothing is close."""
    expected = "desc 'xyz' matches nothing under sub-03; there is: Fracridge, R2"
    assert expected == explain_unmatched("desc", "xyz", "sub-03", ["R2", "Fracridge"])


def test_says_that_there_is_nothing():
    """Without any value to choose from the message still ends well."""
    expected = "stat 'effect' matches nothing under sub-03; there is: none at all"
    assert expected == explain_unmatched("stat", "effect", "sub-03", [])
