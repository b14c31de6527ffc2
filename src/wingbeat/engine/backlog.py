"""The bound on waiting work, kept where requests come in, so that a refusal costs the engine nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

SMOOTHING = 0.1  # weight of the newest interval between two finished rows
MAX_RETRY_SECONDS = 60.0


class QueueFull(Exception):  # noqa: N818 - a state of affairs, not a mistake
    """Too many rows wait already. ``retry_after`` is in seconds, from the rate at which rows finish."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} sequences are waiting already: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class Backlog:
    """Counts rows from admission to their end; those beyond ``slots`` wait.

    A request is refused when rows are waiting and its own would make them more than ``limit``. With nothing waiting any
    request is taken, however many rows it has: it flows through the slots.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.slots = 1
        self._rows = 0
        self._clock = clock
        self._interval = 0.0  # seconds between finished rows while the engine is full, smoothed
        self._last_finish: float | None = None

    @property
    def waiting(self) -> int:
        return max(0, self._rows - self.slots)

    def enter(self, rows: int) -> None:
        """Count ``rows`` in. Raises QueueFull."""
        waiting = self.waiting
        if waiting and self._rows + rows - self.slots > self.limit:
            excess = self._rows + rows - self.slots - self.limit
            raise QueueFull(waiting, min(MAX_RETRY_SECONDS, max(1.0, excess * self._interval)))
        self._rows += rows

    def leave(self, rows: int = 1) -> None:
        """Count ``rows`` out: they finished, failed or were cancelled."""
        now = self._clock()
        if self._last_finish is not None and self.waiting:
            self._interval += SMOOTHING * ((now - self._last_finish) / rows - self._interval)
        self._last_finish = now
        self._rows -= rows
