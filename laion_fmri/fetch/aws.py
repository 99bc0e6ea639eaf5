"""The AWS CLI: where it is, what it is told, and what its messages mean.

Only the standard library, since ``transfer.py`` needs it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from laion_fmri.errors import AwsNotFoundError

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
#: Seconds for a connection to be made, at most.
CONNECT_TIMEOUT = 10
#: aws has no exit status of its own for these; its message names the HTTP status or S3's word.
_ERROR = re.compile(r"An error occurred \((\w+)\) when calling")
DENIED = ("denied", "access denied (403)")
GONE = ("failed", "no longer in the bucket (404)")
#: Outcome and reason of what need not be tried again.
FINAL = {"403": DENIED, "AccessDenied": DENIED, "404": GONE, "NoSuchKey": GONE}
#: What aws makes of answers that are not S3's: one without the headers of an object, or a redirect.
_NO_S3 = re.compile(r"^fatal error: '(LastModified|ContentLength)'$|An error occurred \(\) when")
PAGE = (
    "an HTML page has come in its place; is there a login page (captive portal) in between? "
    "Sign in with a browser, or try from another network"
)
#: What a disk says that takes no more files; there is no point in going on.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_DISK_ERROR = re.compile(r"\[Errno ({})\]".format("|".join(map(str, DISK_ERRORS))))


def aws_command() -> str:
    """Return the name or path of the AWS CLI: ``$LAION_FMRI_AWS``, else ``aws``."""
    command = os.environ.get("LAION_FMRI_AWS") or "aws"
    # The jobs run in another working directory than the user's.
    return str(Path(command).expanduser().absolute()) if "/" in command else command


def find_aws_command() -> str:
    """Return the full path of the AWS CLI.

    Raises
    ------
    AwsNotFoundError
        With three ways to get it.
    """
    command = aws_command()
    found = shutil.which(command)
    if found is None:
        raise AwsNotFoundError(
            f"the AWS CLI ({command}) is not found; get it with 'uv tool install awscli', "
            "'conda install -c conda-forge awscli' or from https://aws.amazon.com/cli, or set "
            "LAION_FMRI_AWS to its path"
        )
    return found


def make_config(connections: int, max_bandwidth: int | None, *, is_mirror: bool) -> str:
    """Return the text of aws's configuration file.

    Parameters
    ----------
    connections
        Requests at once.
    max_bandwidth
        Bytes per second, or None for no limit.
    is_mirror
        Whether it talks to a stand-in for S3, which may know buckets by path alone.
    """
    limit = ""
    if max_bandwidth:  # aws takes whole units of 1024 bytes
        limit = f"  max_bandwidth = {max(1, max_bandwidth // 1024)}KB/s\n"
    return TRANSFER_CONFIG.format(
        connections=connections,
        part=PART,
        max_bandwidth=limit,
        addressing_style="path" if is_mirror else "auto",
    )


def make_environment(config_file: Path) -> dict[str, str]:
    """Return the user's environment without their AWS settings, but for the certificates."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") or (name == "AWS_CA_BUNDLE" and value)
    }
    return environment | {
        "AWS_CONFIG_FILE": str(config_file),
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        "TZ": "UTC",  # aws sets the time of a file by way of local time, which may be ambiguous
    }


def make_timeouts(stall_timeout: float) -> list[str]:
    """Return the options that let aws itself try a silent connection again, in half that time."""
    read = max(1, int(stall_timeout / 2))
    connect = min(read, CONNECT_TIMEOUT)
    return ["--cli-read-timeout", str(read), "--cli-connect-timeout", str(connect)]


def make_filters(patterns: Sequence[str], exclusions: Sequence[str] = ()) -> list[str]:
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


def find_line(source: str, messages: str) -> str:
    """Return the line of aws's messages about the object ``s3://...`` `source`, or nothing."""
    name = f"{source} to "
    return next((line for line in messages.splitlines() if name in line), "")


def last_line(messages: str) -> str:
    """Return the last line of aws's messages that says something."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return lines[-1] if lines else "aws gave no reason"


def read_refusal(line: str, key: str) -> tuple[str, str] | None:
    """Return outcome and reason if a `line` about `key` says that it is refused for good."""
    said = _ERROR.search(line.replace(key, ""))
    return FINAL.get(said[1]) if said else None


def explain(line: str) -> str:
    """Return a `line` of aws's in words, where it does not say what has happened."""
    return f"{PAGE} ({line})" if _NO_S3.search(line) else line


def read_disk_error(messages: str, names: Iterable[str]) -> str | None:
    """Return what the disk has said, if aws could not write for its sake.

    `names` are those of the objects, which may look like anything.
    """
    if not _DISK_ERROR.search(messages):
        return None
    for name in sorted(names, key=len, reverse=True):
        messages = messages.replace(name, "")
    said = _DISK_ERROR.search(messages)
    return os.strerror(int(said[1])) if said else None


def cannot_set_times(messages: str) -> bool:
    """Whether aws has said that the file system takes no times, which then say nothing."""
    return "unable to update the last modified time" in messages.replace("\n", " ")
