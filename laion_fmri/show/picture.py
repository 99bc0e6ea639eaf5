"""The grid of an overview as a picture, in SVG that can stand in a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from laion_fmri.base.text import format_size
from laion_fmri.selection.filters import AVERAGES
from laion_fmri.selection.overview import STATES, Cell, Overview

#: Sides of a cell and its distance to the next, in units of the picture, which are pixels where the
#: page has room for it.
SIDE, STEP = 22, 26
#: Room for the names of the subjects, and above a row of cells for those of the sessions.
MARGIN, HEAD = 76, 20
#: Most sessions in a row: more than the 34 of the dataset would be too small to see.
MOST = 36
#: Sessions in a row on a phone, where a cell is then 24 pixels wide (WCAG 2.2, 2.5.8).
FEW = 12


def add_picture(parent: Element, overview: Overview, subjects: Sequence[str], *, name: str) -> None:
    """Add an SVG of the cells of `subjects` to `parent`; `name` begins its identifiers.

    One subject is drawn in short rows, for narrow screens, and several in one row each.
    """
    is_narrow = name.startswith("narrow")
    there = {ses for sub, ses in overview.grid if sub in subjects}
    places = [ses for ses in (*overview.sessions, AVERAGES) if ses in there]
    per_row = FEW if is_narrow else min(MOST, max(1, len(places)))
    blocks = [places[at : at + per_row] for at in range(0, len(places), per_row)]
    margin = 0 if is_narrow else MARGIN
    # The word "averages" is wider than its cells, which keep a distance from the sessions.
    gaps = {} if is_narrow else {AVERAGES: STEP / 2}
    columns = per_row + (0 if is_narrow else 1)
    height = len(blocks) * (HEAD + len(subjects) * STEP + 8)
    svg = SubElement(parent, "svg", {"viewBox": f"0 0 {margin + columns * STEP} {height}"})
    svg.set("role", "group")
    svg.set("aria-labelledby", f"{name}-title {name}-desc")
    svg.set("class", "grid")
    title = ", ".join(f"sub-{label}" for label in subjects)
    _add_text(svg, "title", f"What is here of {title}", id=f"{name}-title")
    _add_text(svg, "desc", describe(overview, subjects), id=f"{name}-desc")
    grid = overview.grid
    for block, labels in enumerate(blocks):
        top = block * (HEAD + len(subjects) * STEP + 8)
        for index, label in enumerate(labels):
            x = margin + index * STEP + gaps.get(label, 0)
            heading = "avg" if is_narrow and label == AVERAGES else label
            heading = heading if label == AVERAGES else shorten(label, 4)
            middle = f"{x + SIDE / 2:g}"
            _add_text(svg, "text", heading, x=middle, y=str(top + 13), **{"class": "session"})
        for line, subject in enumerate(subjects):
            y = top + HEAD + line * STEP
            if not is_narrow:
                label = shorten(f"sub-{subject}", 9)
                _add_text(svg, "text", label, x="0", y=str(y + 15), **{"class": "subject"})
            for index, label in enumerate(labels):
                x = margin + index * STEP + gaps.get(label, 0)
                if cell := grid.get((subject, label)):
                    _add_cell(svg, cell, x, y, find_folders(overview, cell))


def describe(overview: Overview, subjects: Sequence[str]) -> str:
    """Count the states of the cells of `subjects` in a sentence, for who cannot see the picture."""
    found = [cell.state for cell in overview.cells if cell.sub in subjects]
    counts = [f"{found.count(state)} {state}" for state in STATES if state in found]
    return f"Of {len(found)} sessions and averages: {', '.join(counts)}."


def describe_cell(cell: Cell) -> str:
    """Say in one line what is here of a cell."""
    size = f"{format_size(cell.local_bytes)} of {format_size(cell.bytes)}"
    partial = f", {cell.partial_files:,} of the wrong size" if cell.partial_files else ""
    return (
        f"{cell.name}: {cell.state}, {cell.local_files:,} of {cell.files:,} files, {size}{partial}"
    )


def find_folders(overview: Overview, cell: Cell) -> list[Path]:
    """Return the folders of a cell that are here: one in each tree, as deep as its files share."""
    trees: dict[str, list[str]] = {}
    for row in overview.rows[overview.cells.index(cell)]:
        folder = os.path.dirname(row.key)  # noqa: PTH120 - text of a key
        trees.setdefault("/".join(folder.split("/")[:3]), []).append(folder)
    paths = [overview.data_dir / os.path.commonpath(folders) for folders in trees.values()]
    return [path for path in paths if path.is_dir()]


def add_legend(parent: Element) -> None:
    """Add what the cells mean: one of each, and its state."""
    legend = SubElement(parent, "ul", {"class": "legend"})
    for state in STATES:
        item = SubElement(legend, "li")
        svg = SubElement(item, "svg", {"viewBox": f"0 0 {SIDE} {SIDE}", "aria-hidden": "true"})
        _add_shape(svg, state, 0, 0, 0.5)
        words = {
            "partial": "partial: filled as far as it is here",
            "held out": "held out: not public",
        }
        svg.tail = words.get(state, state)


def shorten(label: str, most: int) -> str:
    """Return `label` in at most `most` characters."""
    return label if len(label) <= most else label[: most - 1] + "…"


def _add_cell(svg: Element, cell: Cell, x: float, y: float, folders: Sequence[Path]) -> None:
    said = describe_cell(cell)
    parent = svg
    if folders:
        # Keyboards reach the same links in the tables, without a stop for each cell.
        link = {"href": folders[0].as_uri(), "tabindex": "-1", "aria-label": said}
        parent = SubElement(svg, "a", link)
    share = cell.local_bytes / cell.bytes if cell.bytes else cell.local_files / cell.files
    group = _add_shape(parent, cell.state, x, y, share)
    group.set("data-place", cell.name)
    group.set("data-state", cell.state)
    _add_text(group, "title", said)


def _add_shape(parent: Element, state: str, x: float, y: float, share: float) -> Element:
    """Draw a cell: its states differ in shape as well as in colour."""
    group = SubElement(parent, "g", {"class": "cell " + state.replace(" ", "-")})

    def add(tag: str, kind: str, **values: float) -> None:
        SubElement(group, tag, {"class": kind, **{n: f"{v:g}" for n, v in values.items()}})

    inset = x + 0.75, y + 0.75
    add("rect", "frame", x=inset[0], y=inset[1], width=SIDE - 1.5, height=SIDE - 1.5, rx=4)
    inner = SIDE - 6
    if state == "partial":  # never so little that it looks missing, or so much as to look complete
        height = inner * min(max(share, 0.15), 0.8)
        add("rect", "level", x=x + 3, y=y + 3 + inner - height, width=inner, height=height, rx=1.5)
    if state == "held out":
        for a, b in ((7.5, SIDE - 7.5), (SIDE - 7.5, 7.5)):
            add("line", "cross", x1=x + a, y1=y + 7.5, x2=x + b, y2=y + SIDE - 7.5)
    return group


def _add_text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element
