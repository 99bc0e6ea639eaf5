"""The views of a run: live on a terminal, a bar in a notebook, lines in a log.

Each is a context that takes a function which measures, and gives one to be called now and then.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from laion_fmri.base.text import format_seconds, format_share, format_size, shorten
from laion_fmri.run.monitor import Running, State
from laion_fmri.show.pace import Pace, find_pause

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

logger = logging.getLogger("laion_fmri")

#: Seconds between two updates of a notebook, each of which is a message to the browser.
NOTEBOOK_INTERVAL = 0.5
#: Transfers that get a line of their own, at most.
MOST_LINES = 16
#: Columns of the bar, at most and at least.
BAR = (40, 8)
#: Seconds without a byte that are worth a word.
SILENCE = 5.0

Measure = Callable[[], State]


def is_terminal() -> bool:
    """Whether stderr is a terminal on which the cursor can be moved."""
    from rich.console import Console

    return sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal


def is_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def show_live(measure: Measure) -> Iterator[Callable[[], None]]:
    """Show it on the terminal of stderr: a line of all, and one for each transfer under way."""
    from rich.console import Console

    painter = _Painter(Console(stderr=True, highlight=False))
    pace = Pace()

    def update() -> None:
        now = measure()
        pace.add(now.bytes)
        width, height = painter.measure()
        painter.paint(make_screen(now, pace, width, height))

    try:
        update()
        yield update
    finally:
        painter.paint([])


class _Painter:
    """Paints lines below the cursor, over those of the last time.

    The cursor rests at their beginning. So whatever a terminal that is resized makes of lines that
    have become too long, all that is below the cursor is ours, and there is nothing to count.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_gone = False

    def measure(self) -> tuple[int, int]:
        """Return the columns and lines that there is room for."""
        size = self._console.size
        return size.width - 1, size.height - 1  # a full last column, or line, may wrap or scroll

    def paint(self, lines: Sequence[Text]) -> None:
        """Show `lines`, in one write, so that nothing flickers; none of them removes all."""
        if self._is_gone:
            return
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line, no_wrap=True, overflow="crop", soft_wrap=True)
        texts = captured.get().splitlines()
        # To the line's beginning; each line, and the rest of the old one removed; and back up.
        frame = "\r" + "\n".join(f"{text}\x1b[K" for text in texts)
        frame += "\x1b[J" + (f"\r\x1b[{len(texts) - 1}A" if len(texts) > 1 else "\r")
        try:
            self._console.file.write(frame)
            self._console.file.flush()
        except OSError:  # the terminal is gone, and the run goes on without
            self._is_gone = True


def make_screen(now: State, pace: Pace, width: int, height: int) -> list[Text]:
    """Return the lines that show `now` on a terminal of that many columns and lines."""
    room = max(0, min(MOST_LINES, height - 1))
    shown = now.running if len(now.running) <= room else now.running[: max(0, room - 1)]
    lines = [_make_header(now, pace, width), *(_make_line(item, width) for item in shown)]
    if len(shown) < len(now.running) and room:
        from rich.text import Text

        more = shorten(f"  and {len(now.running) - len(shown)} more", width)
        lines.append(Text(more, style="dim"))
    return lines


def _make_header(now: State, pace: Pace, width: int) -> Text:
    """Return the line of all; where there is no room, the least important parts are left out."""
    from rich.text import Text

    share = format_share(now.bytes, now.total_bytes), "green"
    parts = [
        (f"{now.files:,}/{now.total_files:,} files", "bold"),
        (f"{now.failed:,} failed" if now.failed else "", "bold red"),
        share,
        (_tell_rate(pace), "cyan"),
        (_tell_left(now, pace), ""),
    ]
    parts = [part for part in parts if part[0]]
    while len(parts) > 1 and sum(len(text) + 2 for text, _ in parts) - 2 > width:
        parts.pop()
    room = width - sum(len(text) + 2 for text, _ in parts)
    texts = [Text(shorten(text, width), style=style) for text, style in parts]
    if share in parts and room >= BAR[1]:
        texts.insert(parts.index(share) + 1, _make_bar(now, min(room, BAR[0])))
    return Text("  ").join(texts)


def _make_bar(now: State, width: int) -> Text:
    """Return a bar that tells without colours, too."""
    from rich.text import Text

    full = int(width * now.bytes / now.total_bytes) if now.total_bytes else width
    return Text.assemble(("━" * full, "green"), ("─" * (width - full), "dim"))


def _make_line(item: Running, width: int) -> Text:
    """Return the line of one transfer."""
    from rich.cells import cell_len
    from rich.text import Text

    percent = 100 * item.bytes // item.total_bytes if item.total_bytes else 100
    share = format_share(item.bytes, item.total_bytes)
    # As wide as it will get, so that the name does not move.
    widest = len(format_share(item.total_bytes, item.total_bytes))
    right = f"{share:>{widest}} {percent:>3}%"
    files = f"{item.files:,}/{item.total_files:,} files of " if item.total_files > 1 else ""
    room = width - 4 - len(right) - len(files)
    if room < 8:
        return Text(shorten(f"  {right}", width), style="dim")
    name = shorten(item.name, min(room, 100))
    gap = " " * (min(room, 100) - cell_len(name) + 2)
    return Text.assemble("  ", files, name, gap, (right, "green"))


def _tell_rate(pace: Pace) -> str:
    if pace.rate is None:
        return "starting"
    if pace.silence > SILENCE:
        return f"no byte for {format_seconds(int(pace.silence))}"
    return f"{format_size(int(pace.rate))}/s"


def _tell_left(now: State, pace: Pace) -> str:
    seconds = pace.left(now)
    if seconds is None or pace.silence > SILENCE:
        return ""
    return f"{format_seconds(max(round(seconds), 1))} left" if now.bytes < now.total_bytes else ""


def make_sentence(now: State, pace: Pace) -> str:
    """Return `now` as a plain line."""
    left = _tell_left(now, pace)
    parts = [
        f"{now.files:,} of {now.total_files:,} files",
        f"{format_size(now.bytes)} of {format_size(now.total_bytes)}",
        *([_tell_rate(pace)] if pace.rate is not None else ["nothing has arrived yet"]),
        *([f"about {left}"] if left else []),
        *([f"{now.failed:,} failed"] if now.failed else []),
    ]
    return ", ".join(parts)


@contextmanager
def show_lines(measure: Measure) -> Iterator[Callable[[], None]]:
    """Write a plain line to stderr now and then."""

    def write(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    with _tell_now_and_then(measure, write) as update:
        yield update


@contextmanager
def log(measure: Measure) -> Iterator[Callable[[], None]]:
    """Log the same lines, with the level INFO; one before the first, and one at the end."""
    now = measure()
    logger.info("fetching %s files, %s", f"{now.total_files:,}", format_size(now.total_bytes))
    started = time.monotonic()
    with _tell_now_and_then(measure, logger.info) as update:
        yield update
    logger.info("%s", _tell_end(measure(), time.monotonic() - started))


@contextmanager
def _tell_now_and_then(
    measure: Measure, tell: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    started = time.monotonic()
    due = started + find_pause(0)
    pace = Pace(window=0)  # since the last line
    pace.add(0)

    def update() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        now = measure()
        pace.add(now.bytes)
        tell(make_sentence(now, pace))
        due = time.monotonic() + find_pause(time.monotonic() - started)

    yield update


@contextmanager
def show_in_notebook(measure: Measure) -> Iterator[Callable[[], None]]:
    """Show a bar below the cell that is being run; a line stays when it ends.

    With IPython's own display, which every kernel has; widgets would be one more thing to install.
    """
    display: Any = sys.modules["IPython"].display
    started = time.monotonic()
    due = 0.0
    pace = Pace()
    handle = display.display(_make_cell(measure(), "starting"), raw=True, display_id=True)

    def update() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        now = measure()
        pace.add(now.bytes)
        handle.update(_make_cell(now, make_sentence(now, pace)), raw=True)
        due = time.monotonic() + NOTEBOOK_INTERVAL

    try:
        yield update
    finally:
        text = _tell_end(measure(), time.monotonic() - started)
        handle.update({"text/plain": text, "text/html": f"<pre>{text}</pre>"}, raw=True)


def _make_cell(now: State, text: str) -> dict[str, str]:
    value, most = (now.bytes, now.total_bytes) if now.total_bytes else (1, 1)
    bar = f'<progress value="{value}" max="{most}" style="width: 20em"></progress>'
    return {"text/plain": text, "text/html": f"{bar} {text}"}


def _tell_end(now: State, seconds: float) -> str:
    failed = f", {now.failed:,} failed" if now.failed else ""
    return (
        f"{now.files:,} of {now.total_files:,} files, {format_size(now.bytes)} in "
        f"{format_seconds(seconds)}{failed}"
    )
