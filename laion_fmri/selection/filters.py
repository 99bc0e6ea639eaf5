"""All selection semantics: what a subject or filter may be, and which keys it selects. Pure.

Filters work on parsed keys rather than on a DataFrame: importing pandas would take as long as
listing the bucket, and a run with nothing to do needs none.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from laion_fmri import dataset
from laion_fmri.base import kinds
from laion_fmri.base.bids import ENTITIES, Parsed
from laion_fmri.base.text import find_near, suggest
from laion_fmri.errors import InputTypeError, SelectionError, SubjectNotFoundError, list_some
from laion_fmri.settings import AVERAGES, NO_SUBJECT, Settings

#: What may stand before a bare value of each entity: ``ses-01`` and ``.nii.gz`` are the same as
#: ``01`` and ``nii.gz``.
MARKS = {**{name: f"{name}-" for name in ENTITIES}, "suffix": "", "extension": "."}


@dataclass(frozen=True)
class Selection:
    """What to select, with every value checked and bare (``01``, not ``ses-01``)."""

    subjects: tuple[str, ...] | None  # None for every subject of the bucket
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # only those that are set
    include_stimuli: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Check the subject and the filters of `settings`, which may be of any type."""
        filters = {name: _read_values(name, given) for name, given in settings.filters.items()}
        return cls(_read_subjects(settings.subject), filters, settings.include_stimuli)

    @property
    def sessions(self) -> tuple[str, ...]:
        """The sessions that are named, and ``averages`` if that is."""
        return self.filters.get("ses", ())

    def is_pinned(self, parsed: Parsed) -> bool:
        """Whether the map comes along with any session: loaders derive the brain mask from it."""
        return is_brain_map(parsed) and any(value != AVERAGES for value in self.sessions)

    def matches(self, parsed: Parsed, *, strict: bool = False) -> bool:
        """Whether every filter lets the key pass.

        A key without the entity of a filter passes, but for ``ses``; with `strict`, it never does.
        """
        for name, values in self.filters.items():
            value = getattr(parsed, name)
            if value is None and name == "ses":
                value = AVERAGES
            if value not in values and (strict or value is not None):
                return False
        return True

    def find_unmatched(
        self, parsed: Sequence[Parsed], held_out: Iterable[str] = ()
    ) -> Iterator[tuple[str, str, set[str]]]:
        """Yield each filter and value that no key carries, and the values that there are."""
        for name, values in self.filters.items():
            existing: set[Any] = {getattr(p, name) for p in parsed}
            if name == "ses":
                existing = existing.union([AVERAGES] * (None in existing)).difference(held_out)
            existing.discard(None)
            for value in values:
                if value not in existing:
                    yield name, value, existing


def is_brain_map(parsed: Parsed) -> bool:
    """Whether it is a subject's mean-R2 map, or the mask."""
    return (
        parsed.desc in dataset.PINNED_DESCS and parsed.ses is None and parsed.extension == "nii.gz"
    )


def explain_unmatched(name: str, value: str, where: str, existing: Iterable[str]) -> str:
    """Say that a filter value matches nothing, what comes near it, and what there is."""
    there_is = sorted(existing)
    near = find_near(value, there_is)
    listed = list_some([*near, *(known for known in there_is if known not in near)])
    return (
        f"{name} {value!r} matches nothing under {where}; {suggest(value, there_is)}"
        f"there is: {listed or 'none at all'}"
    )


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
    for value in values:
        if not re.fullmatch("(sub-)?[A-Za-z0-9]+", value):  # what BIDS calls a label
            raise SubjectNotFoundError(
                f"subject {value!r} is not a subject label; write 'sub-03' or '03', or 'all'"
            )
    return tuple(sorted({value.removeprefix("sub-") for value in values}))


def _read_values(name: str, given: object) -> tuple[str, ...]:
    values = _read_strings(name, given)
    if not values:
        raise SelectionError(f"{name} is an empty list; leave it out to select every {name}")
    if empty := [value for value in values if value in ("", MARKS[name])]:
        raise SelectionError(f"{name}={empty[0]!r} has no value; leave it out to select all")
    return tuple(dict.fromkeys(value.removeprefix(MARKS[name]) for value in values))


def _read_strings(name: str, given: object) -> list[str]:
    """Return the strings of a filter; refuse anything else, such as the number 1 for "01"."""
    checked = kinds.VALUES.check(name, given)
    values = checked if isinstance(checked, list) else [checked]
    for value in values:
        if not isinstance(value, str):
            example = "sub-03" if name == "subject" else str(value)
            raise InputTypeError(f"{name}={value!r} is not a string; put it in quotes: {example!r}")
    return values
