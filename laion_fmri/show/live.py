"""The live view of a terminal: a line for everything, and one for each transfer under way.

Drawn here rather than by :class:`rich.live.Live`, which counts the lines that it has to remove and
is wrong once the terminal has been resized.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from laion_fmri.base.text import format_share, shorten
from laion_fmri.run.monitor import Running, State
from laion_fmri.show.pace import Pace, format_left, format_rate, make_step

#: Transfers with a line of their own, at most.
MOST_LINES = 16
#: Columns of the bar, at most and at least.
BAR = (40, 8)
#: Columns of a transfer's name, at most and at least.
NAME = (100, 8)


@contextmanager
def open_painter(console: Console) -> Iterator[Callable[[State, Pace], None]]:
    """Yield a function that paints below the cursor and over what it painted before.

    The cursor rests at the beginning. Whatever a resized terminal makes of lines that have become
    too long, everything below the cursor is ours, so there is nothing to count.
    """
    is_gone = False

    def write(lines: Sequence[Text]) -> None:
        nonlocal is_gone
        with console.capture() as captured:
            for line in lines:
                console.print(line, no_wrap=True, overflow="crop", soft_wrap=True)
        texts = captured.get().splitlines()
        # Each line, erasing the rest of the old one, then all below, and back up. In one write, so
        # that nothing flickers.
        frame = "\r" + "\n".join(f"{text}\x1b[K" for text in texts)
        frame += "\x1b[J" + (f"\r\x1b[{len(texts) - 1}A" if len(texts) > 1 else "\r")
        try:
            if not is_gone:
                console.file.write(frame)
                console.file.flush()
        except OSError:  # the terminal is gone, and the run goes on without it
            is_gone = True

    def paint(now: State, pace: Pace) -> None:
        width, height = console.size
        # In the last column a line may wrap, and in the last line the screen may scroll.
        write(make_screen(now, pace, width - 1, height - 1))

    try:
        yield paint
    finally:
        write([])


def make_screen(now: State, pace: Pace, width: int, height: int) -> list[Text]:
    """Return the lines that show `now` on a terminal of `width` columns and `height` lines."""
    # What is kept is said at the end, unless the terminal has no more than two lines.
    kept = f"  {now.kept} if you stop (Ctrl-C)" if now.kept and height > 2 else ""
    room = max(0, min(MOST_LINES, height - 1 - bool(kept)))
    shown = now.running if len(now.running) <= room else now.running[: max(0, room - 1)]
    lines = [_make_header(now, pace, width), *(_make_line(item, width) for item in shown)]
    if len(shown) < len(now.running) and room:
        more = shorten(f"  and {len(now.running) - len(shown)} more", width)
        lines.append(Text(more, style="dim"))
    if kept:
        lines.append(Text(shorten(kept, width), style="dim"))
    return lines


def _make_header(now: State, pace: Pace, width: int) -> Text:
    """Return the first line; its last parts are dropped if they do not fit."""
    share = format_share(now.bytes, now.total_bytes), "green"
    parts = [
        (f"{now.files:,}/{now.total_files:,} files", "bold"),
        (f"{now.failed:,} failed" if now.failed else "", "bold red"),
        (f"{now.waiting:,} wait for another run" if now.waiting else "", "yellow"),
        share,
        (format_rate(pace) or make_step(now), "cyan"),
        (format_left(now, pace), ""),
    ]
    parts = [part for part in parts if part[0]]
    while (room := width - sum(len(text) + 2 for text, _ in parts)) < -2 and len(parts) > 1:
        parts.pop()
    texts = [Text(shorten(text, width), style=style) for text, style in parts]
    if share in parts and room >= BAR[1]:
        size = min(room, BAR[0])
        full = int(size * now.bytes / now.total_bytes) if now.total_bytes else size
        # Two characters, so that it can be read without colours.
        bar = Text.assemble(("━" * full, "green"), ("─" * (size - full), "dim"))
        texts.insert(parts.index(share) + 1, bar)
    return Text("  ").join(texts)


def _make_line(item: Running, width: int) -> Text:
    percent = 100 * item.bytes // item.total_bytes if item.total_bytes else 100
    share = format_share(item.bytes, item.total_bytes)
    # As wide as it can become, so that the name does not move.
    widest = len(format_share(item.total_bytes, item.total_bytes))
    right = f"{share:>{widest}} {percent:>3}%"
    files = f"{item.files:,}/{item.total_files:,} files of " if item.total_files > 1 else ""
    room = min(width - 4 - len(right) - len(files), NAME[0])
    if room < NAME[1]:
        return Text(shorten(f"  {right}", width), style="dim")
    name = set_cell_size(shorten(item.name, room), room)
    return Text.assemble("  ", files, name, "  ", (right, "green"))
