"""What the engine's steps cost, summed up."""

from __future__ import annotations

from bisect import bisect_left

from wingbeat.engine.messages import STEP_BUCKETS


class Meter:
    """Counts steps, their time, and the bytes that they must move: the weights once, each state in and out."""

    def __init__(self, weight_bytes: int, state_bytes: int) -> None:
        self._weight_bytes, self._state_bytes = weight_bytes, state_bytes
        self.steps = 0
        self.seconds = 0.0
        self.bytes_moved = 0
        self.times = [0] * (len(STEP_BUCKETS) + 1)  # steps by duration; the last count is of longer ones than any edge

    def count(self, seconds: float, sequences: int) -> None:
        """A step of so many sequences took ``seconds``."""
        self.steps += 1
        self.seconds += seconds
        self.bytes_moved += self._weight_bytes + 2 * sequences * self._state_bytes
        self.times[bisect_left(STEP_BUCKETS, seconds)] += 1
