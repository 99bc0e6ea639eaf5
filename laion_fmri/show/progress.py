"""Which view shows how far something is: on a terminal, in a notebook, or as lines of text."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from laion_fmri.base.text import format_size
from laion_fmri.run.monitor import Monitor, Progress, State
from laion_fmri.run.run_folder import RunFolder
from laion_fmri.selection.table import Row
from laion_fmri.show.pace import WINDOW, Pace, find_pause, make_sentence, make_summary

logger = logging.getLogger("laion_fmri")

#: Seconds between two updates of a notebook, each of which is a message to the browser.
NOTEBOOK_INTERVAL = 0.5

Measure = Callable[[], State]
#: A context whose function updates the view, at most as often as makes sense.
View = AbstractContextManager[Callable[[], None]]


def show_progress(folder: RunFolder, rows: Sequence[Row]) -> View:
    """Show on stderr how far the fetch of `rows` is."""
    return _show(Monitor(folder, rows).measure)


def report_progress(folder: RunFolder, rows: Sequence[Row]) -> View:
    """Show the same to callers from Python: a bar in a notebook, else lines of the log."""
    measure = Monitor(folder, rows).measure
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    return _show_in_notebook(measure) if kernel else _log(measure)


@contextmanager
def show_step(text: str) -> Iterator[None]:
    """Show on a terminal what is being done, in a line that goes when it is done."""
    shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if shown:
        sys.stderr.write(f"{text} ...")
        sys.stderr.flush()
    try:
        yield
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def show_check() -> Iterator[Callable[[Progress], None]]:
    """Show on stderr how far a check is, as its function is told."""
    latest = Progress(0, 0, 0, 0)
    with _show(lambda: State(*latest)) as on_tick:

        def progress(now: Progress) -> None:
            nonlocal latest
            latest = now
            on_tick()

        yield progress


@contextmanager
def _show(measure: Measure) -> Iterator[Callable[[], None]]:
    if sys.stderr.isatty():
        from rich.console import Console

        from laion_fmri.show.live import open_painter

        console = Console(stderr=True, highlight=False)
        if not console.is_dumb_terminal:  # the cursor can be moved
            with open_painter(console) as paint:
                update = _make_update(measure, paint, lambda _elapsed: 0)
                update()
                yield update
            return
    yield _make_update(measure, lambda *now: sys.stderr.write(make_sentence(*now) + "\n"), window=0)


@contextmanager
def _log(measure: Measure) -> Iterator[Callable[[], None]]:
    """Log plain lines with the level INFO; one before the first, and one at the end."""
    now, started = measure(), time.monotonic()
    logger.info("fetching %s files, %s", f"{now.total_files:,}", format_size(now.total_bytes))
    yield _make_update(measure, lambda *now: logger.info("%s", make_sentence(*now)), window=0)
    logger.info("%s", make_summary(measure(), time.monotonic() - started))


@contextmanager
def _show_in_notebook(measure: Measure) -> Iterator[Callable[[], None]]:
    """Show a bar below the cell that is being run; a line stays when it ends."""
    # Every kernel has IPython's own display; widgets would be one more thing to install.
    display = sys.modules["IPython"].display
    started = time.monotonic()
    handle = display.display(_make_cell(measure(), "starting"), raw=True, display_id=True)

    def show(now: State, pace: Pace) -> None:
        handle.update(_make_cell(now, make_sentence(now, pace)), raw=True)

    try:
        yield _make_update(measure, show, lambda _elapsed: NOTEBOOK_INTERVAL)
    finally:
        text = make_summary(measure(), time.monotonic() - started)
        handle.update({"text/plain": text, "text/html": f"<pre>{text}</pre>"}, raw=True)


def _make_cell(now: State, text: str) -> dict[str, str]:
    value, most = (now.bytes, now.total_bytes) if now.total_bytes else (1, 1)
    bar = f'<progress value="{value}" max="{most}" style="width: 20em"></progress>'
    return {"text/plain": text, "text/html": f"{bar} {text}"}


def _make_update(
    measure: Measure,
    show: Callable[[State, Pace], object],
    pause: Callable[[float], float] = find_pause,
    window: float = WINDOW,
) -> Callable[[], None]:
    """Return a function that shows how far it is, once the pause after the last time is over."""
    started = time.monotonic()
    due = started + pause(0)
    pace = Pace(window)
    pace.add(0)

    def update() -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        now = measure()
        pace.add(now.bytes)
        show(now, pace)
        due = time.monotonic() + pause(time.monotonic() - started)

    return update
