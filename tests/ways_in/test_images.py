"""The images' file: for those who have a request id it is one more object of a selection."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import (
    HOST,
    REPO,
    complaints,
    on_terminal,
    read_tree,
    run,
    run_command,
    run_script,
    write_tree,
)
from pages import find_commands, read_blocks
from service import KEY, REQUEST_ID, SIGNATURE, serve_images

import laion_fmri
from laion_fmri.errors import AccessError, DownloadError, ServiceError

CONTENT = os.urandom(3_000_000)
OTHER = "stimuli/task-images_metadata.csv"
FORM = "https://laion-fmri.hebartlab.com/request"
WORDS = ("download", "--scope", "stimuli")


@pytest.fixture(scope="module")
def images_bucket(server):
    """Serve a bucket that lists the images, answers 403 for them, and has a table beside them."""
    server.add_bucket("images", {KEY: CONTENT, OTHER: b"a,b\n"}, (KEY,))


@pytest.fixture
def stand(images_bucket, bucket, monkeypatch):
    """Point the package at that bucket, and at a stand-in of the service."""
    monkeypatch.setenv("LAION_FMRI_BUCKET", "images")
    with serve_images(CONTENT) as stand:
        monkeypatch.setenv("LAION_FMRI_SERVER_URL", stand.url)
        yield stand


@pytest.fixture
def with_id(stand, monkeypatch):
    """The same for somebody who has a request id."""
    monkeypatch.setenv("LAION_FMRI_REQUEST_ID", REQUEST_ID)
    return stand


def find_secrets(*places: Path, but: tuple[Path, ...] = ()) -> list[str]:
    """Return the files that hold a secret."""
    found = []
    for place in places:
        for file in place.rglob("*"):
            if file.is_file() and not file.is_symlink() and file not in but:
                content = file.read_bytes()
                if REQUEST_ID.encode() in content or SIGNATURE.encode() in content:
                    found.append(str(file))
    return found


def says_a_secret(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether an output holds one."""
    said = done.stdout + done.stderr
    return any(word in said for word in (REQUEST_ID, "SECRET", SIGNATURE, "5ecre7"))


def list_parts(data_dir: Path) -> list[int]:
    """Return the sizes of what is kept of an object that is not whole."""
    return [file.stat().st_size for file in (data_dir / ".laion_fmri" / "unfinished").glob("*")]


def auth_file() -> Path:
    """Return where both packages keep the id."""
    return Path(os.environ["HOME"], ".cache", "laion-fmri", "auth.json")


def test_without_an_id_it_is_left_out_with_where_to_ask(stand, tmp_path):
    """The form's address and how to log in; the rest arrives, and the service is not asked."""
    done = run_command(*WORDS, "--data-dir", tmp_path)
    (line,) = [line for line in done.stdout.splitlines() if KEY in line]
    assert (FORM in line, "laion-fmri login" in line, done.returncode) == (True, True, 0)
    assert (set(read_tree(tmp_path)), stand.seen) == ({OTHER}, [])
    alone = run_command(*WORDS, "--suffix", "stimuli", "--data-dir", tmp_path)
    (line,) = alone.stderr.splitlines()
    assert (FORM in line, "laion-fmri login" in line, alone.returncode) == (True, True, 2)


def test_after_a_login_it_is_one_more_object(stand, tmp_path):
    """Planned, fetched, and complete on the second run; nothing but auth.json holds the id."""
    done = run_command("login", "--request-id", REQUEST_ID)
    assert (done.returncode, says_a_secret(done)) == (0, False)
    kept = json.loads(auth_file().read_text())
    assert (kept["request_id"], kept["server_url"]) == (REQUEST_ID, stand.url)
    assert {*kept} == {"request_id", "server_url", "email", "saved_at"}
    assert auth_file().stat().st_mode & 0o777 == 0o600
    dry = run_command(*WORDS, "--dry-run", "--data-dir", tmp_path)
    assert KEY in dry.stdout
    assert "2 to fetch" in dry.stdout
    done = run_command(*WORDS, "--data-dir", tmp_path, LAION_FMRI_SERVER_URL=None)
    assert (done.returncode, complaints(done)) == (0, [])
    assert read_tree(tmp_path) == {KEY: CONTENT, OTHER: b"a,b\n"}
    assert (list_parts(tmp_path), says_a_secret(done)) == ([], False)
    asked = len(stand.seen)
    again = run_command(*WORDS, "--data-dir", tmp_path)
    assert ("nothing to do" in again.stdout, len(stand.seen)) == (True, asked)
    home = Path(os.environ["HOME"])
    assert find_secrets(home, tmp_path, but=(auth_file(),)) == []
    made = (tmp_path / KEY).stat(), (tmp_path / OTHER).stat()
    assert made[0].st_mode == made[1].st_mode
    out = run_command("logout")
    assert (out.returncode, auth_file().exists()) == (0, False)
    assert "nobody was logged in" in run_command("logout").stdout


def test_the_id_can_come_from_a_pipe(stand):
    """Where neither the history nor the list of processes has it."""
    words = [sys.executable, "-m", "laion_fmri", "login"]
    done = subprocess.run(words, input=f"{REQUEST_ID}\n", capture_output=True, text=True)
    assert (done.returncode, auth_file().exists(), says_a_secret(done)) == (0, True, False)


def test_a_login_on_a_terminal_is_as_its_page_shows_it(stand, tmp_path):
    """The id is asked for and not shown; then the images come, until the logout."""
    name = "test_a_login_on_a_terminal_is_as_its_page_shows_it"
    blocks = read_blocks(REPO / "docs" / "how-to" / "stimuli.md")
    shown, typed = (block.text for block in blocks if block.how.get("tested elsewhere") == name)
    first, *expected = shown.replace("/home/you", os.environ["HOME"]).splitlines()
    assert first == "$ laion-fmri login"
    status, seen = on_terminal("login", columns=200, typed=f"{REQUEST_ID}\n", asks="(not shown): ")
    assert (status, [line.strip() for line in seen.splitlines()]) == (0, expected)
    download, logout = find_commands(typed)
    done = run_command(*download, "--data-dir", tmp_path)
    assert (done.returncode, (tmp_path / KEY).read_bytes()) == (0, CONTENT), done.stderr
    assert (run_command(*logout).returncode, auth_file().exists()) == (0, False)


def test_an_id_without_its_option_is_not_repeated(stand):
    """Nor is the service asked."""
    done = run_command("login", REQUEST_ID)
    assert (done.returncode, "--request-id" in done.stderr) == (2, True)
    assert (says_a_secret(done), stand.seen) == (False, [])


def test_plain_http_goes_past_a_proxy(stand):
    """Which would see the id."""
    with serve_images(b"") as proxy:
        settings = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), proxy.url)
        for url in (stand.url, stand.url.replace("http", "HTTP")):
            done = run_command(
                *["login", "--request-id", REQUEST_ID],
                **settings,
                no_proxy=None,
                NO_PROXY=None,
                LAION_FMRI_SERVER_URL=url,
            )
            assert (done.returncode, proxy.seen) == (0, [])


def test_in_python(stand, tmp_path):
    """login(), download_stimuli() and logout()."""
    laion_fmri.login(REQUEST_ID)
    report = laion_fmri.download_stimuli(data_dir=tmp_path)
    assert dict(zip(report["key"], report["outcome"], strict=True))[KEY] == "fetched"
    assert (tmp_path / KEY).read_bytes() == CONTENT
    laion_fmri.logout()
    assert not auth_file().exists()


def test_include_stimuli_brings_it(with_id, server, tmp_path):
    """Beside what a subject has."""
    trial = "derivatives/glmsingle-tedana/sub-03/ses-01/func/sub-03_ses-01_desc-A_trials.tsv"
    server.put(trial, b"x", "images")
    done = run_command(
        *["download", "--subject", "03", "--include-stimuli", "--data-dir", tmp_path]
    )
    assert done.returncode == 0
    assert read_tree(tmp_path) == {KEY: CONTENT, OTHER: b"a,b\n", trial: b"x"}
    server.delete(trial, "images")


def test_in_a_pipeline(with_id, tmp_path):
    """A rule takes the file; what Snakemake keeps and says has no secret."""
    text = HOST.format(workflow=REPO / "workflow" / "Snakefile") + (
        f'\nrule use:\n    default_target: True\n    input: "data/{KEY}", "data/{OTHER}"\n'
        '    output: "out"\n    shell: "cat {input} > {output}"\n'
    )
    (tmp_path / "Snakefile").write_text(text)
    (tmp_path / "config.yaml").write_text("laion:\n  subject: none\n  data_dir: data\n")
    words = [sys.executable, "-m", "snakemake", "--cores", "2", "-p"]
    done = run(words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == CONTENT + b"a,b\n"
    assert (says_a_secret(done), find_secrets(tmp_path)) == (False, [])
    assert "Nothing to be done" in run(words, cwd=tmp_path).stderr


TERMS = "https://laion-fmri.hebartlab.com/accept"
OUTDATED = {"error": "terms_outdated", "accept_url": f"{TERMS}?id={REQUEST_ID.replace('+', '%2B')}"}
OUTDATED["current_terms_version"] = "3"
#: Answers that end it -> what is said, and whether the file counts as denied.
REFUSALS = {
    "terms": ((403, json.dumps({"detail": OUTDATED})), f"{TERMS}?id=YOUR-REQUEST-ID"),
    "revoked": ((403, json.dumps({"detail": f"{REQUEST_ID} is revoked"})), "revoked"),
    "unknown": ((404, json.dumps({"detail": f"unknown {REQUEST_ID}"})), "does not know"),
    "odd": ((422, json.dumps({"detail": [{"input": REQUEST_ID}]})), "refuses"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_id(with_id, tmp_path, name):
    """Asked once; denied with the reason in the report; not kept by a login."""
    with_id.always, said = REFUSALS[name]
    done = run_command(*WORDS, "--data-dir", tmp_path)
    assert (done.returncode, len(with_id.seen), says_a_secret(done)) == (1, 1, False)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"error: {KEY}")]
    assert said in line
    assert set(read_tree(tmp_path)) == {OTHER}
    assert find_secrets(Path(os.environ["HOME"])) == []
    login = run_command("login", "--request-id", REQUEST_ID)
    (line,) = [line for line in login.stderr.splitlines() if line.startswith("error")]
    assert (login.returncode, said in line, auth_file().exists()) == (2, True, False)
    assert not says_a_secret(login)


#: Answers after which it is tried again -> what is said in the end.
TROUBLES = {
    "too many": ((429, json.dumps({"detail": "slow down"})), "too many requests"),
    "error": ((503, REQUEST_ID), "503"),
    "page": ((200, f"<html>{REQUEST_ID}"), "captive portal"),
    "page 404": ((404, "<html>"), "captive portal"),
    "list": ((200, "[1]"), "captive portal"),
    "deep": ((200, "[" * 100_000), "captive portal"),
    "nothing": ((200, json.dumps({"files": []})), f"does not offer {KEY}"),
    "odd": ((200, json.dumps({"files": [{"name": KEY, "url": "ftp://x", "size": 1}]})), "usable"),
    "redirect": ((307, "{}", {"Location": "http://127.0.0.1:9/leak"}), "unexpected answer"),
    "moved": ((302, "{}", {"Location": "https://127.0.0.1:9/leak"}), "unexpected answer"),
}
QUICK = """
from laion_fmri.fetch import gated
gated.BACKOFF = gated.PAUSE = 0.01
"""


@pytest.fixture
def quick(monkeypatch, tmp_path_factory):
    """Cut the waits between attempts short, in every process."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.argv[0].endswith('transfer.py') or 'transfer.py' in str(sys.orig_argv):\n"
        f"    sys.path.insert(0, {str(REPO)!r})\n"
        + "".join(f"    {line}\n" for line in QUICK.strip().splitlines())
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.parametrize("name", TROUBLES)
def test_a_service_in_trouble(with_id, quick, tmp_path, name):
    """Three attempts, then failed; with an answer in time, fetched."""
    with_id.always, said = TROUBLES[name]
    done = run_command(*WORDS, "--data-dir", tmp_path)
    assert (done.returncode, len(with_id.seen), says_a_secret(done)) == (1, 3, False)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"error: {KEY}")]
    assert said in line
    with_id.refresh, with_id.always = [with_id.always], None
    assert run_command(*WORDS, "--data-dir", tmp_path).returncode == 0
    assert (tmp_path / KEY).read_bytes() == CONTENT


def test_no_service_at_all(stand, tmp_path):
    """A login says so in a line, and keeps nothing."""
    done = run_command(
        *["login", "--request-id", REQUEST_ID], LAION_FMRI_SERVER_URL="http://127.0.0.1:9"
    )
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "cannot be reached" in line, auth_file().exists()) == (1, True, False)
    assert not says_a_secret(done)


def test_a_connection_that_is_cut_again_and_again(with_id, quick, tmp_path):
    """Every byte counts: each connection goes on where the last one ended."""
    with_id.every = 400_000
    done = run_command(*WORDS, "--data-dir", tmp_path)
    assert (done.returncode, (tmp_path / KEY).read_bytes() == CONTENT) == (0, True)
    asked = [request.range for request in with_id.find("download")]
    assert asked == [None, *(f"bytes={n}-" for n in range(400_000, 3_000_000, 400_000))]
    assert len(with_id.find("refresh")) == 1
    sent = [request.headers for request in with_id.find("download")]
    assert not any(REQUEST_ID in str(headers) for headers in sent)


def test_an_address_that_expires_in_the_middle(with_id, quick, tmp_path):
    """It is renewed, and the rest is fetched."""
    with_id.downloads = [["expire", 1_000_000], ["expire", 500_000]]
    done = run_command(*WORDS, "--data-dir", tmp_path)
    assert (done.returncode, (tmp_path / KEY).read_bytes() == CONTENT) == (0, True)
    asked = [request.range for request in with_id.find("download")]
    assert asked == [
        None,
        *["bytes=1000000-"] * 2,
        *["bytes=1500000-"] * 2,
    ]
    assert (len(with_id.find("refresh")), says_a_secret(done)) == (3, False)


def test_a_server_that_ignores_ranges(with_id, quick, tmp_path):
    """What is here already is passed over."""
    with_id.has_ranges = False
    with_id.downloads = [1_000_000, 2_000_000]
    done = run_command(*WORDS, "--data-dir", tmp_path)
    assert (done.returncode, (tmp_path / KEY).read_bytes() == CONTENT) == (0, True)
    assert len(with_id.find("download")) == 3


def test_another_size_than_listed(with_id, tmp_path):
    """Failed at once, with both."""
    with_id.size = 7
    done = run_command(*WORDS, "--data-dir", tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"error: {KEY}")]
    assert (done.returncode, "7 bytes" in line, "3,000,000" in line) == (1, True, True)
    assert (with_id.find("download"), list_parts(tmp_path)) == ([], [])


@pytest.mark.parametrize("has_ranges", [True, False])
def test_another_size_than_announced(with_id, quick, tmp_path, has_ranges):
    """Not put into place."""
    with_id.size, with_id.content = len(CONTENT), CONTENT[:-1]
    done = run_command(*WORDS, "--data-dir", tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"error: {KEY}")]
    assert (done.returncode, "2,999,999 bytes" in line) == (1, True)
    assert set(read_tree(tmp_path)) == {OTHER}


def test_another_content_than_announced(with_id, quick, tmp_path):
    """Fetched twice, then failed; nothing of it is kept."""
    with_id.sha256 = "0" * 64
    done = run_command(*WORDS, "--data-dir", tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"error: {KEY}")]
    assert (done.returncode, "SHA-256" in line, list_parts(tmp_path)) == (1, True, [0])
    assert len(with_id.find("download")) == 2
    assert set(read_tree(tmp_path)) == {OTHER}


def test_a_redirect_of_the_address_is_not_followed(with_id, quick, tmp_path):
    """Wherever it leads."""
    with serve_images(b"elsewhere") as other:
        with_id.every = (302, "", {"Location": f"{other.url}/files/0?{SIGNATURE}=0"})
        done = run_command(*WORDS, "--data-dir", tmp_path)
        assert (done.returncode, other.seen, says_a_secret(done)) == (1, [], False)


def test_silence(with_id, quick, tmp_path):
    """Given up after the timeout, and what has come is kept for the next run."""
    with_id.every = ["hang", 1000]
    words = [*WORDS, "--data-dir", tmp_path]
    # A connection that brings something is no failure, and then nothing comes any more.
    with_id.downloads = [["hang", 1000], *[["hang", 0]] * 3]
    done = run_command(*words, "--stall-timeout", "1")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"error: {KEY}")]
    assert (done.returncode, "no byte" in line or "no answer" in line) == (1, True)
    assert (list_parts(tmp_path), len(with_id.find("download"))) == ([1000], 4)
    with_id.every = None
    assert run_command(*words).returncode == 0
    assert with_id.find("download")[-1].range == "bytes=1000-"


def test_a_service_that_does_not_answer(with_id, quick, tmp_path):
    """Given up after the timeout, each time."""
    with_id.always = (200, None)
    done = run_command(*WORDS, "--stall-timeout", "1", "--data-dir", tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"error: {KEY}")]
    assert (done.returncode, "no byte has arrived for 1 s" in line) == (1, True)
    assert len(with_id.seen) == 3


def kill_in_the_middle(stand, data_dir: Path) -> int:
    """Start a download that hangs in the middle, kill all of it, and return what it has kept."""
    stand.downloads = [["hang", 1_200_000]]
    words = [sys.executable, "-m", "laion_fmri", *WORDS, "--data-dir", str(data_dir)]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 40
    while list_parts(data_dir) != [1_200_000]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    transfers = find_transfers(data_dir)
    assert not any(REQUEST_ID in text or SIGNATURE in text for _, text in transfers)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pid, _ in transfers:
        os.kill(pid, signal.SIGKILL)
    return list_parts(data_dir)[0]


def find_transfers(data_dir: Path) -> list[tuple[int, str]]:
    """Return the processes that fetch, with their command lines."""
    home = os.environ["HOME"]
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        text = " ".join(process.info["cmdline"] or ())
        if home in text and "transfer.py" in text:
            found.append((process.info["pid"], text))
    return found


def test_a_run_that_is_killed_is_gone_on_with(with_id, tmp_path):
    """By another run; nothing of what was kept survives the arrival."""
    assert kill_in_the_middle(with_id, tmp_path) == 1_200_000
    done = run_command(*WORDS, "--data-dir", tmp_path)
    assert (done.returncode, (tmp_path / KEY).read_bytes() == CONTENT) == (0, True)
    assert with_id.find("download")[-1].range == "bytes=1200000-"
    assert (list_parts(tmp_path), (tmp_path / KEY).stat().st_nlink) == ([], 1)


def test_a_changed_object_drops_what_was_kept(with_id, server, tmp_path):
    """The new one is fetched from its beginning."""
    kill_in_the_middle(with_id, tmp_path)
    changed = CONTENT[::-1]
    server.put(KEY, changed, "images")
    with_id.content = changed
    done = run_command(*WORDS, "--data-dir", tmp_path)
    server.put(KEY, CONTENT, "images")
    assert (done.returncode, (tmp_path / KEY).read_bytes() == changed) == (0, True)
    assert (with_id.find("download")[-1].range, list_parts(tmp_path)) == (None, [])


def test_a_part_that_has_arrived_is_removed(with_id, tmp_path):
    """By the next run, if a kill has left no time for it."""
    write_tree(tmp_path, {KEY: CONTENT})
    parts = tmp_path / ".laion_fmri" / "unfinished"
    parts.mkdir(parents=True)
    os.link(tmp_path / KEY, parts / f"{'0' * 32}-{os.geteuid()}-{'a' * 64}")
    assert run_command(*WORDS, "--data-dir", tmp_path).returncode == 0
    assert list_parts(tmp_path) == []


def test_somebody_elses_file_is_not_written_to(with_id, tmp_path):
    """A link that waits where a part would be is replaced, and what it leads to stays."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    parts = tmp_path / ".laion_fmri" / "unfinished"
    parts.mkdir(parents=True)
    digest = hashlib.sha256(KEY.encode()).hexdigest()[:32]
    name = f"{digest}-{os.geteuid()}-{hashlib.sha256(CONTENT).hexdigest()}"
    for make in (os.symlink, os.link):
        make(victim, parts / name)
        (tmp_path / KEY).unlink(missing_ok=True)
        assert run_command(*WORDS, "--data-dir", tmp_path).returncode == 0
        assert (victim.read_bytes(), (tmp_path / KEY).read_bytes() == CONTENT) == (b"mine", True)


#: What makes auth.json a file that is not trusted -> what is said.
HOSTILE = {
    "readable": (lambda file: file.chmod(0o644), "chmod 600"),
    "folder": (lambda file: file.parent.chmod(0o777), "chmod go-w"),
    "garbage": (lambda file: file.write_text("[" * 5000), "no request id"),
    "number": (lambda file: file.write_text('{"request_id": 5}'), "no request id"),
    "spaces": (lambda file: file.write_text('{"request_id": "a b\\nc d"}'), "cannot be a request"),
    "server": (
        lambda file: file.write_text('{"request_id": "abcdef", "server_url": "http://evil.org"}'),
        "not valid",
    ),
    "link": (lambda file: link_away(file), "cannot be read"),
    "fifo": (lambda file: (file.unlink(), os.mkfifo(file, 0o600)), "cannot be read"),
}


def link_away(file: Path) -> None:
    """Put a link in the place of a file."""
    other = file.with_name("other.json")
    file.rename(other)
    file.symlink_to(other)


@pytest.mark.parametrize("name", HOSTILE)
def test_an_auth_file_that_others_could_have_made(stand, tmp_path, name):
    """It is not used: the images are left out with the reason, and all else arrives."""
    laion_fmri.login(REQUEST_ID)
    spoil, said = HOSTILE[name]
    spoil(auth_file())
    asked = len(stand.seen)
    done = run_command(*WORDS, "--data-dir", tmp_path, LAION_FMRI_SERVER_URL=None)
    (line,) = [line for line in done.stdout.splitlines() if KEY in line]
    assert (said in line, done.returncode, len(stand.seen)) == (True, 0, asked)
    assert (set(read_tree(tmp_path)), says_a_secret(done)) == ({OTHER}, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_an_auth_file_of_another_user(stand, tmp_path):
    """It is not used."""
    laion_fmri.login(REQUEST_ID)
    os.chown(auth_file(), 12345, 12345)
    done = run_command(*WORDS, "--data-dir", tmp_path)
    assert "belongs to another user" in done.stdout


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org",
        "ftp://127.0.0.1",
        "https://a:b@example.org",
        "https://",
        "x",
        "https://[1",
    ],
)
def test_where_no_secret_is_sent(stand, monkeypatch, url):
    """Plain http to elsewhere, and what is not an address."""
    monkeypatch.setenv("LAION_FMRI_SERVER_URL", url)
    done = run_command("login", "--request-id", REQUEST_ID)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "LAION_FMRI_SERVER_URL" in line) == (2, True)
    assert (says_a_secret(done), stand.seen) == (False, [])


def test_an_id_that_cannot_be_one(stand):
    """Said without showing it."""
    for given in ("", "a b SECRET", "x" * 300, "é" * 10):
        done = run_command("login", "--request-id", given)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, "cannot be a request id" in line) == (2, True)
        assert (says_a_secret(done), stand.seen) == (False, [])


def test_errors_in_python_hold_no_secret(with_id, tmp_path):
    """Nor do their tracebacks."""
    with_id.always = REFUSALS["revoked"][0]
    with pytest.raises(AccessError, match="revoked"):
        laion_fmri.login(REQUEST_ID)
    with pytest.raises(DownloadError) as caught:
        laion_fmri.download_stimuli(data_dir=tmp_path)
    assert set(caught.value.report["outcome"]) == {"fetched", "denied"}
    with_id.always = (500, "x")
    with pytest.raises(ServiceError):
        laion_fmri.login(REQUEST_ID)
    done = run_script(
        "import os, laion_fmri\nlaion_fmri.login(os.environ['LAION_FMRI_REQUEST_ID'])"
    )
    assert ("ServiceError" in done.stderr, says_a_secret(done)) == (True, False)


def test_aws_does_not_get_the_id(with_id, monkeypatch, tmp_path):
    """It is none of its business."""
    from laion_fmri.fetch.aws import make_environment

    assert "LAION_FMRI_REQUEST_ID" not in make_environment(tmp_path)


#: Downloads to a small disk, in a mount namespace of its own, and again once it has grown.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=2500k none "$1" || exit 77
"$2" -m laion_fmri download --scope stimuli --no-space-check --data-dir "$1"
echo "first $? $(ls "$1/stimuli")" >&2
mount -o remount,size=3500k "$1"
"$2" -m laion_fmri download --scope stimuli --data-dir "$1"
echo "second $? $(sha256sum < "$1/stimuli/task-images_stimuli.h5")" >&2
"""


def test_a_full_disk_keeps_what_has_come(with_id, tmp_path):
    """The run stops and says so; the next one needs room for the rest alone, and goes on."""
    inside = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = run([*inside, "sh", "-c", ON_A_SMALL_DISK, "sh", tmp_path, sys.executable])
    if done.returncode == 77 or done.stderr.startswith("unshare"):
        pytest.skip("no small disk can be made here")
    assert "No space left on device" in done.stderr
    (first,) = re.findall("^first .*", done.stderr, re.M)
    assert (first.startswith("first 1"), Path(KEY).name in first) == (True, False)
    assert f"second 0 {hashlib.sha256(CONTENT).hexdigest()}" in done.stderr
    first, second = with_id.find("download")
    assert first.range is None
    assert int(re.fullmatch(r"bytes=(\d+)-", second.range)[1]) > 2_000_000


def test_a_broken_file_is_repaired(with_id, tmp_path):
    """Found by its content, and fetched again by the id; without one, the broken file stays."""
    assert run_command(*WORDS, "--data-dir", tmp_path).returncode == 0
    broken = b"x" + CONTENT[1:]
    (tmp_path / KEY).write_bytes(broken)
    words = ["verify", *WORDS[1:], "--repair", "--data-dir", tmp_path]
    without = run_command(*words, LAION_FMRI_REQUEST_ID=None)
    assert (without.returncode, (tmp_path / KEY).read_bytes() == broken) == (1, True)
    assert f"not fetched: needs a request id: ask at {FORM}" in without.stderr
    done = run_command(*words)
    assert (done.returncode, "1 ok, 1 repaired" in done.stdout) == (0, True), done
    assert read_tree(tmp_path) == {KEY: CONTENT, OTHER: b"a,b\n"}
