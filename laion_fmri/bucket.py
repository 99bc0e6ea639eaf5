"""Unsigned listings of the bucket. The only module that talks to the network itself."""

from __future__ import annotations

import gc
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from laion_fmri import dataset
from laion_fmri.address import check_bucket, check_endpoint, check_region
from laion_fmri.errors import BucketError

#: Seconds to wait for a connection, and for the next bytes of an answer: S3 starts to answer within
#: one, so silence means that nothing will come.
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 15.0
#: Requests for a page before it is given up, each after a longer pause: 3.5 s on average for all.
ATTEMPTS = 4
#: Rounds of these where the server answers, but with an error of its own, with half an answer, or
#: with none: of 12 requests one gets through, though every third were to fail.
ROUNDS = 3
#: Pages without anything new, one after the other, of a listing that goes in circles.
IDLE_PAGES = 10
#: What the documents of S3 begin with: a listing or an error, after the XML declaration.
S3_DOCUMENT = re.compile(rb"\s*(?:<\?[^>]*>\s*)?<(?:\w+:)?(?:ListBucketResult|Error)\b")
#: The beginning of a document, which breaks off before it has told what it is.
HALF_DOCUMENT = re.compile(rb"\s*(?:<\?[^>]*>\s*)?(?:<[^>]*)?\Z")

_MAKING = threading.Lock()


class ListedObject(NamedTuple):
    """One object of a listing: its key, size in bytes, ETag without quotes, and time of change."""

    key: str
    size: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True)
class Bucket:
    """A public bucket: its name, region, and the endpoint of a stand-in for S3 if there is one."""

    name: str
    region: str
    endpoint_url: str | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Bucket:
        """Take each setting from `config`, else from our own environment, else the published one.

        The user's AWS settings are not asked: a campus store in ``AWS_ENDPOINT_URL`` or a profile
        that does not exist has nothing to do with this bucket.

        Raises
        ------
        ConfigError
            If one of them cannot be what it stands for, see :mod:`laion_fmri.address`.
        """
        endpoint = config.get("endpoint_url") or os.environ.get("LAION_FMRI_ENDPOINT_URL")
        return cls(
            check_bucket(
                config.get("bucket") or os.environ.get("LAION_FMRI_BUCKET") or dataset.BUCKET
            ),
            check_region(config.get("region") or dataset.REGION),
            check_endpoint(endpoint) if endpoint else None,
        )

    def __str__(self) -> str:
        where = f" at {self.endpoint_url}" if self.endpoint_url else f" ({self.region})"
        return f"s3://{self.name}{where}"

    def aws_options(self) -> list[str]:
        """Return the options that point ``aws s3`` at this bucket, anonymously.

        The endpoint goes on the command line: older versions ignore its environment variable and
        would call the real service.
        """
        endpoint = ["--endpoint-url", self.endpoint_url] if self.endpoint_url else []
        return ["--only-show-errors", "--no-sign-request", "--region", self.region, *endpoint]

    def list_objects(self, prefix: str, *, deep: bool = True) -> Iterator[ListedObject]:
        """List the objects under `prefix`, or with ``deep=False`` those directly in it.

        Folder markers (keys that end in ``/``) are left out: they are no files. A key that is
        listed again, as on a page that came twice, is passed over.

        Raises
        ------
        BucketError
            If the bucket cannot be reached, does not exist, refuses the listing, or if what answers
            gives no listing or one without an end.
        """
        for page in self._pages(prefix, deep):
            for item in page:
                if not item.get("Key", "/").endswith("/"):
                    yield self._read_object(item)

    def list_folders(self, prefix: str) -> list[str]:
        """List the names of the folders directly under `prefix`, sorted."""
        return sorted(
            item["Prefix"][len(prefix) : -1]
            for page in self._pages(prefix, deep=False)
            for item in page
            if "Prefix" in item
        )

    def find_part_sizes(self, key: str, size: int, parts: int) -> tuple[int, int] | None:
        """Return the sizes in bytes of the first and the last part of an object, if they are told.

        A HEAD of a part tells its size: ``partNumber`` in
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html. Stores that do not know
        this tell that of the whole object, which is `size` bytes.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        client = _client(self.region, self.endpoint_url)
        found = []
        try:
            for number in (1, parts):
                answer = client.head_object(Bucket=self.name, Key=key, PartNumber=number)
                found.append(int(answer["ContentLength"]))
        except (BotoCoreError, ClientError):
            return None
        first, last = found
        return (first, last) if first < size else None

    def _pages(self, prefix: str, deep: bool) -> Iterator[list[dict[str, Any]]]:
        """Yield what is new on each page: objects (with a ``Key``) and folders (a ``Prefix``)."""
        where = {"Bucket": self.name, "Prefix": prefix} | ({} if deep else {"Delimiter": "/"})
        seen: set[str] = set()
        tokens: set[str] = set()
        idle = 0
        while True:
            page = self._ask(where)
            items = [*page.get("Contents", ()), *page.get("CommonPrefixes", ())]
            # A folder ends in a slash, as an object that is let through never does.
            names = {item.get("Key") or item.get("Prefix", ""): item for item in items}
            new = [item for name, item in names.items() if name not in seen]
            seen.update(names)
            yield new
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            idle = 0 if new else idle + 1
            if not token or token in tokens or idle == IDLE_PAGES:
                raise BucketError(
                    f"{self} cannot be listed: its pages go in circles or break off; is there a "
                    "proxy or a cache in between? Try again, or from another network"
                )
            tokens.add(token)
            where["ContinuationToken"] = token

    def _ask(self, where: Mapping[str, str]) -> dict[str, Any]:
        """Return one page of a listing, asked for again and again while that may help."""
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError
        from botocore.parsers import ResponseParserError

        passing = (ClientError, ConnectionClosedError, ResponseParserError, _NoListing)
        for left in reversed(range(ROUNDS)):
            try:
                client = _client(self.region, self.endpoint_url)
                page: dict[str, Any] = client.list_objects_v2(**where)
                return page
            except passing as error:
                if left == 0 or (isinstance(error, ClientError) and _read_status(error) < 500):
                    raise self._explain(error) from error
            except (BotoCoreError, ValueError, KeyError) as error:
                raise self._explain(error) from error
        raise AssertionError("the last round returns or raises")

    def _explain(self, error: Exception) -> BucketError:
        from botocore.exceptions import ClientError, SSLError

        reason = str(error).partition("\n")[0].rstrip(".")
        advice = "check the connection and the endpoint"
        if isinstance(error, ClientError):
            code = error.response.get("Error", {}).get("Code", "unknown error")
            if _read_status(error) < 500:
                return BucketError(
                    f"{self} refuses to be listed ({code}); check the name of the bucket and the "
                    "endpoint"
                )
            reason, advice = f"the server is in trouble ({code})", "try again later"
        elif isinstance(error, _NoListing):
            reason = "the endpoint answered with something that is no S3 listing"
            advice = (
                "is there a login page (captive portal) in between? Sign in with a browser, or "
                "check the endpoint"
            )
        elif isinstance(error, KeyError):
            reason, advice = f"an entry of its listing has no {error.args[0]}", "check the endpoint"
        elif isinstance(error, SSLError):
            advice = (
                "if the network or the server has an authority of its own, set AWS_CA_BUNDLE to "
                "the file of its certificates"
            )
        return BucketError(f"{self} cannot be listed: {reason}; {advice}")

    def _read_object(self, item: Mapping[str, Any]) -> ListedObject:
        try:
            return ListedObject(
                item["Key"], item["Size"], item["ETag"].strip('"'), item["LastModified"]
            )
        except KeyError as error:
            raise self._explain(error) from error


class _NoListing(Exception):  # noqa: N818 - told as a BucketError
    """What has answered is not S3."""


def _refuse_no_listing(response_dict: dict[str, Any], **_more: Any) -> None:
    """Refuse an answer that is no document of S3, which botocore would take for an empty listing.

    A captive portal answers any request with its login page, or leads there (3xx), or says so with
    the status 511 of RFC 6585. What breaks off at once is asked for again, like half a listing.
    """
    status, body = response_dict["status_code"], response_dict["body"]
    if status < 300 and HALF_DOCUMENT.match(body):
        response_dict["status_code"] = 500
        return
    is_of_portal = status < 400 or status == 511 or (status < 500 and body.strip())
    if is_of_portal and not S3_DOCUMENT.match(body):
        raise _NoListing


def _read_status(error: Any) -> int:
    """Return the HTTP status of botocore's ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _client(region: str, endpoint_url: str | None) -> Any:
    """Return the client for a region and endpoint, made once however many threads ask for it."""
    with _MAKING:
        return _make_client(region, endpoint_url, _find_certificates())


@lru_cache(maxsize=8)  # making a client takes longer than listing a session
def _make_client(region: str, endpoint_url: str | None, certificates: str | bool) -> Any:
    with pause_collector():
        return _load_client(region, endpoint_url, certificates)


@contextmanager
def pause_collector() -> Iterator[None]:
    """Spare what makes a great many objects and no garbage a fifth of its time or more.

    The collector would look at all of them again and again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _load_client(region: str, endpoint_url: str | None, certificates: str | bool) -> Any:
    import boto3
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

    # A session that reads neither the user's AWS files nor their environment, whatever botocore
    # comes to read there.
    nowhere = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    nowhere["config_file"] = nowhere["credentials_file"] = (None, None, os.devnull, None)
    core = botocore.session.Session(session_vars=nowhere)
    factory = core.get_component("response_parser_factory")
    factory.set_parser_defaults(timestamp_parser=_parse_time)
    session = boto3.Session(botocore_session=core)
    client = session.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        verify=certificates,
        config=Config(
            signature_version=UNSIGNED,
            ignore_configured_endpoint_urls=True,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=16,
            s3={"addressing_style": "path"} if endpoint_url else None,
        ),
    )
    # botocore calls the handlers of wildcards first, and has one that hides the status from others.
    client.meta.events.register_first("before-parse.*.ListObjectsV2", _refuse_no_listing)
    return client


def _find_certificates() -> str | bool:
    """Return the file of the certificates to trust, or True for those that come with botocore.

    Never an empty text, as from ``AWS_CA_BUNDLE=``, for which older botocores check nothing at all.
    """
    names = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
    return next((value for value in map(os.environ.get, names) if value and value.strip()), True)


def _parse_time(value: Any) -> datetime:
    """Read the time of an object; botocore's own way, for any spelling, is half of a listing."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        from botocore.utils import parse_timestamp

        parsed: datetime = parse_timestamp(value)
        return parsed
