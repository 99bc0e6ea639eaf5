"""The AWS CLI: where it is, how it is configured, and what its messages mean.

Only the standard library, since ``transfer.py`` needs it.
"""

import errno
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from laion_fmri.base.files import expand_path
from laion_fmri.errors import AwsNotFoundError
from laion_fmri.fetch.job import Job

#: Bytes of one request; a whole object up to this size is one request. Half the requests of aws's
#: default, and as fast or faster. S3's checksum covers a whole object, not a part.
PART = 16 * 2**20
#: The settings of aws, see https://docs.aws.amazon.com/cli/latest/topic/s3-config.html. Version 2
#: has another client, which it takes on some machines: it obeys none of these, and what has arrived
#: of a part is lost with it.
CONFIG = """\
[default]
retry_mode = standard
max_attempts = 5
s3 =
  preferred_transfer_client = default
  max_concurrent_requests = {connections}
  multipart_threshold = {part}
  multipart_chunksize = {part}
  addressing_style = {style}
"""
#: The longest time to make a connection, in seconds.
CONNECT_TIMEOUT = 10
#: The request id for the images, which is none of aws's business.
ID_NAME = "LAION_FMRI_REQUEST_ID"
DENIED = ("denied", "access denied (403)")
GONE = ("failed", "no longer in the bucket (404)")
ARCHIVED = (
    "failed",
    "archived (Glacier): it can be fetched once the owners of the bucket have restored it",
)
#: Outcome and reason of what is not tried again. aws has no exit status of its own for these; its
#: message has the HTTP status or S3's error code.
FINAL = {
    "403": DENIED,
    "AccessDenied": DENIED,
    "404": GONE,
    "NoSuchKey": GONE,
    "InvalidObjectState": ARCHIVED,
}
_ERROR = re.compile(r"An error occurred \((\w+)\) when calling")
#: What aws makes of answers that are not S3's: one without the headers of an object, or a redirect.
NOT_S3 = re.compile(r"^fatal error: '(LastModified|ContentLength)'$|An error occurred \(\) when")
#: aws says this where the file system takes no times; then those of files mean nothing.
NO_TIMES = "unable to update the last modified time"
PAGE = (
    "an HTML page arrived in its place; is there a login page (captive portal) in between? "
    "Sign in with a browser, or try from another network"
)
#: errno values that mean nothing more can be written; they stop the run.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_DISK_ERROR = re.compile(r"\[Errno ({})\]".format("|".join(map(str, DISK_ERRORS))))


def aws_command() -> str:
    """Return the name or path of the AWS CLI: ``$LAION_FMRI_AWS``, else ``aws``."""
    command = os.environ.get("LAION_FMRI_AWS") or "aws"
    # The jobs run in another working directory than the user's.
    return str(expand_path(command).absolute()) if "/" in command else command


def find_aws_command() -> str:
    """Return the full path of the AWS CLI, or raise AwsNotFoundError.

    Without one on PATH, that beside the interpreter will do: an environment need not be activated.
    """
    command = aws_command()
    beside = str(Path(sys.executable or "python").parent)
    if found := shutil.which(command) or shutil.which(command, path=beside):
        return str(Path(found).absolute())
    raise AwsNotFoundError(
        f"the AWS CLI ({aws_command()}) is not found; get it with 'uv tool install awscli', "
        "'conda install -c conda-forge awscli' or from https://aws.amazon.com/cli, or set "
        "LAION_FMRI_AWS to its path"
    )


def make_config(connections: int, max_bandwidth: int | None, is_mirror: bool) -> str:
    """Return aws's configuration file, for a limit in bytes per second."""
    style = "path" if is_mirror else "auto"  # a stand-in for S3 may know buckets by path alone
    config = CONFIG.format(connections=connections, part=PART, style=style)
    if max_bandwidth:  # aws takes whole units of 1024 bytes
        config += f"  max_bandwidth = {max(1, max_bandwidth // 1024)}KB/s\n"
    return config


def make_environment(config_file: Path) -> dict[str, str]:
    """Return the user's environment without their AWS settings, except for the certificates."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "_X_AMZN_", "LAION_FMRI_REQUEST"))
        or name == "AWS_CA_BUNDLE"
        # An empty one would turn the check of certificates off.
        if value.strip() or not name.endswith("_CA_BUNDLE")
    }
    if sys.platform == "linux":
        # Version 2 writes into its home at each start, and waits while another one does. What is
        # installed for the user alone is found all the same.
        environment.setdefault("PYTHONUSERBASE", os.path.expanduser("~/.local"))  # noqa: PTH111
        environment["HOME"] = f"{config_file}.home"
    return environment | {
        "AWS_CONFIG_FILE": str(config_file),
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        "TZ": "UTC",  # aws sets the time of a file by way of local time, which may be ambiguous
    }


def make_timeouts(stall_timeout: float) -> list[str]:
    """Return the options that let aws itself retry a silent connection, after half the timeout."""
    read = max(1, int(stall_timeout / 2))
    connect = min(read, CONNECT_TIMEOUT)
    return ["--cli-read-timeout", str(read), "--cli-connect-timeout", str(connect)]


def make_filters(patterns: Iterable[str], exclusions: Iterable[str] = ()) -> list[str]:
    """Return the options of a recursive copy; the last one that matches a key decides."""
    chosen = [("--include", pattern) for pattern in patterns]
    left_out = [("--exclude", pattern) for pattern in exclusions]
    return [word for pair in (("--exclude", "*"), *chosen, *left_out) for word in pair]


def choose_filters(job: Job, names: Mapping[str, str], wanted: Collection[str]) -> list[str]:
    """Return the options that select of a batch what is `wanted`, in as few patterns as possible.

    `names` are those of its keys below its prefix.
    """
    chosen = [escape_pattern(names[key]) for key in wanted]
    others = [escape_pattern(name) for key, name in names.items() if key not in wanted]
    if len(others) + len(job.patterns) <= len(chosen) or not others:
        return make_filters(job.patterns, [*job.exclusions, *others])
    return make_filters(chosen)


def escape_glob(text: str) -> str:
    """Escape the characters that aws reads as a pattern in ``--include``."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in text)


def escape_pattern(name: str) -> str:
    """Escape `name` so that as a value of ``--include`` it matches itself and is not an option."""
    escaped = escape_glob(name)
    return f"[-]{escaped[1:]}" if escaped.startswith("-") else escaped


def find_message(lines: Sequence[str], bucket: str, key: str | None) -> str:
    """Return what aws says of the object `key` of a batch, or of a single one (None); or nothing.

    It is the last line, unless a batch has one about the object, or the last is about another.
    """
    if key is not None:
        own = [line for line in lines if f"s3://{bucket}/{key} to " in line]
        lines = own[:1] or [line for line in lines[-1:] if f"s3://{bucket}/" not in line]
    return lines[-1] if lines else ""


def read_refusal(line: str, key: str) -> tuple[str, str] | None:
    """Return outcome and reason if a `line` about `key` says that it is refused for good."""
    said = _ERROR.search(line.replace(key, ""))
    return FINAL.get(said[1]) if said else None


def read_disk_error(messages: str, names: Iterable[str]) -> str | None:
    """Return the system's message if aws could not write because of the disk."""
    # S3 can say anything, so also this.
    lines = (line for line in messages.splitlines() if not _ERROR.search(line))
    messages = "\n".join(lines)
    if not _DISK_ERROR.search(messages):
        return None
    # The names of the objects may look like anything, so also like this error.
    for name in sorted(names, key=len, reverse=True):
        messages = messages.replace(name, "")
    said = _DISK_ERROR.search(messages)
    return os.strerror(int(said[1])) if said else None


def has_page(file: int, size: int) -> bool:
    """Whether one of the requests for an object of `size` bytes was answered by an HTML page."""
    # aws takes any answer of status 200 for the part that it has asked for, whatever its length.
    return any(is_page(os.pread(file, 512, start)) for start in range(0, size, PART))


def is_html(key: str) -> bool:
    """Whether an object is an HTML page itself, so that one in its place is no surprise."""
    return key.endswith((".html", ".htm"))


def is_page(data: bytes) -> bool:
    """Whether an answer with these first bytes is an HTML page."""
    return data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))
