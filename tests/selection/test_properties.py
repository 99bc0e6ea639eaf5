"""What holds for any key that a bucket may list, by readings of their own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import unicodedata
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers import read_tree, write_tree
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from snakemake.utils import format as format_for_shell

from laion_fmri.base.bids import CHOOSERS, ENTITIES, FILTERS, Parsed, parse_key
from laion_fmri.dataset import make_scope
from laion_fmri.errors import SelectionError, SubjectNotFoundError
from laion_fmri.fetch.aws import escape_pattern
from laion_fmri.folder.obstacles import find_conflicts, is_safe_key
from laion_fmri.run.jobs import Job, plan_for_cluster, plan_jobs
from laion_fmri.selection.filters import Group, Selection, explain_filters, passes
from laion_fmri.settings import read_settings

#: The same examples each time, and as long as they take on a busy machine.
STEADY = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150
)
GLM = "derivatives/glmsingle-tedana/"

#: Whatever can come out of a listing: botocore leaves no surrogates in a key.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
#: What a shell, a glob, a URL, Snakemake, JSON or a file system reads in its own way.
SPECIAL = st.text(
    "$`'\"\\*?[]!{}<>|&;()#~%^=+@,: -._/aAbeé\u0301ßﬁ\n\t\r\0\x1b\x7f\u202e\u2028😀", max_size=9
)
NAMES = """.. . ... a A ab a.b a-b sub-03 SUB-03 .laion_fmri .Laion_FMRI $(id) `id` -rf --include
    [a] [!a] ** ~ %2e%2e é e\u0301 É ß SS K \u212a ﬁ fi {a} <results> <a> 'a' "a" \\ func"""
PARTS = st.sampled_from(
    [*NAMES.split(), "", " ", "a ", " a", "x" * 246, "x" * 247, "µ" * 123, "µ" * 124]
)
PATHS = st.lists(PARTS | SPECIAL, min_size=1, max_size=5).map("/".join)
TEXTS = PATHS | ANY_TEXT | SPECIAL


@STEADY
@given(TEXTS, st.sampled_from(["/data", "/data/laion", "/d d/[x]"]))
@example("a/../..", "/data")
@example("/etc/passwd", "/data")
@example(".LAION_fmri/stamp", "/data")
@example("a/" * 349 + "a", "/data")
@example("x" * 247, "/data")
@example("µ" * 124 + "/x", "/data")
def test_a_safe_key_stays_inside(key, root):
    """Joined and normalised it is strictly below the data directory and outside our own state."""
    if not is_safe_key(key):
        return
    joined = os.path.join(root, key)  # noqa: PTH118 - what is asked is what the system makes of it
    assert os.path.normpath(joined) == joined
    assert joined == f"{root}/{key}"
    first = key.split("/")[0]
    assert first.casefold() != ".laion_fmri"
    assert max(len(part.encode()) for part in key.split("/")) + len(".12345678") <= 255
    assert {unicodedata.category(c)[0] for c in key} <= set("LMNPSZ")
    assert {c for c in key if unicodedata.category(c) == "Zs"} <= {" "}


@STEADY
@given(st.lists(TEXTS, max_size=12, unique=True))
def test_safe_keys_are_files_side_by_side(keys):
    """What is neither unsafe nor in conflict can be written, whatever it is, and read back."""
    conflicts = find_conflicts(keys)
    objects = {key: key.encode() for key in keys if is_safe_key(key) and key not in conflicts}
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), objects)
        assert objects == read_tree(Path(folder))


def look_alike(name: str) -> str:
    """Return what a Mac makes of a name: no case, and accents in one spelling."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


@STEADY
@given(st.lists(PATHS, max_size=15, unique=True))
@example(["a", "a/b"])
@example(["A", "a/b"])
@example(["a/B", "A/b"])
@example(["é", "e\u0301/x"])
def test_conflicts_by_a_disk_of_the_strictest_kind(keys):
    """On a disk that knows neither case nor spelling, all others get a place of their own.

    A key that is refused would not: it is where another is, or where the folder of another is.
    """
    refused = find_conflicts(keys)
    names = Counter(look_alike(key) for key in keys)
    folders = {
        look_alike(key)[:end]
        for key in keys
        for end, c in enumerate(look_alike(key))
        if c == "/" and end
    }
    expected = {key for key in keys if names[look_alike(key)] > 1 or look_alike(key) in folders}
    assert expected == set(refused)


@STEADY
@given(st.lists(PATHS, max_size=10, unique=True), st.randoms(use_true_random=False))
def test_conflicts_do_not_depend_on_the_order(keys, random):
    """Which of two came first decides nothing."""
    expected = set(find_conflicts(keys))
    random.shuffle(keys)
    assert expected == set(find_conflicts(keys))


# The parser and the filters.

VALUES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/_."), min_size=1, max_size=8
)
ENTITY_VALUES = st.dictionaries(st.sampled_from(ENTITIES), VALUES)


@STEADY
@given(ENTITY_VALUES, ENTITY_VALUES, VALUES | st.none(), ANY_TEXT, st.data())
def test_a_key_says_what_was_put_into_it(folders, names, suffix, extension, data):
    """Entities of any value, in any order, in folders or in the name, which wins over them."""
    extension = extension.replace("/", "")
    tokens = data.draw(st.permutations([f"{name}-{value}" for name, value in names.items()]))
    parts = data.draw(st.permutations([f"{name}-{value}" for name, value in folders.items()]))
    stem = "_".join([*tokens, suffix or ""])
    parsed = parse_key("/".join(["top", *parts, f"{stem}.{extension}"]))
    expected = dict.fromkeys(Parsed._fields) | folders | names
    expected |= {"suffix": suffix, "extension": extension or None}
    # A suffix may look like an entity, and then it is one as well, the last.
    entity, _, value = (suffix or "").partition("-")
    if entity in ENTITIES and value:
        expected[entity] = value
    if expected["label"]:
        expected["label"] = expected["label"].replace("-", "") or None
    assert expected == parsed._asdict()


#: Values of few kinds, so that they meet.
FEW = st.sampled_from(["01", "02", "1", "A", "a", "nii.gz", "$(id)", "a b", "*", "averages", "é"])
CARRIED = st.builds(Parsed, *[st.none() | FEW] * len(Parsed._fields))
PLACE = make_scope("glmsingle-tedana")
CHOSEN = st.dictionaries(st.sampled_from(FILTERS), st.lists(FEW, min_size=1, max_size=3))


def select(filters: dict[str, list[str]]) -> Selection:
    """Return the selection of these filters."""
    return Selection.from_settings(read_settings({"subject": "03", **filters}))


@STEADY
@given(CARRIED, CHOSEN, CHOSEN)
def test_filters_are_joined_by_and_and_values_by_or(parsed, one, other):
    """Each filter counts by itself; one value more never loses a key, and order is no matter."""
    both = one | {name: values for name, values in other.items() if name not in one}
    alone = [select({name: values}).matches(parsed, PLACE) for name, values in both.items()]
    assert all(alone) == select(both).matches(parsed, PLACE)
    for name, values in both.items():
        each = [select({name: [value]}).matches(parsed, PLACE) for value in values]
        assert any(each) == select({name: values}).matches(parsed, PLACE)
        assert any(each) == select({name: values[::-1] * 2}).matches(parsed, PLACE)


@STEADY
@given(CARRIED, CHOSEN)
def test_strict_is_permissive_and_all_carried(parsed, filters):
    """A strict filter lets pass what a permissive one does, if the key carries the entity."""
    selection = select(filters)
    carried = all(getattr(parsed, name) is not None for name in filters if name != "ses")
    is_strict = passes(parsed, selection.filters, strict=True)
    assert (selection.matches(parsed, PLACE) and carried) == is_strict


@STEADY
@given(TEXTS, st.sampled_from(FILTERS))
def test_the_value_of_a_key_selects_it(key, name):
    """Whatever a key carries, the token of it as a filter lets the key pass."""
    value = getattr(parse_key(key), name)
    if value is None:
        return
    token = value if name == "suffix" else f".{value}" if name == "extension" else f"{name}-{value}"
    assert select({name: [token]}).matches(parse_key(key), PLACE)


@STEADY
@given(st.lists(CARRIED, max_size=6), CHOSEN)
def test_unmatched_values_are_those_that_nothing_carries(keys, filters):
    """Each is named once, with all that there is; held-out sessions are told elsewhere."""
    carried = {name: {getattr(parsed, name) or "" for parsed in keys} for name in filters}
    if "ses" in carried and "" in carried["ses"]:
        carried["ses"].add("averages")
    expected = [
        (name, value, carried[name] - {""})
        for name, values in filters.items()
        for value in dict.fromkeys(values)
        if value not in carried[name]
    ]
    # Of those that may be begun, only values that begin nothing.
    expected = [
        (name, value)
        for name, value, known in expected
        if name in ("ses", "run", "echo", "part", "hemi", "res", "suffix", "extension")
        or not any(other.lower().startswith(value.lower()) for other in known)
    ]
    # Of what is not there, or left out by another filter, nothing can be said by session.
    if not keys or any(carried[name] <= {""} for name in filters if name in CHOOSERS):
        expected = [(name, value) for name, value in expected if name != "ses"]
    found = explain_filters(
        select(filters), [Group(PLACE, [("", parsed) for parsed in keys])], (), "there"
    )
    said = [text.split(" matches nothing")[0] for text in found.warnings]
    assert {f"{name} {value!r}" for name, value in expected} <= set(said)
    assert len(set(said)) == len(said)
    assert found.is_empty == any(
        all(f"{name} {value!r}" in said for value in values) for name, values in filters.items()
    )


@STEADY
@given(st.sampled_from(("subject", *FILTERS)), TEXTS)
def test_any_text_as_a_filter_is_taken_or_refused(name, text):
    """A value that cannot be meant is an error of ours, and nothing else happens."""
    config = {"subject": "03", name: text}
    try:
        Selection.from_settings(read_settings(config))
    except ValueError:
        with pytest.raises((SelectionError, SubjectNotFoundError), match=rf"\A{name}[ =].*\Z"):
            Selection.from_settings(read_settings(config))


# The way of a key through the shell.


@pytest.mark.parametrize("shell", ["sh", "bash"])
@STEADY
@given(st.lists(TEXTS.map(lambda text: text.replace("\0", "")).filter(bool), max_size=5))
@example(["$(touch pwned)", "`id`", "'", '"', "a\nb", " ", "\\", "!!", "~", "*", "{}", "-n"])
def test_words_pass_the_shell_as_they_are(shell, words):
    """What the rules quote arrives as the same words, whatever the shell."""
    line = format_for_shell("printf '%s\\0' {words:q} end", words=words)
    done = subprocess.run([shell, "-c", line], capture_output=True, check=True, cwd="/")
    assert (b"\0".join(word.encode() for word in [*words, "end"]) + b"\0", b"") == (
        done.stdout,
        done.stderr,
    )


@STEADY
@given(st.dictionaries(TEXTS | st.text(max_size=3), st.integers(0), max_size=4))
def test_a_job_passes_the_shell_as_it_is(objects):
    """The JSON of a job is one word of plain ASCII, from which any key comes back."""
    job = json.dumps({"objects": list(objects.items())})
    line = format_for_shell("printf %s {job:q}", job=job)
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True, cwd="/")
    assert (True, [[*item] for item in objects.items()]) == (
        done.stdout.isascii(),
        json.loads(done.stdout)["objects"],
    )


# The batches.


def bring(job: Job, keys: list[str], bucket: str = "laion-fmri") -> set[str]:
    """Return which of `keys` aws copies for a batch.

    As in awscli/customizations/s3/filters.py: all filters are held against ``bucket/key``, joined
    with the place of the copy, and the last one that matches decides; without any, a key is copied.
    """
    filters = [("exclude", "*"), *(("include", pattern) for pattern in job.patterns)]
    filters += [("exclude", pattern) for pattern in job.exclusions]
    top = f"{bucket}/{job.prefix}"
    rules = [(kind, os.path.join(top, text)) for kind, text in filters]  # noqa: PTH118 - as aws does
    copied = set()
    for key in keys:
        kinds = [kind for kind, rule in rules if fnmatch(f"{bucket}/{key}", rule)]
        if key.startswith(job.prefix) and ["include", *kinds][-1] == "include":
            copied.add(key)
    return copied


TREES = [f"{GLM}sub-03/", f"{GLM}sub-05/", "derivatives/rois/sub-03/", "stimuli/"]
KEYS = st.builds(str.__add__, st.sampled_from(TREES), PATHS)
SIZES = st.sampled_from([0, 1, 2**20, 2**26 - 1, 2**26, 3 * 2**30])


@st.composite
def buckets(draw) -> tuple[list[tuple[str, int]], list[str]]:
    """Draw what a bucket lists, and of this what is selected, can be a file, and is not here."""
    listed = draw(st.lists(KEYS, min_size=1, max_size=25, unique=True))
    longer = draw(st.lists(st.sampled_from(listed), max_size=5))
    listed = list(dict.fromkeys(listed + [key + draw(SPECIAL | PARTS) for key in longer]))
    listed = [key for key in listed if not key.endswith("/")]
    conflicts = find_conflicts(listed)
    fine = [key for key in listed if is_safe_key(key) and key not in conflicts]
    wanted = draw(st.lists(st.sampled_from(fine), unique=True)) if fine else []
    return [(key, draw(SIZES)) for key in wanted], listed


@STEADY
@given(buckets(), st.sampled_from([1, 2, 4, 16]), st.booleans())
def test_jobs_bring_what_is_wanted_and_no_other(drawn, workers, on_cluster):
    """Of a listing with all kinds of names, aws copies the wanted, each once, and none refused."""
    objects, listed = drawn
    if on_cluster:
        jobs = plan_for_cluster(objects, listed, TREES)
    else:
        jobs = plan_jobs(objects, listed, workers, 2, TREES)
    copied: Counter[str] = Counter()
    for job in jobs:
        copied.update({job.objects[0][0]} if job.prefix is None else bring(job, listed))
        words = [*job.patterns, *job.exclusions]
        assert [
            word for word in words if not word.isprintable() or word[:1] in ("", "-", "/")
        ] == []
    assert Counter(key for key, _ in objects) == copied


@STEADY
@given(buckets(), st.data())
def test_a_second_attempt_brings_what_is_left(drawn, data):
    """By their names, below the prefix of the batch: the same keys again, and no other."""
    objects, listed = drawn
    for job in plan_jobs(objects, listed, 2, 2, TREES):
        if job.prefix is not None:
            keys = [key for key, _ in job.objects]
            left = data.draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
            names = tuple(escape_pattern(key[len(job.prefix) :]) for key in left)
            again = Job(job.name, job.prefix, names, ())
            assert set(left) == bring(again, listed)
