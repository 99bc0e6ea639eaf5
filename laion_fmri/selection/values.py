"""The values of a filter as they are given: strings, bare or with a mark; a session's number."""

from collections.abc import Iterable

from laion_fmri.base import kinds
from laion_fmri.base.bids import ENTITIES, join_label
from laion_fmri.base.text import is_number
from laion_fmri.errors import InputTypeError, SelectionError

#: What may stand before a bare value of each entity: ``ses-01`` and ``.nii.gz`` are the same as
#: ``01`` and ``nii.gz``.
MARKS = {**{name: f"{name}-" for name in ENTITIES}, "suffix": "", "extension": ".", "scope": ""}


class Number(str):
    """A session that was named by its number, as ``ses=1``."""


def find_session(value: str, existing: Iterable[str]) -> str:
    """Return the session that a number stands for: the only one of `existing` with that number."""
    if not isinstance(value, Number):
        return value
    same = sorted(known for known in existing if is_number(value, known))
    if len(same) > 1:
        listed = " or ".join(map(repr, same))
        raise SelectionError(f"ses={value} is not clear: write {listed}, in quotes")
    return same[0] if same else str(value)


def read_values(name: str, given: object) -> tuple[str, ...]:
    values = read_strings(name, given)
    if not values:
        raise SelectionError(f"{name} is an empty list; leave it out to select every {name}")
    bare = [
        value if isinstance(value, Number) else join_label(name, value.removeprefix(MARKS[name]))
        for value in values
    ]
    if "" in bare:
        given = values[bare.index("")]
        raise SelectionError(f"{name}={given!r} has no value; leave it out to select all")
    return tuple(dict.fromkeys(bare))


def read_strings(name: str, given: object) -> list[str]:
    """Return the strings of a filter; refuse anything else, such as the number 1 for "01"."""
    checked = kinds.VALUES.check(name, given)
    values = checked if isinstance(checked, list) else [checked]
    if name == "ses":
        values = [Number(v) if type(v) is int and v >= 0 else v for v in values]
    for value in values:
        if not isinstance(value, str):
            example = "sub-03" if name == "subject" else str(value)
            raise InputTypeError(f"{name}={value!r} is not a string; put it in quotes: {example!r}")
    return values
