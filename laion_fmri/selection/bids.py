"""An object key and the BIDS entities, suffix and extension that it carries. Pure functions."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

#: The entities that a filter can name, in the order of the key table's columns.
ENTITIES = ("sub", "ses", "task", "space", "desc", "stat")


class Parsed(NamedTuple):
    """What a key says about itself; ``None`` where it does not carry the entity."""

    sub: str | None
    ses: str | None
    task: str | None
    space: str | None
    desc: str | None
    stat: str | None
    suffix: str | None
    extension: str | None


def parse_key(key: str) -> Parsed:
    """Read the entities of `key` from its directories and its file name alike.

    The suffix is the last ``_`` part of the name before its first dot, the extension all after that
    dot. Where a directory and the file name disagree, the file name, being nearer, is believed.

    Examples
    --------
    >>> parse_key("derivatives/x/sub-03/ses-01/func/sub-03_ses-01_desc-R2_statmap.nii.gz").desc
    'R2'
    >>> parse_key("derivatives/atlases/sub-03/rois/V1.nii.gz").suffix
    'V1'
    """
    directory, _, name = key.rpartition("/")
    stem, _, extension = name.partition(".")
    found = dict(_directory_entities(directory))
    _read_entities(stem, found)
    sub, ses, task, space, desc, stat = map(found.get, ENTITIES)
    suffix = stem.rpartition("_")[2] or None
    return Parsed(sub, ses, task, space, desc, stat, suffix, extension or None)


@lru_cache(maxsize=4096)  # thousands of keys share a few hundred directories
def _directory_entities(directory: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for part in directory.split("/"):
        _read_entities(part, found)
    return tuple(found.items())


def _read_entities(text: str, found: dict[str, str]) -> None:
    for token in text.split("_"):
        entity, _, value = token.partition("-")
        if value and entity in ENTITIES:
            found[entity] = value
