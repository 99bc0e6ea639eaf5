"""Run one fetch job: the ``aws s3 cp`` of a rule, in a clean environment, from staging into place.

Called by path from the rules in ``workflow/rules/fetch.smk``, with nothing but the standard
library, so that it starts in milliseconds and runs with any Python a rule environment brings.

What arrives is staged in ``<data_dir>/.laion_fmri/partial/``, compared with the size of the listing
and moved into place; what does not is tried again, unless the bucket said 403 or 404. The outcome
of each object goes, one line of JSON, to ``<run_dir>/outcomes/<job>.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Runs of aws for one job; each of them retries every request by itself as well.
ATTEMPTS = 3
#: Seconds before the second run of aws; doubled for the third.
BACKOFF = 2.0
#: Requests of one aws process that are under way at once, and attempts at each.
TRANSFER_CONFIG = """\
[default]
retry_mode = standard
max_attempts = 5
s3 =
  max_concurrent_requests = 10
  addressing_style = {addressing_style}
"""
#: aws has no exit status of its own for these; its message names the HTTP status.
FINAL = {
    "(403)": ("denied", "access denied (403)"),
    "(AccessDenied)": ("denied", "access denied (403)"),
    "(404)": ("failed", "no longer in the bucket (404)"),
    "(NoSuchKey)": ("failed", "no longer in the bucket (404)"),
}


def main(argv: list[str]) -> int:
    """Run the job in the JSON text or ``@file`` ``argv[0]`` with the aws command after ``--``."""
    text = Path(argv[0][1:]).read_text() if argv[0].startswith("@") else argv[0]
    for number in (signal.SIGTERM, signal.SIGHUP):
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
        self.sizes: dict[str, int] = dict(job["objects"])
        self.data_dir = Path(job["data_dir"])
        self.record = Path(job["run_dir"], "outcomes", job["name"] + ".jsonl")
        self.failed = False

    def run(self) -> int:
        """Fetch all objects of the job; return 0 if every one is in place, else 1."""
        partial = self.data_dir / ".laion_fmri" / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        self.record.parent.mkdir(parents=True, exist_ok=True)
        run = self.record.parent.parent.name
        self.staging = Path(tempfile.mkdtemp(prefix=f"{run}-", dir=partial))
        try:
            self._fetch_all()
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
        return int(self.failed)

    def _fetch_all(self) -> None:
        pending, patterns = dict.fromkeys(self.sizes, ""), self.patterns
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF * 2 ** (attempt - 1))
            messages = self._run_aws(patterns)
            for key in list(pending):
                if self._move_into_place(key, pending):
                    del pending[key]
                elif outcome := self._read_refusal(key, messages):
                    self._write_outcome(key, *outcome)
                    del pending[key]
            if not pending:
                return
            patterns = [escape_glob(key[len(self.prefix or "") :]) for key in pending]
            reason = _last_line(messages)
            pending = {key: problem or reason for key, problem in pending.items()}
        for key, problem in pending.items():
            self._write_outcome(key, "failed", problem)

    def _run_aws(self, patterns: list[str]) -> str:
        """Run aws once for everything `patterns` name; return what it said on stderr."""
        if self.prefix is None:
            (key,) = self.sizes
            what = [f"s3://{self.bucket}/{key}", str(self.staging / "object")]
        else:
            filters = [word for pattern in patterns for word in ("--include", pattern)]
            source = f"s3://{self.bucket}/{self.prefix}"
            what = [
                "--recursive",
                source,
                str(self.staging / "objects"),
                "--exclude",
                "*",
                *filters,
            ]
        with tempfile.TemporaryFile("w+", dir=self.staging, errors="replace") as messages:
            process = subprocess.Popen(
                [*self.aws, *what],
                env=self._make_environment(),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                stderr=messages,
            )
            try:
                _wait_with_parent(process)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            messages.seek(0)
            said = messages.read()
        sys.stderr.write(said)
        return said or f"aws ended with exit status {process.returncode}"

    def _move_into_place(self, key: str, problems: dict[str, str]) -> bool:
        """Move the staged file of `key` to its path if its size is right; else note why not."""
        if self.prefix is None:
            staged = self.staging / "object"
        else:
            staged = self.staging / "objects" / key[len(self.prefix) :]
        try:
            size = staged.stat().st_size
        except FileNotFoundError:
            problems[key] = ""
            return False
        if size != self.sizes[key]:
            problems[key] = (
                f"{size:,} bytes arrived, {self.sizes[key]:,} were listed: the object has changed "
                "in the bucket, or the transfer was cut short"
            )
            staged.unlink()
            return False
        target = self.data_dir / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.utime(staged)  # aws sets the time of the upload, which is older than any stamp
            staged.replace(target)
        except OSError as error:
            problems[key] = f"cannot write {target}: {error.strerror}"
            return False
        self._write_outcome(key, "fetched", "")
        return True

    def _read_refusal(self, key: str, messages: str) -> tuple[str, str] | None:
        """Find in aws's messages that the bucket has refused `key` for good."""
        name = f"s3://{self.bucket}/{key} to "
        for line in messages.splitlines():
            if self.prefix is None or name in line:
                for code, outcome in FINAL.items():
                    if code in line:
                        return outcome
        return None

    def _write_outcome(self, key: str, outcome: str, reason: str) -> None:
        self.failed |= outcome != "fetched"
        line = json.dumps({"key": key, "outcome": outcome, "reason": reason})
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
        config.write_text(TRANSFER_CONFIG.format(addressing_style=style))
        return environment | {
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }


def escape_glob(text: str) -> str:
    """Escape the characters that aws reads as a pattern in ``--include``."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in text)


def _wait_with_parent(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Wait for `process`; end it when the Snakemake that started us is gone."""
    parent = os.getppid()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
            return
        if os.getppid() != parent:
            process.terminate()
            raise SystemExit("the workflow that started this transfer is gone")


def _last_line(messages: str) -> str:
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return lines[-1] if lines else "aws gave no reason"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
