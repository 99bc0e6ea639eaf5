"""The last listing of each prefix, kept for when the bucket cannot be reached.

Each is a file in the user's cache that only the user can write. What is read from there goes
through the same checks as an answer of the network. A file that is missing, broken or cannot be
written is never an error.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from laion_fmri.base.files import write_atomically

#: Keys of one listing, and the files and bytes of all of them, that are kept.
MOST_KEYS, MOST_FILES, MOST_BYTES = 200_000, 1_000, 64 * 2**20
#: Bytes of a listing as it is read, so that a broken file does not fill the memory.
MOST_TEXT = 256 * 2**20
#: Seconds after a failure during which others do not try: a run of one process, mostly.
PAUSE = 10.0

#: What a file ends in that is missing, or has anything else in it.
BROKEN = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError),
    *(RecursionError, zlib.error),
)

#: When a bucket could not be reached for the last time, by its name and endpoint.
_FAILED: dict[tuple[str, str | None], float] = {}

#: Whether listings are kept: by commands and downloads, and by no function that only looks.
keeps: ContextVar[bool] = ContextVar("keeps", default=False)

Item = dict[str, Any]


class Question(NamedTuple):
    """What was asked of a bucket, and which answer is therefore to be kept."""

    bucket: str
    endpoint_url: str | None
    prefix: str
    deep: bool


@dataclass
class Reach:
    """Whether a bucket is reached in a run, and what is used in its place if it is not."""

    #: Whether the last listing will do, as for a report.
    prefers_kept: bool = False
    is_cut_off: bool = False
    has_answered: bool = False
    keeps: bool = field(default_factory=keeps.get)
    #: When the listings were made that are used in place of the bucket's.
    dates: list[datetime] = field(default_factory=list)
    is_said: bool = False

    def find_date(self) -> str | None:
        """Return the day and time of the oldest listing that is used and not told of yet."""
        if self.is_said or not (self.is_cut_off and self.dates):
            return None
        self.is_said = True
        return min(self.dates).astimezone().strftime("%Y-%m-%d %H:%M")

    def lose(self, question: Question) -> None:
        """Note that the bucket cannot be reached."""
        self.is_cut_off = True
        _FAILED[question[:2]] = time.monotonic()

    def look(self, question: Question) -> bool:
        """Whether the bucket could not be reached a moment ago."""
        failed = _FAILED.get(question[:2])
        return self.is_cut_off or (failed is not None and time.monotonic() - failed < PAUSE)

    def regain(self, question: Question) -> None:
        """Note that the bucket has answered."""
        _FAILED.pop(question[:2], None)
        self.is_cut_off = bool(self.dates) and self.is_cut_off
        self.has_answered = True


def is_kept(question: Question) -> bool:
    """Whether there is a listing, or one of more, which may be broken."""
    files = map(_find_file, _list_wider(question))
    return any(os.path.isfile(file) for file in files if file)  # noqa: PTH113 - never an error


def recall(question: Question) -> tuple[list[Item], datetime] | None:
    """Return the items of a listing, and when they came; None if there is none to be used."""
    for wider in _list_wider(question):
        if found := _recall(wider):
            items, date = found
            return (items if wider == question else _narrow(items, question)), date
    return None


def _list_wider(question: Question) -> Iterator[Question]:
    """Yield a question, and those whose answer has its answer in it."""
    yield question
    prefix, is_deep = question.prefix, question.deep
    while prefix:
        if not is_deep:
            yield question._replace(prefix=prefix, deep=True)
        prefix, is_deep = prefix[: prefix.rfind("/", 0, -1) + 1], False
    if not is_deep:
        yield question._replace(prefix="", deep=True)


def _narrow(items: Sequence[Item], question: Question) -> list[Item]:
    """Return what of the items of a deep listing is asked for, with folders if it is not deep."""
    start = len(question.prefix)
    within = [item for item in items if item.get("Key", "").startswith(question.prefix)]
    if question.deep:
        return within
    names = {item["Key"][: item["Key"].find("/", start) + 1] for item in within}
    direct = [item for item in within if "/" not in item["Key"][start:]]
    return [*direct, *({"Prefix": name} for name in sorted(names - {""}))]


def _recall(question: Question) -> tuple[list[Item], datetime] | None:
    file = _find_file(question)
    try:
        content = json.loads(_read(file)) if file else None
        if content is None or content["question"] != list(question):
            return None
        prefix = question.prefix
        keys, etags = (content[name].splitlines() for name in ("keys", "etags"))
        columns = (keys, content["sizes"], etags, content["times"])
        items = [
            {
                "Key": _check(prefix + key, str),
                "Size": _check(size, int),
                "ETag": _check(etag, str),
                "LastModified": datetime.fromtimestamp(when, UTC),
            }
            for key, size, etag, when in zip(*columns, strict=True)
        ]
        items += [{"Prefix": _check(prefix + name, str)} for name in content["folders"]]
        return items, datetime.fromtimestamp(content["date"], UTC)
    except BROKEN:
        return None


def keep(question: Question, items: Sequence[Item]) -> None:
    """Keep the items of a listing that is complete."""
    file = _find_file(question)
    if file is None or len(items) > MOST_KEYS:
        return
    start = len(question.prefix)
    objects = [item for item in items if "Key" in item]
    with contextlib.suppress(OSError, KeyError, ValueError, TypeError, AttributeError):
        content = {
            "question": question,
            "date": time.time(),
            "keys": _join([item["Key"][start:] for item in objects]),
            "sizes": [item["Size"] for item in objects],
            "etags": _join([item["ETag"] for item in objects]),
            "times": [_write_time(item["LastModified"]) for item in objects],
            "folders": [item["Prefix"][start:] for item in items if "Key" not in item],
        }
        packed = zlib.compress(json.dumps(content).encode("ascii"), 1)
        is_new = not file.exists()
        if is_new:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.parent.chmod(0o700)
        write_atomically(file, packed)
        if is_new:
            _clear_up(file.parent)


def _join(texts: Sequence[str]) -> str:
    """Return `texts` as lines, which are written in half the time of a list."""
    joined = "".join(f"{text}\n" for text in texts)
    if len(joined.splitlines()) != len(texts):  # a line of its own in a key
        raise ValueError("a text of several lines")
    return joined


def _write_time(time: datetime) -> float:
    seconds = time.timestamp()
    return int(seconds) if seconds.is_integer() else seconds  # which takes less time to write


def _find_file(question: Question) -> Path | None:
    from platformdirs import user_cache_path

    folder = user_cache_path("laion_fmri", appauthor=False) / "kept-listings"
    digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()[:32]
    # Without a home, the path is relative, and would lead to the working directory.
    return folder / f"{digest}.json.z" if folder.is_absolute() else None


def _read(file: Path) -> bytes:
    """Return the content of a file of this user's, in a folder that nobody else can write to."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not (is_own and _is_private(file.parent.lstat()) and found.st_size <= MOST_BYTES):
            raise ValueError("not only ours")
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(opened.read(MOST_BYTES), MOST_TEXT)
    if not unpacker.eof:
        raise ValueError("not all of it")
    return text


def _is_private(found: os.stat_result) -> bool:
    is_folder = stat.S_ISDIR(found.st_mode)  # and not a link to one
    return is_folder and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _check(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _clear_up(folder: Path) -> None:
    """Remove the oldest files beyond what is kept."""
    total = 0
    for number, (_, size, path) in enumerate(sorted(_list_files(folder), reverse=True)):
        total += size
        if number >= MOST_FILES or total > MOST_BYTES:
            Path(path).unlink(missing_ok=True)


def _list_files(folder: Path) -> Iterator[tuple[float, int, str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another run clears up as well
                found = entry.stat(follow_symlinks=False)
                yield found.st_mtime, found.st_size, entry.path
