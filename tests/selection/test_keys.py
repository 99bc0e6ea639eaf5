"""The key table against a real S3 protocol server: columns, listings, statuses, hostile keys."""

from __future__ import annotations

import hashlib
import logging
from itertools import count

import pytest

from laion_fmri.errors import (
    DataDirNotSetError,
    SelectionError,
    SelectionWarning,
    SubjectNotFoundError,
)
from laion_fmri.folder.obstacles import is_safe_key
from laion_fmri.keys import key_table
from laion_fmri.selection.table import compare

COLUMNS = (
    "key size etag last_modified sub ses task space desc stat suffix extension path status "
    "run echo part hemi res label contrast scope"
)
GLM, ROIS = "derivatives/glmsingle-tedana/", "derivatives/rois/"
ROOT = {"README", "dataset_description.json", "participants.json", "participants.tsv"}
FUNC = GLM + "sub-03/ses-01/func/"
TRIALS = FUNC + "sub-03_ses-01_task-images_desc-SingletrialBetas_trials.tsv"
R2MEAN = GLM + "sub-03/sub-03_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz"
MASK = GLM + "sub-03/sub-03_task-images_space-T1w_desc-meanR2gt15mask_mask.nii.gz"
RESTRICTED = "stimuli/task-images_stimuli.h5"
_numbers = count()


def below(objects, *prefixes: str) -> set[str]:
    """Return the keys under `prefixes` that are not in the session held out of the sample."""
    return {key for key in objects if key.startswith(prefixes) and "/ses-31/" not in key}


def listings_of(server) -> list[tuple[str, str | None, bool]]:
    """Return prefix, delimiter, and whether it was a further page, of each listing request."""
    pages = [request.query for request in server.listings()]
    return sorted(
        (page["prefix"], page.get("delimiter"), "continuation-token" in page) for page in pages
    )


@pytest.fixture
def table(tmp_path):
    """Return a key_table() with a data directory of its own."""
    return lambda subject, **filters: key_table(subject, data_dir=tmp_path, **filters)


@pytest.fixture
def make_bucket(bucket, monkeypatch):
    """Return a function that serves objects in a new bucket and points the package at it."""

    def make(objects: dict[str, bytes]) -> str:
        name = f"keys-{next(_numbers)}"
        bucket.add_bucket(name, objects)
        monkeypatch.setenv("LAION_FMRI_BUCKET", name)
        return name

    return make


def test_columns_and_order(bucket, table):
    """The columns are those of the contract, in its order, and the rows are sorted by key."""
    frame = table("sub-03")
    assert " ".join(frame.columns) == COLUMNS
    assert sorted(frame["key"]) == list(frame["key"])
    assert list(range(len(frame))) == list(frame.index)


def test_all_of_a_subject(bucket, objects, table):
    """Without filters: both trees and the root files; nothing held out, no stimuli, no other."""
    expected = below(objects, GLM + "sub-03/", ROIS + "sub-03/") | ROOT
    assert expected == set(table("sub-03")["key"])


def test_sizes_etags_and_times(bucket, objects, table):
    """Each row has the length and the MD5 of its object, and a time in UTC."""
    frame = table("all", include_stimuli=True)
    assert [len(objects[key]) for key in frame["key"]] == list(frame["size"])
    digests = [hashlib.md5(objects[key]).hexdigest() for key in frame["key"]]
    assert digests == list(frame["etag"])
    assert {0.0} == {time.utcoffset().total_seconds() for time in frame["last_modified"]}


def test_entities_of_a_row(bucket, table, tmp_path):
    """A row carries bare values; what the key lacks is missing."""
    row = table("03").set_index("key").loc[R2MEAN]
    expected = ["03", "images", "T1w", "R2mean", "rsquare", "statmap", "nii.gz"]
    assert expected == list(row[["sub", "task", "space", "desc", "stat", "suffix", "extension"]])
    assert (True, str(tmp_path / R2MEAN)) == (row.isna()["ses"], row["path"])


def test_statuses(bucket, objects, table, tmp_path):
    """The size alone decides: equal is complete, any other is partial, none is missing."""
    local = {"README": 0, "participants.tsv": -1, "participants.json": 1, TRIALS: 0, MASK: None}
    for key, change in local.items():
        file = tmp_path / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if change is None else b"\0" * (len(objects[key]) + change))
    (tmp_path / "dataset_description.json").mkdir()
    (tmp_path / "elsewhere").write_bytes(objects[R2MEAN])
    (tmp_path / R2MEAN).symlink_to(tmp_path / "elsewhere")
    frame = table("sub-03")
    assert {"README", TRIALS, R2MEAN} == set(frame[frame["status"] == "complete"]["key"])
    expected = {"participants.tsv", "participants.json", MASK, "dataset_description.json"}
    assert expected == set(frame[frame["status"] == "partial"]["key"])
    assert {"complete", "partial", "missing"} == set(frame["status"])


def test_status_below_a_file(tmp_path):
    """Below a file, or at the end of a dangling link, is nothing; a folder is no file."""
    (tmp_path / "sub-03").write_bytes(b"123")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    expected = ["missing", "missing", "complete", "partial", "partial"]
    names = [("sub-03/x", 3), ("link", 0), ("sub-03", 3), ("sub-03", 4)]
    names.append(("folder", (tmp_path / "folder").stat().st_size))
    assert expected == [compare(str(tmp_path / name), size) for name, size in names]


def test_an_empty_object(make_bucket, table, tmp_path):
    """An object of no bytes is missing until the empty file is there."""
    make_bucket({FUNC + "sub-03_ses-01_x.tsv": b""})
    before = list(table("sub-03")["status"])
    (tmp_path / FUNC).mkdir(parents=True)
    (tmp_path / FUNC / "sub-03_ses-01_x.tsv").touch()
    assert (before, list(table("sub-03")["status"])) == (["missing"], ["complete"])


def test_one_listing_for_each_prefix(bucket, table):
    """A subject costs a listing for each tree and one for the root, the stimuli one more."""
    table("sub-03", ses="ses-01", include_stimuli=True)
    expected = [
        ("", "/", False),
        (ROIS + "sub-03/", None, False),
        (GLM + "sub-03/", None, False),
        ("stimuli/", None, False),
    ]
    assert sorted(expected) == listings_of(bucket)


@pytest.mark.parametrize("subject", [["sub-03", "01", "03", "sub-01"], "all"], ids=str)
def test_several_subjects(bucket, objects, table, subject):
    """The trees of each subject are listed once, root and stimuli once however many there are."""
    frame = table(subject, include_stimuli=True)
    expected = below(objects, GLM, ROIS, "stimuli/") - {RESTRICTED} | ROOT
    assert expected == set(frame["key"])
    trees = [(tree + sub, None, False) for tree in (ROIS, GLM) for sub in ("sub-01/", "sub-03/")]
    to_find_subjects = [(tree, "/", False) for tree in (ROIS, GLM) if subject == "all"]
    expected = [("", "/", False), *trees, ("stimuli/", None, False), *to_find_subjects]
    assert sorted(expected) == listings_of(bucket)


def test_pagination(make_bucket, bucket, table):
    """More keys than a page holds: all of them, in three pages of one listing."""
    func = GLM + "sub-03/ses-{:02d}/func/sub-03_ses-{:02d}_task-images_run-{:03d}_trials.tsv"
    keys = [func.format(ses, ses, run) for ses in range(1, 24) for run in range(100)]
    make_bucket(dict.fromkeys(keys, b"x"))
    assert keys == list(table("sub-03")["key"])
    pages = [listing for listing in listings_of(bucket) if listing[0] == GLM + "sub-03/"]
    assert [is_further for *_, is_further in pages] == [False, True, True]


def test_pins_the_maps(bucket, table):
    """The mean-R2 map and the mask come with a session, whatever the other filters say."""
    frame = table("sub-03", ses="01", suffix="trials", extension="tsv")
    assert {TRIALS, R2MEAN, MASK} | ROOT == set(frame["key"])
    assert "glmsingle-tedana" in set(frame["scope"])


def test_averages_bring_no_session(bucket, objects, table):
    """The summaries are what has no session: subject-level maps and masks of regions."""
    expected = {key for key in objects if key.startswith((GLM + "sub-03/sub-03", ROIS + "sub-03/"))}
    assert expected | ROOT == set(table("sub-03", ses="averages")["key"])


def test_held_out_sessions_are_mentioned_once(bucket, table, caplog):
    """What is held out is left out of a selection that does not name it, with where to ask."""
    caplog.set_level(logging.INFO, "laion_fmri")
    table("all")
    texts = [text for text in caplog.messages if "ses-31" in text]
    assert ["https://laion-fmri.hebartlab.com/request" in text for text in texts] == [True]


def test_the_restricted_stimuli_are_mentioned_once(bucket, objects, table, caplog):
    """The file that needs an agreement is left out of the stimuli, with where to ask."""
    caplog.set_level(logging.INFO, "laion_fmri")
    keys = set(table("sub-03", include_stimuli=True)["key"])
    assert below(objects, "stimuli/") - {RESTRICTED} == {k for k in keys if "stimuli/" in k}
    texts = [text for text in caplog.messages if RESTRICTED in text]
    assert ["https://laion-fmri.hebartlab.com/request" in text for text in texts] == [True]


def test_a_held_out_session_beside_others(bucket, table):
    """Naming one gets a warning with where to ask; the others are selected."""
    with pytest.warns(SelectionWarning, match=r"ses-31 .*https://\S+/request") as caught:
        frame = table("sub-03", ses=["31", "ses-01"], suffix="trials", extension="tsv")
    assert (1, {TRIALS, R2MEAN, MASK} | ROOT) == (len(caught), set(frame["key"]))


@pytest.mark.parametrize("ses", ["31", ["ses-31"], ["ses-31", "ses-33"]], ids=str)
def test_a_held_out_session_alone(bucket, table, ses):
    """Alone it is an error, which says that it is held out and where to ask."""
    with pytest.raises(SelectionError, match=r"ses-31.* held out.*https://\S+/request"):
        table("sub-03", ses=ses)


def test_a_value_that_matches_nothing_beside_others(bucket, table):
    """It is named with its near misses and its place; the rest is selected."""
    expected = r"desc 'trialBetas' matches nothing under sub-03 in .*; .*'SingletrialBetas'"
    with pytest.warns(SelectionWarning, match=expected) as caught:
        frame = table("sub-03", ses="01", desc=["trialBetas", "SingletrialBetas"], suffix="trials")
    sidecar = TRIALS.replace(".tsv", ".json")
    assert (1, {TRIALS, sidecar, R2MEAN, MASK} | ROOT) == (len(caught), set(frame["key"]))


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"ses": "1"}, "ses '1' .*'01'"),
        ({"suffix": "Statmap"}, "suffix 'Statmap' .*'statmap'"),
        ({"ses": "01", "desc": "R2", "suffix": "trials"}, "no key matches"),
        ({"extension": "nii", "include_stimuli": True}, "extension 'nii' .*'nii.gz'"),
    ],
    ids=str,
)
def test_nothing_matches(bucket, table, filters, message):
    """Pinned maps, root files and stimuli do not count: an error with the same help."""
    with pytest.raises(SelectionError, match=f"matches nothing.*{message}"):
        table("sub-03", **filters)


def test_an_unknown_subject(bucket, table):
    """The error lists the subjects that there are, also when another one is known."""
    with pytest.raises(SubjectNotFoundError, match=r"sub-99.*sub-01, sub-03"):
        table(["sub-03", "99"])


@pytest.mark.parametrize(
    ("subject", "filters", "error"),
    [
        (3, {}, TypeError),
        ("sub-", {}, SubjectNotFoundError),
        ("", {}, SubjectNotFoundError),
        ([], {}, SubjectNotFoundError),
        ("sub-03", {"ses": 1.0}, TypeError),
        ("sub-03", {"ses": []}, SelectionError),
        ("sub-03", {"include_stimuli": "no"}, TypeError),
    ],
    ids=str,
)
def test_malformed_input_is_refused_before_any_network_use(bucket, table, subject, filters, error):
    """No request leaves for what cannot be meant."""
    with pytest.raises(error):
        table(subject, **filters)
    assert bucket.requests == []


def test_without_a_data_directory(bucket):
    """That no data directory is chosen is said before anything is listed."""
    with pytest.raises(DataDirNotSetError, match="laion-fmri config"):
        key_table("sub-03")
    assert bucket.requests == []


def test_folder_markers_are_no_files(make_bucket, table):
    """A key that ends in a slash would be written as a file and block its folder."""
    make_bucket({FUNC: b"", FUNC + "x.tsv": b"x", GLM + "sub-03/": b"marker", "README/": b""})
    assert list(table("sub-03")["key"]) == [FUNC + "x.tsv"]


HOSTILE = [
    GLM + "sub-03/../../../../evil.tsv",
    GLM + "sub-03/./dot.tsv",
    GLM + "sub-03//double.tsv",
    GLM + "sub-03/ses-01/..",
    FUNC + "line\nbreak.tsv",
    FUNC + "escape\x1b[2J.tsv",
    FUNC + "\u202eright-to-left.tsv",
    FUNC + "x" * 256 + ".tsv",
    FUNC + "µ" * 128 + ".tsv",
    FUNC + "{a}.tsv",  # Snakemake would read a wildcard
]


def test_hostile_keys_are_named_and_left_out(make_bucket, table):
    """What would leave the data directory, or is no file name, is refused in one warning."""
    make_bucket(dict.fromkeys([*HOSTILE, TRIALS], b"x"))
    with pytest.warns(SelectionWarning, match=f"^{len(HOSTILE)} keys") as caught:
        frame = table("sub-03")
    assert list(frame["key"]) == [TRIALS]
    assert [True] * len(HOSTILE) == [repr(key) in str(caught[0].message) for key in HOSTILE]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        *[(key, False) for key in HOSTILE],
        ("/etc/passwd", False),
        ("..", False),
        ("a/", False),
        ("", False),
        (".laion_fmri/stamp", False),
        ("nul\0", False),
        ("a/.laion_fmri/b", True),
        (".laion_fmrix/a", True),
        ("...", True),
        ("a b/$HOME;`id`'\"*?[x]-.tsv", True),
        ("-rf", True),
        ("~/x", True),
        ("µ" * 123, True),
        ("x" * 246 + "/" + "y" * 246, True),
    ],
)
def test_which_keys_are_safe(key, expected):
    """A key is a plain path below the data directory and outside our own state."""
    assert expected is is_safe_key(key)


def test_our_own_state_is_never_a_target(make_bucket, table):
    """A bucket that holds our state directory cannot overwrite it."""
    stamp = "derivatives/../sub-03/.laion_fmri/stamp"
    make_bucket({stamp: b"x", "derivatives/new/sub-03/x.tsv": b"x", f"{ROIS}sub-03/y": b"y"})
    with pytest.warns(SelectionWarning, match="1 key cannot be a file") as caught:
        found = table("03", scope=["all"])
    assert list(found["key"]) == ["derivatives/new/sub-03/x.tsv", f"{ROIS}sub-03/y"]
    assert repr(stamp) in str(caught[0].message)
