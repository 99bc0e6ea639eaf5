"""Checks of where a bucket is: its name, its region and its endpoint.

All three become part of a host name, of a URL and of the command line of aws, so that nothing gets
there that could be read as anything else.
"""

import re

from laion_fmri.errors import ConfigError

#: Setting -> its pattern, what is expected in words, and where else it can be set.
RULES = {
    # The general rules of
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html. The beginnings
    # and endings that it reserves are those of aliases, which can be listed like a bucket.
    "bucket": (
        r"(?!.*\.\.)(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "3 to 63 lowercase letters, digits, dots and hyphens, such as 'laion-fmri'",
        " or LAION_FMRI_BUCKET",
    ),
    # One label of a host name, see RFC 1123, section 2.1.
    "region": (
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        "lowercase letters, digits and hyphens, such as 'us-west-2'",
        "",
    ),
    # A host name by the same section (with underscores, which containers have in their names), an
    # IPv4 address, or an IPv6 address in brackets; a port up to 65535; a path.
    "endpoint_url": (
        r"(?ai)(?!.*[?#\\])https?://([a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?|\[[0-9a-f:.]+\])"
        r"(:([0-5]?\d{1,4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]))?(/[!-~]*)?",
        "http:// or https://, a host, perhaps a port and a path, and no user or password, such as "
        "'https://s3.example.org:9000'",
        " or LAION_FMRI_ENDPOINT_URL",
    ),
}


def check_address(setting: str, value: object) -> str:
    """Return the `value` of a bucket, region or endpoint_url, or raise ConfigError."""
    pattern, expected, where = RULES[setting]
    if isinstance(value, str) and re.fullmatch(pattern, value):
        return value
    may_hold_password = setting == "endpoint_url" and "@" in str(value)
    shown = setting if may_hold_password else f"{setting} {value!r}"
    raise ConfigError(
        f"{shown} is not valid: expected {expected}; fix '{setting}' in the configuration{where}"
    )
