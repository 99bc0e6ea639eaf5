"""Two plain clients of boto3, run by path in their own Python: ``clients.py FILE [-- AWS...]``.

`FILE` says which keys are wanted. They are listed, those that are here in the right size are
skipped, and the others are fetched by threads: with ``download_file``, or each with the command
after ``--``, which is how the dataset's first package does it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config


def make_client(endpoint: str) -> Any:
    """Return an anonymous client with enough connections for every thread of every transfer."""
    config = Config(signature_version=UNSIGNED, max_pool_connections=160)
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-west-2", config=config)


def list_sizes(client: Any, bucket: str, prefix: str, delimiter: str = "") -> dict[str, int]:
    """List `prefix` and return the size in bytes of each key."""
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, Delimiter=delimiter
    )
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}


def find_wanted(client: Any, wanted: dict[str, Any]) -> dict[str, int]:
    """List what has to be listed and return the size of each wanted key."""
    bucket = wanted["bucket"]
    found: dict[str, int] = {}
    for prefix in wanted["prefixes"]:
        found |= list_sizes(client, bucket, prefix)
    found = {
        key: size
        for key, size in found.items()
        if any(fnmatchcase(key, glob) for glob in wanted["globs"])
        and not any(fnmatchcase(key, glob) for glob in wanted["excluded"])
    }
    folders = {key.rpartition("/")[0] for key in wanted["keys"]}
    for folder in folders:
        near = list_sizes(client, bucket, f"{folder}/" if folder else "", "/")
        found |= {key: near[key] for key in wanted["keys"] if key in near}
    return found


def is_here(file: Path, size: int) -> bool:
    """Whether `file` exists and has `size` bytes."""
    try:
        return file.stat().st_size == size
    except FileNotFoundError:
        return False


def main() -> None:
    """Fetch what is wanted and not here."""
    wanted = json.loads(Path(sys.argv[1]).read_text())
    command = sys.argv[3:]
    client = make_client(wanted["endpoint"])
    bucket, target = wanted["bucket"], Path(wanted["target"])

    def fetch(key: str) -> None:
        file = target / key
        file.parent.mkdir(parents=True, exist_ok=True)
        if command:
            source = f"s3://{bucket}/{key}"
            subprocess.run([*command, source, str(file)], check=True)
        else:
            client.download_file(bucket, key, str(file))

    sizes = find_wanted(client, wanted)
    missing = [key for key, size in sizes.items() if not is_here(target / key, size)]
    with ThreadPoolExecutor(wanted["threads"]) as pool:
        list(pool.map(fetch, missing))


if __name__ == "__main__":
    main()
