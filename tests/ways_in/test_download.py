"""``download()`` as a user meets it: real server, real AWS CLI, real Snakemake."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from helpers import (
    DERIVATIVES,
    REFUSED,
    ROOT_FILES,
    as_list,
    complaints,
    expected_keys,
    expected_tree,
    is_refused,
    list_all,
    list_runs,
    read_tree,
    run_command,
    run_script,
    sandbox,
    write_tree,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from laion_fmri.download import download
from laion_fmri.errors import SelectionError
from laion_fmri.keys import key_table
from laion_fmri.sample import sample_objects

ENTITIES = ["sub", "ses", "task", "space", "desc", "stat", "suffix", "extension"]
LATER = ["run", "echo", "part", "hemi", "res", "label", "contrast"]
COLUMNS = ["key", "size", "etag", "last_modified", *ENTITIES, "path", "status", *LATER]
COLUMNS += ["scope", "outcome"]
SPEC_CALLS = {
    "session": {"subject": "sub-03", "ses": "ses-01"},
    "averages": {"subject": "sub-03", "ses": "averages"},
    "both": {"subject": "sub-03", "ses": ["ses-01", "averages"]},
}


class Done(NamedTuple):
    """One real call: its arguments, what was there, its report, what the server saw."""

    call: dict
    data_dir: Path
    before: set[str]
    report: pd.DataFrame
    gets: Counter
    listings: Counter
    asked: set[str]


def count_listings(server) -> Counter:
    """Count the list requests by prefix and depth."""
    return Counter((r.query.get("prefix"), r.query.get("delimiter")) for r in server.listings())


@pytest.fixture(scope="module", params=list(SPEC_CALLS))
def done(request, server, objects, tmp_path_factory) -> Done:
    """Make one call of the contract, once for all tests that look at it."""
    data_dir = tmp_path_factory.mktemp(request.param)
    before = set() if request.param == "session" else ROOT_FILES  # saves four starts of aws
    write_tree(data_dir, {key: objects[key] for key in before})
    call = SPEC_CALLS[request.param]
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url):
        server.clear_requests()
        report = download(**call, data_dir=data_dir, n_jobs=4)
        asked = {r.key for r in server.requests}
        return Done(call, data_dir, before, report, server.gets(), count_listings(server), asked)


def test_signature_is_the_contract():
    """Names, order and defaults are those of the contract; what was added is keyword-only."""
    names = ["subject", *ENTITIES[1:], "include_stimuli", "n_jobs"]
    parameters = inspect.signature(download).parameters
    empty = inspect.Parameter.empty
    added = {*LATER, "data_dir", "dry_run", "max_bandwidth", "profile"}
    kinds = ("embeddings", "freesurfer", "anatomical", "localizers", "raw")
    added |= {"scope", *(f"include_{kind}" for kind in kinds)}
    added |= {"manifest", "save_manifest", "checksums", "space_check", "stall_timeout"}
    added |= {"offline", "strict"}
    assert names == list(parameters)[: len(names)]
    assert added == {*parameters} - {*names}
    assert [empty, *[None] * 7, False, 1] == [parameters[name].default for name in names]
    kinds = {parameters[name].kind for name in added}
    assert {inspect.Parameter.KEYWORD_ONLY} == kinds


def test_spec_call_brings_the_expected_files(done, objects):
    """The files on disk, and their bytes, are those that the contract promises, and no others."""
    assert expected_tree(objects, **done.call) == read_tree(done.data_dir)


def test_spec_call_fetches_each_object_once(done, objects):
    """Nothing is fetched twice or without need; what is held out is not even asked for."""
    expected = expected_keys(objects, **done.call) - done.before
    assert dict.fromkeys(expected, 1) == dict(done.gets)
    assert expected | {""} == done.asked
    assert done.listings["", None] == 0, "the whole bucket was listed"


def test_report_tells_what_was_fetched(done, objects):
    """The report is the key table, sorted, with the outcome of each row."""
    report = done.report
    assert list(report.columns)[: len(COLUMNS)] == COLUMNS
    expected = sorted(expected_keys(objects, **done.call))
    assert expected == list(report["key"])
    assert [len(objects[key]) for key in expected] == list(report["size"])
    assert [str(done.data_dir / key) for key in expected] == list(report["path"])
    outcomes = ["present" if key in done.before else "fetched" for key in expected]
    assert outcomes == list(report["outcome"])
    assert ["complete"] * len(expected) == list(report["status"])


def test_fetched_files_are_ordinary(done):
    """Others of the group can read them: the modes are those that the user's umask gives."""
    mask = os.umask(0)
    os.umask(mask)
    files = [path for path in done.data_dir.rglob("*.*") if ".laion_fmri" not in path.parts]
    modes = {path.stat().st_mode & 0o777 for path in files if path.is_file()}
    assert {0o666 & ~mask} == modes


def test_second_call_does_nothing(done, bucket):
    """A complete selection costs one list request per prefix: no object, no Snakemake, no file."""
    before, runs = list_all(done.data_dir), list_runs(done.data_dir)
    report = download(**done.call, data_dir=done.data_dir)
    assert {"present"} == set(report["outcome"])
    assert Counter() == bucket.gets()
    assert {r.key for r in bucket.requests} == {""}
    expected = [(f"{DERIVATIVES}/sub-03/", None), ("derivatives/rois/sub-03/", None), ("", "/")]
    assert Counter(expected) == count_listings(bucket)
    assert (before, runs) == (list_all(done.data_dir), list_runs(done.data_dir))


def test_bare_values_are_full_tokens(done, bucket):
    """``subject="03", ses="01"`` is ``subject="sub-03", ses="ses-01"``."""
    bare = [value.removeprefix("ses-") for value in as_list(done.call["ses"])]
    report = download("03", ses=bare, data_dir=done.data_dir)
    assert list(done.report["key"]) == list(report["key"])
    assert {"present"} == set(report["outcome"])


VALUES = {
    "ses": ["01", "ses-02", "ses-04", "averages", "ses-99", "1"],
    "task": ["images", "task-images", "rest"],
    "space": ["T1w", "space-T1w", "t1w", "MNI"],
    "desc": ["SingletrialBetas", "desc-R2", "R2mean", "singletrial", "Noiseceiling", "GLMsingle"],
    "stat": ["effect", "stat-rsquare", "Effect"],
    "suffix": ["statmap", "trials", "V1", "mask", "bold", "_statmap"],
    "extension": ["nii.gz", ".nii.gz", "tsv", "json", "gz", "func.gii", "mgz"],
    "run": ["01", "run-02", "1"],
    "echo": ["1", "echo-2", "3"],
    "part": ["mag", "part-phase"],
    "hemi": ["L", "hemi-R"],
    "res": ["1pt8", "res-1pt5", "1pt"],
    "label": ["FFA1", "label-FFA-1", "pSTS-faces", "psts", "V1", "V"],
    "contrast": ["body", "contrast-object", "b"],
    "scope": [
        *("glmsingle-tedana", "rois", "anatomical", "freesurfer", "tedana", "localizers"),
        *("raw", "stimuli", "archive", "all"),
    ],
}
#: Which of them are often there.
OFTEN = ("ses", "task", "space", "desc", "stat", "suffix", "extension", "scope")


@st.composite
def draw_filters(draw) -> dict[str, list[str]]:
    """Draw values of up to three filters and, mostly, of the scope."""
    names = draw(st.sets(st.sampled_from([*OFTEN] * 2 + [*VALUES]), max_size=3))
    names |= draw(st.sampled_from([{"scope"}, {"scope"}, set()]))
    lists = {
        name: st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=3) for name in names
    }
    return {name: draw(values) for name, values in sorted(lists.items())}


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(subject=st.sampled_from(["sub-03", "01", ["sub-01", "03"], "all"]), filters=draw_filters())
@pytest.mark.filterwarnings("ignore::laion_fmri.errors.SelectionWarning")
def test_any_selection_is_the_expected_one(subject, filters, bucket, tmp_path):
    """Whatever the filters, the selected keys are those that an independent reading selects."""
    objects = sample_objects()  # not a fixture, which would be shown with a failing example
    real = set(filters.get("ses", ())) - {"averages", "ses-99", "1"}
    # Whether a session that does not exist brings the maps along is not written anywhere.
    assume("ses" not in filters or real or set(filters["ses"]) == {"averages"})
    if is_refused(objects, subject, **filters):
        with pytest.raises(SelectionError):
            key_table(subject, **filters, data_dir=tmp_path)
    else:
        table = key_table(subject, **filters, data_dir=tmp_path)
        assert sorted(expected_keys(objects, subject, **filters)) == list(table["key"])
        assert {"missing"} == set(table["status"])


def test_stimuli_are_not_thinned_by_filters(bucket, objects, tmp_path):
    """All of ``stimuli/`` comes along, but for the one file that nobody may get."""
    table = key_table(
        "all", ses="ses-01", extension="nii.gz", include_stimuli=True, data_dir=tmp_path
    )
    expected = expected_keys(objects, "all", ses="ses-01", extension="nii.gz", include_stimuli=True)
    assert sorted(expected) == list(table["key"])
    assert sum(r.query["prefix"].startswith("stimuli") for r in bucket.listings()) == 1


def test_dry_run_writes_nothing(bucket, tmp_path):
    """A dry run tells what is missing, and leaves disk and bucket alone."""
    report = download("sub-03", ses="ses-01", data_dir=tmp_path, dry_run=True)
    assert {"missing"} == set(report["status"])
    assert report["outcome"].isna().all()
    assert Counter() == bucket.gets()
    assert list_all(tmp_path) == []


@pytest.mark.parametrize("kind", [tuple, set, iter, np.array, pd.Series], ids=lambda k: k.__name__)
def test_any_iterable_of_strings_is_a_list(kind, bucket, objects, tmp_path):
    """Values may come out of a table or a generator."""
    table = key_table(kind(["sub-03", "01"]), ses=kind(["01", "ses-02"]), data_dir=tmp_path)
    assert sorted(expected_keys(objects, "all", ses=["01", "02"])) == list(table["key"])


ODD = [
    "a b+c%20#.txt", "üñ€.txt", "e\u0301.txt", "[x]*?.txt", "it's \"q\".txt", "$HOME&;|`x`.txt",
    "-n", "back\\slash", "tilde~", ".hidden", "a=b,c:d", "README", "empty",
]  # fmt: skip


def test_odd_names(server, bucket, tmp_path, monkeypatch):
    """What a shell, Snakemake or the AWS CLI reads as code is plain letters; empty is a size."""
    tree, data_dir = "derivatives/rois/sub-03/", tmp_path / 'it\'s a "dir" ünï & $HOME; %d * [x]'
    made = {tree + name: b"" if name == "empty" else name.encode() for name in ODD}
    server.add_bucket("odd", {**made, tree + "marker/": b""})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "odd")
    data_dir.mkdir()
    assert {"fetched"} == set(download("sub-03", data_dir=data_dir)["outcome"])
    assert made == read_tree(data_dir)
    assert {"present"} == set(download("sub-03", data_dir=data_dir)["outcome"])
    assert [data_dir] == list(tmp_path.iterdir())


def test_keys_that_cannot_be_files_cost_nothing_but_themselves(
    server, bucket, tiny_objects, tmp_path, monkeypatch
):
    """Braces, control characters and ways out of the folder are left out, by name, once."""
    bad = ["{ses}.txt", "new\nline", "../../../../out", "a//b", "x" * 256]
    made = {f"derivatives/rois/sub-03/{name}": b"bad" for name in bad}
    server.add_bucket("unsafe", {**tiny_objects, **made})
    monkeypatch.setenv("LAION_FMRI_BUCKET", "unsafe")
    write_tree(tmp_path / "a" / "b" / "data", tiny_objects)
    with pytest.warns(UserWarning, match=r"5 keys cannot be files.*\{ses\}") as caught:
        report = download("sub-03", data_dir=tmp_path / "a" / "b" / "data")
    assert len(caught) == 1
    assert sorted(tiny_objects) == list(report["key"])
    assert {"present"} == set(report["outcome"])
    assert len(tiny_objects) == len(read_tree(tmp_path))


def leave_one_missing(data_dir: Path, objects: dict[str, bytes]) -> str:
    """Put all `objects` in place but one, so that a run is short; return the key of that one."""
    missing, *others = sorted(objects)
    write_tree(data_dir, {key: objects[key] for key in others})
    return missing


def new_outcomes(report: pd.DataFrame) -> dict[str, str]:
    """Return key -> outcome of what was not there before."""
    return {k: o for k, o in zip(report["key"], report["outcome"], strict=True) if o != "present"}


def test_download_in_a_thread(tiny, tiny_objects, tmp_path):
    """A thread other than the main one can download."""
    key, reports = leave_one_missing(tmp_path, tiny_objects), []
    thread = threading.Thread(
        target=lambda: reports.append(download("sub-03", data_dir=tmp_path, n_jobs=2))
    )
    thread.start()
    thread.join()
    assert [{key: "fetched"}] == [new_outcomes(report) for report in reports]
    assert tiny_objects == read_tree(tmp_path)


def test_download_inside_a_running_event_loop(tiny, tiny_objects, tmp_path):
    """A notebook calls from inside a running event loop."""

    async def cell():
        return download("sub-03", data_dir=tmp_path)

    key = leave_one_missing(tmp_path, tiny_objects)
    assert {key: "fetched"} == new_outcomes(asyncio.run(cell()))
    assert tiny_objects == read_tree(tmp_path)


def test_download_in_a_plain_script(tiny, tiny_objects, tmp_path):
    """A script without a main guard works, beside files that are named like what we import."""
    data_dir, here = tmp_path / "data", tmp_path / "here"
    for folder in (data_dir, here):
        folder.mkdir()
    for name in ("snakemake", "pandas", "boto3", "json"):
        (here / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    done = run_script(
        "from laion_fmri.download import download\n"
        f"print(list(download('sub-03', data_dir={str(data_dir)!r})['outcome']))\n",
        cwd=here,
    )
    assert (0, f"{['fetched'] * len(tiny_objects)}\n", "") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )
    assert tiny_objects == read_tree(data_dir)
    assert len(list_all(here)) == 4


def test_stimuli_ask_for_no_acceptance(bucket, objects, tmp_path, caplog):
    """All but the images, whatever the filters; one line says how to get those."""
    caplog.set_level("INFO", "laion_fmri")
    report = download("03", ses="01", include_stimuli=True, data_dir=tmp_path, dry_run=True)
    stimuli = {key for key in objects if key.startswith("stimuli/") and not REFUSED.search(key)}
    assert stimuli == {key for key in report["key"] if key.startswith("stimuli/")}
    said = [text for text in caplog.messages if "task-images_stimuli.h5" in text]
    assert ["https://laion-fmri.hebartlab.com/request" in text for text in said] == [True]


HOSTILE = {
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_DEFAULTS_MODE": "nonsense",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "nonsense",
    "AWS_RETRY_MODE": "nonsense",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_aws_settings_of_the_user_do_not_leak_into_listings(name, tiny, tmp_path):
    """None of the user's AWS settings has a say in an anonymous listing."""
    arguments = ("download", "--subject", "03", "--dry-run", "--data-dir", tmp_path)
    done = run_command(*arguments, **{name: HOSTILE[name]})
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 to fetch" in done.stdout


def test_aws_settings_of_the_user_do_not_leak_into_transfers(tiny, tiny_objects, tmp_path):
    """Nor in a transfer."""
    done = run_command("download", "--subject", "03", "--data-dir", tmp_path, **HOSTILE)
    assert (done.returncode, complaints(done)) == (0, [])
    assert tiny_objects == read_tree(tmp_path)
