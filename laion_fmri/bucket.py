"""Unsigned listings of the bucket. The only module that talks to the network itself."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from laion_fmri import dataset
from laion_fmri.errors import BucketError

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
        """
        return cls(
            config.get("bucket") or os.environ.get("LAION_FMRI_BUCKET") or dataset.BUCKET,
            config.get("region") or dataset.REGION,
            config.get("endpoint_url") or os.environ.get("LAION_FMRI_ENDPOINT_URL") or None,
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

        Folder markers (keys that end in ``/``) are left out: they are no files.

        Raises
        ------
        BucketError
            If the bucket cannot be reached, does not exist, or refuses the listing.
        """
        for page in self._pages(prefix, deep):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield ListedObject(
                        item["Key"], item["Size"], item["ETag"].strip('"'), item["LastModified"]
                    )

    def list_folders(self, prefix: str) -> list[str]:
        """List the names of the folders directly under `prefix`, sorted."""
        return sorted(
            folder["Prefix"][len(prefix) : -1]
            for page in self._pages(prefix, deep=False)
            for folder in page.get("CommonPrefixes", ())
        )

    def _pages(self, prefix: str, deep: bool) -> Iterator[dict[str, Any]]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        where = {"Bucket": self.name, "Prefix": prefix} | ({} if deep else {"Delimiter": "/"})
        try:
            yield from (
                _client(self.region, self.endpoint_url)
                .get_paginator("list_objects_v2")
                .paginate(**where)
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown error")
            raise BucketError(
                f"{self} refuses to be listed ({code}); check the bucket's name and the endpoint"
            ) from error
        except (BotoCoreError, ResponseParserError, ValueError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise BucketError(
                f"{self} cannot be listed: {reason}; check the connection and the endpoint"
            ) from error


def _client(region: str, endpoint_url: str | None) -> Any:
    """Return the client for a region and endpoint, made once however many threads ask for it."""
    with _MAKING:
        return _make_client(region, endpoint_url)


@lru_cache(maxsize=8)  # making a client takes longer than listing a session
def _make_client(region: str, endpoint_url: str | None) -> Any:
    with pause_collector():
        return _load_client(region, endpoint_url)


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


def _load_client(region: str, endpoint_url: str | None) -> Any:
    import boto3
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

    # A session that reads neither the user's AWS files nor their environment, whatever botocore
    # comes to read there; all but the certificates, which the way out of the house may need.
    nowhere = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
        if name != "ca_bundle"
    }
    nowhere["config_file"] = nowhere["credentials_file"] = (None, None, os.devnull, None)
    core = botocore.session.Session(session_vars=nowhere)
    factory = core.get_component("response_parser_factory")
    factory.set_parser_defaults(timestamp_parser=_parse_time)
    session = boto3.Session(botocore_session=core)
    return session.client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        config=Config(
            signature_version=UNSIGNED,
            ignore_configured_endpoint_urls=True,
            retries={"mode": "standard", "total_max_attempts": 5},
            connect_timeout=10,  # seconds
            read_timeout=30,  # seconds
            max_pool_connections=16,
            s3={"addressing_style": "path"} if endpoint_url else None,
        ),
    )


def _parse_time(value: Any) -> datetime:
    """Read the time of an object; botocore's own way, for any spelling, is half of a listing."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        from botocore.utils import parse_timestamp

        parsed: datetime = parse_timestamp(value)
        return parsed
