"""An aws that was loaded before does what the AWS CLI does, and ends with whoever started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import find_aws
from warm import warm_up_aws

from laion_fmri.sample import SampleServer

pytestmark = pytest.mark.cold


@pytest.fixture(scope="module")
def warm() -> str:
    """Return the program that starts a loaded aws."""
    found = warm_up_aws(find_aws())
    if found == find_aws():
        # What the installer of version 2 brings is not a script of Python: it cannot be preloaded.
        pytest.skip(f"{found} is not started by a Python on its first line, or there is no /proc")
    return found


@pytest.fixture
def settings() -> dict[str, str]:
    """Return an environment that aws can do with, unlike that of other tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {"AWS_CONFIG_FILE": os.devnull, "AWS_MAX_ATTEMPTS": "1"}


@pytest.mark.parametrize("words", [["--version"], ["s3", "cp"], ["s3", "cp", "s3://a/b", "x y"]])
def test_it_says_and_ends_as_the_real_one(
    warm: str, words: list[str], settings: dict[str, str], tmp_path: Path
) -> None:
    """By its exit status, its output and its complaints."""
    options = ["--no-sign-request", "--region", "us-west-2", "--endpoint-url", "http://127.0.0.1:9"]
    said = [
        subprocess.run(
            [program, *words, *(options if words[1:] else [])],
            cwd=tmp_path,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
        )
        for program in (find_aws(), warm)
    ]
    told = [(done.returncode, done.stdout, done.stderr) for done in said]
    assert told[0] == told[1]


def test_other_settings_of_python_start_the_real_one(warm: str, settings: dict[str, str]) -> None:
    """What Python reads when it starts cannot be changed afterwards."""
    settings["PYTHONVERBOSE"] = "1"
    words = [warm, "--version"]
    done = subprocess.run(words, env=settings, capture_output=True, text=True, check=True)
    assert "import 'awscli" in done.stderr


def test_it_is_killed_with_what_was_started(
    warm: str, settings: dict[str, str], tmp_path: Path
) -> None:
    """The connection that it had is closed: the kernel does that when a process is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = ["s3", "cp", "s3://a/b", str(tmp_path), "--no-sign-request"]
        words += ["--region", "us-west-2", "--endpoint-url", url]
        with subprocess.Popen([warm, *words], env=settings, stderr=sys.stderr) as process:
            connection, _ = listener.accept()
            connection.settimeout(60)
            assert connection.recv(4) == b"HEAD"
            process.kill()
            assert process.wait() == -9
            while connection.recv(4096):
                pass
            connection.close()


def test_files_that_are_open_are_its_own(
    warm: str, settings: dict[str, str], server: SampleServer, tmp_path: Path
) -> None:
    """It writes into a folder that was handed to it by its number alone."""
    server.add_bucket("warm", {"a": b"content"})
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        words = ["s3", "cp", "s3://warm/a", f"/proc/self/fd/{folder}/a", "--no-sign-request"]
        words += ["--region", "us-west-2", "--endpoint-url", server.endpoint_url]
        subprocess.run([warm, *words], env=settings, pass_fds=[folder], cwd="/", check=True)
    finally:
        os.close(folder)
    assert (tmp_path / "a").read_bytes() == b"content"
