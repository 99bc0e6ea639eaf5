"""Whether what has arrived is the object that was listed. Only the standard library."""

import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from laion_fmri.fetch import aws
from laion_fmri.fetch.aws_process import (
    ask_etag,
    ask_version,
    explain_old_version,
    read_old_version,
)
from laion_fmri.fetch.job import JobSpec
from laion_fmri.folder.guard import open_file

CHANGED = "the object has been replaced in the bucket since it was listed"
#: What aws adds to the name of a file until it is complete.
SCRATCH = re.compile(r"\.[0-9A-Za-z]{8}\Z")
#: Bytes beyond those that were listed at which an object is given up while it arrives. Less is
#: judged in the end, by its time: an object that was replaced by a larger one does not stop aws.
EXCESS = aws.PART
#: What is noted of an object that a recursive copy passes over without a message.
UNLISTED = "not in the listing that aws has made"
#: What is said of one that a copy of its own has passed over as well.
ELSEWHERE = (
    "aws ends without an error and has not written it: is {} a container or a snap, which does not "
    "see the disk? Set LAION_FMRI_AWS to another"
)


class Arrivals:
    """Compares the staged files of a job with its listing: times, sizes, and what else is known.

    `words` are those of the command for a copy, and `config` its configuration.
    """

    def __init__(self, spec: JobSpec, words: Sequence[str], config: Path) -> None:
        self._spec, self._words, self._config = spec, words, config
        self._sizes = dict(spec.job.objects)
        self._named = False
        self._same: dict[str, bool] = {}  # what is known of objects of another time

    def find_flaw(
        self, staging: int, key: str, staged: str, stat: os.stat_result, *, times_count: bool
    ) -> tuple[str, bool]:
        """Say why what has arrived is not what was listed, if so, and whether that is final."""
        sizes = f"{stat.st_size:,} bytes arrived, {self._sizes[key]:,} were listed"
        listed = self._spec.modified.get(key)
        is_of_then = listed is None or abs(int(stat.st_mtime) - listed) <= 1
        if times_count and not is_of_then and not self._is_same(staging, key, staged):
            now = datetime.fromtimestamp(stat.st_mtime, UTC)
            return f"{CHANGED}: it is of {now:%Y-%m-%d %H:%M:%S} UTC; {sizes}", True
        if not aws.is_html(key):
            with open(open_file(staging, staged), "rb") as file:
                if aws.has_page(file.fileno(), stat.st_size):
                    return aws.PAGE, False
        if stat.st_size != self._sizes[key]:
            return f"{sizes}: it has changed, or something else has answered", False
        if stat.st_size > aws.PART and self._may_be_mixed(key):
            return f"{CHANGED}, or the bucket does not say what is there now", False
        return "", False

    def _is_same(self, staging: int, key: str, staged: str) -> bool:
        """Whether what has arrived with another time has the ETag that was listed.

        Some stores, and some disks, have times of their own.
        """
        etag = self._spec.etags.get(key)
        if not etag:
            return False
        if key not in self._same:
            self._same[key] = has_md5(staging, staged, etag) or self._ask(key, etag)
        return self._same[key]

    def watch_version(self) -> None:
        """Find out, while objects arrive in parts, whether aws may mix those of two versions."""
        if any(size > aws.PART for size in self._sizes.values()):
            ask_version(self._words[0], self._config)

    def _may_be_mixed(self, key: str) -> bool:
        """Whether an old aws may have taken parts of two versions: the ETag is another one now."""
        etag = self._spec.etags.get(key)
        if not etag or not (old := read_old_version(self._config.parent)):
            return False
        if not self._named:
            self._named = True
            sys.stderr.write(f"{explain_old_version(old)}\n")
        if key not in self._same:
            self._same[key] = self._ask(key, etag)
        return not self._same[key]

    def _ask(self, key: str, etag: str) -> bool:
        timeout = self._spec.stall_timeout
        return ask_etag(self._words, self._spec.bucket, key, etag, self._config, timeout)


def has_md5(staging: int, staged: str, etag: str) -> bool:
    """Whether an ETag is the MD5 of a staged file, as it is if it was uploaded at once."""
    import hashlib  # rarely needed, and every transfer starts in 30 ms

    if "-" in etag:
        return False
    with open(open_file(staging, staged), "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == etag
