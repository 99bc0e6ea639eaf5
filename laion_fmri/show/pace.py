"""How fast something goes, how that is said, and how often."""

import time
from collections import deque

from laion_fmri.base.text import format_seconds, format_size
from laion_fmri.run.monitor import State

#: Seconds before the first plain line. Later ones are rarer, see :func:`find_pause`.
INTERVAL = 10.0
#: Seconds over which the rate is taken.
WINDOW = 15.0
#: Seconds without a byte after which the view says so.
SILENCE = 5.0


class Pace:
    """The rate of what arrives in bytes per second, over `window` seconds or two measurements."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._seen: deque[tuple[float, int]] = deque()
        self._last_change = 0.0
        self.rate: float | None = None
        self.silence = 0.0  # seconds since the last byte

    def add(self, count: int, now: float | None = None) -> None:
        """Note that `count` bytes have arrived, at `now` in seconds of a monotonic clock."""
        now = time.monotonic() if now is None else now
        if not self._seen or count != self._seen[-1][1]:
            self._last_change = now
        self.silence = now - self._last_change
        if not count:  # the start of a run is not part of its rate
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] > self._window:
            self._seen.popleft()
        start, fewer = self._seen[0]
        # A transfer that starts again lowers the count; that is not a negative rate.
        self.rate = max(0, count - fewer) / (now - start) if count and now > start else None


def find_pause(elapsed: float) -> float:
    """Return the seconds before the next plain line; so the log of a night is one to two pages."""
    factors = ((INTERVAL, 1), (600.0, 3), (3600.0, 12))
    return INTERVAL * next((factor for limit, factor in factors if elapsed < limit), 60)


def format_rate(pace: Pace) -> str:
    """Return the rate, or for how long nothing has arrived; empty before the first byte."""
    if pace.rate is None:
        return ""
    if pace.silence > SILENCE:
        return f"no byte for {format_seconds(int(pace.silence))}"
    return f"{format_size(int(pace.rate))}/s"


def format_left(now: State, pace: Pace) -> str:
    """Return the time that is left, such as ``20 s left``; empty if it is not known."""
    rest = now.total_bytes - now.bytes - now.lost_bytes
    if rest <= 0 or not pace.rate or pace.silence > SILENCE:
        return ""
    return f"{format_seconds(max(round(rest / pace.rate), 1))} left"


def make_step(now: State) -> str:
    """Return what a run does before its first byte."""
    return "starting aws" if now.running else "starting"


def make_sentence(now: State, pace: Pace) -> str:
    """Return `now` as a plain line."""
    left = format_left(now, pace)
    parts = [
        f"{now.files:,} of {now.total_files:,} files",
        f"{format_size(now.bytes)} of {format_size(now.total_bytes)}",
        format_rate(pace) or "nothing has arrived yet",
        f"about {left}" if left else "",
        f"{now.failed:,} failed" if now.failed else "",
        f"{now.waiting:,} wait for another run" if now.waiting else "",
    ]
    return ", ".join(filter(None, parts))


def make_summary(now: State, seconds: float) -> str:
    """Return the line that stays when a run has ended after `seconds`."""
    done = f"{now.files:,} of {now.total_files:,} files, {format_size(now.bytes)}"
    failed = f", {now.failed:,} failed" if now.failed else ""
    return f"{done} in {format_seconds(seconds)}{failed}"
