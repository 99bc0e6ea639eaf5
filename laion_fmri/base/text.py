"""Sizes, in decimal units, times and names as a person reads them; near misses of names."""

from collections.abc import Iterable
from itertools import pairwise
from string import ascii_letters

_UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"]


#: Characters of a text from outside that are shown, at most.
MOST_SHOWN = 20_000


def spell(text: str, most: int = MOST_SHOWN) -> str:
    """Return `text` from outside as one line that is safe to show: the only way to an exit.

    Keys, ETags, messages of a server or of aws, manifests and names on disk may hold anything.
    What moves a cursor, turns the direction of writing or cannot be seen (controls, format
    characters, lone surrogates, separators but the plain space) is written as Python escapes it.
    """
    if len(text) > most:
        text = f"{text[:most]}... ({len(text) - most:,} characters more)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def format_size(count: int) -> str:
    """Return `count` bytes in decimal units, such as ``1.5 MB``."""
    from rich.filesize import decimal

    return decimal(count)


def format_share(done: int, total: int) -> str:
    """Return `done` of `total` bytes in the unit of the total, such as ``0.3/1.5 MB``."""
    from rich.filesize import pick_unit_and_suffix

    unit, suffix = pick_unit_and_suffix(total, _UNITS, 1000)
    digits = 0 if unit == 1 else 1
    return f"{done / unit:,.{digits}f}/{total / unit:,.{digits}f} {suffix}"


def format_seconds(seconds: float) -> str:
    """Return a time in its two largest units, such as ``2 h 5 min``; tenths of a small float."""
    whole = round(seconds)
    if seconds < 9.95 and isinstance(seconds, float):
        return f"{seconds:.1f} s"
    units = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, name), (part, part_name) in pairwise(units):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size:,} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` columns of a terminal, without its middle if necessary."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    head = (width - 1) // 3  # more for the end, which differs between names of files
    tail = set_cell_size(text[::-1], width - 1 - head).rstrip(" ")[::-1]
    return f"{set_cell_size(text, head).rstrip(' ')}…{tail}"


def find_near(value: str, existing: Iterable[str]) -> list[str]:
    """Return up to three of `existing` that `value` may have meant, sorted."""
    import difflib

    known = list(existing)
    folded = value.casefold()
    alike = {name for name in known if folded in name.casefold()}
    by_fold = {name.casefold(): name for name in known}
    alike |= {by_fold[f] for f in difflib.get_close_matches(folded, by_fold, n=3, cutoff=0.7)}
    same = {name for name in known if is_number(value, name)}
    return sorted(same or alike)[:3]


def is_number(value: str, name: str) -> bool:
    """Whether both are the same number, such as 3 and 03, whatever letters they begin with."""
    bare = value.lstrip(ascii_letters + "-_")
    both = bare.isascii() and bare.isdigit() and name.isascii() and name.isdigit()
    return both and int(bare) == int(name)


def find_name(name: str, known: Iterable[str]) -> str | None:
    """Return the one of the names `known` that is nearest to `name`, if any is near."""
    import difflib

    near = difflib.get_close_matches(name.casefold(), list(known), n=1)
    return near[0] if near else None


def suggest(value: str, existing: Iterable[str]) -> str:
    """Return ``did you mean ...? `` for what `value` may have meant, or nothing."""
    near = find_near(value, existing)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""
