"""The few aws patterns that name the keys of a batch, and no other of the listing in hand. Pure."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from os.path import commonprefix

from laion_fmri.fetch.aws import escape_glob, escape_pattern

#: Sorts behind every character of a key.
LAST = chr(0x10FFFF)
#: Patterns that are few enough not to look for fewer, and names of folders to leave out by name.
FEW_PATTERNS, FEW_EXCLUSIONS = 12, 6


def name_keys(
    tops: Mapping[str, str], listed: Sequence[str], prefix: str
) -> tuple[list[str], list[str]]:
    """Return the patterns of :func:`cover`, or fewer beside others that leave out whole folders."""
    patterns = cover(tops, listed, prefix)
    names = _find_exclusions(tops, listed, prefix) if len(patterns) > 1 else []
    if names:
        rest = [
            key for key in listed if not any(f"{name}/" in key[len(prefix) :] for name in names)
        ]
        fewer = cover(tops, rest, prefix)
        if len(fewer) + len(names) < len(patterns):
            return fewer, [f"*{escape_glob(name)}/*" for name in names]
    return patterns, []


def _find_exclusions(tops: Mapping[str, str], listed: Sequence[str], prefix: str) -> list[str]:
    """Return the names of the folders, if few, that hold much else and nothing of `tops`."""
    start = len(prefix)
    wanted = {name for key in tops for name in key[start:].split("/")[:-1]}
    names = {
        next((name for name in key[start:].split("/")[:-1] if name not in wanted), "")
        for key in listed
    }
    # The pattern of one name would also match a longer one that ends in it.
    names = {name for name in names - {""} if not any(other.endswith(name) for other in wanted)}
    return sorted(names) if len(names) <= FEW_EXCLUSIONS else []


def slice_listing(listed: Sequence[str], prefix: str) -> Sequence[str]:
    """Return the part of sorted `listed` that begins with `prefix`."""
    return listed[bisect_left(listed, prefix) : bisect_left(listed, prefix + LAST)]


def cover(tops: Mapping[str, str], listed: Sequence[str], prefix: str) -> list[str]:
    """Find few aws patterns that match, of the keys `listed` below `prefix`, exactly some.

    These are the keys of `tops`, each with the folder that its pattern may not leave. A pattern is
    a beginning, an end, or an end within a folder, each as short as it can be without matching a
    key that is not wanted; a key that none of them can name is named in full.
    """
    others = sorted(key for key in listed if key not in tops)
    candidates: dict[str, list[str]] = {}
    for key, top in tops.items():
        candidates.setdefault(_shortest_beginning(key, others, prefix, top), []).append(key)
    if len(candidates) > FEW_PATTERNS:
        _add_endings(candidates, tops, others, prefix)
    missing, patterns = set(tops), []
    for pattern in sorted(candidates, key=lambda p: (-len(candidates[p]), len(p), p)):
        if not missing.isdisjoint(candidates[pattern]):
            patterns.append(pattern)
            missing.difference_update(candidates[pattern])
    return patterns


def _shortest_beginning(key: str, others: Sequence[str], prefix: str, top: str) -> str:
    length = max(_longest_shared(key, others) + 1, len(top)) if others else len(top)
    if length > len(key):  # another key goes on where this one ends
        return escape_pattern(key[len(prefix) :])
    return escape_pattern(key[len(prefix) : length]) + "*"


def _add_endings(
    candidates: dict[str, list[str]], tops: Mapping[str, str], others: Sequence[str], prefix: str
) -> None:
    """Add the endings of each folder below the top of each key, if not too much else is in it."""
    indexes: dict[str, list[str]] = {}
    for key, top in tops.items():
        for folder in _folders(key, top):
            if folder not in indexes:
                inside = slice_listing(others, folder)
                few = len(inside) <= 10 * len(tops) + 1000
                indexes[folder] = sorted(other[::-1] for other in inside) if few else [key[::-1]]
            length = _longest_shared(key[::-1], indexes[folder]) + 1
            if length <= len(key) - len(folder):
                end = escape_glob(key[len(key) - length :]) if indexes[folder] else ""
                start = escape_pattern(folder[len(prefix) :]) if len(folder) > len(prefix) else ""
                candidates.setdefault(f"{start}*{end}", []).append(key)


def _folders(key: str, top: str) -> list[str]:
    """Return `top` and the folders below it on the way to `key`, each with its ``/``."""
    ends = [i + 1 for i in range(len(top), len(key)) if key[i] == "/"]
    return [top, *(key[:end] for end in ends)]


def _longest_shared(name: str, index: Sequence[str]) -> int:
    """Return the length of the longest beginning that `name` shares with any of sorted `index`."""
    place = bisect_left(index, name)
    near = index[max(place - 1, 0) : place + 1]
    return max((len(commonprefix([name, other])) for other in near), default=0)
