"""The status as a single HTML page, which runs no script and loads nothing."""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from laion_fmri import __version__, dataset
from laion_fmri.base.files import write_atomically
from laion_fmri.base.text import format_size
from laion_fmri.errors import LaionFmriError
from laion_fmri.selection.overview import STATES, Cell, Overview, Total, count_rows, name_sessions
from laion_fmri.selection.table import Row
from laion_fmri.settings import AVERAGES, spell_command


def make_page(overview: Overview) -> str:
    """Return `overview` as the text of an HTML page, with links into the data directory."""
    environment = Environment(
        loader=PackageLoader("laion_fmri", "show"),
        autoescape=True,  # the text of a key cannot become markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": "{:,}".format, "size": format_size}
    pairs = list(zip(overview.cells, overview.rows, strict=True))
    text = environment.get_template("status.html.j2").render(
        overview=overview,
        averages=AVERAGES,
        states=STATES,
        folders={cell.name: _find_folders(overview.data_dir, rows) for cell, rows in pairs},
        kinds=_count_kinds(overview),
        partial=[(cell, rows) for cell, rows in pairs if cell.state == "partial"],
        missing=_group_missing(overview.cells),
        flat=[scope for scope in overview.scopes if not overview.sessions_of(scope)],
        subjects_of=lambda scope: list(dict.fromkeys(c.sub for c in overview.cells_of(scope))),
        explain_size=_explain_size,
        selection=spell_command("status", overview.settings),
        request_url=dataset.REQUEST_URL,
        version=__version__,
    )
    # A path may contain bytes that are not text.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_page(file: Path, text: str, data_dir: Path) -> None:
    """Write `text` to `file`, whole or not at all; never in the data directory, a plain mirror."""
    if file.parent.resolve().is_relative_to(data_dir.resolve()):
        problem = f"{file} is in the data directory, where only the bucket's files belong"
    else:
        try:
            return write_atomically(file, text)
        except OSError as error:
            problem = f"cannot write {file}: {error.strerror}"
    raise LaionFmriError(f"{problem}; name another FILE for --html")


def _find_folders(data_dir: Path, rows: Sequence[Row]) -> list[Path]:
    """Return the folders of `rows` that exist: in each tree, the deepest that its files share."""
    trees: dict[str, list[str]] = {}
    for row in rows:
        folder = row.key.rpartition("/")[0]
        trees.setdefault("/".join(folder.split("/")[:3]), []).append(folder)
    paths = [data_dir / os.path.commonpath(folders) for folders in trees.values()]
    return [path for path in paths if path.is_dir()]


def _group_missing(cells: Sequence[Cell]) -> list[tuple[list[str], str, list[Cell]]]:
    """Return what is missing: subjects that lack the same, what they lack, and the cells of it."""
    missing = [cell for cell in cells if cell.state == "missing"]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for (scope, sub), found in groupby(missing, lambda cell: (cell.scope, cell.sub)):
        same = list(found)
        named = name_sessions(cell.ses for cell in same) if same[0].place.session else ""
        # What belongs to no subject is a line of its own.
        where = f"{scope} {named}".strip() if sub is not None else ""
        groups.setdefault((where, where or scope), []).extend(same)
    return [
        (list(dict.fromkeys(cell.place.subject for cell in same)), where, same)
        for (where, _), same in groups.items()
    ]


def _count_kinds(overview: Overview) -> list[tuple[str, Total]]:
    """Add up files by description and suffix, which say what they are for; largest first."""
    kinds: dict[str, list[Row]] = {}
    for cell, rows in zip(overview.cells, overview.rows, strict=True):
        for row in rows if cell.state != "held out" else ():
            names = (row.parsed.desc, row.parsed.suffix) if cell.sub else (cell.name,)
            kinds.setdefault(" / ".join(filter(None, names)) or "no name", []).append(row)
    totals = [(kind, count_rows(rows)) for kind, rows in kinds.items()]
    return sorted(totals, key=lambda pair: (-pair[1].bytes, pair[0]))


def _explain_size(row: Row) -> str:
    path = Path(row.path)
    return f"{path.stat().st_size:,} of {row.size:,} bytes" if path.is_file() else "is not a file"
