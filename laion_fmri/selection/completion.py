"""What tab completion can offer: subjects and filter values, as the last listing had them.

Each listing of the bucket leaves them in the user's cache, one small file for each bucket and
endpoint. It is never needed: what cannot be kept or read is done without. Reading it takes neither
the network nor a heavy import.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from laion_fmri.base.bids import ENTITIES, FILTERS, parse_key
from laion_fmri.bucket.listing import Bucket
from laion_fmri.dataset import PUBLISHED
from laion_fmri.settings import AVERAGES

logger = logging.getLogger("laion_fmri")

#: The values of each filter, by subject label and filter; bare, sorted.
Known = dict[str, dict[str, list[str]]]

#: What is offered to a shell: letters, digits, and signs that mean nothing to any. A bucket is not
#: trusted, and may hold names that a command line should not.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
#: Values of one filter and subject that are kept, so that the file stays small.
MOST_VALUES = 500
#: Files of other buckets and endpoints that are kept; test servers have a new address each time.
MOST_FILES = 16


def remember_listing(
    bucket: Bucket, keys: Collection[str], subjects: Iterable[str] | None = None
) -> None:
    """Keep what a listing has shown, for tab completion; a failure is no error.

    Parameters
    ----------
    bucket : Bucket
    keys : collection of str
        All keys of the trees of the subjects.
    subjects : iterable of str, optional
        The labels that were listed; others stay as they were known. By default it was every
        subject of the bucket, and no other one is known any more.
    """
    from hashlib import sha256

    file = _find_file(bucket)
    what = "all" if subjects is None else ",".join(subjects)
    digest = sha256("\n".join(keys).encode("utf-8", "replace")).hexdigest()
    kept = _read(file)
    if _as_mapping(kept.get("listings")).get(what) == digest:  # parsing all again takes longer
        return
    found = collect_values(keys)
    known = found if subjects is None else _as_mapping(kept.get("subjects")) | found
    content = {
        "bucket": bucket.name,
        "endpoint_url": bucket.endpoint_url,
        "listings": {what: digest},
        "subjects": known,
    }
    try:
        if not file.is_absolute():  # a user without a home: it would land in the working directory
            raise FileNotFoundError(f"{file} is no absolute path")
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps(content) + "\n")
        _drop_oldest(file.parent)
    except OSError as error:
        logger.debug("tab completion will not know what was listed: %s", error)


def collect_values(keys: Iterable[str]) -> Known:
    """Return the values that `keys` carry, of what may be had, and of what a shell can be told."""
    found: dict[str, dict[str, set[str]]] = {}
    for key in keys:
        parsed = parse_key(key)
        if (
            parsed.ses in PUBLISHED.held_out_sessions
            or not parsed.sub
            or not PLAIN.fullmatch(parsed.sub)
        ):
            continue
        values = found.setdefault(str(parsed.sub), {name: set() for name in FILTERS})
        for name in FILTERS:
            value = getattr(parsed, name)
            if value is None and name == "ses":
                value = AVERAGES
            if value is not None:
                values[name].add(value)
    return {
        label: {
            name: sorted(filter(PLAIN.fullmatch, some))[:MOST_VALUES]
            for name, some in values.items()
        }
        for label, values in sorted(found.items())
    }


def recall_listing(bucket: Bucket) -> Known:
    """Return what the last listings of `bucket` have shown; empty if none is known."""
    known: Known = {}
    for label, values in _as_mapping(_read(_find_file(bucket)).get("subjects")).items():
        known[label] = {
            name: [v for v in some if isinstance(v, str) and PLAIN.fullmatch(v)]
            for name, some in _as_mapping(values).items()
            if isinstance(some, list)
        }
    return {label: values for label, values in known.items() if PLAIN.fullmatch(label)}


def suggest_values(
    name: str, prefix: str, known: Known, *, subjects: Iterable[str] = (), given: Iterable[str] = ()
) -> list[str]:
    """Return the values of a filter, or of ``subject``, that begin with `prefix`.

    Parameters
    ----------
    name : str
        ``subject``, or one of :data:`laion_fmri.selection.filters.FILTERS`.
    prefix : str
        What is typed so far. Subjects and sessions are offered in full, such as ``ses-01``, and
        bare where that is what was begun; the others the other way round.
    known : dict
        What :func:`recall_listing` returns.
    subjects : iterable of str
        Those that were named: only what these have is offered, unless none of them is known.
    given : iterable of str
        Values that stand there already; they are not offered again.

    Returns
    -------
    list of str
        Sorted, the special values ``all`` and ``averages`` last.
    """
    entity = "sub" if name == "subject" else name
    if name == "subject":
        bare, special = sorted(known), ["all"]
    else:
        labels = {label.removeprefix("sub-") for label in subjects}.intersection(known) or {*known}
        found = {value for label in labels for value in known[label].get(name, ())}
        special = [AVERAGES] if name == "ses" else []
        bare = sorted(found.difference(special))
    mark = "." if name == "extension" else f"{entity}-"
    whole = [mark + value for value in bare] if name == "extension" or entity in ENTITIES else bare
    forms = [whole, bare] if entity in ("sub", "ses") else [bare, whole]
    taken = {value.removeprefix(mark) for value in given}
    for values in forms:
        fitting = [v for v in [*values, *special] if v.startswith(prefix)]
        if fitting:
            return [v for v in fitting if v.removeprefix(mark) not in taken]
    return []


def _find_file(bucket: Bucket) -> Path:
    """Return the file that keeps what `bucket` has; there need not be one."""
    from hashlib import sha256

    from platformdirs import user_cache_path

    where = sha256((bucket.endpoint_url or bucket.region).encode()).hexdigest()[:12]
    folder = user_cache_path("laion_fmri", appauthor=False)
    return folder / "listings" / f"{bucket.name}-{where}.json"


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return _as_mapping(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}


def _replace(file: Path, text: str) -> None:
    """Write `text` to `file` at once, by a name of our own: threads and containers share a home."""
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile("w", dir=file.parent, suffix=".tmp", delete=False) as scratch:
        try:
            scratch.write(text)
            scratch.close()
            os.replace(scratch.name, file)  # noqa: PTH105 - it is a name, and no Path
        except BaseException:
            Path(scratch.name).unlink(missing_ok=True)
            raise


def _as_mapping(value: object) -> dict[str, Any]:
    """Return `value` if it is a mapping, else an empty one: a broken file is one that says less."""
    return value if isinstance(value, dict) else {}


def _drop_oldest(folder: Path) -> None:
    """Keep the files that were written last."""
    files = sorted(folder.glob("*.json"), key=os.path.getmtime, reverse=True)
    for file in files[MOST_FILES:]:
        file.unlink(missing_ok=True)
