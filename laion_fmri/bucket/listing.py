"""Unsigned listings of the bucket. Only this module talks to the network, through its client."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Self

from laion_fmri import dataset
from laion_fmri.base.text import spell
from laion_fmri.bucket import kept_listings
from laion_fmri.bucket.address import check_address
from laion_fmri.bucket.client import (
    AT_ONCE,
    NoListingError,
    TooLongError,
    get_client,
    hurry,
    is_out_of_reach,
)
from laion_fmri.bucket.client import pause_collector as pause_collector
from laion_fmri.bucket.kept_listings import Question, Reach
from laion_fmri.errors import BucketError, SelectionWarning
from laion_fmri.settings import Settings

#: Rounds of requests for a page that comes as an error, by half, or not at all: 12 requests, of
#: which one gets through even if every third fails.
ROUNDS = 3
#: Pages in a row without anything new that mean that a listing goes in circles.
IDLE_PAGES = 10
#: Pages and keys of one listing: 2 million keys take 3 GB of memory.
MOST_PAGES, MOST_KEYS = 20_000, 2_000_000
#: Characters of what a server says that are shown.
MOST_SHOWN = 300


class ListedObject(NamedTuple):
    """One object of a listing: its key, size in bytes, ETag without quotes, and time of change."""

    key: str
    size: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True)
class Bucket:
    """A public bucket: its name, region, and the endpoint of a stand-in for S3 if there is one.

    If it is `offline`, the kept listings are used, and it is never asked.
    """

    name: str
    region: str
    endpoint_url: str | None
    offline: bool = False
    reach: Reach = field(default_factory=Reach, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.reach.is_cut_off = self.offline

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """Take each part from `settings`, else from our own environment, else the published one.

        The user's AWS settings have nothing to do with this bucket: a campus store in
        ``AWS_ENDPOINT_URL``, say. Raises ConfigError for a value that is not valid.
        """
        given = settings or Settings()
        endpoint = given.endpoint_url or os.environ.get("LAION_FMRI_ENDPOINT_URL")
        name = given.bucket or os.environ.get("LAION_FMRI_BUCKET") or dataset.BUCKET
        return cls(
            check_address("bucket", name),
            check_address("region", given.region or dataset.REGION),
            check_address("endpoint_url", endpoint) if endpoint else None,
            given.offline or is_offline(os.environ),
        )

    def to_record(self) -> dict[str, Any]:
        """Return what :class:`Bucket` takes, in plain types."""
        names = ("name", "region", "endpoint_url", "offline")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        where = f" at {self.endpoint_url}" if self.endpoint_url else f" ({self.region})"
        return f"s3://{self.name}{where}"

    def aws_options(self) -> list[str]:
        """Return the options that point ``aws s3`` at this bucket, anonymously."""
        # Older versions ignore the environment variable of the endpoint, and would call S3 itself.
        endpoint = ["--endpoint-url", self.endpoint_url] if self.endpoint_url else []
        return ["--only-show-errors", "--no-sign-request", "--region", self.region, *endpoint]

    def list_objects(self, prefix: str, *, deep: bool = True) -> Iterator[ListedObject]:
        """List the objects under `prefix`, or with ``deep=False`` those directly in it.

        Folder markers (keys that end in ``/``) are left out, and so is a key that is listed again.
        Raises BucketError if the answer is not a complete listing.
        """
        try:
            for item in self._list(prefix, deep):
                if not item.get("Key", "/").endswith("/"):
                    etag, size = spell(item["ETag"].strip('"'), MOST_SHOWN), item["Size"]
                    if not 0 <= size < 2**63:
                        raise ValueError(f"{item['Key']!r} has {spell(str(size), 30)} bytes")
                    yield ListedObject(item["Key"], size, etag, item["LastModified"])
        except (KeyError, ValueError) as error:
            raise self._explain(error) from error

    def list_many(self, prefixes: Iterable[tuple[str, bool]]) -> list[list[ListedObject]]:
        """List several prefixes at once; each comes with whether it is listed ``deep``."""
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            return list(pool.map(lambda p: list(self.list_objects(p[0], deep=p[1])), prefixes))

    def list_many_folders(self, prefixes: Iterable[str]) -> list[list[str]]:
        """List the folders under several prefixes at once; see :meth:`list_folders`."""
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            return list(pool.map(self.list_folders, prefixes))

    def list_folders(self, prefix: str) -> list[str]:
        """List the names of the folders directly under `prefix`, sorted."""
        found = [item["Prefix"] for item in self._list(prefix, deep=False) if "Prefix" in item]
        return sorted(folder[len(prefix) : -1] for folder in found)

    def find_part_sizes(self, key: str, size: int, parts: int) -> tuple[int, int] | None:
        """Return the sizes in bytes of the first and the last part of an object, if S3 tells them.

        A HEAD of a part has its size: ``partNumber`` in
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html. Other stores may answer
        with that of the whole object, which is `size` bytes.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        if self.reach.is_cut_off:
            return None
        client = get_client(self.region, self.endpoint_url)
        found = []
        try:
            for number in (1, parts):
                answer = client.head_object(Bucket=self.name, Key=key, PartNumber=number)
                found.append(int(answer["ContentLength"]))
        except (BotoCoreError, ClientError, KeyError, ValueError, TooLongError):
            return None
        first, last = found
        return (first, last) if 0 < first < size and last > 0 else None

    def _list(self, prefix: str, deep: bool) -> Iterator[dict[str, Any]]:
        """Yield what is new on each page: objects (with a ``Key``) and folders (a ``Prefix``)."""
        where = {"Bucket": self.name, "Prefix": prefix} | ({} if deep else {"Delimiter": "/"})
        seen: set[str] = set()
        tokens: set[str] = set()
        outside: list[str] = []
        found: list[dict[str, Any]] = []
        idle = pages = 0
        question = Question(self.name, self.endpoint_url, prefix, deep)
        is_kept, page = self._begin(question, where)
        while True:
            items = [*page.get("Contents", ()), *page.get("CommonPrefixes", ())]
            # A folder ends in a slash, as an object that is let through never does.
            names = {item.get("Key") or item.get("Prefix", ""): item for item in items}
            new = {name: item for name, item in names.items() if name not in seen}
            asked = {name for name in new if _is_asked(name, prefix, deep)}
            outside += [name for name in new if name not in asked]
            seen.update(new)
            pages += 1
            if self.reach.keeps and len(found) <= kept_listings.MOST_KEYS:
                found += (new[name] for name in new if name in asked)
            yield from (new[name] for name in new if name in asked)
            if not page.get("IsTruncated"):
                if outside:
                    warnings.warn(_explain_outside(self, prefix, outside), SelectionWarning, 2)
                if self.reach.keeps and not is_kept:
                    kept_listings.keep(question, found)
                return
            if pages == MOST_PAGES or len(seen) > MOST_KEYS:
                raise BucketError(
                    f"{self} lists more than {len(seen):,} keys below {prefix!r}, and does not "
                    "end; check the endpoint, or name a subject"
                )
            token = page.get("NextContinuationToken")
            idle = 0 if new else idle + 1
            if not token or token in tokens or idle == IDLE_PAGES:
                raise BucketError(
                    f"{self} cannot be listed: its pages go in circles or break off; is there a "
                    "proxy or a cache in between? Try again, or from another network"
                )
            tokens.add(token)
            where["ContinuationToken"] = token
            page = self._ask(where)

    def _begin(self, question: Question, where: Mapping[str, str]) -> tuple[bool, dict[str, Any]]:
        """Return the first page of a listing, or all of the kept one if it cannot be had.

        With it, whether it is the kept one.
        """
        reach, has_kept = self.reach, kept_listings.is_kept(question)
        is_enough = self.offline or reach.prefers_kept or reach.look(question)
        if has_kept and is_enough and (page := self._recall(question)):
            return True, page
        if self.offline:
            what = repr(question.prefix) if question.prefix else "its root"
            raise BucketError(
                f"{self} is not asked, being offline, and no listing of {what} is kept"
                " here; run the same once with a connection, and without offline"
            )
        try:
            page = self._ask_first(where, is_hurried=has_kept and not reach.has_answered)
        except BucketError as error:  # by now also of a connection that is closed each time
            if not is_out_of_reach(error.__cause__):
                raise
            reach.lose(question)
            if not has_kept:
                raise
            if page := self._recall(question):
                return True, page
            page = self._ask(where)  # what is kept is broken
        reach.regain(question)
        return False, page

    def _ask_first(self, where: Mapping[str, str], *, is_hurried: bool) -> dict[str, Any]:
        """Return the first page of a listing; if hurried, wait in full only where others come."""
        try:
            with hurry(is_hurried=is_hurried):
                return self._ask(where)
        except BucketError as error:
            is_slow = self.reach.has_answered and is_out_of_reach(error.__cause__)
            if not (is_hurried and is_slow):
                raise
        return self._ask(where)

    def _recall(self, question: Question) -> dict[str, Any] | None:
        """Return a kept listing as one page."""
        kept = kept_listings.recall(question)
        if kept is None:
            return None
        items, date = kept
        if not self.reach.prefers_kept:
            self.reach.is_cut_off = True
        self.reach.dates.append(date)
        return {"Contents": items}

    def explain_reach(self) -> list[str]:
        """Say, once, that kept listings are used, and of when the oldest is."""
        date = self.reach.find_date()
        return [f"{self.explain_cut()}; using its listing of {date}"] if date else []

    def explain_cut(self) -> str:
        """Say why the bucket is not asked."""
        how = "is not asked, being offline" if self.offline else "cannot be reached"
        return f"the bucket {how}"

    def _ask(self, where: Mapping[str, str], rounds: int = ROUNDS) -> dict[str, Any]:
        """Return one page of a listing; ask again after an error that may pass."""
        from botocore.exceptions import ClientError, ConnectionClosedError
        from botocore.parsers import ResponseParserError

        passing = (ClientError, ConnectionClosedError, ResponseParserError, NoListingError)
        try:
            client = get_client(self.region, self.endpoint_url)
            page: dict[str, Any] = client.list_objects_v2(**where)
            return page
        except Exception as error:  # botocore's own, and what its parser makes of odd answers
            is_final = isinstance(error, ClientError) and _read_status(error) < 500
            if rounds == 1 or is_final or not isinstance(error, passing):
                raise self._explain(error) from error
        return self._ask(where, rounds - 1)

    def _explain(self, error: Exception) -> BucketError:
        from botocore.exceptions import ClientError, SSLError

        reason = spell(str(error).partition("\n")[0].rstrip("."), MOST_SHOWN)
        advice = "check the connection and the endpoint"
        if isinstance(error, ClientError):
            code = spell(error.response.get("Error", {}).get("Code", "unknown error"), MOST_SHOWN)
            if _read_status(error) < 500:
                advice = "check the name of the bucket and the endpoint"
                return BucketError(f"{self} refuses to be listed ({code}); {advice}")
            reason, advice = f"the server is in trouble ({code})", "try again later"
        elif isinstance(error, NoListingError):
            reason = "the endpoint answered with something that is not an S3 listing"
            advice = (
                "is there a login page (captive portal) in between? Sign in with a browser, or "
                "check the endpoint"
            )
        elif isinstance(error, TooLongError):
            reason = "a page of its listing does not end"
        elif isinstance(error, KeyError):
            reason, advice = f"an entry of its listing has no {error.args[0]}", "check the endpoint"
        elif isinstance(error, SSLError):
            advice = (
                "if the network or the server has its own certificate authority, set AWS_CA_BUNDLE "
                "to the file of its certificates"
            )
        return BucketError(f"{self} cannot be listed: {reason}; {advice}")


def is_offline(environment: Mapping[str, str]) -> bool:
    """Whether ``LAION_FMRI_OFFLINE`` is set to anything but a no."""
    value = environment.get("LAION_FMRI_OFFLINE", "").strip().lower()
    return value not in ("", "0", "no", "off", "false")


def _is_asked(name: str, prefix: str, deep: bool) -> bool:
    """Whether a key, or a folder with its slash, is what a listing of `prefix` is about."""
    rest = name.removeprefix(prefix)
    return name.startswith(prefix) and (deep or "/" not in rest[:-1])


def _explain_outside(bucket: Bucket, prefix: str, outside: Sequence[str]) -> str:
    return (
        f"{bucket} lists {len(outside):,} keys that are not below {prefix!r}, which was asked for, "
        f"such as {outside[0]!r}; they are left out: check the endpoint"
    )


def _read_status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
