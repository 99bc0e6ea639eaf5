"""The job of a gated object: fetched by HTTPS from where the service says, and not by aws.

What has come is kept and gone on from, whatever ends the job, and moved into place once it has the
size and the SHA-256 that the service names. Only the standard library.
"""

import contextlib
import hashlib
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

from laion_fmri.bucket.access import Offer, Service, explain, send
from laion_fmri.dataset import REQUEST_URL
from laion_fmri.errors import AccessError, ConfigError, ServiceError
from laion_fmri.fetch.agenda import OBJECT
from laion_fmri.fetch.aws_process import TICK
from laion_fmri.fetch.transfer import ATTEMPTS, BACKOFF, Transfer
from laion_fmri.folder.login import ADVICE, find_service
from laion_fmri.folder.parts import Part, open_part
from laion_fmri.folder.unfinished import write_all

#: Bytes that are read at once.
PIECE = 2**18
#: Seconds before a connection that was cut is made again, if it has brought something.
PAUSE = 0.5
#: Statuses that mean an address is no longer valid: S3 answers 403, or 400 for an expired token.
EXPIRED = (400, 401, 403, 404, 410)
MISMATCH = "what has arrived has another SHA-256 than was announced"
#: Mismatches after which the file is given up: the second is hardly an accident.
MOST_MISMATCHES = 2


class _OverError(Exception):
    """There is nothing left to do: the run has been stopped. Not an error of the connection."""


class _SilentError(Exception):
    """No byte has arrived for too long."""


class Gated(Transfer):
    """A transfer of a single object, whose bytes the service for the images gives out."""

    _heard = 0.0  # when a byte arrived last
    _size = 0  # bytes that have come so far
    _offer: Offer | None = None

    def _fetch_wanted(self) -> None:
        (key,) = self.wanted
        try:
            service = find_service()
            if service:
                self._bring(key, service)
            else:
                self._settle(key, "denied", f"needs a request id: ask at {REQUEST_URL}; {ADVICE}")
        except (AccessError, ConfigError) as error:
            self._settle(key, "denied", str(error))
        except BlockingIOError as error:
            self._settle(key, "failed", f"{error.strerror}; run the same again later")
        except OSError as error:
            if not self._is_full(error):
                raise

    def _bring(self, key: str, service: Service) -> None:
        """Try until it is here, or nothing new has come several times in a row."""
        failures = mismatches = most = 0
        while True:
            why = self._try(key, service)
            if key not in self.wanted:
                return
            self.unsettled[key] = why
            mismatches += why == MISMATCH
            has_grown, most = self._size > most, max(self._size, most)
            if why == MISMATCH:
                most = 0
            failures = 0 if has_grown and why != MISMATCH else failures + 1
            if failures == ATTEMPTS or mismatches == MOST_MISMATCHES:
                self._settle(key, "failed", why)
                return
            self._wait(BACKOFF * 2 ** (failures - 1) if failures else PAUSE)
            self._check_orders()
            if key not in self.wanted:
                return

    def _try(self, key: str, service: Service) -> str:
        """Go on fetching `key`; return why it is not here, unless that is settled."""
        try:
            with self._watch():
                offer = self._offer = self._offer or service.find_offer(key)
            if offer.size != self.sizes[key]:
                sizes = f"{offer.size:,} bytes, and the bucket {self.sizes[key]:,}"
                self._settle(key, "failed", f"the service announces {sizes}; try again later")
                return ""
            with contextlib.suppress(FileNotFoundError):  # the link of the last try
                os.unlink(OBJECT, dir_fd=self.staging)
            with open_part(self.data_dir, key, offer.sha256) as part:
                part.link(self.staging, OBJECT)  # where the view of a run counts bytes
                with self._watch():
                    why = self._receive(offer, part)
                return why or self._finish(key, offer, part)
        except _OverError:
            return ""
        except _SilentError:
            return f"no byte has arrived for {self.spec.stall_timeout:g} s"
        except ServiceError as error:
            return str(error)

    def _receive(self, offer: Offer, part: Part) -> str:
        """Go on where `part` ends; return why that has ended early, or nothing if it is whole."""
        if part.size > offer.size:
            os.ftruncate(part.file, 0)
        self._size = start = part.size
        if start == offer.size:
            return ""
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = send(offer.url, headers, timeout=self.spec.stall_timeout)
        except (_OverError, _SilentError):
            raise
        except Exception as error:
            return explain(error)
        with answer:
            if answer.status in EXPIRED:
                self._offer = None  # the address is renewed
                return f"the address that the service gave is refused ({answer.status})"
            if answer.status == 416:
                os.ftruncate(part.file, 0)
            if answer.status not in (200, 206):
                return f"the server of the images answers {answer.status}"
            if flaw := _find_flaw(answer, start, offer.size):
                self._offer = None
                return flaw
            # A server that ignores ranges begins anew: what is here already is passed over.
            skip = start if answer.status == 200 else 0
            return self._write(answer, part, skip, offer.size)

    def _write(self, answer: Any, part: Part, skip: int, size: int) -> str:
        limit = self.spec.max_bandwidth
        most = PIECE if not limit else max(1, min(PIECE, limit // 4))
        began, received = time.monotonic(), 0
        while (position := part.size) < size:
            try:
                piece = answer.read1(most)
            except (_OverError, _SilentError):
                raise
            except Exception as error:
                return explain(error)
            if not piece:
                return f"the connection was cut after {position:,} of {size:,} bytes"
            self._heard = time.monotonic()
            received += len(piece)
            passed = min(skip, len(piece))
            skip -= passed
            rest = memoryview(piece)[passed:][: size - position]
            write_all(part.file, rest, position)
            self._size = part.size
            if limit and (early := began + received / limit - time.monotonic()) > 0:
                time.sleep(early)
                self._heard = time.monotonic()
        return ""

    def _finish(self, key: str, offer: Offer, part: Part) -> str:
        """Move the object into place, unless it is not what was announced: then say so."""
        with open(part.file, "rb", closefd=False) as file:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._check_orders()
        if key not in self.wanted:
            return ""
        if digest != offer.sha256:
            os.ftruncate(part.file, 0)
            self._offer = None
            return MISMATCH
        os.fsync(part.file)
        os.fchmod(part.file, self._find_mode())
        if not (part.is_same(OBJECT, self.staging) or part.link(self.staging, OBJECT)):
            os.rename(part.name, OBJECT, src_dir_fd=part.folder, dst_dir_fd=self.staging)
        self._move_into_place(key, OBJECT)
        if self._is_here(key):
            part.drop()
        return ""

    def _find_mode(self) -> int:
        """Return the permissions that a new file of the user's has."""
        name = "mode"
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self.staging)
        try:
            return os.fstat(made).st_mode & 0o777
        finally:
            os.close(made)
            os.unlink(name, dir_fd=self.staging)

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """Look now and then, also while the network is waited for, whether to go on."""

        def look(_number: int, _frame: object) -> None:
            self._check_orders()
            if not self.wanted:
                raise _OverError
            if time.monotonic() - self._heard > self.spec.stall_timeout:
                raise _SilentError

        self._heard = time.monotonic()
        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _find_flaw(answer: Any, start: int, size: int) -> str:
    """Say why an answer is not about the rest of an object of `size` bytes, if so."""
    if answer.status == 206:
        told = answer.headers.get("Content-Range", "")
        said = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)", told)
        if not said or int(said[1]) != start:
            return "the server of the images answers with another range than it was asked for"
        total = size if said[2] == "*" else int(said[2])
    else:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch(r"\d{1,19}", length) else size
    if total != size:
        return f"the object has {total:,} bytes, and {size:,} were announced"
    return ""
