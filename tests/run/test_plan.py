"""Batches and their patterns, against an independent reading of aws's filters, and against aws."""

from __future__ import annotations

import os
import re
from collections import Counter
from fnmatch import fnmatch

import pytest
from helpers import find_aws, read_tree, run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from laion_fmri.bucket.listing import Bucket
from laion_fmri.dataset import PUBLISHED
from laion_fmri.fetch.aws import escape_pattern
from laion_fmri.run.jobs import plan_batches, plan_for_cluster, plan_jobs
from laion_fmri.run.patterns import cover
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.table import find_keys
from laion_fmri.settings import read_settings

#: On a busy machine an example may take its time.
UNHURRIED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
MIB = 2**20
#: Bytes from which on an object has a job of its own.
LARGE = 64 * MIB
#: Connections of one worker, see "Parallelism" of the contract.
CONNECTIONS = 10
#: CPU seconds of a start of aws, and of a key held against a pattern, as measured for 1.46.
START, MATCH = 0.45, 3.6e-5
GLM = "derivatives/glmsingle-tedana/"
SESSION = """
    desc-GLMsingle_summary.json desc-SingletrialBetas_trials.tsv desc-SingletrialBetas_trials.json
    space-T1w_desc-GLMsingle_model.h5 space-T1w_desc-GLMsingle_model.json
    space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz
    space-T1w_stat-effect_desc-SingletrialBetas_statmap.json
    space-T1w_stat-rsquare_desc-R2_statmap.nii.gz space-T1w_stat-rsquare_desc-R2_statmap.json
    space-T1w_desc-Noiseceiling_statmap.nii.gz space-T1w_desc-HRFindex_dseg.nii.gz
"""


def brought_by(job, keys, bucket="laion-fmri") -> set[str]:
    """Return which of `keys` aws copies for `job`: the last filter that matches decides.

    As in awscli/customizations/s3/filters.py: fnmatch of bucket/key with the joined pattern.
    """
    root = f"{bucket}/{job.prefix}"
    rules = [(os.path.join(root, "*"), False)]  # noqa: PTH118 - it is what aws does
    rules += [(os.path.join(root, pattern), True) for pattern in job.patterns]  # noqa: PTH118
    rules += [(os.path.join(root, pattern), False) for pattern in job.exclusions]  # noqa: PTH118
    brought = set()
    for key in keys:
        verdicts = [wanted for rule, wanted in rules if fnmatch(f"{bucket}/{key}", rule)]
        if key.startswith(job.prefix) and (not verdicts or verdicts[-1]):
            brought.add(key)
    return brought


def keys_of(job) -> set[str]:
    """Return the keys of a job."""
    return {key for key, _ in job.objects}


def make_subject(subject: str, sessions: range) -> list[str]:
    """Return the keys of a subject in the published layout."""
    root = f"{GLM}{subject}/"
    stems = [f"{root}ses-{n:02d}/func/{subject}_ses-{n:02d}_task-images_" for n in sessions]
    maps = [
        f"{root}{subject}_task-images_space-T1w_desc-Noiseceiling{rep}rep_statmap.{extension}"
        for rep in ("4", "12", "All")
        for extension in ("json", "nii.gz")
    ]
    rois = [f"derivatives/rois/{subject}/rois/{roi}.nii.gz" for roi in ("V1", "V2", "PPA")]
    return sorted([stem + name for stem in stems for name in SESSION.split()] + maps + rois)


ALPHABET = "*?[]!-{}$'\" \\^.~#%&;ab1_µé日"
PARTS = st.text(ALPHABET, min_size=1, max_size=5) | st.sampled_from(
    [
        "a",
        "ab",
        "abc",
        "[a]",
        "[!a]",
        "a*",
        "*",
        "**",
        "[",
        "]",
        "[]",
        "[-]",
        "-a",
        "--include",
        "a.b",
    ]
)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
FOLDERS = st.sampled_from(
    ["", "stimuli/", GLM + "sub-03/", GLM + "sub-05/", "derivatives/rois/sub-03/", "[x]/sub-1/"]
)
KEYS = st.builds(str.__add__, FOLDERS, NAMES)
SIZES = st.sampled_from([0, 1, 10 * MIB, LARGE - 1, LARGE, 3 * 2**30])


@st.composite
def situations(draw) -> tuple[list[tuple[str, int]], list[str]]:
    """Draw a listing and the objects of it that are to be fetched."""
    listed = draw(st.lists(KEYS, min_size=1, max_size=30, unique=True))
    longer = draw(st.lists(st.sampled_from(listed), max_size=5))
    listed = list(dict.fromkeys(listed + [key + draw(PARTS) for key in longer]))
    wanted = draw(st.lists(st.sampled_from(listed), min_size=1, unique=True))
    return [(key, draw(SIZES)) for key in wanted], listed


@UNHURRIED
@given(situations(), st.sampled_from([1, 2, 4, 8]))
@example(([("stimuli/-a", 1), ("stimuli/[-]", 1)], ["stimuli/-a", "stimuli/[-]", "stimuli/a"]), 1)
@example(([("stimuli/a/b", 1)], ["stimuli/a", "stimuli/a/b", "stimuli/a/b/c", "stimuli/a/bb"]), 1)
def test_a_job_brings_exactly_its_keys(situation, workers):
    """Whatever the characters, aws copies the keys of the job and no other listed one."""
    objects, listed = situation
    for job in plan_batches(objects, listed, workers):
        assert keys_of(job) == brought_by(job, listed)
        assert [pattern for pattern in job.patterns if pattern[:1] in ("", "-", "/")] == []


@UNHURRIED
@given(situations(), st.sampled_from([1, 2, 4, 8]))
def test_no_object_is_lost_or_doubled(situation, workers):
    """Small objects below a folder are in one batch each; large ones and root files in none."""
    objects, listed = situation
    jobs = plan_batches(objects, listed, workers)
    expected = Counter((key, size) for key, size in objects if size < LARGE and "/" in key)
    assert expected == Counter(item for job in jobs for item in job.objects)
    assert len(jobs) == len({job.name for job in jobs})
    assert [job.name for job in jobs if not job.name.isidentifier()] == []


@UNHURRIED
@given(situations(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_is_no_matter(situation, random):
    """The same situation gives the same jobs, so that a second look finds the same targets."""
    objects, listed = situation
    expected = plan_batches(objects, listed, 4)
    random.shuffle(objects)
    random.shuffle(listed)
    assert expected == plan_batches(objects, listed, 4)


@UNHURRIED
@given(st.lists(NAMES, min_size=1, max_size=20, unique=True), st.data())
def test_cover_matches_its_keys_and_no_other(names, data):
    """The patterns under any prefix are exact, and no more than there are keys."""
    prefix = data.draw(st.sampled_from(["", "stimuli/", "a b/$x/"]))
    listed = sorted(prefix + name for name in names)
    keys = data.draw(st.lists(st.sampled_from(listed), min_size=1, unique=True))
    patterns = cover(dict.fromkeys(keys, prefix), listed, prefix)
    root = "bucket/" + prefix
    matched = {key for key in listed if any(fnmatch("bucket/" + key, root + p) for p in patterns)}
    assert set(keys) == matched
    assert len(patterns) <= len(keys)


@UNHURRIED
@given(NAMES, NAMES)
def test_an_escaped_name_matches_only_itself(name, other):
    """It is a pattern for one key, and aws cannot take it for an option."""
    pattern = escape_pattern(name)
    assert (True, name == other) == (fnmatch(name, pattern), fnmatch(other, pattern))
    assert not pattern.startswith("-")


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [2_000, MIB, 40 * MIB])
def test_all_workers_are_busy_to_the_end(workers, size):
    """Given to the least busy worker, largest first, the batches end at about the same time."""
    objects = [(key, size) for key in make_subject("sub-03", range(1, 31))]
    jobs = plan_batches(objects, [key for key, _ in objects], workers)
    busy = [0] * workers
    for count in sorted((len(job.objects) for job in jobs), reverse=True):
        busy[busy.index(min(busy))] += count
    needed = workers if size >= MIB else min(workers, 4)  # a start costs more than a few tiny files
    ideal = len(objects) / needed
    assert max(busy) <= 1.25 * ideal + 1


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_few_starts(workers):
    """A subject of small files takes no more jobs than there are workers, and one for each tree."""
    objects = [(key, 2_000) for key in make_subject("sub-03", range(1, 31))]
    assert len(plan_batches(objects, [key for key, _ in objects], workers)) <= workers + 1


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_few_patterns_for_a_whole_subject(workers):
    """A whole tree is one pattern; a part of it, beside held-out sessions, a few beginnings."""
    listed = make_subject("sub-03", range(1, 35))
    everything = plan_batches([(key, MIB) for key in listed], listed, 1)
    assert [len(job.patterns) for job in everything] == [1, 1]
    assert [keys_of(job) == brought_by(job, listed) for job in everything] == [True, True]
    wanted = [key for key in listed if not re.search("ses-3[1-4]", key)]
    for job in plan_batches([(key, MIB) for key in wanted], listed, workers):
        assert keys_of(job) == brought_by(job, listed)
        assert len(job.patterns) <= 12


@pytest.mark.parametrize(("last", "most"), [(30, 1), (34, 5)], ids=["all", "beside held-out"])
def test_few_patterns_for_all_trials(last, most):
    """One kind of file of all sessions is one ending, less each session that is held out."""
    listed = make_subject("sub-03", range(1, last + 1))
    wanted = [
        key for key in listed if key.endswith("_trials.tsv") and not re.search("ses-3[1-4]", key)
    ]
    (job,) = plan_batches([(key, 2_000) for key in wanted], listed, 1)
    assert (30, set(wanted)) == (len(wanted), brought_by(job, listed))
    assert len(job.patterns) + len(job.exclusions) <= most


def test_one_file_of_many():
    """A single key that is missing takes one pattern under the folder that it is in."""
    listed = make_subject("sub-03", range(1, 35))
    key = next(key for key in listed if "ses-07" in key)
    (job,) = plan_batches([(key, 2_000)], listed, 4)
    assert (key.rpartition("/")[0] + "/", 1) == (job.prefix, len(job.patterns))


def test_the_filter_list_stays_short():
    """Naming the objects of a batch never takes longer than an aws for each of them would."""
    listed = [
        f"stimuli/images/{n % 7}{n % 11}/img_{n * 7919 % 100_003:06d}.jpg" for n in range(1_200)
    ]
    wanted = [key for n, key in enumerate(listed) if n % 3 == 0]
    jobs = plan_batches([(key, 2_000) for key in wanted], listed, 4)
    work = [sum(k.startswith(job.prefix) for k in listed) * len(job.patterns) for job in jobs]
    starts = [START * len(job.objects) for job in jobs]
    assert [w for w, s in zip(work, starts, strict=True) if w * MATCH > s] == []
    assert sorted(wanted) == sorted(key for job in jobs for key in keys_of(job))


def test_a_batch_stays_inside_what_was_listed(bucket, monkeypatch, tmp_path):
    """A subject between two that are selected is not copied with them."""
    keys = [key for sub in ("sub-01", "sub-03", "sub-05") for key in make_subject(sub, range(1, 3))]
    bucket.add_bucket("plan-subjects", dict.fromkeys(keys, b"x"))
    monkeypatch.setenv("LAION_FMRI_BUCKET", "plan-subjects")
    selection = Selection.from_settings(read_settings({"subject": ["01", "05"]}))
    table = find_keys(selection, PUBLISHED, Bucket.from_settings(), tmp_path)
    jobs = plan_batches([(row.key, row.size) for row in table.rows], table.listed, 1)
    expected = {key for key in keys if "sub-03" not in key}
    assert expected == set().union(*(brought_by(job, keys) for job in jobs))


@UNHURRIED
@given(st.lists(st.tuples(st.sampled_from("abcd"), NAMES), min_size=1, unique=True), st.data())
def test_a_batch_of_several_trees_leaves_the_others_alone(drawn, data):
    """Nothing of a tree that was not listed matches, though it is in the same folder."""
    keys = [f"derivatives/rois/sub-{subject}/{name}" for subject, name in drawn]
    trees = [f"derivatives/rois/sub-{subject}/" for subject in "ac"]
    listed = [key for key in keys if key.startswith(tuple(trees))]
    wanted = data.draw(st.lists(st.sampled_from(listed), unique=True)) if listed else []
    jobs = plan_batches([(key, 2_000) for key in wanted], listed, 1, trees)
    assert sorted(wanted) == sorted(key for job in jobs for key in brought_by(job, keys))


def test_few_objects_of_several_trees_share_a_start():
    """The masks of five subjects are one batch; the sessions, of which there are many, five."""
    subjects = ("sub-01", "sub-03", "sub-05", "sub-06", "sub-07")
    keys = [key for subject in subjects for key in make_subject(subject, range(1, 31))]
    trees = [f"{top}{subject}/" for top in (GLM, "derivatives/rois/") for subject in subjects]
    jobs = plan_batches([(key, MIB) for key in keys], keys, 4, trees)
    masks = [job for job in jobs if "rois" in job.prefix]
    assert (len(masks), len(masks[0].patterns)) == (1, len(subjects))
    assert {f"{GLM}{subject}/" for subject in subjects} == {
        job.prefix for job in jobs if job not in masks
    }
    assert [job for job in jobs if keys_of(job) != brought_by(job, keys)] == []


@pytest.mark.parametrize("trees", [["sub-01/", "sub-03/"], ["sub-03/", "stimuli/"]])
def test_no_batch_lists_the_whole_bucket(trees):
    """Trees at the root of the bucket, such as those of raw data, are copied one by one."""
    listed = [f"{tree}anat/x{n}.json" for tree in trees for n in range(3)]
    jobs = plan_batches([(key, 2_000) for key in listed], listed, 1, trees)
    assert sorted(f"{tree}anat/" for tree in trees) == sorted(job.prefix for job in jobs)


def test_trees_inside_trees():
    """A key is of the deepest tree that holds it, and its pattern stays there."""
    trees = ["a/b/", "a/b/c/"]
    listed = ["a/b/d", "a/b/c/e", "a/b/f"]
    jobs = plan_batches([("a/b/d", 1), ("a/b/c/e", 1)], listed, 1, trees)
    assert all(job.prefix.startswith("a/b/") for job in jobs)
    unlisted = ["a/x", "a/b/c/e", "a/b/d", "a/b/f"]
    assert {"a/b/d", "a/b/c/e"} == set().union(*(brought_by(job, unlisted) for job in jobs))


def test_all_trial_tables_share_a_start():
    """One ending in each of the trees is less than a start for each of them."""
    subjects = ("sub-01", "sub-03", "sub-05")
    listed = [key for subject in subjects for key in make_subject(subject, range(1, 31))]
    trees = [f"{GLM}{subject}/" for subject in subjects]
    wanted = [key for key in listed if key.endswith("_trials.tsv")]
    (job,) = plan_batches([(key, 2_000) for key in wanted], listed, 1, trees)
    assert len(job.patterns) == len(subjects)
    assert set(wanted) == keys_of(job) == brought_by(job, listed)


@UNHURRIED
@given(situations(), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 64]))
def test_jobs_for_all_but_the_root(situation, workers, cpus):
    """Each object in one job, the large and the root's alone, the largest first, the root last."""
    objects, listed = situation
    jobs = plan_jobs(objects, listed, workers, cpus)
    assert Counter(objects) == Counter(item for job in jobs for item in job.objects)
    alone = sorted((key, size) for key, size in objects if size >= LARGE or "/" not in key)
    assert alone == sorted(item for job in jobs if job.prefix is None for item in job.objects)
    assert {1} >= {len(job.objects) for job in jobs if job.prefix is None}
    last = [job for job in jobs if job.bytes < LARGE and "/" not in job.objects[0][0]]
    assert last == jobs[len(jobs) - len(last) :]
    work = [(job.bytes, len(job.objects)) for job in jobs[: len(jobs) - len(last)]]
    earlier = [(one, other) for n, other in enumerate(work) for one in work[:n]]
    assert [pair for pair in earlier if pair[0] < pair[1] and pair[0][1] <= pair[1][1]] == []
    assert all(1 <= job.connections <= CONNECTIONS * workers for job in jobs)


@UNHURRIED
@given(situations())
def test_a_cluster_gets_few_jobs_for_everything(situation):
    """Each object in one job of one CPU, the large ones with the others."""
    objects, listed = situation
    jobs = plan_for_cluster(objects, listed, ())
    assert Counter(objects) == Counter(item for job in jobs for item in job.objects)
    assert {1} == {job.workers for job in jobs}
    for job in jobs:
        if job.prefix is not None:
            assert keys_of(job) == brought_by(job, listed)


def test_a_cluster_gets_tens_of_jobs_for_thousands_of_files():
    """Five subjects with large betas: neither a job for each of these, nor one of all of them."""
    subjects = ("sub-01", "sub-03", "sub-05", "sub-06", "sub-07")
    keys = [key for subject in subjects for key in make_subject(subject, range(1, 31))]
    objects = [(key, 3 * 2**30 if "effect" in key and "nii" in key else MIB) for key in keys]
    trees = [f"{top}{subject}/" for top in (GLM, "derivatives/rois/") for subject in subjects]
    jobs = plan_for_cluster(objects, keys, trees)
    assert 20 <= len(jobs) <= 40
    assert max(job.bytes for job in jobs) <= 2 * sum(size for _, size in objects) / 24


HOSTILE = [
    *["plain.tsv", "plain.tsv.gz", "[a].tsv", "[!a].tsv", "a].tsv", "a[.tsv", "*.tsv", "a*.tsv"],
    *["?.tsv", "a?.tsv", "{a,b}.tsv", "$HOME.tsv", "it's.tsv", 'so "called".tsv', "a b.tsv"],
    *["-rf.tsv", "--include", "µ.tsv", "日本.tsv", "é.tsv", "e\u0301.tsv", "%20.tsv", "a+b.tsv"],
    *["`id`.tsv", "back\\slash.tsv", "#x.tsv", "~", "a&b;c|d.tsv", "~/x.tsv".replace("~", "~~")],
    *["[d]/x.tsv", "d*/x.tsv", "-d/x.tsv", "d/x.tsv", "d d/x.tsv", "{d}/$x/'y'.tsv", "[d]/[d]/*"],
]
IS_GLOB = [any(c in name for c in "*?[]") for name in HOSTILE]


@pytest.fixture(scope="module")
def hostile(server):
    """Serve an object for each hostile name, under a prefix of the true layout."""
    contents = {f"{GLM}sub-03/ses-01/func/{name}": name.encode() for name in HOSTILE}
    server.add_bucket("plan-hostile", contents)
    return contents


@pytest.mark.parametrize(
    "wanted",
    [
        [name for name, is_glob in zip(HOSTILE, IS_GLOB, strict=True) if is_glob],
        [name for name, is_glob in zip(HOSTILE, IS_GLOB, strict=True) if not is_glob],
        HOSTILE[::2],
        ["-rf.tsv", "--include"],
        ["[d]/x.tsv", "[d]/[d]/*"],
    ],
    ids=["globs", "others", "half", "dashes", "folder"],
)
def test_the_real_aws_brings_exactly_these(hostile, server, tmp_path, wanted):
    """What the real AWS CLI copies with the patterns of a plan, byte for byte."""
    expected = {key: text for key, text in hostile.items() if text.decode() in wanted}
    for job in plan_batches([(key, 1) for key in expected], list(hostile), 1):
        filters = [word for pattern in job.patterns for word in ("--include", pattern)]
        filters += [word for pattern in job.exclusions for word in ("--exclude", pattern)]
        source = f"s3://plan-hostile/{job.prefix}"
        command = [find_aws(), "s3", "cp", "--recursive", source, tmp_path / job.prefix]
        options = ["--endpoint-url", server.endpoint_url, "--no-sign-request", "--exclude", "*"]
        clean = dict.fromkeys(["AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
        nothing = dict.fromkeys(["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"], os.devnull)
        done = run([*command, *options, *filters], AWS_REGION="us-west-2", **clean, **nothing)
        assert (done.returncode, done.stderr) == (0, "")
    assert expected == read_tree(tmp_path)
