"""Files on disk against real uploads to an S3 protocol server, and against manifests."""

from __future__ import annotations

import fcntl
import hashlib
import io
import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import boto3
import psutil
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from helpers import (
    REFUSED,
    ROOT_FILES,
    complaints,
    drop_capabilities,
    expected_keys,
    list_all,
    read_tree,
    run,
    run_command,
    run_on_terminal,
    scope_of,
    stat_all,
    wrap_aws,
    write_tree,
)
from hypothesis import given
from hypothesis import strategies as st
from s3transfer.utils import ChunksizeAdjuster

from laion_fmri.base import etags
from laion_fmri.base.etags import (
    Hasher,
    MultipartMD5,
    count_parts,
    join_etag,
    list_part_sizes,
    read_part_count,
)
from laion_fmri.download import download
from laion_fmri.errors import (
    DataDirError,
    DataDirNotSetError,
    ManifestError,
    SelectionError,
    SelectionWarning,
    SubjectNotFoundError,
)
from laion_fmri.run.monitor import Progress
from laion_fmri.show import pace
from laion_fmri.show.progress import show_check
from laion_fmri.verify import verify

MIB = 2**20
FUNC = "derivatives/glmsingle-tedana/sub-03/ses-{}/func/sub-03_ses-{}_task-images_{}"
SINGLE = FUNC.format("01", "01", "desc-SingletrialBetas_trials.tsv")
BETAS = FUNC.format("01", "01", "stat-effect_desc-SingletrialBetas_statmap.nii.gz")
MORE_BETAS = FUNC.format("02", "02", "stat-effect_desc-SingletrialBetas_statmap.nii.gz")
CONSOLE = FUNC.format("01", "01", "desc-GLMsingle_model.h5")
ODD = FUNC.format("02", "02", "desc-GLMsingle_model.h5")
UNEVEN = FUNC.format("02", "02", "desc-Fracridge_statmap.nii.gz")
#: Key -> bytes of its content and of its parts. 18 MiB in the console's parts, or in those of
#: 16 MiB, are two parts, so that the wrong size is tried first; no program has 5,500,001 bytes.
UPLOADS = {
    BETAS: (17 * MIB, 8 * MIB),
    MORE_BETAS: (16 * MIB + 1, 8 * MIB),
    CONSOLE: (18 * MIB, 17_179_870),
    ODD: (11_000_010, 5_500_001),
}


# What an ETag is, from the AWS documentation, in as few words as Python has for it.


def naive_etag(content: bytes, part_size: int) -> str:
    """The ETag of `content` uploaded in parts of `part_size` bytes."""
    starts = range(0, max(1, len(content)), part_size)
    parts = [content[start : start + part_size] for start in starts]
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    return f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"


@given(
    content=st.binary(max_size=300),
    part_size=st.integers(1, 320),
    pieces=st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_etag_of_parts(content, part_size, pieces):
    """However content arrives, its ETag is the MD5 of the MD5s of its parts, and their number."""
    state = MultipartMD5(part_size)
    stream = io.BytesIO(content)
    for length in itertools.cycle(pieces):
        piece = stream.read(length)
        state.update(memoryview(piece))
        if not piece:
            break
    assert naive_etag(content, part_size) == join_etag(state.digests())


@given(
    content=st.binary(max_size=5_000),
    part_sizes=st.lists(st.integers(1, 6_000), min_size=1, max_size=4, unique=True),
    buffer=st.integers(1, 700),
    span=st.integers(1, 2_000),
    n_jobs=st.integers(1, 3),
)
def test_etags_of_files(tmp_path_factory, content, part_sizes, buffer, span, n_jobs):
    """One pass for several part sizes, and one in several threads, give the same ETags."""
    file = tmp_path_factory.mktemp("etags") / "file"
    file.write_bytes(content)
    expected = {part_size: naive_etag(content, part_size) for part_size in part_sizes}
    small = patch.multiple(etags, BUFFER=buffer, SPAN=span)
    with small, Hasher(n_jobs) as hasher:
        assert expected == hasher.make_etags(file, len(content), part_sizes)
        found = {size: hasher.make_etag(file, len(content), size) for size in part_sizes}
        assert expected == found
        assert hashlib.sha256(content).hexdigest() == hasher.hash_whole(file, "sha256")
        assert (2 + len(part_sizes)) * len(content) == hasher.bytes


@given(size=st.integers(0, 50 * 2**40), parts=st.integers(1, 10_000))
def test_part_sizes_give_the_number_of_parts(size, parts):
    """Every part size that is tried cuts the content into as many parts as the ETag says."""
    for part_size in list_part_sizes(size, parts):
        assert parts == count_parts(size, part_size) == max(1, math.ceil(size / part_size))


@given(size=st.integers(8 * MIB, 5 * 2**40))
def test_part_size_of_aws_and_boto_comes_first(size):
    """The part size that s3transfer chooses, of 8 MiB or doubled, is tried, as a rule first."""
    chosen = ChunksizeAdjuster().adjust_chunksize(8 * MIB, size)
    parts = math.ceil(size / chosen)
    sizes = list_part_sizes(size, parts)
    assert parts == 1 or chosen in sizes
    if chosen == 8 * MIB and parts > 1:
        assert chosen == sizes[0]


@given(size=st.integers(5 * MIB, 5 * 2**40))
def test_part_size_of_rclone_is_tried(size):
    """So is that of rclone: 5 MiB, or the smallest whole number of MiB with up to 10,000 parts."""
    whole = max(5, math.ceil(size / 10_000 / MIB))
    parts = math.ceil(size / (whole * MIB))
    assert parts == 1 or whole * MIB in list_part_sizes(size, parts)


@pytest.mark.parametrize(
    ("etag", "expected"),
    [
        ("d41d8cd98f00b204e9800998ecf8427e", 0),
        ("D41D8CD98F00B204E9800998ECF8427E", 0),
        ("d41d8cd98f00b204e9800998ecf8427e-1", 1),
        ("d41d8cd98f00b204e9800998ecf8427e-10000", 10_000),
        ("d41d8cd98f00b204e9800998ecf8427e-0", None),
        ("d41d8cd98f00b204e9800998ecf8427e-", None),
        ("d41d8cd98f00b204e9800998ecf842", None),
        ("0x8DC1", None),
        ("", None),
    ],
)
def test_part_count(etag, expected):
    """An ETag is a plain MD5, one of parts, or something else."""
    assert expected == read_part_count(etag)


# Against the bucket.


@pytest.fixture(scope="session")
def uploads(server) -> dict[str, bytes]:
    """Fill the bucket ``uploads`` as people do: at once, and in parts of many sizes."""
    source = random.Random(20)
    contents = {key: source.randbytes(size) for key, (size, _) in UPLOADS.items()}
    contents |= {SINGLE: b"trial\trun\n1\t1\n", UNEVEN: source.randbytes(10 * MIB + 99)}
    server.add_bucket("uploads", {SINGLE: contents[SINGLE]})
    client = boto3.Session().client(
        "s3",
        region_name="us-west-2",
        endpoint_url=server.endpoint_url,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(proxies={}, s3={"addressing_style": "path"}),
    )
    for key, (_, part_size) in UPLOADS.items():
        parts = TransferConfig(multipart_threshold=1, multipart_chunksize=part_size)
        client.upload_fileobj(io.BytesIO(contents[key]), "uploads", key, Config=parts)
    where = {"Bucket": "uploads", "Key": UNEVEN}
    where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
    made = []
    for start, end in itertools.pairwise((0, 5 * MIB, 10 * MIB + 9, 10 * MIB + 99)):
        body = contents[UNEVEN][start:end]
        sent = client.upload_part(**where, PartNumber=len(made) + 1, Body=body)
        made.append({"PartNumber": len(made) + 1, "ETag": sent["ETag"]})
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": made})
    return contents


@pytest.fixture(scope="session")
def originals(uploads, tmp_path_factory) -> Path:
    """Write what is in the bucket ``uploads`` to a folder."""
    folder = tmp_path_factory.mktemp("originals")
    write_tree(folder, uploads)
    return folder


@pytest.fixture
def mirror(bucket, originals, monkeypatch, tmp_path):
    """Point the package at the bucket ``uploads``, with a whole copy of it on disk."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "uploads")
    data_dir = tmp_path / "data"
    shutil.copytree(originals, data_dir, copy_function=os.link)  # nothing is changed in place
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(data_dir))
    return data_dir


@pytest.fixture
def data(tiny, tiny_objects, monkeypatch, tmp_path):
    """Point the package at the bucket ``tiny``, with a whole copy of it on disk."""
    data_dir = tmp_path / "data"
    write_tree(data_dir, tiny_objects)
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(data_dir))
    return data_dir


@pytest.fixture
def sample(bucket, objects, monkeypatch, tmp_path):
    """Point the package at the sample bucket, with the public files of one session on disk."""
    data_dir = tmp_path / "data"
    keys = expected_keys(objects, "sub-03", ses="ses-01")
    write_tree(data_dir, {key: objects[key] for key in keys})
    monkeypatch.setenv("LAION_FMRI_DATA_DIR", str(data_dir))
    return data_dir


def flip(file: Path, place: int = -1) -> None:
    """Change one bit of a file, and nothing that a listing or a clock would show."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.unlink()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def outcomes(frame) -> dict[str, str]:
    """Return key -> outcome."""
    return dict(zip(frame["key"], frame["outcome"], strict=True))


def reason(frame, key: str) -> str:
    """Return why the file of `key` has its outcome."""
    (found,) = frame.loc[frame["key"] == key, "reason"]
    return found


def heads(server) -> list[str]:
    """Return the keys that were asked for their parts, twice: for the first, and for the last."""
    return sorted(r.key for r in server.requests if r.method == "HEAD")


def test_uploads_of_all_kinds_are_ok(mirror, uploads, bucket):
    """Files are right whatever parts they were uploaded in; few have to be asked for."""
    expected = dict.fromkeys(sorted(uploads), "ok") | {UNEVEN: "unverified"}
    frame = verify()
    assert expected == outcomes(frame)
    assert list(frame.columns) == ["key", "path", "size", "outcome", "reason"]
    assert [len(uploads[key]) for key in sorted(uploads)] == frame["size"].tolist()
    assert [str(mirror / key) for key in sorted(uploads)] == frame["path"].tolist()
    assert "parts of different sizes" in reason(frame, UNEVEN)
    assert frame.loc[frame["outcome"] == "ok", "reason"].unique().tolist() == [""]
    assert sorted(2 * [CONSOLE, ODD, UNEVEN]) == heads(bucket)
    assert Counter() == bucket.gets()


@pytest.mark.parametrize("key", [SINGLE, *UPLOADS])
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_bit_is_found(mirror, uploads, key, place):
    """A file with one wrong bit, first or last, is corrupt, and no other is."""
    flip(mirror / key, place)
    expected = dict.fromkeys(sorted(uploads), "ok") | {key: "corrupt", UNEVEN: "unverified"}
    assert expected == outcomes(verify())


def test_without_being_told_the_usual_parts_are_tried(mirror, bucket):
    """Of what may not be read, as of held-out sessions, the bucket does not tell the parts."""
    bucket.deny([CONSOLE, ODD], "uploads")
    try:
        found = outcomes(verify(desc="GLMsingle"))
    finally:
        bucket.deny([], "uploads")
    assert found == {CONSOLE: "ok", ODD: "unverified"}


def test_a_lone_file_is_known_to_be_corrupt(mirror):
    """The bucket tells the part size, so that nothing else has to be there to prove it."""
    flip(mirror / ODD)
    frame = verify("03", ses="02", desc="GLMsingle", suffix="model")
    assert outcomes(frame) == {ODD: "corrupt"}
    assert "ETag in 3 parts" in reason(frame, ODD)


@pytest.mark.parametrize("n_jobs", [1, 2, 5])
def test_any_number_of_threads_finds_the_same(mirror, uploads, n_jobs):
    """The outcome does not depend on the number of threads."""
    flip(mirror / MORE_BETAS, 8 * MIB)
    expected = dict.fromkeys(sorted(uploads), "ok")
    expected |= {MORE_BETAS: "corrupt", UNEVEN: "unverified"}
    assert expected == outcomes(verify(n_jobs=n_jobs))


def test_progress_is_told(mirror, uploads):
    """The callback hears how much has been done, and at the end that it is all."""
    heard = []
    verify(progress=heard.append)
    total = sum(map(len, uploads.values()))
    assert (len(uploads), len(uploads), total, total) == heard[-1]
    assert [now.bytes for now in heard] == sorted(now.bytes for now in heard)


def test_nothing_is_written(data):
    """A check leaves the data directory as it was."""
    before = list_all(data)
    verify()
    verify("sub-03")
    assert before == list_all(data)


def test_sizes_are_checked(data, tiny_objects):
    """A file that is too short or too long is partial."""
    short, long, *_ = sorted(tiny_objects)
    (data / short).write_bytes(tiny_objects[short][:-1])
    (data / long).write_bytes(tiny_objects[long] + b"!")
    frame = verify()
    expected = dict.fromkeys(sorted(tiny_objects), "ok") | {short: "partial", long: "partial"}
    assert expected == outcomes(frame)
    size = len(tiny_objects[short])
    assert f"it has {size - 1} bytes instead of {size}" == reason(frame, short)


def test_without_a_subject_only_what_is_here_counts(sample, objects, capfd):
    """A scientist who has one session asks whether that is right, not for all the rest."""
    keys = expected_keys(objects, "sub-03", ses="ses-01")
    assert dict.fromkeys(sorted(keys), "ok") == outcomes(verify())
    done = run_command("verify")
    others = len(expected_keys(objects, "all") - keys)
    assert (done.returncode, complaints(done)) == (0, [])
    assert done.stdout.startswith(f"checked {len(keys)} files, ")
    assert f"{len(keys)} ok; {others} other files of the bucket are not here" in done.stdout


def test_with_a_subject_what_is_not_here_is_missing(sample, objects):
    """Who names a selection wants all of it."""
    here = expected_keys(objects, "sub-03", ses="ses-01")
    wanted = expected_keys(objects, "sub-03", ses=["ses-01", "ses-02"])
    expected = {key: "ok" if key in here else "missing" for key in sorted(wanted)}
    frame = verify("sub-03", ses=["ses-01", "ses-02"])
    assert expected == outcomes(frame)
    assert frame.loc[frame["outcome"] == "missing", "reason"].unique() == ["it is not here"]


def test_filters_without_a_subject_thin_what_is_here(sample, objects):
    """Filters choose among what is here, for every subject."""
    key = sorted(key for key in objects if "sub-01/ses-02/" in key)[0]
    write_tree(sample, {key: objects[key]})
    wanted = expected_keys(objects, "sub-03", ses="ses-01", suffix="trials")
    assert dict.fromkeys(sorted(wanted), "ok") == outcomes(verify(ses="01", suffix="trials"))


def test_held_out_files_are_checked_where_they_are(sample, objects):
    """Who has been given access has them checked; for all others they are not missing."""
    keys = sorted(key for key in objects if "sub-03/ses-31" in key)
    assert keys[0] not in outcomes(verify("sub-03"))
    with pytest.warns(SelectionWarning, match="ses-31 is held out, and none of it is here"):
        verify("sub-03", ses="ses-31")
    write_tree(sample, {keys[0]: objects[keys[0]], keys[1]: b"x" * len(objects[keys[1]])})
    expected = {keys[0]: "ok", keys[1]: "corrupt"}
    for frame in (verify(), verify("sub-03", ses="31")):
        assert expected == {k: o for k, o in outcomes(frame).items() if k in keys}


def test_what_a_pipeline_fetched_is_checked_too(sample, objects):
    """Any object may be here by its path, in scopes that nobody names, and at the root."""
    others = [
        "derivatives/freesurfer/sub-01/stats/aseg.stats",
        "sub-05/ses-01/fmap/sub-05_ses-01_phasediff.nii.gz",
    ]
    write_tree(sample, {key: objects[key] for key in others})
    flip(sample / others[1])
    assert {others[0]: "ok", others[1]: "corrupt"} == {
        key: outcome for key, outcome in outcomes(verify()).items() if key in others
    }


def test_stimuli_are_checked_if_they_are_here(sample, objects):
    """A check of everything takes in the stimuli; one of a subject only if they are asked for."""
    stimuli = sorted(key for key in objects if key.startswith("stimuli/") and "desc-" in key)
    write_tree(sample, {key: objects[key] for key in stimuli[1:]})
    flip(sample / stimuli[1])
    found = outcomes(verify())
    assert found[stimuli[1]] == "corrupt"
    assert stimuli[0] not in found
    assert outcomes(verify("03", ses="01", include_stimuli=True))[stimuli[0]] == "missing"
    assert stimuli[1] not in outcomes(verify("03", ses="01"))


def test_extra_files_are_told_and_left_alone(data, tmp_path):
    """What the bucket does not have is named; links are not followed out of the directory."""
    outside = tmp_path / "outside"
    write_tree(outside, {"more/file": b"not ours"})
    strange = ["notes.txt", "derivatives/glmsingle-tedana/sub-03/old\nname", "results/a/b.csv"]
    write_tree(data, dict.fromkeys(strange, b"mine"))
    (data / "linked").symlink_to(outside)
    (data / "link.txt").symlink_to(outside / "more" / "file")
    frame = verify()
    extras = frame[frame["outcome"] == "extra"]
    assert sorted([*strange, "link.txt"]) == extras["key"].tolist()
    assert extras["reason"].unique() == ["the bucket does not have it"]
    assert (data / strange[1]).read_bytes() == b"mine"


def test_extra_files_are_looked_for_where_the_selection_looks(data):
    """With a subject or filters, its trees alone are searched, and the filters have their say."""
    folder = "derivatives/glmsingle-tedana/sub-03/ses-01/func/"
    strange = {f"{folder}sub-03_ses-01_desc-A_old.tsv", f"{folder}sub-03_ses-01_desc-Z_old.tsv"}
    others = {"notes.txt", "derivatives/glmsingle-tedana/sub-09/old.tsv"}
    write_tree(data, dict.fromkeys(strange | others, b"mine"))

    def extras(*arguments, **filters):
        return {k for k, o in outcomes(verify(*arguments, **filters)).items() if o == "extra"}

    assert strange | others == extras()
    assert strange == extras("sub-03")
    assert {f"{folder}sub-03_ses-01_desc-A_old.tsv"} == extras(desc="A")


def test_a_linked_file_is_read(data, tmp_path, tiny_objects):
    """A file that was moved to a larger disk and linked is checked where it is."""
    key = sorted(tiny_objects)[0]
    (data / key).rename(tmp_path / "moved")
    (data / key).symlink_to(tmp_path / "moved")
    assert outcomes(verify())[key] == "ok"
    flip(tmp_path / "moved")
    assert outcomes(verify())[key] == "corrupt"


def test_what_stands_in_the_way_is_named(data, tiny_objects):
    """A folder in the place of a file, and a link to nowhere, are missing files, with a reason."""
    folder, link, *_ = sorted(tiny_objects)
    for key in (folder, link):
        (data / key).unlink()
    (data / folder).mkdir()
    (data / link).symlink_to("nowhere")
    frame = verify()
    assert {"missing"} == {outcomes(frame)[folder], outcomes(frame)[link]}
    assert f"there is a folder at {data / folder}; move it away" == reason(frame, folder)
    assert "link to nowhere" in reason(frame, link)


def test_files_that_cannot_be_read_are_no_traceback(data, tiny_objects):
    """A file, and a folder, that the user may not read are named, and the rest is checked."""
    file = (
        data / "derivatives/rois/sub-03/retinotopy/sub-03_space-T1w_res-1pt8_label-V1_mask.nii.gz"
    )
    folder = data / "derivatives/glmsingle-tedana/sub-03/ses-01"
    file.chmod(0)
    folder.chmod(0)
    done = run([*drop_capabilities(), sys.executable, "-m", "laion_fmri", "verify"])
    folder.chmod(0o755)
    named = sorted(key for key in tiny_objects if "V1" in key or "ses-01" in key)
    lines = [f"error: {k}: unreadable: it cannot be read: Permission denied" for k in named]
    assert (1, lines) == (done.returncode, complaints(done))
    assert "1 ok, 3 unreadable" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"subject": "sub-09"}, SubjectNotFoundError, "there is: sub-03"),
        ({"subject": 3}, TypeError, "is not a string"),
        ({"ses": "99"}, SelectionError, "matches nothing"),
        ({"manifest": "nowhere.tsv"}, ManifestError, "nowhere.tsv"),
        ({"data_dir": "/nonexistent/data"}, DataDirError, "does not exist"),
    ],
)
def test_bad_input(data, arguments, error, said):
    """Each bad input has its error, which says what is wrong."""
    with pytest.raises(error, match=said):
        verify(**arguments)


def test_without_a_data_directory():
    """Nothing can be checked before a data directory is chosen."""
    with pytest.raises(DataDirNotSetError):
        verify()


# Against a manifest.


def write_manifest(file: Path, contents, part_sizes=None, **sha256: str) -> Path:
    """Write a manifest by hand, in the columns that were agreed on."""
    lines = ["key\tsize\tetag\tlast_modified\tsha256"]
    for key, content in contents.items():
        part_size = (part_sizes or {}).get(key)
        etag = naive_etag(content, part_size) if part_size else hashlib.md5(content).hexdigest()
        digest = sha256.get(Path(key).name.partition(".")[0], "")
        lines.append(f"{key}\t{len(content)}\t{etag}\t2026-01-31T12:00:00Z\t{digest}")
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def manifest(tmp_path, uploads):
    """A manifest of the bucket ``uploads``, without checksums of its own."""
    part_sizes = {key: part_size for key, (_, part_size) in UPLOADS.items()}
    return write_manifest(tmp_path / "keys.tsv", uploads, part_sizes)


def test_a_manifest_needs_no_network(mirror, manifest, uploads, bucket):
    """The usual part sizes are tried; only parts that nobody has are unknown."""
    expected = dict.fromkeys(sorted(uploads), "ok") | {ODD: "unverified"}
    frame = verify(manifest=manifest)
    assert expected == outcomes(frame)
    assert reason(frame, ODD) == "no usual part size explains the ETag of its 3 parts"
    assert bucket.requests == []


def test_other_files_prove_a_part_size(mirror, manifest):
    """A file that no part size explains is corrupt if one that explains others should have."""
    flip(mirror / BETAS)
    frame = verify(manifest=manifest)
    assert outcomes(frame)[BETAS] == "corrupt"
    assert "8,388,608 bytes, as of other files" in reason(frame, BETAS)
    (mirror / MORE_BETAS).unlink()
    assert outcomes(verify(manifest=manifest))[BETAS] == "unverified"


def test_a_manifest_says_what_should_be_here(mirror, manifest, uploads):
    """What it names and is not here is missing, and what it does not name is extra."""
    (mirror / SINGLE).unlink()
    write_tree(mirror, {"stimuli/more.jpg": b"more"})
    expected = dict.fromkeys(sorted(uploads), "ok")
    expected |= {SINGLE: "missing", ODD: "unverified", "stimuli/more.jpg": "extra"}
    frame = verify(manifest=manifest)
    assert expected == outcomes(frame)
    assert reason(frame, "stimuli/more.jpg") == "the manifest does not have it"


def test_filters_choose_from_a_manifest(mirror, manifest):
    """Subjects and filters mean what they mean for the bucket."""
    (mirror / SINGLE).unlink()
    assert outcomes(verify("03", ses="01", desc="SingletrialBetas", manifest=manifest)) == {
        SINGLE: "missing",
        BETAS: "ok",
    }
    with pytest.raises(SubjectNotFoundError, match="there is: sub-03"):
        verify("04", manifest=manifest)


def test_a_checksum_decides(data, tiny_objects, tmp_path):
    """The SHA-256 of a manifest settles what the ETag cannot, either way."""
    contents = {f"made/{name}.bin": name.encode() for name in ("right", "wrong", "none")}
    write_tree(data, contents)
    digest = hashlib.sha256(b"right").hexdigest()
    file = write_manifest(tmp_path / "keys.tsv", contents, right=digest, wrong=digest)
    lines = file.read_text().replace(hashlib.md5(b"right").hexdigest(), "an-etag-of-some-store")
    file.write_text(lines.replace(hashlib.md5(b"none").hexdigest(), "an-etag-of-some-store"))
    frame = verify(manifest=file)
    expected = {"made/none.bin": "unverified", "made/right.bin": "ok", "made/wrong.bin": "corrupt"}
    assert expected == {k: o for k, o in outcomes(frame).items() if k.startswith("made/")}
    assert "is not made of MD5s" in reason(frame, "made/none.bin")
    assert f"instead of {digest}" in reason(frame, "made/wrong.bin")


# Repair.


def test_repair_fetches_what_is_broken_and_nothing_else(mirror, uploads, bucket):
    """Corrupt and partial files come again, once each; the others are not touched."""
    flip(mirror / BETAS)
    (mirror / SINGLE).unlink()
    (mirror / SINGLE).write_bytes(b"short")
    (mirror / CONSOLE).unlink()
    whole = sorted(set(uploads) - {BETAS, SINGLE, CONSOLE})
    before = stat_all(mirror, whole)
    frame = verify("03", repair=True)
    expected = dict.fromkeys(sorted(uploads), "ok") | {UNEVEN: "unverified", CONSOLE: "missing"}
    assert expected | {BETAS: "repaired", SINGLE: "repaired"} == outcomes(frame)
    assert reason(frame, SINGLE) == "it was partial: it has 5 bytes instead of 14"
    assert reason(frame, BETAS).startswith("it was corrupt: its ETag in 3 parts")
    assert {BETAS, SINGLE} == set(bucket.gets(bucket="uploads"))
    assert bucket.gets(bucket="uploads")[SINGLE] == 1
    assert before == stat_all(mirror, whole)
    assert {k: v for k, v in uploads.items() if k != CONSOLE} == read_tree(mirror)
    assert not list(mirror.glob(".laion_fmri/corrupt*"))
    assert expected == outcomes(verify("03"))


def test_a_file_is_not_lost_if_it_cannot_be_fetched(data, tiny, tiny_objects):
    """What the bucket refuses is put back as it was; the other file is repaired."""
    refused, other, *_ = sorted(tiny_objects)
    for key in (refused, other):
        flip(data / key)
    kept = (data / refused).read_bytes()
    tiny.deny([refused], "tiny")
    try:
        frame = verify(repair=True)
    finally:
        tiny.deny([], "tiny")
    assert {"corrupt": refused, "repaired": other} == {
        outcome: key for key, outcome in outcomes(frame).items() if outcome != "ok"
    }
    assert "; not fetched: " in reason(frame, refused)
    assert tiny_objects | {refused: kept} == read_tree(data)
    assert not list(data.glob(".laion_fmri/corrupt*"))


def test_the_same_content_twice_is_what_the_bucket_has(data, tiny, tiny_objects):
    """An ETag that says nothing of the content (SSE-KMS) is no reason to fetch for ever."""
    key = sorted(tiny_objects)[0]
    stored = tiny._store.get_bucket("tiny").keys[key]
    etag, stored._etag = stored._etag, "0123456789abcdef0123456789abcdef"
    try:
        assert outcomes(verify())[key] == "corrupt"
        frame = verify(repair=True)
    finally:
        stored._etag = etag
    assert outcomes(frame)[key] == "unverified"
    assert "the bucket has given the same content twice" in reason(frame, key)


def test_another_version_is_not_taken_for_a_repair(data, tiny, tiny_objects, tmp_path):
    """A manifest names a version; if the bucket has another one by now, the file stays."""
    key, *_ = sorted(tiny_objects)
    file = write_manifest(tmp_path / "keys.tsv", tiny_objects)
    flip(data / key)
    broken = (data / key).read_bytes()
    tiny.put(key, b"a new version\n", "tiny")
    try:
        frame = verify(manifest=file, repair=True)
    finally:
        tiny.put(key, tiny_objects[key], "tiny")
    assert outcomes(frame)[key] == "corrupt"
    assert "has changed in the bucket since" in reason(frame, key)
    assert broken == (data / key).read_bytes()


def test_a_manifest_repairs_from_the_bucket(data, tiny, tiny_objects, tmp_path):
    """Checked without the network, repaired with it, by the manifest's own checksums."""
    key, *others = sorted(tiny_objects)
    digests = {
        Path(k).name.partition(".")[0]: hashlib.sha256(c).hexdigest()
        for k, c in tiny_objects.items()
    }
    file = write_manifest(tmp_path / "keys.tsv", tiny_objects, **digests)
    flip(data / key)
    expected = {key: "repaired"} | dict.fromkeys(others, "ok")
    assert expected == outcomes(verify(manifest=file, repair=True))
    assert {key: 1} == tiny.gets(bucket="tiny")
    assert tiny_objects == read_tree(data)


def test_a_mirror_of_several_scopes_is_seen_whole(sample, objects):
    """Nothing has to be named: what is here of any scope is checked, and nothing else expected."""
    scopes = ("freesurfer", "raw", "stimuli", "localizers")
    here = sorted(k for k in objects if scope_of(k) in scopes and not REFUSED.search(k))
    write_tree(sample, {key: objects[key] for key in here[::2]})
    flip(sample / here[0])
    found = outcomes(verify())
    assert found[here[0]] == "corrupt"
    assert {"ok"} == {found[key] for key in here[2::2]}
    assert found.keys().isdisjoint(here[1::2])
    named = outcomes(verify("01", scope="freesurfer"))
    assert {"missing", "ok", "corrupt"} >= set(named.values())
    of_subject = {key for key in objects if "freesurfer/sub-01/" in key}
    assert of_subject == {key for key in named if key not in ROOT_FILES}


def test_files_of_an_older_bucket_are_left_alone(sample, objects):
    """What only an earlier layout had is told as extra, and no reason to fail."""
    old = "derivatives/earlier/sub-03/rois/V1.nii.gz"
    write_tree(sample, {old: b"mask", "README": objects["README"]})
    assert {"README": "ok", old: "extra"}.items() <= outcomes(verify()).items()
    done = run_command("verify")
    assert (done.returncode, complaints(done)) == (0, [])


def test_stimuli_are_repaired_like_the_rest(sample, objects):
    """They ask for nothing."""
    key = next(key for key in sorted(objects) if "_desc-captions" in key)
    write_tree(sample, {key: objects[key]})
    flip(sample / key)
    assert outcomes(verify(repair=True))[key] == "repaired"


def test_two_repairs_do_not_meet(data):
    """A second repair of the same directory is refused, and a plain check is not."""
    (data / ".laion_fmri").mkdir()
    with (data / ".laion_fmri" / "repair.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataDirError, match="another repair of"):
            verify(repair=True)
        verify()


# The command.


def test_the_command_names_each_bad_file_in_a_line(data, tiny_objects):
    """Bad files go to stderr, one line each, the rest to stdout; the status is for scripts."""
    corrupt, partial, gone, _ = sorted(tiny_objects)
    flip(data / corrupt)
    (data / partial).write_bytes(b"")
    (data / gone).unlink()
    write_tree(data, {"derivatives/rois/sub-03/odd\nname": b""})
    done = run_command("verify", "--subject", "sub-03")
    *errors, repair_hint, missing = complaints(done)
    bad = {corrupt: "corrupt", partial: "partial"}
    expected = [["error", key, outcome] for key, outcome in sorted(bad.items())]
    assert expected == [line.split(": ")[:3] for line in errors]
    assert "--repair" in repair_hint
    size = len(tiny_objects[gone])
    fetch = "fetch it with 'laion-fmri download --subject sub-03'"
    assert missing == f"missing: 1 file, {size} bytes: {gone}; {fetch}"
    assert r"bucket, and left alone: derivatives/rois/sub-03/odd\nname" in done.stdout
    assert "1 ok, 1 corrupt, 1 partial, 1 missing, 1 extra" in done.stdout.splitlines()[-1]
    assert done.returncode == 1
    quiet = run_command("verify", "--subject", "sub-03", "--quiet")
    assert (1, "", done.stderr) == (quiet.returncode, quiet.stdout, quiet.stderr)


def test_what_is_only_missing_is_no_error(data, tiny_objects, tmp_path):
    """It is counted in one line; nothing that is here is broken. A manifest wants all of it."""
    manifest = tmp_path / "keys.tsv"
    download("sub-03", save_manifest=manifest, dry_run=True)
    gone = sorted(tiny_objects)[:2]
    for key in gone:
        (data / key).unlink()
    done = run_command("verify", "--subject", "sub-03")
    (missing,) = complaints(done)
    size = sum(len(tiny_objects[key]) for key in gone)
    assert missing.startswith(f"missing: 2 files, {size} bytes: {gone[0]}, {gone[1]}; fetch it")
    assert done.returncode == 0
    assert "2 ok, 2 missing" in done.stdout
    assert run_command("verify", "--manifest", manifest).returncode == 1


def test_the_command_takes_up_a_repair(data, tiny_objects):
    """What a killed repair has left aside is missing, and the next repair brings it."""
    key = sorted(tiny_objects)[0]
    aside = data / ".laion_fmri" / "corrupt" / key
    aside.parent.mkdir(parents=True)
    (data / key).rename(aside)
    flip(aside)
    done = run_command("verify", "--quiet")
    said = f"error: {key}: missing: an interrupted repair has set it aside; verify with --repair"
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    done = run_command("verify", "--repair")
    assert (done.returncode, complaints(done)) == (0, [])
    assert "3 ok, 1 repaired" in done.stdout
    assert tiny_objects == read_tree(data)
    assert not list(data.glob(".laion_fmri/corrupt*"))
    again = run_command("verify", "--repair", "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_the_command_says_plainly_what_it_cannot_know(mirror):
    """A file of which only the size is known is a warning, and no failure."""
    done = run_command("verify", "--desc", "Fracridge", "--quiet")
    said = f"warning: only the size could be checked: {UNEVEN} (the object has 3 parts of"
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(said)


@pytest.mark.parametrize(
    "arguments",
    [["--subject", "sub-09"], ["--manifest", "nowhere.tsv"], ["--data-dir", "/nonexistent/data"]],
)
def test_bad_usage_is_one_line(data, arguments):
    """What cannot be checked at all ends with 2 and one line."""
    done = run_command("verify", *arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: ")


def test_a_bucket_that_is_not_there_is_one_line(data):
    """Without the bucket there is nothing to compare with."""
    done = run_command("verify", LAION_FMRI_ENDPOINT_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_a_terminal_shows_how_far_it_is(mirror, uploads):
    """On a terminal there is a bar, and then the same summary."""
    status, screen = run_on_terminal("verify")
    assert status == 0
    assert f"{len(uploads)}/{len(uploads)} files" in screen
    assert "5 ok, 1 unverified" in screen


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, capsys):
    """A log gets plain lines on stderr."""
    monkeypatch.setattr(pace, "INTERVAL", 0)
    with show_check() as tell:
        tell(Progress(1, 2, 3000, 4000))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("1 of 2 files, 3.0 kB of 4.0 kB, ")


def interrupt(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Send Ctrl-C; return the exit status and the lines on stderr."""
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr.splitlines()


def start(*arguments: object, **settings: object) -> subprocess.Popen:
    """Start the command with its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "laion_fmri", *map(str, arguments)],
        cwd=os.environ["HOME"],
        env=os.environ | {k: str(v) for k, v in settings.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(is_so) -> None:
    """Wait until `is_so()`, at most as long as a test may take."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_a_check_at_once(tmp_path):
    """In the middle of a file that would take many minutes, 130 and one line."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    big = data_dir / "big.bin"
    size = 1 << 40
    with big.open("wb") as file:
        file.truncate(size)  # a hole: it takes no room on disk
    entry = f"big.bin\t{size}\t{'0' * 32}\t2026-01-31T12:00:00Z\t"
    header = "key\tsize\tetag\tlast_modified\tsha256"
    manifest = tmp_path / "keys.tsv"
    manifest.write_text(f"{header}\n{entry}\n")
    process = start("verify", "--manifest", manifest, "--data-dir", data_dir)
    reader = psutil.Process(process.pid)
    wait_until(lambda: str(big) in [file.path for file in reader.open_files()])
    said = "interrupted; nothing has been changed; the next check begins at the start"
    assert (130, [said]) == interrupt(process)


def test_ctrl_c_in_a_repair_puts_the_file_back(data, tiny_objects, tmp_path):
    """A repair that is stopped in the middle of a fetch leaves the file as it was."""
    key = sorted(tiny_objects)[0]
    flip(data / key)
    broken = (data / key).read_bytes()
    aws = wrap_aws(tmp_path, before=f"touch '{tmp_path}/begun'; sleep 60")
    process = start("verify", "--repair", LAION_FMRI_AWS=aws)
    wait_until((tmp_path / "begun").exists)
    assert not (data / key).exists()
    status, lines = interrupt(process)
    assert status == 130
    assert lines[-1].startswith("interrupted; ")
    assert broken == (data / key).read_bytes()
    assert not list(data.glob(".laion_fmri/corrupt*"))
