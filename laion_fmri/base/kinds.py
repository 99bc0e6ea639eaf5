"""The kinds of values that an option of :class:`laion_fmri.settings.Settings` can have."""

import functools
import math
import operator
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from laion_fmri.base.files import expand_path
from laion_fmri.errors import ConfigError, InputTypeError


def _check_switch(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InputTypeError(f"{name}={value!r} is neither True nor False")


def _check_positive(unit: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{name}={value!r} is not a number of {unit} above 0")
    return float(value)


def _check_file(name: str, value: Any) -> str:
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{name}={value!r} is not the path of a file; write one, as in keys.tsv")
    return str(expand_path(path))


def _check_words(_name: str, value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    return tuple(str(word).removeprefix("ses-") for word in given)


def _check_values(_name: str, value: Any) -> Any:
    """Return a filter's values for any number of readers: an iterator can be read only once."""
    is_many = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    return list(value) if is_many else value


def check_workers(name: str, value: object) -> int:
    """Return a number of workers that works: `value`, or another one with a warning."""
    cap = max(8, 4 * (os.cpu_count() or 1))  # a transfer mostly waits
    try:
        wanted = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        wanted = 0
    used = min(wanted, cap) if wanted > 0 else 1
    if used != wanted:
        expected = f"at most {cap} on this machine" if wanted > cap else "a whole number from 1 on"
        text = f"{name}={value!r} should be {expected}; using {used}"
        warnings.warn(text, UserWarning, stacklevel=4)
    return used


def _parse_count(word: str) -> int | str:
    return int(word) if re.fullmatch("[+-]?[0-9]+", word) else word  # check_workers will refuse it


def _parse_number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:  # the check will refuse it
        return word


class Kind(NamedTuple):
    """What values an option has."""

    schema: Mapping[str, Any]
    type: str  # in the documentation of a function
    words: str  # in the messages about a configuration
    check: Callable[[str, Any], Any] = lambda _name, value: (
        value
    )  # from an argument's name and value
    metavar: str = "VALUE"
    parse: Callable[[str], Any] = str  # from a word of a command line


def _make_number(unit: str) -> Kind:
    check = functools.partial(_check_positive, unit)
    schema = {"type": ["number", "null"], "exclusiveMinimum": 0}
    return Kind(schema, "float", "a number above 0", check, unit.upper(), _parse_number)


_TEXT = {"type": ["string", "null"], "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_WORD = {"type": "string", "minLength": 1}
_WORDS = {"type": ["array", "string", "null"], "items": {"type": "string"}}
_VALUES = {"oneOf": [_WORD, {"type": "array", "minItems": 1, "items": _WORD}]}

VALUES = Kind(_VALUES, "str or list of str", "a string or a list of strings", _check_values)
SWITCH = Kind({"type": "boolean"}, "bool", "true or false", _check_switch)
SECONDS, RATE = _make_number("seconds"), _make_number("MB/s")
FOLDER = Kind(_TEXT, "path", "a path", metavar="DIR")
FILE = Kind(_TEXT, "path", "a path", _check_file, "FILE")
NAME = Kind(_TEXT, "str or path", "a string", metavar="NAME")
COUNT = Kind(_COUNT, "int", "a whole number from 1 on")
WORKERS = COUNT._replace(check=check_workers, metavar="N", parse=_parse_count)
PLACE = Kind({"enum": ["submit-host", "cluster"]}, "str", '"submit-host" or "cluster"')
WORDS = Kind(_WORDS, "list of str", "a list of strings", _check_words)
