"""Checks of what says where a bucket is: its name, its region and its endpoint. Pure.

All three become part of a host name, of a URL and of the command line of aws, so that nothing gets
there that could be read as anything else.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from laion_fmri.errors import ConfigError

#: The general rules of https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html:
#: 3 to 63 lowercase letters, digits, dots and hyphens; a letter or digit at both ends; no two dots
#: side by side; no IP address. Its reserved beginnings and endings are those of aliases, which can
#: be listed like a bucket.
BUCKET = re.compile(r"(?!.*\.\.)(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
#: A region is one label of a host name, see RFC 1123, section 2.1.
REGION = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: A host name by the same section (an underscore is let pass: containers have such names), an IPv4
#: address, or an IPv6 address in brackets.
HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?|\[[0-9a-f:.]+\]")


def check_bucket(name: object) -> str:
    """Return the `name` of a bucket if S3 allows it, else raise ConfigError."""
    if isinstance(name, str) and BUCKET.fullmatch(name):
        return name
    raise ConfigError(
        f"bucket {name!r} is no name of an S3 bucket: 3 to 63 lowercase letters, digits, dots and "
        "hyphens, such as 'laion-fmri'; mend 'bucket' in the configuration or LAION_FMRI_BUCKET"
    )


def check_region(region: object) -> str:
    """Return `region` if it can be one of AWS, else raise ConfigError."""
    if isinstance(region, str) and REGION.fullmatch(region):
        return region
    raise ConfigError(
        f"region {region!r} is no AWS region: lowercase letters, digits and hyphens, such as "
        "'us-west-2'; mend 'region' in the configuration"
    )


def check_endpoint(url: object) -> str:
    """Return the `url` of a stand-in for S3 if it can be one, else raise ConfigError.

    It is never repeated in the message if there is a password in it.
    """
    problem = _find_problem(url)
    if problem is None:
        return str(url)
    shown = "the endpoint" if "@" in str(url) else f"the endpoint {url!r}"
    raise ConfigError(
        f"{shown} {problem}; expected http:// or https:// and a host, such as "
        "'https://s3.example.org:9000'; mend 'endpoint_url' in the configuration or "
        "LAION_FMRI_ENDPOINT_URL"
    )


def _find_problem(url: object) -> str | None:
    if not isinstance(url, str):
        return "is no text"
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return "has a character in it that no URL has"
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}").lower()
    except ValueError:  # the port is no number, or too large; or a bracket is missing
        return "has no proper host and port"
    if parts.scheme not in ("http", "https"):
        return "is no http or https URL"
    if "@" in parts.netloc:
        return "has a user or password in it, but the bucket is public"
    if not HOST.fullmatch(host):
        return "has no proper host and port"
    if "?" in url or "#" in url:
        return "has a query or fragment in it"
    return None
