"""Without a network: what is complete stays usable, and what is missing is named in a line."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers import (
    TINY,
    complaints,
    copy_clone,
    count_aws,
    read_tree,
    run_command,
    run_snakemake,
    write_tree,
)
from test_pipeline import make_host, make_module, take

from laion_fmri.bucket import client as client_module
from laion_fmri.bucket import kept_listings
from laion_fmri.bucket.listing import Bucket
from laion_fmri.discovery import get_subjects
from laion_fmri.download import download
from laion_fmri.errors import BucketError, LaionFmriError, SelectionWarning
from laion_fmri.keys import key_table

CUT_OFF = r"the bucket cannot be reached; using its listing of \d{4}-\d\d-\d\d \d\d:\d\d"
OFFLINE = r"the bucket is not asked, being offline; using its listing of \d{4}-\d\d-\d\d \d\d:\d\d"
MISSING = "1 of 4 files ({} bytes) are not here, and the bucket cannot be reached: {}; "
MISSING += "run the same again with a connection"
#: Seconds that the attempts of who is not in a hurry last at least, where packets are dropped.
NEVER = client_module.ATTEMPTS * client_module.CONNECT_TIMEOUT


class Gate:
    """The way to a server: open, shut (refused), silent (no answer) or full (packets dropped)."""

    def __init__(self, endpoint_url: str) -> None:
        found = urlsplit(endpoint_url)
        self._behind = (found.hostname, found.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._waiting: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        self.seen = 0
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = listener.accept()
                self.seen += 1
                threading.Thread(target=self._connect, args=(here,), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        with here, socket.create_connection(self._behind) as there:
            back = threading.Thread(target=self._pass_on, args=(there, here), daemon=True)
            back.start()
            self._pass_on(here, there)
            back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for one in (self._listener, *self._waiting):
            one.close()

    def break_(self, how: str) -> None:
        """Become ``refused``, ``silent`` or ``dropped``."""
        self.close()
        if how == "refused":
            return
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(0 if how == "dropped" else 128)
        for _ in range(8 if how == "dropped" else 0):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", self.port))
            self._waiting.append(waiting)

    def count_new(self) -> int:
        """Return how many connections have come since the last time, to a silent gate."""
        before = len(self._waiting)
        self._listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._waiting.append(self._listener.accept()[0])
        return len(self._waiting) - before

    def open(self) -> None:
        """Let everything through again."""
        self.close()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()


@pytest.fixture
def gate(tiny, monkeypatch) -> Iterator[Gate]:
    """The way to the bucket ``tiny``; nothing is remembered of other tests."""
    kept_listings._FAILED.clear()
    gate = Gate(tiny.endpoint_url)
    monkeypatch.setenv("LAION_FMRI_ENDPOINT_URL", gate.endpoint_url)
    yield gate
    gate.close()
    client_module._make_client.cache_clear()  # and the connections with it


@pytest.fixture
def data_dir(tmp_path, tiny_objects) -> Path:
    """A data directory that is complete."""
    write_tree(tmp_path / "data", tiny_objects)
    return tmp_path / "data"


@pytest.fixture
def calls(tmp_path, monkeypatch) -> Path:
    """A log that only exists if aws was called."""
    log = tmp_path / "calls"
    monkeypatch.setenv("LAION_FMRI_AWS", str(count_aws(tmp_path, log)))
    return log


def list_all() -> None:
    """Have the listings of subject 03 kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        download("03", data_dir=os.environ["HOME"], dry_run=True)


def get_command(data_dir: Path, *more: object):
    """Run the command, which has to give up soon; return what it did and what it complained of."""
    started = time.monotonic()
    done = run_command("download", "--subject", "03", "--data-dir", data_dir, *more)
    assert time.monotonic() - started < NEVER
    assert "Traceback" not in done.stderr
    return done, complaints(done)


WAYS = ["refused", "silent", "dropped"]


@pytest.mark.parametrize("how", WAYS)
def test_a_complete_download_needs_no_network(gate, data_dir, calls, how):
    """It ends as ever, with a line on the listing; so does the function."""
    list_all()
    gate.break_(how)
    done, said = get_command(data_dir)
    assert (done.returncode, len(said)) == (0, 1), done.stderr
    assert re.fullmatch(f"warning: {CUT_OFF}", said[0])
    assert "nothing to do: everything is here" in done.stdout
    started = time.monotonic()
    with pytest.warns(SelectionWarning, match=CUT_OFF) as caught:
        report = download("03", data_dir=data_dir)
    assert (len(caught), set(report["outcome"])) == (1, {"present"})
    assert time.monotonic() - started < NEVER
    assert not calls.exists()


@pytest.mark.parametrize("how", WAYS)
def test_what_is_missing_is_named_in_a_line(gate, data_dir, calls, how):
    """Nothing is tried, and the status is 1; with the network again, it arrives."""
    list_all()
    gate.break_(how)
    lost = (data_dir / TINY[0]).read_bytes()
    (data_dir / TINY[0]).unlink()
    done, said = get_command(data_dir)
    expected = MISSING.format(len(lost), TINY[0])
    assert (done.returncode, said[1:]) == (1, [f"error: {expected}"]), done.stderr
    with pytest.warns(SelectionWarning, match=CUT_OFF), pytest.raises(BucketError) as caught:
        download("03", data_dir=data_dir)
    assert str(caught.value) == expected
    assert not calls.exists()
    gate.open()
    kept_listings._FAILED.clear()
    done, said = get_command(data_dir)
    assert (done.returncode, said) == (0, [])
    assert (data_dir / TINY[0]).read_bytes() == lost


def test_several_are_counted_and_the_first_is_named(gate, data_dir):
    """The line has the number of files and their size; a dry run lists them and is content."""
    list_all()
    gate.break_("refused")
    for key in TINY[1:3]:
        (data_dir / key).unlink()
    done, said = get_command(data_dir)
    assert said[1].startswith("error: 2 of 4 files (")
    assert f": first {TINY[1]}; run the same again" in said[1]
    done, said = get_command(data_dir, "--dry-run")
    assert (done.returncode, len(said)) == (0, 1)
    assert "2 to fetch" in done.stdout


def test_a_refusal_is_not_a_network_that_is_gone(gate, bucket, data_dir, monkeypatch):
    """Nor is a login page; both are said, whatever is kept."""
    list_all()
    monkeypatch.setenv("LAION_FMRI_BUCKET", "no-such-bucket")
    question = kept_listings.Question("no-such-bucket", gate.endpoint_url, "", False)
    for prefix, deep in (("", False), ("derivatives/glmsingle-tedana/sub-03/", True)):
        kept_listings.keep(question._replace(prefix=prefix, deep=deep), [])
    done, said = get_command(data_dir)
    assert (done.returncode, len(said)) == (1, 1)
    assert "refuses to be listed (NoSuchBucket)" in said[0]


def test_without_a_kept_listing_it_is_the_error_of_before(gate, data_dir):
    """A closed port is named."""
    gate.break_("refused")
    done = run_command("download", "--subject", "03", "--data-dir", data_dir)
    assert (done.returncode, len(complaints(done))) == (1, 1)
    assert "cannot be listed" in done.stderr


@pytest.mark.parametrize("way", ["flag", "variable", "argument"])
def test_offline_never_uses_the_network(gate, data_dir, monkeypatch, way):
    """The kept listings are used at once, of a bucket that could be reached."""
    list_all()
    seen = gate.seen
    (data_dir / TINY[0]).unlink()
    if way == "argument":
        with pytest.warns(SelectionWarning, match=OFFLINE), pytest.raises(BucketError) as caught:
            download("03", data_dir=data_dir, offline=True)
        said = str(caught.value)
    else:
        words = ["--offline"] if way == "flag" else []
        if way == "variable":
            monkeypatch.setenv("LAION_FMRI_OFFLINE", "1")
        done, lines = get_command(data_dir, *words)
        assert (done.returncode, len(lines)) == (1, 2)
        assert re.fullmatch(f"warning: {OFFLINE}", lines[0])
        said = lines[1]
    assert "1 of 4 files" in said
    assert f"the bucket is not asked, being offline: {TINY[0]}" in said
    assert said.endswith("run the same again with a connection, and without offline")
    assert gate.seen == seen


def test_offline_without_a_kept_listing(gate, data_dir):
    """One line names the prefix, and what to do."""
    done, said = get_command(data_dir, "--offline")
    assert (done.returncode, len(said), gate.seen) == (1, 1, 0)
    assert "no listing of " in said[0]
    assert "run the same once with a connection, and without offline" in said[0]


@pytest.mark.parametrize("value", ["", "0", "no", "False", "off"])
def test_a_no_is_a_no(monkeypatch, value):
    """``LAION_FMRI_OFFLINE=0`` changes nothing."""
    monkeypatch.setenv("LAION_FMRI_OFFLINE", value)
    assert not Bucket.from_settings().offline


@pytest.mark.parametrize("other", ["endpoint", "bucket"])
def test_a_listing_of_another_bucket_is_never_used(gate, data_dir, monkeypatch, other):
    """Neither by its name nor by its endpoint."""
    list_all()
    name, value = "LAION_FMRI_BUCKET", "tiny2"
    if other == "endpoint":
        name, value = "LAION_FMRI_ENDPOINT_URL", f"{gate.endpoint_url}/x"
    monkeypatch.setenv(name, value)
    done, said = get_command(data_dir, "--offline")
    assert (done.returncode, len(said)) == (1, 1)
    assert "no listing of " in said[0]
    # Not even under the name of the file that would be read.
    files = sorted(
        kept_listings._find_file(kept_listings.Question("a", None, "", True)).parent.iterdir()
    )
    question = kept_listings.Question("tiny2", gate.endpoint_url, "", False)
    shutil.copy(files[0], kept_listings._find_file(question))
    assert kept_listings.recall(question) is None


def break_file(file: Path, how: str) -> None:
    """Make a kept listing something else."""
    content = file.read_bytes()
    if how == "empty":
        file.write_bytes(b"")
    elif how == "half":
        file.write_bytes(content[: len(content) // 2])
    elif how == "nonsense":
        file.write_bytes(b"nonsense")
    elif how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "link":
        file.rename(file.with_suffix(".real"))
        file.symlink_to(file.with_suffix(".real"))
    elif how == "open":
        file.parent.chmod(0o777)


def test_a_listing_of_more_serves_for_a_part(gate, tiny_objects):
    """A folder of a tree that was listed as a whole, with its folders or without."""
    bucket = Bucket.from_settings()
    tree = "derivatives/glmsingle-tedana/sub-03/"
    asked = [(tree, False), (f"{tree}ses-01/", True), (f"{tree}ses-01/func/", False), (tree, True)]
    there = [(list(bucket.list_objects(p, deep=d)), bucket.list_folders(p)) for p, d in asked]
    bucket.reach.keeps = True
    list(bucket.list_objects(tree))
    offline = Bucket("tiny", "us-west-2", gate.endpoint_url, offline=True)
    here = [(list(offline.list_objects(p, deep=d)), offline.list_folders(p)) for p, d in asked]
    assert here == there
    assert [len(items) for items, _ in here] == [1, 2, 2, 3]
    with pytest.raises(BucketError, match="no listing of"):
        offline.list_folders("derivatives/")


@pytest.mark.parametrize("how", ["empty", "half", "nonsense", "folder", "link", "open"])
def test_a_broken_file_is_as_if_there_were_none(gate, data_dir, how):
    """Also one that others could write; with the network, it is written anew."""
    list_all()
    question = kept_listings.Question("tiny", gate.endpoint_url, "", False)
    file = kept_listings._find_file(question)
    break_file(file, how)
    done, said = get_command(data_dir, "--offline")
    assert (done.returncode, len(said)) == (1, 1)
    assert "no listing of " in said[0]
    done, said = get_command(data_dir)
    assert (done.returncode, said) == (0, [])


def test_a_cache_that_cannot_be_written(gate, data_dir, monkeypatch):
    """Nothing is said of it."""
    file = Path(os.environ["HOME"], "file")
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "cache"))
    done, said = get_command(data_dir)
    assert (done.returncode, said) == (0, [])


def test_the_cache_is_the_users_and_bounded(gate, monkeypatch):
    """The oldest files go; nobody else may enter."""
    monkeypatch.setattr(kept_listings, "MOST_FILES", 3)
    first = kept_listings.Question("tiny", None, "0/", True)
    for number in range(5):
        kept_listings.keep(first._replace(prefix=f"{number}/"), [])
        os.utime(kept_listings._find_file(first._replace(prefix=f"{number}/")), (number, number))
    kept_listings.keep(first._replace(prefix="5/"), [])
    folder = kept_listings._find_file(first).parent
    assert len(list(folder.iterdir())) == 3
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(kept_listings, "MOST_KEYS", 0)
    kept_listings.keep(first._replace(prefix="6/"), [{"Prefix": "6/a/"}])
    assert not kept_listings.is_kept(first._replace(prefix="6/"))


def test_a_kept_listing_is_checked_like_an_answer(gate):
    """A folder marker is left out, and a size that is none is refused."""
    bucket = Bucket.from_settings()
    question = kept_listings.Question("tiny", gate.endpoint_url, "x/", True)
    listed = next(bucket.list_objects("derivatives/rois/"))
    item = {"Key": "x/a", "Size": 5, "ETag": '"e"', "LastModified": listed.last_modified}
    kept_listings.keep(question, [item, {**item, "Key": "x/b/"}])
    offline = Bucket("tiny", "us-west-2", gate.endpoint_url, offline=True)
    found = list(offline.list_objects("x/"))
    assert [(o.key, o.size, o.etag, o.last_modified) for o in found] == [
        ("x/a", 5, "e", listed.last_modified)
    ]
    kept_listings.keep(question, [{**item, "Size": -1}])
    with pytest.raises(BucketError):
        list(offline.list_objects("x/"))


def test_the_first_failure_is_enough(gate):
    """Others of the process use what is kept at once, also folders and other prefixes."""
    list_all()
    assert run_command("info").returncode == 0
    gate.break_("silent")
    with pytest.warns(SelectionWarning, match=CUT_OFF):
        assert get_subjects() == ["sub-03"]
    assert gate.count_new() > 0
    with pytest.warns(SelectionWarning, match=CUT_OFF):
        assert len(key_table("03", data_dir=os.environ["HOME"])) == 4
    assert gate.count_new() == 0


def test_a_slow_answer_is_waited_for_where_others_have_come(gate, monkeypatch):
    """A server that has answered in this run is not taken for one that cannot be reached."""
    list_all()
    bucket = Bucket.from_settings()
    listed = list(bucket.list_objects("derivatives/rois/sub-03/"))
    monkeypatch.setattr(client_module, "HURRY", 0.0)
    assert list(bucket.list_objects("derivatives/rois/sub-03/")) == listed
    assert bucket.explain_reach() == []
    kept = Bucket.from_settings()
    assert list(kept.list_objects("derivatives/rois/sub-03/")) == listed
    assert re.fullmatch(CUT_OFF, kept.explain_reach()[0])
    assert kept.explain_reach() == []


def test_other_commands(gate, data_dir):
    """What only compares goes by the last listing as well."""
    list_all()
    gate.break_("refused")
    for words in (["verify", "--subject", "03"], ["status", "--subject", "03"]):
        done = run_command(*words, "--data-dir", data_dir)
        assert (done.returncode, len(complaints(done))) == (0, 1), done.stderr
        assert re.fullmatch(f"warning: {CUT_OFF}", complaints(done)[0])


def test_two_modules_say_it_once(gate, tmp_path):
    """Of one bucket, with folders of their own."""
    list_all()
    modules = [make_module(name, subject="03", data_dir=name) for name in ("one", "two")]
    host = make_host(tmp_path / "host", *modules)
    gate.break_("refused")
    status, said, ours = run_it(host, "-n", "--until", "one_all", "one_all")
    assert (status, len(ours)) == (1, 2), said
    assert re.fullmatch(CUT_OFF, ours[0])
    assert ours[1].startswith("4 of 4 files (")


def test_a_manifest_lists_nothing_that_it_need_not(gate, data_dir, tmp_path):
    """Without a request if all is here; what is missing is named, kept listing or not."""
    keys = tmp_path / "keys.tsv"
    done, _ = get_command(data_dir, "--save-manifest", keys)
    assert done.returncode == 0
    shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]))
    gate.break_("refused")
    words = ["download", "--manifest", keys, "--data-dir", data_dir]
    done = run_command(*words)
    assert (done.returncode, done.stderr) == (0, "")
    (data_dir / TINY[3]).unlink()
    done = run_command(*words)
    assert (done.returncode, len(complaints(done))) == (1, 1)
    assert "1 of 4 files (" in done.stderr
    done = run_command(*words, "--offline")
    assert (done.returncode, len(complaints(done))) == (1, 1)
    assert f"being offline: {TINY[3]}" in done.stderr


def run_it(folder: Path, *words: object) -> tuple[int, str, list[str]]:
    """Run Snakemake; return its status, all that it said, and our lines."""
    started = time.monotonic()
    done = run_snakemake(folder, *words)
    assert time.monotonic() - started < NEVER
    said = done.stdout + done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("laion-fmri: ")]
    return done.returncode, said, [line.removeprefix("laion-fmri: ") for line in ours]


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_clone(gate, data_dir, tmp_path, calls, how):
    """Plain ``snakemake``: complete, it has nothing to do; then it names what is missing."""
    clone = copy_clone(tmp_path / "clone", subject="03", data_dir=str(data_dir))
    list_all()
    gate.break_(how)
    status, said, ours = run_it(clone, "--cores", 2)
    assert (status, len(ours)) == (0, 1), said
    assert re.fullmatch(CUT_OFF, ours[0])
    size = (data_dir / TINY[0]).stat().st_size
    (data_dir / TINY[0]).unlink()
    for words in (["--cores", 2], ["-n"]):
        status, said, ours = run_it(clone, *words)
        assert (status, ours[1:]) == (1, [MISSING.format(size, TINY[0])]), said
        assert "Traceback" not in said
    status, said, ours = run_it(clone, "--cores", 2, "--config", "offline=True")
    assert (status, len(ours)) == (1, 2), said
    assert "being offline" in ours[1]
    assert not calls.exists()


@pytest.mark.parametrize("subject", ["03", "none"])
def test_a_host_pipeline(gate, tmp_path, tiny_objects, subject):
    """A second run, without a network, does nothing; only what rules ask for counts."""
    module = make_module(subject=subject, data_dir="data")
    host = make_host(tmp_path / "host", module, take(f"data/{TINY[0]}"))
    assert run_it(host, "--cores", 2)[0] == 0
    assert read_tree(host / "data")[TINY[0]] == tiny_objects[TINY[0]]
    gate.break_("refused")
    for words in (["--cores", 2], ["-n"]):
        status, said, ours = run_it(host, *words)
        assert (status, len(ours)) == (0, 1), said
        assert "Nothing to be done" in said
    for words in (["--report", "x.html"], ["--dag"], ["--rulegraph"], ["--summary"], ["-D"]):
        status, said, ours = run_it(host, *words)
        assert (status, ours) == (0, []), said
    (host / "data" / TINY[0]).unlink()
    (host / "size.txt").unlink()
    for words in (["--cores", 2], ["-n"]):
        status, said, ours = run_it(host, *words)
        assert status == 1
        size = len(tiny_objects[TINY[0]])
        assert ours[1:] == [
            f"1 of 1 file ({size} bytes) is not here, and the bucket cannot be reached: {TINY[0]}; "
            "run the same again with a connection"
        ]
        assert "Traceback" not in said
    gate.open()
    assert run_it(host, "--cores", 2)[0] == 0


def test_what_only_shows_uses_the_last_listing(gate, tmp_path):
    """Without a request where a listing is kept, and with one where none is."""
    module = make_module(subject="03", data_dir="data")
    host = make_host(tmp_path / "host", module, take(f"data/{TINY[0]}"))
    assert run_it(host, "--dag")[0] == 0
    assert gate.seen > 0
    seen = gate.seen
    for words in (["--dag"], ["--summary"]):
        status, said, ours = run_it(host, *words)
        assert (status, ours) == (0, []), said
    assert gate.seen == seen


def test_offline_is_a_switch_of_the_configuration():
    """Anything else is refused."""
    from laion_fmri.settings import read_config

    assert read_config({"subject": "03", "offline": True}).offline
    with pytest.raises(LaionFmriError, match="offline"):
        read_config({"subject": "03", "offline": "perhaps"})
