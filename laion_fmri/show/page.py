"""The status as one page that stands alone: no script, and nothing asked of any network.

It is made as a tree of elements, so that no text of a key can become markup.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from laion_fmri import __version__, dataset
from laion_fmri.errors import LaionFmriError
from laion_fmri.selection.overview import Cell, Overview, Total, name_sessions
from laion_fmri.selection.table import Row
from laion_fmri.show.page_style import STYLE
from laion_fmri.show.picture import add_legend, add_picture, find_folders
from laion_fmri.units import format_size

#: Nothing but the style and the empty icon (https://www.w3.org/TR/CSP3/).
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def make_page(overview: Overview) -> str:
    """Return `overview` as the text of an HTML page, with links into the data directory."""
    html = Element("html", {"lang": "en"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    # Whatever a key may do to the page, a browser asks for nothing and runs nothing.
    policy = {"http-equiv": "Content-Security-Policy", "content": POLICY}
    SubElement(head, "meta", policy)
    view = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    SubElement(head, "meta", view)
    SubElement(head, "meta", {"name": "color-scheme", "content": "light dark"})
    SubElement(head, "link", {"rel": "icon", "href": "data:,"})  # else browsers ask for one
    add(head, "title", "LAION-fMRI: what is here")
    add(head, "style", STYLE)
    main = SubElement(SubElement(html, "body"), "main")
    _add_header(main, overview)
    _add_grid(main, overview)
    _add_totals(main, overview)
    _add_kinds(main, overview)
    _add_gaps(main, overview)
    _add_facts(main, overview)
    # A path may hold bytes that are no text.
    text = tostring(html, encoding="unicode", method="html")
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return f"<!DOCTYPE html>\n{text}\n"


def write_page(file: Path, text: str, data_dir: Path) -> None:
    """Write `text` to `file`, whole or not at all.

    Raises
    ------
    LaionFmriError
        If it cannot be written, or is in the data directory, which is a plain mirror.
    """
    if file.parent.resolve().is_relative_to(data_dir.resolve()):
        raise LaionFmriError(
            f"{file} is in the data directory, where only the bucket's files belong; "
            "name another FILE for --html"
        )
    scratch = None
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        descriptor, scratch = tempfile.mkstemp(prefix=f".{file.name[:50]}.", dir=file.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as page:
            page.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)  # noqa: PTH101 - of a text
        os.replace(scratch, file)  # noqa: PTH105 - the same
        scratch = None
    except OSError as error:
        raise LaionFmriError(
            f"cannot write {file}: {error.strerror}; name another FILE for --html"
        ) from None
    finally:
        if scratch:
            os.unlink(scratch)  # noqa: PTH108 - the same


def add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    """Add an element with `text` to `parent`; ``class_`` stands for the attribute ``class``."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    element = SubElement(parent, tag, named)
    element.text = text
    return element


def _add_header(main: Element, overview: Overview) -> None:
    total = overview.count()
    header = SubElement(main, "header")
    add(header, "p", "LAION-fMRI", class_="eyebrow")
    add(header, "h1", "What is here")
    lead = add(header, "p", class_="lead")
    add(lead, "strong", total.percent)
    sizes = f"{format_size(total.local_bytes)} of {format_size(total.bytes)}"
    lead[0].tail = f" of the selection: {total.local_files:,} of {total.files:,} files, {sizes}"
    _add_bar(header, total)


def _add_grid(main: Element, overview: Overview) -> None:
    section = _add_section(main, "Subjects and sessions")
    subjects = overview.subjects
    add_legend(section)
    wide = SubElement(section, "div", {"class": "wide"})
    add_picture(wide, overview, subjects, name="wide")
    narrow = SubElement(section, "div", {"class": "narrow"})
    for number, subject in enumerate(subjects):
        figure = SubElement(narrow, "figure")
        add(figure, "figcaption", f"sub-{subject}")
        add_picture(figure, overview, [subject], name=f"narrow-{number}")
    if any(cell.state == "held out" for cell in overview.cells):
        note = add(section, "p", "What is held out is not public, and not counted; ", class_="note")
        add(note, "a", "ask for access", href=dataset.REQUEST_URL).tail = "."


def _add_totals(main: Element, overview: Overview) -> None:
    section = _add_section(main, "Totals")
    _add_table(section, "subject", overview.totals().items())


def _add_kinds(main: Element, overview: Overview) -> None:
    """Add the sizes by kind: description and suffix, which tell what a file is for."""
    kinds: dict[str, list[Row]] = {}
    for cell, rows in zip(overview.cells, overview.rows, strict=True):
        for row in rows if cell.state != "held out" else ():
            if cell.sub is None:
                kind = cell.name
            else:
                kind = " / ".join(part for part in (row.desc, row.suffix) if part)
            kinds.setdefault(kind or "no name", []).append(row)
    totals = [(kind, _count(rows)) for kind, rows in kinds.items()]
    totals.sort(key=lambda pair: (-pair[1].bytes, pair[0]))
    section = _add_section(main, "Kinds of files")
    _add_table(section, "description / suffix", totals)


def _count(rows: Sequence[Row]) -> Total:
    here = [row.size for row in rows if row.status == "complete"]
    return Total(len(rows), sum(row.size for row in rows), len(here), sum(here))


def _add_table(parent: Element, what: str, totals: Iterable[tuple[str, Total]]) -> None:
    table = SubElement(parent, "table")
    headings = SubElement(SubElement(table, "thead"), "tr")
    for heading in (what, "files", "here", "in the bucket", "share"):
        kind = "files" if heading == "files" else ""
        add(headings, "th", heading, scope="col", class_=kind)
    body = SubElement(table, "tbody")
    for name, total in totals:
        row = SubElement(body, "tr", {"class": "all"} if name == "all" else {})
        add(row, "th", name, scope="row")
        add(row, "td", f"{total.local_files:,} of {total.files:,}", class_="files")
        add(row, "td", format_size(total.local_bytes))
        add(row, "td", format_size(total.bytes))
        share = add(row, "td", total.percent, class_="share")
        _add_bar(share, total)


def _add_bar(parent: Element, total: Total) -> None:
    share = total.local_bytes / total.bytes if total.bytes else 1.0
    bar = SubElement(parent, "svg", {"class": "bar", "viewBox": "0 0 100 6"})
    bar.set("preserveAspectRatio", "none")
    bar.set("aria-hidden", "true")
    SubElement(bar, "rect", {"class": "track", "width": "100", "height": "6"})
    SubElement(bar, "rect", {"class": "fill", "width": f"{100 * share:.2f}", "height": "6"})


def _add_gaps(main: Element, overview: Overview) -> None:
    """Add what is partial or missing, by session, with the partial files by name."""
    section = _add_section(main, "Not complete")
    pairs = zip(overview.cells, overview.rows, strict=True)
    gaps = [(cell, rows) for cell, rows in pairs if cell.state in ("partial", "missing")]
    if not gaps:
        add(section, "p", "Nothing is missing, and every file has its size.")
    partial = [(cell, rows) for cell, rows in gaps if cell.state == "partial"]
    if partial:
        add(section, "h3", "Partial")
        items = SubElement(section, "ul", {"class": "gaps"})
        for cell, rows in partial:
            _add_partial(items, overview, cell, rows)
    missing = [cell for cell in overview.cells if cell.state == "missing"]
    if missing:
        add(section, "h3", "Missing")
        by_subject: dict[str | None, list[Cell]] = {}
        for cell in missing:
            by_subject.setdefault(cell.sub, []).append(cell)
        items = SubElement(section, "ul", {"class": "gaps"})
        for sub, cells in by_subject.items():
            line = SubElement(items, "li")
            add(line, "strong", "no subject" if sub is None else f"sub-{sub}")
            files, size = sum(c.files for c in cells), format_size(sum(c.bytes for c in cells))
            names = ", ".join(c.name for c in cells)
            places = names if sub is None else name_sessions(c.ses for c in cells)
            line[0].tail = f" {places}: {files:,} files, {size}"
    advice, command = overview.suggest_command()
    add(section, "p", advice[:1].upper() + advice[1:])
    if command:
        add(SubElement(section, "pre"), "code", command)


def _add_partial(items: Element, overview: Overview, cell: Cell, rows: Sequence[Row]) -> None:
    line = SubElement(items, "li")
    name = SubElement(line, "strong")
    folders = find_folders(overview, cell)
    if folders:
        add(name, "a", cell.name, href=folders[0].as_uri())
    else:
        name.text = cell.name
    left = format_size(cell.bytes - cell.local_bytes)
    name.tail = f" {cell.local_files:,} of {cell.files:,} files here, {left} to fetch"
    for number, folder in enumerate(folders[1:]):
        text = folder.relative_to(overview.data_dir).as_posix()
        line[-1].tail = (line[-1].tail or "") + ("; also " if number == 0 else ", ")
        add(line, "a", text, href=folder.as_uri())
    broken = [row for row in rows if row.status == "partial"]
    if broken:
        named = SubElement(line, "ul", {"class": "files-of-wrong-size"})
        for row in broken:
            item = SubElement(named, "li")
            add(item, "code", row.key).tail = f" {_explain_size(row)}"


def _explain_size(row: Row) -> str:
    path = Path(row.path)
    if not path.is_file():
        return "is no file"
    return f"{path.stat().st_size:,} of {row.size:,} bytes"


def _add_facts(main: Element, overview: Overview) -> None:
    section = _add_section(main, "What was compared")
    facts = SubElement(section, "dl")
    add(facts, "dt", "Data directory")
    here = add(facts, "dd")
    add(here, "a", str(overview.data_dir), href=overview.data_dir.as_uri())
    add(facts, "dt", "Bucket")
    add(facts, "dd", overview.bucket)
    add(facts, "dt", "When")
    when = overview.compared
    moment = SubElement(facts, "dd")
    stamp = when.isoformat(timespec="seconds")
    add(moment, "time", f"{when:%Y-%m-%d %H:%M:%S} UTC", datetime=stamp)
    add(facts, "dt", "Selection")
    words = ["laion-fmri", "status", *overview.spell_options()]
    add(add(facts, "dd"), "code", shlex.join(words))
    text = f"Sizes were compared, not content. Made by laion-fmri {__version__}."
    add(SubElement(main, "footer"), "p", text)


def _add_section(main: Element, heading: str) -> Element:
    section = SubElement(main, "section")
    add(section, "h2", heading)
    return section
