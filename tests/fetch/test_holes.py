"""Going on inside an object: what is missing, how it is cut, and a server that falls silent."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import find_aws
from hypothesis import given
from hypothesis import strategies as st

from laion_fmri.bucket.listing import Bucket
from laion_fmri.fetch import aws
from laion_fmri.fetch.job import PROGRAM, Job, JobSpec
from laion_fmri.fetch.resume import LEAST_PIECE, PIECE, RESUMED, Resumer, cut_holes
from laion_fmri.folder import unfinished
from laion_fmri.folder.unfinished import MIB, Version

KEY = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_statmap.nii.gz"
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted).map(tuple))


@given(SPANS.map(sorted), st.integers(60, 80))
def test_holes_are_what_data_is_not(data, size):
    here = {place for start, end in data for place in range(start, end)}
    holes = unfinished.find_holes(data, size)
    missing = [place for start, end in holes for place in range(start, end)]
    assert missing == sorted(set(range(size)) - here)
    assert all(start < end for start, end in holes)


@given(st.lists(st.integers(0, 2000 * MIB), unique=True).map(sorted))
def test_requests_cover_the_holes_once(ends):
    holes = list(zip(ends[::2], ends[1::2], strict=False))
    spans = cut_holes(holes)
    assert all(0 < end - start <= PIECE for start, end in spans)
    joined = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    assert joined == holes
    short = [span for span in spans if span[1] - span[0] < LEAST_PIECE]
    assert len(short) <= len(holes)  # only the last one of each


@pytest.mark.timeout(120)
def test_a_silent_server_ends_the_attempt(tmp_path):
    """It takes each request and never answers: that must not be asked again without end."""
    version, size = Version(KEY, "0" * 32, 64 * MIB), 64 * MIB
    data_dir, staging = tmp_path / "data", tmp_path / "staging"
    data_dir.mkdir()
    staging.mkdir()
    with open(staging / "object", "wb") as file:
        file.write(b"x" * 8 * MIB)
        file.truncate(size)
    folder = os.open(staging, os.O_RDONLY)
    config = tmp_path / "aws.config"
    config.write_text(aws.make_config(4, None, True))
    looks = 0

    def check() -> bool:
        nonlocal looks
        looks += 1
        return looks < 60  # some 30 s; each request is given up after 6

    try:
        assert unfinished.keep(data_dir, version, folder, "object")
        (staging / "object").unlink()
        with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            words = [find_aws(), "s3", "cp", *Bucket("silent", "us-west-2", url).aws_options()]
            job = Job("job", None, (), ((KEY, size),), connections=4)
            where = (str(data_dir), str(tmp_path / "run"))
            spec = JobSpec(job, "silent", *where, {}, {KEY: version.etag}, stall_timeout=1.0)
            ended = Resumer(spec, words, config, check).go_on(KEY, folder)
    finally:
        os.close(folder)
    assert ended is not None
    assert (ended.outcome, ended.reason) == ("", "no byte has arrived for 1 s")
    assert not Path(staging, RESUMED).exists()
    assert unfinished.measure(data_dir, [version])[KEY] > 7 * MIB  # still kept


CONTENT = random.Random(0).randbytes(12 * MIB)
OTHER = random.Random(1).randbytes(12 * MIB)


def write_half(file: Path, content: bytes = CONTENT) -> None:
    """Write the beginning of an object of this size."""
    with file.open("wb") as part:
        part.write(content[: 6 * MIB])
        part.truncate(len(content))


def link_elsewhere(file: Path) -> None:
    """Put a file there that is somebody's document as well."""
    document = file.parents[3] / "document"
    write_half(document, OTHER)
    os.link(document, file)


#: What stands where a part is looked for.
SPOILED = {
    "sound": write_half,
    "of another object": lambda file: write_half(file, OTHER),
    "complete, of another object": lambda file: file.write_bytes(OTHER),
    "truncated": lambda file: file.write_bytes(CONTENT[: 5 * MIB]),
    "empty": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(CONTENT + b"more"),
    "a document as well": link_elsewhere,
    "a link": lambda file: file.symlink_to("/etc/passwd"),
    "a FIFO": os.mkfifo,
    "a folder": lambda file: file.mkdir(),
    "another user's": lambda file: (write_half(file), os.chown(file, 12345, 12345)),
    "another user's, of another object": lambda file: (
        write_half(file, OTHER),
        os.chown(file, 12345, 12345),
    ),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("name", SPOILED)
def test_only_what_is_of_the_object_is_in_the_result(name, server, tmp_path):
    """Whatever is in the place of a part, the file arrives whole, and nothing else is changed."""
    if "holes" not in server._store.buckets:
        server.add_bucket("holes", {KEY: CONTENT})
    etag = hashlib.md5(CONTENT).hexdigest()
    version = Version(KEY, etag, len(CONTENT))
    data_dir, run_dir = tmp_path / "data", tmp_path / "run"
    kept = data_dir / ".laion_fmri" / "unfinished"
    kept.mkdir(parents=True)
    run_dir.mkdir(mode=0o700)
    SPOILED[name](kept / f"{version.name}{'0' * 16}")
    job = Job("job", None, (), ((KEY, len(CONTENT)),), connections=4)
    spec = JobSpec(job, "holes", str(data_dir), str(run_dir), {}, {KEY: etag}, 60.0)
    options = Bucket("holes", "us-west-2", server.endpoint_url).aws_options()
    server.clear_requests()
    words = [sys.executable, PROGRAM, spec.to_json(), "--", find_aws(), "s3", "cp", *options]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (data_dir / KEY).read_bytes() == CONTENT
    assert (data_dir / KEY).stat().st_uid == os.geteuid()
    if name in ("sound", "truncated", "another user's"):
        assert "goes on" in done.stderr
    if (tmp_path / "document").exists():
        half = OTHER[: 6 * MIB] + bytes(6 * MIB)
        assert (tmp_path / "document").read_bytes() == half
    left = [file for file in kept.iterdir() if file.is_file() and not file.is_symlink()]
    assert left == []
