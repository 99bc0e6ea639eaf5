"""All selection semantics: what a subject or filter may be, and which keys it selects. Pure.

Filters work on parsed keys, not on a DataFrame, so that a run with nothing to do need not import
pandas, which would cost as much time as listing the bucket.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laion_fmri import dataset
from laion_fmri.errors import SelectionError, SubjectNotFoundError, list_some
from laion_fmri.selection.bids import ENTITIES, Parsed, parse_key

#: What a filter may be given as.
Values = str | Iterable[str] | None
#: The filters of ``download()``, in the order of its signature.
FILTERS = ("ses", "task", "space", "desc", "stat", "suffix", "extension")
#: The value of ``ses`` that selects the keys without a session.
AVERAGES = "averages"
#: The value of ``subject`` for a pipeline that selects nothing and only names files in its rules.
NO_SUBJECT = "none"


@dataclass(frozen=True)
class Selection:
    """What to select, with every value checked and bare (``01``, not ``ses-01``).

    Attributes
    ----------
    subjects : tuple of str or None
        Subject labels; None for every subject of the bucket.
    filters : mapping of str to tuple of str
        The alternatives of each filter that is set.
    include_stimuli : bool
    trees, held_out_sessions, restricted_keys : tuple of str
        What is known of the bucket, see :mod:`laion_fmri.dataset`.
    """

    subjects: tuple[str, ...] | None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    include_stimuli: bool = False
    trees: tuple[str, ...] = dataset.TREES
    held_out_sessions: tuple[str, ...] = dataset.HELD_OUT_SESSIONS
    restricted_keys: tuple[str, ...] = dataset.RESTRICTED_KEYS

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Selection:
        """Read a selection from a configuration; keys that are absent or None take the defaults."""
        stimuli = config.get("include_stimuli") or False
        if not isinstance(stimuli, bool):
            raise TypeError(f"include_stimuli={stimuli!r} is neither True nor False")
        given = {name: _read_values(name, config.get(name)) for name in FILTERS}
        facts = {
            name: tuple(str(value).removeprefix("ses-") for value in config[name])
            for name in ("trees", "held_out_sessions", "restricted_keys")
            if config.get(name) is not None
        }
        return cls(
            subjects=_read_subjects(config.get("subject")),
            filters={name: values for name, values in given.items() if values is not None},
            include_stimuli=stimuli,
            **facts,
        )

    def to_config(self) -> dict[str, Any]:
        """Return the subjects and filters in the plain types that a configuration file holds."""
        subjects = "all" if self.subjects is None else list(self.subjects)
        return {"subject": subjects} | {
            name: [_write_value(name, value) for value in values]
            for name, values in self.filters.items()
        }

    def is_held_out(self, key: str, parsed: Parsed) -> bool:
        """Whether the bucket lists `key` but refuses to give it out."""
        return parsed.ses in self.held_out_sessions or key in self.restricted_keys

    def explain_held_out(self, key: str) -> str | None:
        """Return why the bucket does not give out `key`, or None if it does."""
        if not self.is_held_out(key, parse_key(key)):
            return None
        return f"{key} is held out: listed, but not given out; ask at {dataset.REQUEST_URL}"

    def is_pinned(self, parsed: Parsed) -> bool:
        """Whether the map comes along with any session: loaders derive the brain mask from it."""
        return (
            parsed.desc in dataset.PINNED_DESCS
            and parsed.ses is None
            and parsed.extension == "nii.gz"
            and any(value != AVERAGES for value in self.filters.get("ses", ()))
        )

    def matches(self, parsed: Parsed, *, strict: bool = False) -> bool:
        """Whether every filter lets the key pass: strict for ``ses``, permissive for the rest.

        With `strict`, none lets a key pass that does not carry its entity.
        """
        for name, values in self.filters.items():
            value = getattr(parsed, name)
            if value is None and name == "ses":
                value = AVERAGES
            if value not in values and (strict or value is not None):
                return False
        return True

    def find_unmatched(self, parsed: Sequence[Parsed]) -> Iterator[tuple[str, str, set[str]]]:
        """Yield each filter and value that none of `parsed` carries, and the values that there are.

        Held-out sessions are not among these.
        """
        for name, values in self.filters.items():
            existing: set[Any] = {getattr(p, name) for p in parsed}
            if name == "ses":
                if None in existing:
                    existing.add(AVERAGES)
                existing -= set(self.held_out_sessions)
            existing.discard(None)
            for value in values:
                if value not in existing:
                    yield name, value, existing


def explain_unmatched(name: str, value: str, where: str, existing: Iterable[str]) -> str:
    """Say that a filter value matches nothing, what comes near it, and what there is."""
    there_is = sorted(existing)
    near = _near_misses(value, there_is)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    listed = list_some([*near, *(known for known in there_is if known not in near)])
    return (
        f"{name} {value!r} matches nothing under {where}; {hint}there is: {listed or 'none at all'}"
    )


def _near_misses(value: str, existing: list[str]) -> list[str]:
    folded = value.casefold()
    alike = {known for known in existing if folded in known.casefold()}
    by_fold = {known.casefold(): known for known in existing}
    alike |= {by_fold[f] for f in difflib.get_close_matches(folded, by_fold, n=3, cutoff=0.7)}
    if value.isdigit():
        alike |= {known for known in existing if known.isdigit() and int(known) == int(value)}
    return sorted(alike)[:3]


def _read_subjects(subject: object) -> tuple[str, ...] | None:
    values = _read_strings("subject", subject)
    if not values:
        raise SubjectNotFoundError("subject is an empty list; name one, such as 'sub-03', or 'all'")
    if NO_SUBJECT in values:
        raise SubjectNotFoundError(
            "subject 'none' is for pipelines that name files in their rules; write 'sub-03' or"
            " 'all' to download"
        )
    if "all" in values:
        return None
    labels = [value.removeprefix("sub-") for value in values]
    for value, label in zip(values, labels, strict=True):
        if not re.fullmatch("[A-Za-z0-9]+", label):  # a BIDS label; anything else is no subject
            raise SubjectNotFoundError(
                f"subject {value!r} is not a subject label; write 'sub-03' or '03', or 'all'"
            )
    return tuple(sorted(set(labels)))


def _read_values(name: str, given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    values = _read_strings(name, given)
    if not values:
        raise SelectionError(f"{name} is an empty list; leave it out to select every {name}")
    bare: dict[str, None] = {}  # a set that keeps its order
    for value in values:
        label = value.removeprefix(f"{name}-") if name in ENTITIES else value
        label = label.removeprefix(".") if name == "extension" else label
        if not label:
            raise SelectionError(f"{name}={value!r} has no value; leave it out to select all")
        bare[label] = None
    return tuple(bare)


def _write_value(name: str, value: str) -> str:
    """Return `value` as it was given: bare, but for one that would be taken for a full token."""
    prefix = "." if name == "extension" else f"{name}-" if name in ENTITIES else None
    return prefix + value if prefix and value.startswith(prefix) else value


def _read_strings(name: str, given: object) -> list[str]:
    """Return the strings of a filter; anything else, such as the number 1 for "01", is refused."""
    is_many = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping))
    values = list(given) if is_many else [given]  # type: ignore[call-overload]
    strings = []
    for value in values:
        if not isinstance(value, str):
            example = "sub-03" if name == "subject" else str(value)
            raise TypeError(f"{name}={value!r} is not a string; put it in quotes: {example!r}")
        strings.append(value)
    return strings
