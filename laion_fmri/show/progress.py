"""Which view shows how far something is: on a terminal, in a notebook, or as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from laion_fmri.run.monitor import Monitor, Progress, State
from laion_fmri.run.run_folder import RunFolder
from laion_fmri.selection.table import Row
from laion_fmri.show import views


@contextmanager
def show_progress(folder: RunFolder, rows: Sequence[Row]) -> Iterator[Callable[[], None]]:
    """Show on stderr how far the fetch of `rows` is, whenever the function in hand is called."""
    with _show(Monitor(folder, rows).measure) as on_tick:
        yield on_tick


@contextmanager
def report_progress(folder: RunFolder, rows: Sequence[Row]) -> Iterator[Callable[[], None]]:
    """Show the same to who calls from Python: a bar in a notebook, and else lines of the log."""
    measure = Monitor(folder, rows).measure
    with views.show_in_notebook(measure) if views.is_notebook() else views.log(measure) as on_tick:
        yield on_tick


def _show(measure: Callable[[], State]) -> AbstractContextManager[Callable[[], None]]:
    return views.show_live(measure) if views.is_terminal() else views.show_lines(measure)


@contextmanager
def show_check() -> Iterator[Callable[[Progress], None]]:
    """Show on stderr how far a check is, in what the function in hand is called with."""
    latest = Progress(0, 0, 0, 0)
    with _show(lambda: State(*latest)) as on_tick:

        def progress(now: Progress) -> None:
            nonlocal latest
            latest = now
            on_tick()

        yield progress
