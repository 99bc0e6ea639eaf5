"""How fast something goes, and how often a line says so."""

from __future__ import annotations

import time
from collections import deque

from laion_fmri.run.monitor import State

#: Seconds before the first plain line. Later ones are rarer, see :func:`find_pause`.
INTERVAL = 10.0
#: Seconds over which the rate is taken.
WINDOW = 15.0


class Pace:
    """The rate of what arrives, in bytes per second, over the last seconds.

    Parameters
    ----------
    window : float
        Seconds that it looks back; two measurements count, however far they are apart.
    """

    def __init__(self, window: float = WINDOW) -> None:
        self.window = window
        self.rate: float | None = None
        #: Seconds since the last byte.
        self.silence = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        self._most, self._heard = 0, 0.0

    def add(self, count: int, now: float | None = None) -> None:
        """Take note that `count` bytes are there, at `now` in seconds of a monotonic clock."""
        now = time.monotonic() if now is None else now
        if not self._seen or count != self._most:
            self._most, self._heard = count, now
        self.silence = now - self._heard
        if not count:  # the start of a run is not part of its rate
            self._seen.clear()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] > self.window:
            self._seen.popleft()
        start, fewer = self._seen[0]
        seconds = now - start
        # What was given up and starts anew is no negative rate.
        self.rate = max(0, count - fewer) / seconds if seconds > 0 and self._most else None

    def left(self, now: State) -> float | None:
        """Return the seconds that the rest takes at this rate, or None if nothing tells."""
        return (now.total_bytes - now.bytes) / self.rate if self.rate else None


def find_pause(elapsed: float) -> float:
    """Return the seconds before the next plain line, `elapsed` seconds after the start.

    The first comes after `INTERVAL`, more every three of it; after ten minutes they are rarer, and
    rarer again after an hour, so that the log of a night is one to two pages.
    """
    for limit, factor in ((INTERVAL, 1), (600.0, 3), (3600.0, 12)):
        if elapsed < limit:
            return factor * INTERVAL
    return 60 * INTERVAL
