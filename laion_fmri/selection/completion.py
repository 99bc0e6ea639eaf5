"""What tab completion can offer: the subjects and filter values of the last listings.

A command keeps them in the user's cache, in one small file for each bucket and endpoint. Nothing
depends on it: a cache that is missing, broken or cannot be written is never an error.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote

from laion_fmri.base.bids import HELP, Parsed
from laion_fmri.base.files import write_atomically
from laion_fmri.bucket.listing import Bucket
from laion_fmri.dataset import DEFAULT_SCOPES, DESCRIBED, PUBLISHED, Scope
from laion_fmri.selection.filters import Group
from laion_fmri.selection.values import MARKS
from laion_fmri.settings import ALL, AVERAGES, NO_SUBJECT

#: Bare values, sorted, by scope, subject label (`NO_SUBJECT` for the dataset's own) and filter.
Known = dict[str, dict[str, dict[str, list[str]]]]

#: Whether listings are kept: commands switch it on, so that a Python program writes no cache.
is_kept: ContextVar[bool] = ContextVar("is_kept", default=False)

#: What is safe in any shell; the names in a bucket need not be.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
#: Values kept for one filter of a subject, so that the file stays small.
MOST_VALUES = 500
#: Files kept for other buckets and endpoints: test servers have a new address each time.
MOST_FILES = 16


def remember_listing(bucket: Bucket, groups: Iterable[Group], *, is_whole: bool) -> None:
    """Keep the values of a listing; what is known beside it stays.

    Of a scope, that is other subjects, unless `is_whole`.
    """
    kept = recall_listing(bucket)
    known = dict(kept)
    for scope, items in groups:
        found = _pick_plain({scope.name: _collect(p for _, p in items if _is_public(scope, p))})
        for name, subjects in found.items():
            known[name] = subjects if is_whole else known.get(name, {}) | subjects
    known = {name: subjects for name, subjects in known.items() if subjects}
    file = _find_file(bucket)
    # Without a home, the path is relative, and would lead to the working directory.
    if known == kept or not file.is_absolute():
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(known))
        for old in sorted(file.parent.glob("*.json"), key=os.path.getmtime)[:-MOST_FILES]:
            old.unlink(missing_ok=True)


def _is_public(scope: Scope, parsed: Parsed) -> bool:
    return parsed.ses not in PUBLISHED.held_out_sessions or scope.gives_out(parsed)


def _collect(parsed: Iterable[Parsed]) -> dict[str, dict[str, set[str | None]]]:
    """Return the values of each filter, by subject."""
    groups: dict[str, list[Parsed]] = {}
    for item in parsed:
        groups.setdefault(item.sub or NO_SUBJECT, []).append(item)
    columns = {label: zip(*group, strict=True) for label, group in groups.items()}
    return {
        label: dict(zip(HELP, map(set, values), strict=True)) for label, values in columns.items()
    }


def recall_listing(bucket: Bucket) -> Known:
    """Return what the last listings of `bucket` have shown; empty if none is known."""
    try:
        return _pick_plain(json.loads(_find_file(bucket).read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # none, or broken
        return {}


def suggest_values(
    name: str,
    prefix: str,
    known: Known,
    *,
    scopes: Iterable[str] = (),
    subjects: Iterable[str] = (),
    given: Iterable[str] = (),
) -> list[str]:
    """Return the values of the filter `name`, ``subject`` or ``scope`` that begin with `prefix`.

    Subjects and sessions are offered in full, such as ``ses-01``, and bare where that is what was
    begun; other values the other way round. The special values ``all`` and ``averages`` come last.
    Only what `scopes` and `subjects` have is offered, unless none of them is known, and none of the
    values that are `given` already.
    """
    asked = {*known}.intersection(scopes or DEFAULT_SCOPES) or {*known}
    by_subject = [pair for scope in asked for pair in known[scope].items()]
    there_is = {label for label, _ in by_subject} - {NO_SUBJECT}
    special: list[str] = []
    if name == "scope":
        bare, special, mark = sorted({*DESCRIBED, *known}), [ALL], ""
    elif name == "subject":
        bare, special, mark = sorted(there_is), [ALL], MARKS["sub"]
    else:
        labels = {label.removeprefix("sub-") for label in subjects}.intersection(there_is)
        some = [filters for label, filters in by_subject if label in labels or not labels]
        bare = sorted({value for filters in some for value in filters.get(name, ())})
        special, mark = [AVERAGES] * (name == "ses"), MARKS[name]
    full = [mark + value for value in bare]
    forms = [full, bare] if name in ("subject", "ses") else [bare, full]
    taken = {value.removeprefix(mark) for value in given}
    for values in forms:
        fitting = [value for value in [*values, *special] if value.startswith(prefix)]
        if fitting:
            return [value for value in fitting if value.removeprefix(mark) not in taken]
    return []


def _pick_plain(known: Any) -> Known:
    """Return the part of `known`, which a broken file may have made anything, that is safe."""
    return {
        scope: {
            label: {
                name: sorted(filter(_is_plain, values))[:MOST_VALUES]
                for name, values in filters.items()
                if name != "sub"
            }
            for label, filters in subjects.items()
            if _is_plain(label)
        }
        for scope, subjects in known.items()
        if _is_plain(scope)
    }


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and PLAIN.fullmatch(value) is not None


def _find_file(bucket: Bucket) -> Path:
    from platformdirs import user_cache_path

    folder = user_cache_path("laion_fmri", appauthor=False) / "listings"
    return folder / f"{quote(str(bucket), safe='')}.json"
