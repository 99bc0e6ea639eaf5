"""Fetch a list of files with obstore, openneuro-py or pooch: ``peer_clients.py FILE``.

Run by path in the Python of the peers, which has nothing of this project. `FILE` has the name of
the tool and what the publisher of the files says of them: addresses, sizes, checksums.
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def fetch_with_obstore(wanted: dict[str, Any]) -> None:
    """Stream each file whose size is not that of the list, in threads."""
    from obstore.store import S3Store

    store = S3Store(
        wanted["bucket"],
        endpoint=wanted["endpoint"],
        region="us-west-2",
        skip_signature=True,
        client_options={"allow_http": True},
    )

    def fetch(key: str) -> None:
        file = Path(wanted["target"], key)
        if file.is_file() and file.stat().st_size == wanted["sizes"][key]:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            for chunk in store.get(key).stream(min_chunk_size=2**20):
                stream.write(chunk)

    with ThreadPoolExecutor(wanted["threads"]) as pool:
        list(pool.map(fetch, wanted["sizes"]))


def fetch_with_openneuro(wanted: dict[str, Any]) -> None:
    """Give the engine of openneuro-py a list in place of the answer of its server."""
    from openneuro._download import _download_files, _DownloadStats
    from openneuro._models import DatasetFile

    files = [
        DatasetFile(
            filename=key,
            urls=[f"{wanted['endpoint']}/{wanted['bucket']}/{key}"],
            size=size,
            id=key,
            checksum=wanted["hashes"][key]["md5"],
            checksum_algorithm="md5",
        )
        for key, size in wanted["sizes"].items()
    ]
    failures = asyncio.run(
        _download_files(
            target_dir=Path(wanted["target"]),
            files=files,
            verify_hash=True,
            verify_size=True,
            max_retries=5,
            retry_backoff=0.5,
            max_concurrent_downloads=wanted["threads"],
            query_str="",
            stats=_DownloadStats(),
            dataset_id="ds000000",
        )
    )
    if failures:
        raise SystemExit(str(failures[0]))


def fetch_with_pooch(wanted: dict[str, Any]) -> None:
    """Fetch one file after the other, as the documentation of pooch does."""
    import pooch

    registry = {key: f"sha256:{hashes['sha256']}" for key, hashes in wanted["hashes"].items()}
    base = f"{wanted['endpoint']}/{wanted['bucket']}/"
    shelf = pooch.create(path=wanted["target"], base_url=base, registry=registry)
    pooch.get_logger().setLevel("ERROR")
    for key in registry:
        shelf.fetch(key)


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text())
    globals()[f"fetch_with_{told['tool']}"](told)
