"""Manifests: what is kept of a selection, and that exactly this comes back, by every way in."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import (
    complaints,
    copy_clone,
    list_all,
    read_tree,
    run_command,
    run_snakemake,
    sandbox,
    write_tree,
)
from hypothesis import example, given
from hypothesis import strategies as st

from laion_fmri.base.etags import hash_files
from laion_fmri.bucket.listing import Bucket
from laion_fmri.download import download
from laion_fmri.errors import (
    ConfigError,
    DownloadError,
    ManifestError,
    SelectionError,
    SelectionWarning,
    SubjectNotFoundError,
)
from laion_fmri.folder.obstacles import is_safe_key
from laion_fmri.manifest import Entry, read_manifest, write_manifest
from laion_fmri.selection.filters import Selection
from laion_fmri.selection.manifest_run import find_table
from laion_fmri.settings import read_settings

FUNC = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_task-images_"
TRIALS = FUNC + "desc-SingletrialBetas_trials.tsv"
SUMMARY = FUNC + "desc-GLMsingle_summary.json"
OTHER_SESSION = TRIALS.replace("ses-01", "ses-02")
HELD_OUT = TRIALS.replace("ses-01", "ses-31")
R2MEAN = (
    "derivatives/glmsingle-tedana/sub-03/"
    "sub-03_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz"
)
ROI = "derivatives/rois/sub-01/retinotopy/sub-01_space-T1w_res-1pt8_label-V1_mask.nii.gz"
ROI_03 = ROI.replace("sub-01", "sub-03")
OUTSIDE = "derivatives/freesurfer/sub-01/stats/aseg.stats"
STIMULUS = "stimuli/task-images_desc-captions.csv"
RESTRICTED = "stimuli/task-images_stimuli.h5"
TIME = datetime(2026, 1, 31, 12, tzinfo=UTC)


# The file.


@st.composite
def entries(draw) -> Entry:
    """Draw an entry that a bucket could have."""
    visible = st.characters(categories=["L", "N", "P", "S"], exclude_characters="{}<>/\ufffd")
    part = st.text(visible | st.just(" "), min_size=1, max_size=40).filter(
        lambda text: text not in (".", "..")
    )
    key = "a/" + "/".join(draw(st.lists(part, min_size=1, max_size=3)))
    instant = draw(st.datetimes(timezones=st.just(timezone(timedelta(hours=draw(HOURS))))))
    digest = draw(st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex))
    size = draw(st.integers(0, 10**15 - 1))
    return Entry(key, size, draw(st.from_regex("[0-9a-f]{32}(-[0-9]+)?", fullmatch=True)),
                 instant, digest)  # fmt: skip


HOURS = st.integers(-12, 14)
UNIQUE = st.lists(
    entries().filter(lambda entry: is_safe_key(entry.key)),
    min_size=1,
    max_size=8,
    unique_by=lambda entry: entry.key,
)


@given(UNIQUE.filter(lambda made: all(2 < entry.last_modified.year < 9998 for entry in made)))
@example([Entry(key, 1, "e", TIME) for key in ('"', '"a" b', "a\"b'c", "#a", "a ", " a", "=1")])
def test_what_is_written_is_read(tmp_path_factory, made):
    """Every field comes back, sorted by key and in UTC."""
    file = tmp_path_factory.getbasetemp() / "round.tsv"
    write_manifest(file, made)
    expected = sorted(made)
    found = read_manifest(file)
    assert expected == found
    assert {timedelta(0)} == {entry.last_modified.utcoffset() for entry in found}


def test_the_format(tmp_path):
    """One comment that tells where it is from, the columns, and a line for each key, sorted."""
    file = tmp_path / "keys.tsv"
    made = [Entry("b", 2, "eb", TIME), Entry("a", 10, "ea", TIME, "0" * 64)]
    write_manifest(file, made, Bucket("laion-fmri", "us-west-2", "http://127.0.0.1:9"))
    comment, *lines = file.read_bytes().decode().splitlines(keepends=True)
    expected = [
        "key\tsize\tetag\tlast_modified\tsha256\n",
        "a\t10\tea\t2026-01-31T12:00:00Z\t" + "0" * 64 + "\n",
        "b\t2\teb\t2026-01-31T12:00:00Z\t\n",
    ]
    assert expected == lines
    for said in ('# {"bucket": "laion-fmri"', '"http://127.0.0.1:9"', '"date": "20', "2026.11.0"):
        assert said in comment


HEADER = "key\tsize\tetag\tlast_modified\tsha256\n"
LINE = f"README\t71\tabc\t2026-01-31T12:00:00Z\t{'0' * 64}\n"


@pytest.mark.parametrize(
    "text",
    [
        HEADER + LINE,
        (HEADER + LINE).replace("\n", "\r\n"),
        "\ufeff" + HEADER + LINE,
        "# a note\n# {broken\n#\n" + HEADER + LINE + "\n\n",
        "note\t" + HEADER + "mine\t" + LINE,
        "sha256\tlast_modified\tetag\tsize\tkey\n" + "\t".join(LINE.split()[::-1]),
        HEADER + LINE.replace("0" * 64, "0" * 64 + "\n").replace("12:00:00Z", "13:00:00+01:00"),
    ],
    ids=["plain", "crlf", "mark", "comments", "more columns", "other order", "other zone"],
)
def test_what_editors_do_is_understood(text, tmp_path):
    """Line ends, comments, columns of the user's and their order do not matter."""
    file = tmp_path / "keys.tsv"
    file.write_bytes(text.encode())
    assert [Entry("README", 71, "abc", TIME, "0" * 64)] == read_manifest(file)


def test_a_tab_that_an_editor_has_cut_off_is_understood(tmp_path):
    """A line without a checksum may end before its last tab."""
    file = tmp_path / "keys.tsv"
    file.write_text(HEADER + LINE.replace("\t" + "0" * 64, ""))
    assert [Entry("README", 71, "abc", TIME, None)] == read_manifest(file)


BAD = {
    "empty": ("", 1, "the file is empty"),
    "comments only": ("# note\n", 1, "the file is empty"),
    "no key": ("# note\n" + HEADER, 2, "no key follows"),
    "commas": ((HEADER + LINE).replace("\t", ","), 1, "key, size, etag, last_modified, sha256"),
    "missing columns": ("key\tsize\n", 1, "the columns etag, last_modified, sha256 are missing"),
    "few fields": (HEADER + "README\t71\n", 2, "2 fields"),
    "many fields": (HEADER + LINE.strip() + "\tx\n", 2, "6 fields"),
    "size": (HEADER + LINE + LINE.replace("\t71\t", "\t7l\t"), 3, "'7l' is not a number of bytes"),
    "negative": (HEADER + LINE.replace("\t71\t", "\t-71\t"), 2, "'-71'"),
    "no ETag": (HEADER + LINE.replace("\tabc\t", "\t\t"), 2, "ETag"),
    "time": (HEADER + LINE.replace("2026-01-31T12:00:00Z", "31.1.2026"), 2, "'31.1.2026'"),
    "no zone": (HEADER + LINE.replace("00Z", "00"), 2, "2026-01-31T12:00:00Z"),
    "checksum": (HEADER + LINE.replace("000\n", "00g\n"), 2, "SHA-256"),
    "twice": (HEADER + LINE + "\n" + LINE, 4, "'README' is on line 2 as well"),
    "quote": (HEADER + '"' + LINE, 2, "not a table"),
    "up": (HEADER + LINE.replace("README", "../README"), 2, "'../README'"),
    "absolute": (HEADER + LINE.replace("README", "/etc/passwd"), 2, "'/etc/passwd'"),
    "our state": (HEADER + LINE.replace("README", ".laion_fmri/stamp"), 2, ".laion_fmri/stamp"),
    "escape": (HEADER + LINE.replace("README", "a\x1b[2J"), 2, r"'a\x1b[2J'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_manifests_are_refused_by_file_and_line(name, tmp_path):
    """The one line names the file, the line, and what is wrong in it."""
    text, line, words = BAD[name]
    file = tmp_path / "keys.tsv"
    file.write_text(text)
    with pytest.raises(ManifestError) as caught:
        read_manifest(file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_file_that_is_no_text_is_refused(tmp_path):
    """Other encodings and binary files name the line where they end to be UTF-8."""
    file = tmp_path / "keys.tsv"
    file.write_bytes((HEADER + LINE).encode() + b"\xff\xfe")
    with pytest.raises(ManifestError, match=r"keys\.tsv, line 3: .*UTF-8"):
        read_manifest(file)


def test_missing_files_and_folders_are_refused(tmp_path):
    """What cannot be read or written is named; a failed write leaves nothing behind."""
    with pytest.raises(ManifestError, match=f"there is no manifest {tmp_path}/no.tsv"):
        read_manifest(tmp_path / "no.tsv")
    with pytest.raises(ManifestError, match="Is a directory"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="No such file or directory"):
        write_manifest(tmp_path / "no" / "keys.tsv", [])
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(ManifestError, match="exists and is not a manifest"):
        write_manifest(tmp_path / "folder.tsv", [])
    assert list_all(tmp_path) == ["folder.tsv"]


@pytest.mark.parametrize("content", ["export PATH=/bin\n", "{}", "\0"])
def test_only_a_manifest_is_replaced(tmp_path, content):
    """Whatever a configuration names: files of the user's stay, and a shell reads none."""
    file = tmp_path / "notes.tsv"
    file.write_text(content)
    with pytest.raises(ManifestError, match="exists and is not a manifest; name another file"):
        write_manifest(file, [])
    assert file.read_text() == content
    for name in (".bash_profile", ".bash_aliases", "authorized_keys", ".vimrc"):
        with pytest.raises(ManifestError, match="is not named like a manifest"):
            write_manifest(tmp_path / name, [])
    write_manifest(tmp_path / "keys.tsv", [])
    write_manifest(tmp_path / "keys.tsv", [])
    assert list_all(tmp_path) == ["keys.tsv", "notes.tsv"]


def test_checksums_of_files(tmp_path):
    """Many files at once, of any length; one that cannot be read has none."""
    contents = {f"f{n}": bytes([n]) * (n * 700_000) for n in range(6)}
    write_tree(tmp_path, contents)
    expected = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    names = [*contents, "missing"]
    assert {**expected, "missing": None} == hash_files({n: str(tmp_path / n) for n in names})


def test_an_interrupt_ends_the_hashing(tmp_path):
    """It does not wait for the end of large files, which could take minutes."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    paths = {str(n): str(tmp_path / "large") for n in range(20)}
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        hash_files(paths)
    timer.join()


# What is selected of a manifest, and how it is held against the bucket; nothing is fetched.


def list_bucket(server, keys=None) -> list[Entry]:
    """Return the objects of the server's bucket as entries: all, or those of `keys`."""
    listed = Bucket("laion-fmri", "us-west-2", server.endpoint_url).list_objects("")
    return [Entry(*item) for item in listed if keys is None or item.key in keys]


MIXED = [TRIALS, SUMMARY, OTHER_SESSION, HELD_OUT, R2MEAN, ROI, OUTSIDE, "README"]


@pytest.fixture
def find(bucket, tmp_path):
    """Return a function from keys (or entries) and a configuration to the table of a manifest."""

    def find(entries, **config):
        if isinstance(entries[0], str):
            entries = list_bucket(bucket, entries)
        write_manifest(tmp_path / "keys.tsv", entries)
        config = {"subject": "all", "manifest": tmp_path / "keys.tsv"} | config
        settings = read_settings(config)
        used = Bucket.from_settings(settings)
        bucket.clear_requests()
        return find_table(settings, Selection.from_settings(settings), used, tmp_path)

    return find


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [TRIALS, SUMMARY, OTHER_SESSION, R2MEAN, ROI, OUTSIDE, "README"]),
        ({"subject": "sub-01"}, [ROI, OUTSIDE, "README"]),
        ({"subject": "03", "ses": "01"}, [TRIALS, SUMMARY, R2MEAN, "README"]),
        ({"subject": "03", "ses": "averages"}, [R2MEAN, "README"]),
        # No filter applies to FreeSurfer's files.
        (
            {"suffix": "trials", "ses": ["01", "02"], "scope": ["glmsingle-tedana", "freesurfer"]},
            [TRIALS, OTHER_SESSION, R2MEAN, OUTSIDE, "README"],
        ),
        ({"extension": "tsv", "scope": "glmsingle-tedana"}, [TRIALS, OTHER_SESSION, "README"]),
    ],
    ids=["all", "subject", "session", "summaries", "suffix", "extension"],
)
def test_filters_thin_a_manifest(find, config, expected):
    """They pass what they would of the bucket; the manifest's root files and maps come along."""
    table = find(MIXED, **config)
    assert sorted(expected) == [row.key for row in table.rows]
    assert (table.obstacles, table.warnings) == ({}, ())


def test_nothing_comes_along_that_is_not_in_the_manifest(find):
    """No root file, no mean-R2 map, no stimuli."""
    table = find([TRIALS, SUMMARY], ses="01", suffix="trials")
    assert [row.key for row in table.rows] == [TRIALS]


def test_root_files_alone_can_be_a_manifest(find):
    """What has no subject needs none."""
    assert [row.key for row in find(["README"]).rows] == ["README"]


def test_what_is_held_out_stays_so(find):
    """A manifest of somebody with access does not bring what the bucket does not give out."""
    table = find([*MIXED, RESTRICTED])
    assert not {HELD_OUT, RESTRICTED} & {row.key for row in table.rows}
    (said,) = table.notes
    assert all(word in said for word in ("ses-31", RESTRICTED, "request"))
    with pytest.raises(SelectionError, match="ses-31"):
        find([RESTRICTED, HELD_OUT], ses="31")
    with pytest.raises(SelectionError, match=f"matches nothing.*not being public: {RESTRICTED}"):
        find([RESTRICTED])


def test_filters_that_leave_nothing_are_refused(find):
    """The answer names what the manifest has, not what the bucket has."""
    with pytest.raises(SelectionError, match=r"ses '04' matches nothing.*there is: 01, 02, aver"):
        find(MIXED, subject="03", ses="04")
    with pytest.raises(SubjectNotFoundError, match=r"'sub-03' is not in .*keys.tsv.*: sub-01$"):
        find([ROI, "README"], subject="03")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([TRIALS, OTHER_SESSION, R2MEAN], ["derivatives/glmsingle-tedana/sub-03/"]),
        ([ROI, OUTSIDE], ["derivatives/freesurfer/sub-01/", "derivatives/rois/sub-01/"]),
        (["README"], ["/"]),
        ([ROI, "README"], ["/", "derivatives/rois/sub-01/"]),
    ],
    ids=["one tree", "two", "root", "both"],
)
def test_only_the_trees_of_the_keys_are_listed(find, bucket, keys, expected):
    """Each tree once and in full; of the root only what is directly in it."""
    find(keys)
    asked = [r.query["prefix"] + r.query.get("delimiter", "") for r in bucket.listings()]
    assert expected == sorted(asked)


def test_stimuli_of_a_manifest_come_whole(find):
    """Filters keep what is of no subject, unless a scope is named; what is lacking is said."""
    assert [row.key for row in find([STIMULUS, TRIALS], ses="01").rows] == [TRIALS, STIMULUS]
    found = find([STIMULUS, TRIALS], scope="glmsingle-tedana")
    assert [row.key for row in found.rows] == [TRIALS]
    (said,) = find([TRIALS], include_stimuli=True).warnings
    assert "names nothing of stimuli" in said
    with pytest.raises(SelectionError, match=r"scope 'rois' is not in .*keys.tsv; there is: glm"):
        find([TRIALS], scope="rois")


def test_a_manifest_of_another_bucket_is_warned_of(find, bucket, tmp_path, tiny_objects):
    """Both buckets are named; the comparison goes on."""
    made = list_bucket(bucket, [TRIALS])
    write_manifest(tmp_path / "keys.tsv", made, Bucket("elsewhere", "us-west-2", None))
    config = {"subject": "all", "manifest": str(tmp_path / "keys.tsv")}
    settings = read_settings(config)
    where = Bucket.from_settings(settings)
    table = find_table(settings, Selection.from_settings(settings), where, tmp_path)
    (said,) = table.warnings
    assert "elsewhere" in said
    assert "laion-fmri" in said
    assert table.obstacles == {}


def test_changes_are_obstacles_unless_the_file_is_here(find, bucket, tmp_path):
    """Another size or ETag, and gone: each is named; a complete file stays with a warning."""
    size, etag, gone, here, same = list_bucket(bucket, [TRIALS, SUMMARY, R2MEAN, ROI, OUTSIDE])
    made = [
        size._replace(size=7),
        etag._replace(etag="0" * 32),
        gone._replace(key=gone.key + "x"),
        here._replace(etag="1" * 32, size=3),
        same._replace(last_modified=TIME),
    ]
    write_tree(tmp_path, {here.key: b"old"})
    table = find(made)
    assert {made[0].key, made[1].key, made[2].key} == set(table.obstacles)
    # The same content, uploaded again: transfers know the version by the time of the bucket.
    assert [same.last_modified] == [r.listed.last_modified for r in table.rows if r.key == same.key]
    since = "the bucket since the manifest was written"
    said = table.obstacles
    assert f"has changed in {since}: 7 bytes, now {size.size:,}; ETag" in said[size.key]
    assert f"has changed in {since}: ETag {'0' * 32}, now {etag.etag}" in said[etag.key]
    assert f"is gone from {since}" == said[gone.key + "x"]
    (said,) = table.warnings
    assert said.startswith("1 files here have the manifest's size and stay")
    assert here.key in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"manifest": ""}, "manifest='' is not the path of a file"),
        ({"save_manifest": 3}, "save_manifest=3 is not the path of a file"),
        ({"manifest": b"keys.tsv"}, "is not the path of a file"),
        ({"checksums": True}, "save_manifest"),
    ],
    ids=["empty", "number", "bytes", "checksums"],
)
def test_bad_settings_are_refused_before_any_network_use(settings, words, bucket, tmp_path):
    """The value is named; no request is made and nothing written."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        download("03", data_dir=tmp_path, **settings)
    with pytest.raises(TypeError, match="checksums='yes' is neither True nor False"):
        download("03", data_dir=tmp_path, save_manifest="keys.tsv", checksums="yes")
    assert (bucket.requests, list_all(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--manifest", "no.tsv"], "there is no manifest no.tsv"),
        (["--manifest", "bad.tsv"], "bad.tsv, line 2: the key '../README'"),
        (["--subject", "03", "--save-manifest", "no/keys.tsv"], "no/keys.tsv cannot be written"),
        (["--subject", "03", "--checksums"], "save_manifest"),
    ],
    ids=["missing", "bad", "unwritable", "checksums"],
)
def test_the_command_refuses_in_one_line(words, expected, bucket, tmp_path):
    """Exit 2, nothing fetched, nothing written."""
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "bad.tsv").write_text(BAD["up"][0])
    done = run_command("download", *words, "--data-dir", data, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert (Counter(), []) == (bucket.gets(), list_all(data))


# Whole runs, by each way in.


class Story(NamedTuple):
    """A bucket whose first version was fetched to `data` with `kept` of it, and what was said."""

    objects: dict[str, bytes]
    kept: list[Entry]
    folder: Path
    saved: object


CHANGED, GONE = TRIALS, OTHER_SESSION
STAYS = [SUMMARY, R2MEAN, ROI_03]


@pytest.fixture(scope="module")
def story(server, objects, tmp_path_factory) -> Story:
    """Keep a selection with the command, then let the bucket change one object and lose one."""
    held = {key: objects[key] for key in [CHANGED, GONE, *STAYS, HELD_OUT]}
    # As many again that are in the manifest of nobody.
    more = {key.replace("task-images", "task-other"): b"x" for key in held if "task-" in key}
    server.add_bucket("kept", {**held, **more})
    folder = tmp_path_factory.mktemp("story")
    (folder / "data").mkdir()
    words = ["--subject", "all", "--task", "images", "--data-dir", "data"]
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url) as patch:
        patch.setenv("LAION_FMRI_BUCKET", "kept")
        saved = run_command(
            *["download", *words, "--save-manifest", "keys.tsv", "--checksums"], cwd=folder
        )
    kept = read_manifest(folder / "keys.tsv")
    server.put(CHANGED, held[CHANGED][::-1], "kept")
    server.delete(GONE, "kept")
    return Story(held, kept, folder, saved)


@pytest.fixture
def kept(story, bucket, monkeypatch) -> Story:
    """Point the package at the bucket of the story."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "kept")
    return story


def test_a_manifest_has_what_was_selected(story):
    """Keys, sizes, ETags and checksums are those of the objects; what is held out is not in it."""
    assert story.saved.returncode == 0, story.saved.stderr
    chosen = {key: content for key, content in story.objects.items() if key != HELD_OUT}
    assert chosen == read_tree(story.folder / "data")
    expected = [
        (key, len(content), hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest())
        for key, content in sorted(chosen.items())
    ]
    assert expected == [(e.key, e.size, e.etag, e.sha256) for e in story.kept]
    assert '"bucket": "kept"' in (story.folder / "keys.tsv").read_text().splitlines()[0]
    assert sorted(path.name for path in story.folder.iterdir()) == ["data", "keys.tsv"]


@pytest.fixture(scope="module")
def again(story, server, tmp_path_factory):
    """Fetch the manifest on another machine, by the command."""
    data_dir = tmp_path_factory.mktemp("again")
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url) as patch:
        patch.setenv("LAION_FMRI_BUCKET", "kept")
        server.clear_requests()
        done = run_command(
            "download", "--manifest", story.folder / "keys.tsv", "--data-dir", data_dir
        )
        return done, data_dir, server.gets(bucket="kept")


def test_the_command_fetches_exactly_the_manifest(again, story):
    """Without a subject it is all of it; what has changed is not fetched, and nothing else."""
    done, data_dir, gets = again
    assert {key: story.objects[key] for key in STAYS} == read_tree(data_dir)
    assert dict.fromkeys(STAYS, 1) == dict(gets)
    assert done.returncode == 1


def test_the_command_names_what_has_changed(again, story):
    """One line for each, with both ETags; no advice to run it again, which would not help."""
    done, _, _ = again
    now = hashlib.md5(story.objects[CHANGED][::-1]).hexdigest()
    was = hashlib.md5(story.objects[CHANGED]).hexdigest()
    changed, gone = complaints(done)
    assert changed.startswith(f"error: {CHANGED}: has changed in the bucket since the manifest ")
    assert f"ETag {was}, now {now}" in changed
    assert f"error: {GONE}: is gone from the bucket since the manifest was written" == gone


def test_a_dry_run_names_what_has_changed_and_keeps_a_manifest(kept, bucket, tmp_path):
    """Nothing is fetched or written but the manifest, which has the versions asked for."""
    data = tmp_path / "data"
    data.mkdir()
    words = ["--manifest", kept.folder / "keys.tsv", "--save-manifest", "again.tsv", "--dry-run"]
    done = run_command("download", *words, "--ses", "01", "--data-dir", data, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{CHANGED} (has changed in the bucket since the manifest was written" in done.stdout
    expected = [entry for entry in kept.kept if entry.key in (CHANGED, SUMMARY, R2MEAN, ROI_03)]
    assert expected == read_manifest(tmp_path / "again.tsv")
    assert (Counter(), []) == (bucket.gets(bucket="kept"), list_all(data))


def test_complete_files_stay_whatever_the_bucket_has(kept, bucket, tmp_path):
    """They are present; where one is missing, a warning names those that have changed."""
    before = read_tree(kept.folder / "data")
    report = download("all", manifest=kept.folder / "keys.tsv", data_dir=kept.folder / "data")
    assert {"present"} == set(report["outcome"])
    assert [entry.key for entry in kept.kept] == list(report["key"])
    assert before == read_tree(kept.folder / "data")
    assert not any(asked.bucket == "kept" for asked in bucket.requests)
    write_tree(tmp_path, {key: content for key, content in before.items() if key != ROI_03})
    with pytest.warns(SelectionWarning, match="2 files here have the manifest's size") as caught:
        report = download("all", manifest=kept.folder / "keys.tsv", data_dir=tmp_path)
    assert all(key in str(caught[0].message) for key in (CHANGED, GONE))
    assert {"present", "fetched"} == set(report["outcome"])
    assert before == read_tree(tmp_path)


def test_download_reports_changes_and_checks_checksums(kept, tmp_path):
    """Changed, gone, and arrived with another SHA-256: failed, with reasons; the rest arrives."""
    wrong = [e._replace(sha256="0" * 64) if e.key == SUMMARY else e for e in kept.kept]
    older = [e._replace(sha256=None, last_modified=TIME) if e.key == ROI_03 else e for e in wrong]
    write_manifest(tmp_path / "keys.tsv", older)
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(DownloadError) as caught:
        download(
            "all",
            data_dir=data,
            manifest=tmp_path / "keys.tsv",
            save_manifest=tmp_path / "again.tsv",
            checksums=True,
        )
    report = caught.value.report.set_index("key")
    expected = dict.fromkeys([CHANGED, GONE, SUMMARY], "failed") | dict.fromkeys(
        [R2MEAN, ROI_03], "fetched"
    )
    assert expected == dict(report["outcome"])
    assert "has changed in the bucket since" in report["reason"][CHANGED]
    assert "is gone from the bucket" in report["reason"][GONE]
    found = hashlib.sha256(kept.objects[SUMMARY]).hexdigest()
    assert f"the SHA-256 of what arrived is {found}" in report["reason"][SUMMARY]
    assert f"verify --manifest {tmp_path}/keys.tsv --repair" in report["reason"][SUMMARY]
    assert {key: kept.objects[key] for key in STAYS} == read_tree(data)
    # Kept is what was selected: the versions asked for, and the checksums that are known of them.
    filled = [e if e.key != SUMMARY else e._replace(sha256="0" * 64) for e in kept.kept]
    assert filled == read_manifest(tmp_path / "again.tsv")


@pytest.fixture(scope="module")
def plain(story, server, tmp_path_factory):
    """Run plain ``snakemake`` with a manifest and one to keep in the configuration."""
    data_dir = tmp_path_factory.mktemp("plain")
    clone = copy_clone(
        tmp_path_factory.mktemp("clone"),
        subject="all",
        bucket="kept",
        data_dir=str(data_dir),
        manifest=str(story.folder / "keys.tsv"),
        save_manifest="kept.tsv",
    )
    with sandbox(tmp_path_factory.mktemp("home"), server.endpoint_url):
        runs = []
        for _ in range(2):
            server.clear_requests()
            done = run_snakemake(clone, "--cores", "2")
            runs.append((done, server.gets(bucket="kept"), server.listings()))
        return clone, data_dir, runs


def test_snakemake_fetches_the_manifest(plain, story):
    """What has changed is named and not fetched; it fails the run once the rest has arrived."""
    _, data_dir, ((done, gets, _), _) = plain
    assert done.returncode == 1, done.stderr
    assert {key: story.objects[key] for key in STAYS} == read_tree(data_dir)
    assert dict.fromkeys(STAYS, 1) == dict(gets)
    for key, words in ((CHANGED, "has changed in"), (GONE, "is gone from")):
        assert f"laion-fmri: {key}: {words} the bucket since the manifest was" in done.stderr


def test_snakemake_keeps_what_was_selected(plain, story):
    """The manifest that is kept has the versions that were asked for."""
    assert story.kept == read_manifest(plain[0] / "kept.tsv")


def test_snakemake_has_nothing_to_do_again(plain):
    """The second run lists each tree once, fetches nothing, and names again what has changed."""
    done, gets, listings = plain[2][1]
    assert (done.returncode, gets) == (1, Counter())
    assert f"laion-fmri: {CHANGED}: has changed in the bucket" in done.stderr
    expected = ["derivatives/glmsingle-tedana/sub-03/", "derivatives/rois/sub-03/"]
    assert expected == sorted(request.query["prefix"] for request in listings)


def test_snakemake_refuses_a_bad_manifest_in_one_line(plain, server, bucket, tmp_path):
    """File and line are named; nothing is fetched."""
    clone = copy_clone(tmp_path / "clone", subject="all", data_dir=str(tmp_path), manifest="b.tsv")
    (clone / "b.tsv").write_text(BAD["up"][0])
    done = run_snakemake(clone, "--cores", "1")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "b.tsv, line 2: the key '../README'" in done.stderr
    assert Counter() == bucket.gets()
