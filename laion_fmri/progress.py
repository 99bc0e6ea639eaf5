"""Shows how far a run is: live on a terminal, else a plain line now and then. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from laion_fmri.keys import Row
from laion_fmri.runner import count_staged_bytes, read_outcomes
from laion_fmri.targets import Targets

#: Seconds between two plain lines.
INTERVAL = 10.0


class Progress(NamedTuple):
    """Files and bytes done, and of how many."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int


@contextmanager
def show_progress(targets: Targets, rows: Sequence[Row]) -> Iterator[Callable[[], None]]:
    """Show how far the fetch of `rows` is, whenever the function in hand is called."""
    sizes = {row.key: row.size for row in rows}

    def measure() -> Progress:
        said = read_outcomes(targets)
        arrived = [key for key, outcome in said.items() if outcome.outcome == "fetched"]
        done = sum(sizes.get(key, 0) for key in arrived) + count_staged_bytes(targets)
        total = sum(sizes.values())
        return Progress(len(arrived), len(sizes), min(done, total), total)

    with show(measure) as on_tick:
        yield on_tick


def show(measure: Callable[[], Progress]) -> AbstractContextManager[Callable[[], None]]:
    """Show what `measure` returns, live on a terminal and else a line now and then, when called."""
    return _show_live(measure) if sys.stderr.isatty() else _show_lines(measure)


@contextmanager
def _show_live(measure: Callable[[], Progress]) -> Iterator[Callable[[], None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting")

        def update() -> None:
            now = measure()
            bar.update(
                task,
                total=now.total_bytes,
                completed=now.bytes,
                description=f"{now.files:,}/{now.total_files:,} files",
            )

        update()
        yield update


@contextmanager
def _show_lines(measure: Callable[[], Progress]) -> Iterator[Callable[[], None]]:
    started = last = time.monotonic()

    def update() -> None:
        nonlocal last
        if time.monotonic() - last < INTERVAL:
            return
        last = time.monotonic()
        now = measure()
        rate = now.bytes / (last - started)
        left = f", about {(now.total_bytes - now.bytes) / rate:,.0f} s left" if rate else ""
        sys.stderr.write(
            f"{now.files:,} of {now.total_files:,} files, {format_size(now.bytes)} of "
            f"{format_size(now.total_bytes)}, {format_size(int(rate))}/s{left}\n"
        )
        sys.stderr.flush()

    yield update


def format_size(count: int) -> str:
    """Return `count` bytes in decimal units, such as ``1.5 MB``."""
    from rich.filesize import decimal

    return decimal(count)
