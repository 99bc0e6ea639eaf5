"""Going on inside an object: what is missing, how it is cut, and a server that falls silent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from helpers import find_aws
from hypothesis import given
from hypothesis import strategies as st

from laion_fmri.bucket.listing import Bucket
from laion_fmri.fetch import aws
from laion_fmri.fetch.job import Job, JobSpec
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
