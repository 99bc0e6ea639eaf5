"""Run one fetch job: the ``aws s3 cp`` of a rule, in a clean environment, from staging into place.

Called by path from the rules in ``workflow/rules/fetch.smk``, with nothing but the standard
library, so that it starts in milliseconds and runs with any Python a rule environment brings.

What arrives goes to ``<data_dir>/.laion_fmri/partial/``, is compared with the listed size and moved
into place at once, so that a batch that is stopped keeps what it has. What does not come is tried
again, unless the bucket said 403 or 404. The outcome of each object goes, as one line of JSON, to
``<run_dir>/outcomes/<job>.jsonl``.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

#: Runs of aws for one job; each of them retries every request by itself as well.
ATTEMPTS = 3
#: Seconds before the second run of aws; doubled for the third.
BACKOFF = 2.0
#: Seconds between two looks at what has arrived.
TICK = 0.5
#: The settings of aws, see https://docs.aws.amazon.com/cli/latest/topic/s3-config.html.
TRANSFER_CONFIG = """\
[default]
retry_mode = standard
max_attempts = 5
s3 =
  max_concurrent_requests = {connections}
  multipart_threshold = {part}
  multipart_chunksize = {part}
{max_bandwidth}  addressing_style = {addressing_style}
"""
#: Bytes of one request, which a whole object up to this size is: half the requests of the default,
#: and as fast or faster. S3's checksum holds for a whole object, not for a part.
PART = 16 * 2**20
#: Held in a staging folder for as long as its transfer lives.
LOCK = "lock"
#: Seconds after which a staging folder without a lock is nobody's.
STALE = 3600.0
#: aws has no exit status of its own for these; its message names the HTTP status or S3's word.
ERROR = re.compile(r"An error occurred \((\w+)\) when calling")
FINAL = {
    "403": ("denied", "access denied (403)"),
    "AccessDenied": ("denied", "access denied (403)"),
    "404": ("failed", "no longer in the bucket (404)"),
    "NoSuchKey": ("failed", "no longer in the bucket (404)"),
}


def main(argv: list[str]) -> int:
    """Run the job in the JSON text or ``@file`` ``argv[0]`` with the aws command after ``--``."""
    text = Path(argv[0][1:]).read_text() if argv[0].startswith("@") else argv[0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup a hang-up stays ignored; but who stops the workflow means its transfers too,
        # even where a shell has started it in the background, with interrupts ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    return Transfer(json.loads(text), argv[argv.index("--") + 1 :]).run()


def _stop(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


class Transfer:
    """One job: a single object, or the objects of a batch under a common prefix."""

    def __init__(self, job: dict[str, Any], aws: list[str]) -> None:
        self.aws = aws
        self.bucket: str = job["bucket"]
        self.prefix: str | None = job["prefix"]
        self.patterns: list[str] = job["patterns"]
        self.exclusions: list[str] = job.get("exclusions", [])
        self.connections: int = job.get("connections", 10)
        self.max_bandwidth: int | None = job.get("max_bandwidth")  # bytes per second
        self.sizes: dict[str, int] = dict(job["objects"])
        self.pending = dict.fromkeys(self.sizes, "")  # key -> what went wrong with it last
        self.data_dir = Path(job["data_dir"])
        self.record = Path(job["run_dir"], "outcomes", job["name"] + ".jsonl")
        #: Whether Snakemake may remove what has arrived, so that a second link to it is kept.
        self.keeps: bool = job.get("keeps", False)
        self.slots: int | None = job.get("slots")  # transfers of this run on this machine at once
        self.failed = False

    def run(self) -> int:
        """Fetch all objects of the job; return 0 if every one is in place, else 1."""
        partial = self.data_dir / ".laion_fmri" / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        self.record.parent.mkdir(parents=True, exist_ok=True)
        run = self.record.parent.parent.name
        self.staging = Path(tempfile.mkdtemp(prefix=f"{run}-", dir=partial))
        try:
            with (self.staging / LOCK).open("w") as lock:
                with contextlib.suppress(OSError):  # a file system that knows no locks
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if self.keeps:
                    self._recall()
                if self.pending:
                    with self._take_slot():
                        self._fetch_all()
            if self.keeps and not self.failed:
                for key in self.sizes:
                    self._find_kept(key).unlink(missing_ok=True)
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
        return int(self.failed)

    @contextlib.contextmanager
    def _take_slot(self) -> Iterator[None]:
        """Wait until fewer than `slots` transfers are under way, if there is such a limit.

        Beside a cluster, Snakemake does not bound what runs on the machine that submits.
        """
        parent = os.getppid()
        for number in itertools.cycle(range(self.slots or 0)):
            file = self.record.parent.with_name(f"slot-{number}")
            with file.open("w") as slot:
                try:
                    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if number == 0:
                        time.sleep(TICK)
                    _check_parent(parent)
                    continue
                except OSError:  # a file system that knows no locks
                    break
                yield
                return
        yield

    def _fetch_all(self) -> None:
        filters = _make_filters(self.patterns, self.exclusions)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF * 2 ** (attempt - 1))
            messages = self._run_aws(filters)
            self._collect()
            for key in list(self.pending):
                if refusal := self._read_refusal(key, messages):
                    self._settle(key, *refusal)
            if not self.pending:
                return
            self._note_problems(messages)
            start = len(self.prefix or "")
            filters = _make_filters([escape_pattern(key[start:]) for key in self.pending])
        for key, problem in list(self.pending.items()):
            self._settle(key, "failed", problem)

    def _run_aws(self, filters: list[str]) -> str:
        """Run aws once with the options `filters`; return what it complains of, if anything."""
        if self.prefix is None:
            (key,) = self.sizes
            what = [f"s3://{self.bucket}/{key}", str(self.staging / "object")]
        else:
            source = f"s3://{self.bucket}/{self.prefix}"
            what = [
                "--recursive",
                source,
                str(self.staging / "objects"),
                *filters,
            ]
        with tempfile.TemporaryFile("w+", dir=self.staging, errors="replace") as messages:
            try:
                process = subprocess.Popen(
                    [*self.aws, *what],
                    env=self._make_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr,
                    stderr=messages,
                )
            except OSError as error:
                return f"the AWS CLI {self.aws[0]} cannot be started: {error.strerror}"
            try:
                self._wait_for(process)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            messages.seek(0)
            said = messages.read()
        sys.stderr.write(said)
        if process.returncode == 0 and not said:
            return ""
        return said or f"aws ended with exit status {process.returncode}"

    def _wait_for(self, process: subprocess.Popen[Any]) -> None:
        """Wait for `process`, moving what arrives; end it when the Snakemake above us is gone."""
        parent = os.getppid()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=TICK)
            _check_parent(parent)
            if self.prefix is not None:
                self._collect()

    def _collect(self) -> None:
        """Move the staged files that are whole into place; aws renames each when it has ended."""
        for key, staged in self._list_staged():
            with contextlib.suppress(FileNotFoundError):
                if key in self.pending and staged.stat().st_size == self.sizes[key]:
                    self._move_into_place(key, staged)

    def _list_staged(self) -> list[tuple[str, Path]]:
        if self.prefix is None:
            return [(key, self.staging / "object") for key in self.sizes]
        top = self.staging / "objects"
        return [
            (self.prefix + Path(folder, name).relative_to(top).as_posix(), Path(folder, name))
            for folder, _, names in os.walk(top)
            for name in names
        ]

    def _move_into_place(self, key: str, staged: Path) -> None:
        target = self.data_dir / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.utime(staged)  # aws sets the time of the upload, which is older than any stamp
            if self.keeps:
                self._keep(key, staged)
            staged.replace(target)
        except OSError as error:
            self._settle(key, "failed", f"cannot write {target}: {error.strerror}")
        else:
            self._settle(key, "fetched", "")

    def _note_problems(self, messages: str) -> None:
        """Note what went wrong with each object that has not arrived, and drop what is of it."""
        staged = dict(self._list_staged())
        for key in self.pending:
            self.pending[key] = self._find_line(key, messages) or _last_line(messages)
            with contextlib.suppress(KeyError, FileNotFoundError):
                size = staged[key].stat().st_size
                self.pending[key] = (
                    f"{size:,} bytes arrived, {self.sizes[key]:,} were listed: the object has "
                    "changed in the bucket, or the transfer was cut short"
                )
                staged[key].unlink()

    def _read_refusal(self, key: str, messages: str) -> tuple[str, str] | None:
        """Find in aws's messages that the bucket has refused `key` for good.

        A recursive copy that ends well without the object has not found it in its listing.
        """
        if not messages and key not in dict(self._list_staged()):
            return FINAL["404"]
        said = ERROR.search(self._find_line(key, messages).replace(key, ""))
        return FINAL.get(said[1]) if said else None

    def _find_kept(self, key: str) -> Path:
        return self.data_dir / ".laion_fmri" / "kept" / key

    def _keep(self, key: str, staged: Path) -> None:
        """Keep a second link to what has arrived, for :meth:`_recall` and :func:`restore_kept`.

        Snakemake removes all outputs of a job that has failed, unless it is told to keep them, and
        in any case before it tries a job again.
        """
        kept = self._find_kept(key)
        with contextlib.suppress(OSError):  # a file system without hard links
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.unlink(missing_ok=True)
            kept.hardlink_to(staged)

    def _recall(self) -> None:
        """Take up what an earlier attempt of this job has brought, or was refused for good."""
        for key, size in self.sizes.items():
            kept, target = self._find_kept(key), self.data_dir / key
            with contextlib.suppress(OSError):
                if kept.stat().st_size == size:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.unlink(missing_ok=True)
                    target.hardlink_to(kept)
                    self._settle(key, "fetched", "")
        with contextlib.suppress(FileNotFoundError):
            for line in self.record.read_text().splitlines():
                key, outcome, reason = json.loads(line).values()
                if key in self.pending and (outcome, reason) in FINAL.values():
                    self._settle(key, outcome, reason)

    def _find_line(self, key: str, messages: str) -> str:
        """Return the line of aws's messages that is about `key`, or nothing."""
        if self.prefix is None:
            return _last_line(messages)
        name = f"s3://{self.bucket}/{key} to "
        return next((line for line in messages.splitlines() if name in line), "")

    def _settle(self, key: str, outcome: str, reason: str) -> None:
        """Record the outcome of `key`, which is then no longer pending."""
        del self.pending[key]
        self.failed |= outcome != "fetched"
        line = json.dumps({"key": key, "outcome": outcome, "reason": reason})
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with self.record.open("a") as record:
            record.write(line + "\n")
        if reason:
            sys.stderr.write(f"{outcome}: {key}: {reason}\n")

    def _make_environment(self) -> dict[str, str]:
        """Return the user's environment without their AWS settings, and with ours."""
        kept = {"AWS_CA_BUNDLE"}
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AWS_") or name in kept
        }
        config = self.staging / "aws.config"
        style = "path" if "--endpoint-url" in self.aws else "auto"
        limit = ""
        if self.max_bandwidth:  # aws takes whole units of 1024 bytes
            limit = f"  max_bandwidth = {max(1, self.max_bandwidth // 1024)}KB/s\n"
        config.write_text(
            TRANSFER_CONFIG.format(
                connections=self.connections,
                part=PART,
                max_bandwidth=limit,
                addressing_style=style,
            )
        )
        return environment | {
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }


def _check_parent(parent: int) -> None:
    if os.getppid() != parent:
        raise SystemExit("the workflow that started this transfer is gone")


def sweep_staging(data_dir: Path) -> None:
    """Remove the staging folders of transfers that were killed."""
    for staging in (data_dir / ".laion_fmri" / "partial").glob("*/"):
        with contextlib.suppress(OSError):
            if not _is_alive(staging):
                shutil.rmtree(staging, ignore_errors=True)


def restore_kept(data_dir: Path) -> None:
    """Put back what arrived beside an object that failed and was removed with it."""
    top = data_dir / ".laion_fmri" / "kept"
    for folder, _, names in os.walk(top):
        for name in names:
            kept = Path(folder, name)
            target = data_dir / kept.relative_to(top)
            with contextlib.suppress(OSError):
                if not os.path.lexists(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    kept.replace(target)
    if top.exists():
        shutil.rmtree(top, ignore_errors=True)


def _is_alive(staging: Path) -> bool:
    try:
        with (staging / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # killed before it had its lock, or just about to take it
        return time.time() - staging.stat().st_mtime < STALE
    return False


def _make_filters(patterns: Sequence[str], exclusions: Sequence[str] = ()) -> list[str]:
    """Return the options of a recursive copy; the last one that matches a key decides."""
    included = [word for pattern in patterns for word in ("--include", pattern)]
    return ["--exclude", "*", *included, *(w for p in exclusions for w in ("--exclude", p))]


def escape_glob(text: str) -> str:
    """Escape the characters that aws reads as a pattern in ``--include``."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in text)


def escape_pattern(name: str) -> str:
    """Escape `name` so that as a value of ``--include`` it matches itself and is no option."""
    escaped = escape_glob(name)
    return f"[-]{escaped[1:]}" if escaped.startswith("-") else escaped


def _last_line(messages: str) -> str:
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return lines[-1] if lines else "aws gave no reason"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
