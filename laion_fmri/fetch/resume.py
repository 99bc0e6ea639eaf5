"""Go on inside an object: only what is missing of it is fetched, by ranged requests of aws.

What a broken ``aws s3 cp`` leaves is kept while it runs. ``aws s3api get-object`` then writes each
missing range into a pipe, and every byte goes from there to its place in the kept file at once.
Each request names the ETag that was listed, so no byte of another version arrives. Only the
standard library.
"""

import contextlib
import fcntl
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from laion_fmri.base.text import spell
from laion_fmri.fetch import aws
from laion_fmri.fetch.arrival import CHANGED
from laion_fmri.fetch.aws_process import MOST_SAID, START, TICK, UNUSABLE, call_api, prepare_child
from laion_fmri.fetch.job import JobSpec
from laion_fmri.folder import unfinished
from laion_fmri.folder.unfinished import MIB, Adopted, Span, Version

#: Bytes of one request, at most and at least, and how many there are at once.
PIECE, LEAST_PIECE = 64 * MIB, 8 * MIB
AT_ONCE = 4
#: Requests in a row that bring nothing, after which an attempt ends.
IDLE = 3
#: Bytes of a pipe, where the system lets us choose; and of one read.
PIPE = MIB
#: The name in a staging folder of a file that is gone on with.
RESUMED = "resumed"

#: What is wrong with a request, and with the whole.
_OTHER_BYTES = "other bytes have arrived than were asked for"
_UNLIKE = "what had arrived does not match the ETag that was listed; it starts over"


class Ended(NamedTuple):
    """How an attempt to go on with an object has ended."""

    outcome: str  # of the transfer; "" if another attempt may help
    reason: str
    is_useless: bool = False  # whether what is kept has to be thrown away


class Piece:
    """One request, for the bytes from `start` to before `end`; its process writes into a pipe."""

    def __init__(self, command: Sequence[str], span: Span, config: Path) -> None:
        self.start, self.end = span
        self.place = self.start  # where the next byte goes
        self.is_wrong, self.is_ended = "", False
        self.heard = time.monotonic() + START
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the piece
        self.pipe, inlet = os.pipe()
        try:
            with contextlib.suppress(AttributeError, OSError):  # only on Linux
                fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PIPE)
            os.set_blocking(self.pipe, False)
            spread = ["--range", f"bytes={self.start}-{self.end - 1}", f"/dev/fd/{inlet}"]
            self._process = subprocess.Popen(
                [*command, *spread],
                env=aws.make_environment(config),
                stdin=subprocess.DEVNULL,
                stdout=self._messages,
                stderr=subprocess.STDOUT,
                preexec_fn=prepare_child,
                pass_fds=(inlet,),
                cwd=config.parent,
            )
        except BaseException:
            os.close(self.pipe)
            self._messages.close()
            raise
        finally:
            os.close(inlet)

    def is_over(self, stall_timeout: float) -> bool:
        """Whether it has ended, or been silent for too long."""
        return self.is_ended or time.monotonic() - self.heard > stall_timeout

    def read(self, file: int, is_page_likely: bool) -> int:
        """Write what the pipe has to its place in `file`; return how much it was.

        Bytes that cannot be right are not written, and end the request.
        """
        try:
            data = os.read(self.pipe, PIPE)
        except BlockingIOError:
            return 0
        self.is_ended = not data
        if not data:
            return 0
        self.heard = time.monotonic()
        if self.place == self.start and is_page_likely and aws.is_page(data):
            self.is_wrong = aws.PAGE
        elif self.place + len(data) > self.end:
            self.is_wrong = _OTHER_BYTES
        if self.is_wrong:
            self._process.kill()
            self.is_ended = True
            return 0
        unfinished.write_all(file, data, self.place)
        self.place += len(data)
        return len(data)

    def finish(self, size: int, stall_timeout: float) -> str:
        """Wait for its process, and return what is wrong; nothing if it has brought all it should.

        What it says of the range that it has sent, of an object of `size` bytes, counts as well.
        """
        if not self.is_ended:
            return f"no byte has arrived for {stall_timeout:g} s"
        try:
            status = self._process.wait(START)
        except subprocess.TimeoutExpired:
            return "aws does not end"
        self._messages.seek(0)
        said = self._messages.read(MOST_SAID).decode(errors="replace").strip()
        if self.is_wrong:
            return self.is_wrong
        if status:
            return said.rpartition("\n")[2] or f"aws ended with exit status {status}"
        try:
            told = json.loads(said)["ContentRange"]
        except (ValueError, TypeError, KeyError):
            told = ""
        # A server that does not know of ranges sends the object from its beginning.
        is_right = told == f"bytes {self.start}-{self.end - 1}/{size}"
        return "" if is_right and self.place == self.end else _OTHER_BYTES

    def close(self) -> None:
        """End its process, if it has not ended, and close the pipe."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self.pipe)
        self._messages.close()


class Resumer:
    """Keeps what arrives of the large objects of a job, and goes on with what is kept.

    `words` are those of the command for a copy, and `config` its configuration. `check` is called
    again and again; it raises to end the transfer, and returns False to end the attempt.
    """

    def __init__(
        self, spec: JobSpec, words: Sequence[str], config: Path, check: Callable[[], bool]
    ) -> None:
        self._data_dir = spec.data_dir
        self._spec, self._words, self._config, self._check = spec, words, config, check
        found = (Version(key, spec.etags.get(key, ""), size) for key, size in spec.job.objects)
        self._versions = {version.key: version for version in found if version.can_be_kept}
        self._links: set[str] = set()  # staged files for which a link was made, or tried
        self._useless: set[str] = set()  # keys of what was kept and was wrong

    def watch(self, staging: int, found: Mapping[str, str]) -> None:
        """Keep what aws is writing: `found` has the key of each staged file."""
        for staged, key in found.items():
            if key in self._versions and staged not in self._links:
                unfinished.keep(self._data_dir, self._versions[key], staging, staged)
                self._links.add(staged)

    def clear(self, staging: int) -> None:
        """Remove what aws, if it was killed, has left beside the links."""
        for staged in self._links:
            with contextlib.suppress(OSError):
                os.unlink(staged, dir_fd=staging)
        self._links.clear()

    def drop(self, key: str) -> None:
        """Drop what is kept of an object, which has arrived, or is another one now."""
        if key in self._versions:
            unfinished.drop(self._data_dir, [key])

    def count(self, keys: Collection[str]) -> dict[str, int]:
        """Return how many bytes of some objects are kept."""
        versions = [self._versions[key] for key in keys if key in self._versions]
        return unfinished.measure(self._data_dir, versions) if versions else {}

    def go_on(self, key: str, staging: int) -> Ended | None:
        """Fetch the rest of an object into the staged file `RESUMED`; None if nothing is kept."""
        version = self._versions.get(key)
        if version is None:
            return None
        only_own = key in self._useless or not can_be_proven(version)
        adopted = unfinished.adopt(self._data_dir, version, staging, RESUMED, only_own=only_own)
        if adopted is None:
            return None
        try:
            ended = self._bring_rest(version, adopted)
        finally:
            os.close(adopted.file)
        if ended.is_useless:
            self._useless.add(key)
            self.drop(key)
        if ended.outcome != "fetched":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(RESUMED, dir_fd=staging)
        return ended

    def _bring_rest(self, version: Version, adopted: Adopted) -> Ended:
        data = unfinished.find_data(adopted.file, version.size)
        holes = unfinished.find_holes(data, version.size)
        missing = sum(end - start for start, end in holes)
        sys.stderr.write(f"{spell(version.key)}: goes on; {missing:,} bytes are missing\n")
        if ended := self._fill(version, adopted.file, cut_holes(holes)):
            return ended
        os.ftruncate(adopted.file, version.size)
        is_right = has_etag(adopted.file, version, self._ask_part_size)
        if is_right or (is_right is None and adopted.is_own):
            return Ended("fetched", "")
        return Ended("", _UNLIKE, is_useless=True)

    def _fill(self, version: Version, file: int, spans: Sequence[Span]) -> Ended | None:
        """Fetch `spans` of an object into an open file, some at once; None if all have arrived."""
        waiting, idle, key = deque(spans), 0, version.key
        stall = self._spec.stall_timeout
        limit, begun, brought = self._spec.max_bandwidth, time.monotonic(), 0
        is_page_likely = not aws.is_html(key)
        what = ["--bucket", self._spec.bucket, "--key", key, "--if-match", f'"{version.etag}"']
        command = call_api(self._words, "get-object", what)
        most = max(1, min(AT_ONCE, self._spec.job.connections))
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:

            def end(piece: Piece) -> None:
                if piece.pipe in selector.get_map():
                    selector.unregister(piece.pipe)
                    piece.close()

            while waiting or selector.get_map():
                if not self._check():
                    return Ended("", "stopped")
                while waiting and len(selector.get_map()) < most:
                    try:
                        piece = Piece(command, waiting.popleft(), self._config)
                    except OSError as error:
                        return Ended("", f"{UNUSABLE} cannot be started: {error.strerror}")
                    stack.callback(end, piece)
                    selector.register(piece.pipe, selectors.EVENT_READ, piece)
                for event, _ in selector.select(TICK):
                    brought += event.data.read(file, is_page_likely)
                for piece in [event.data for event in selector.get_map().values()]:
                    if not piece.is_over(stall):
                        continue
                    wrong = piece.finish(version.size, stall)
                    end(piece)
                    if ended := judge(wrong, key):
                        return ended
                    idle = 0 if piece.place > piece.start else idle + 1
                    if wrong and idle >= IDLE:
                        return Ended("", wrong)
                    if wrong:  # of one that has sent all, it is not known what that was
                        start = piece.place if piece.place < piece.end else piece.start
                        waiting.append((start, piece.end))
                if limit:  # what is not read yet waits at the other end
                    time.sleep(max(0, min(TICK, begun + brought / limit - time.monotonic())))
        return None

    def _ask_part_size(self, version: Version) -> int | None:
        """Return the size of an object's first part in bytes, if the bucket tells it."""
        what = ["--bucket", self._spec.bucket, "--key", version.key, "--part-number", "1"]
        try:
            done = subprocess.run(
                call_api(self._words, "head-object", what),
                env=aws.make_environment(self._config),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=self._spec.stall_timeout + START,
                check=False,
            )
            size = int(json.loads(done.stdout)["ContentLength"])
        except (OSError, subprocess.TimeoutExpired, ValueError, TypeError, KeyError):
            return None
        return size if 0 < size < version.size else None


def judge(wrong: str, key: str) -> Ended | None:
    """Say whether what is `wrong` with a request ends the attempt at once."""
    if "PreconditionFailed" in wrong.replace(key, ""):
        return Ended("failed", CHANGED, is_useless=True)
    if refusal := aws.read_refusal(wrong, key):
        return Ended(*refusal)
    if wrong == _OTHER_BYTES:
        return Ended("", wrong, is_useless=True)
    return None


def cut_holes(holes: Sequence[Span]) -> list[Span]:
    """Cut what is missing into requests: all of them at once if there is little."""
    missing = sum(end - start for start, end in holes)
    step = max(LEAST_PIECE, min(PIECE, -(-missing // AT_ONCE)))
    return [
        (place, min(place + step, end)) for start, end in holes for place in range(start, end, step)
    ]


def can_be_proven(version: Version) -> bool:
    """Whether the ETag of an object can be compared with the content of its file."""
    from laion_fmri.base.etags import list_part_sizes, read_part_count

    parts = read_part_count(version.etag)
    return parts is not None and (not parts or bool(list_part_sizes(version.size, parts)))


def has_etag(
    file: int, version: Version, ask_part_size: Callable[[Version], int | None]
) -> bool | None:
    """Whether the content of an open file gives the ETag of an object; None if nobody can say.

    The ETag of an object in parts does not tell their size: the usual sizes that give their number
    are tried, and then the one that the bucket tells.
    """
    from laion_fmri.base.etags import join_etag, list_part_sizes, read_part_count

    parts = read_part_count(version.etag)
    if parts is None:
        return None
    if not parts:
        return hash_parts(file, version.size, version.size)[0].hex() == version.etag.lower()
    tried = list_part_sizes(version.size, parts)
    for part_size in tried:
        if join_etag(hash_parts(file, version.size, part_size)) == version.etag.lower():
            return True
    told = ask_part_size(version)
    if told is None:
        return None
    if told in tried:
        return False
    return join_etag(hash_parts(file, version.size, told)) == version.etag.lower()


def hash_parts(file: int, size: int, part_size: int) -> list[bytes]:
    """Return the MD5 of each part of an open file."""
    from laion_fmri.base.etags import MultipartMD5

    state: Any = MultipartMD5(max(1, part_size))
    for place in range(0, size, 4 * MIB):
        state.update(memoryview(os.pread(file, min(4 * MIB, size - place), place)))
    return list(state.digests())
