"""What the engine's steps cost, summed up."""

from __future__ import annotations

from bisect import bisect_left

from wingbeat.engine.messages import STEP_BUCKETS
from wingbeat.engine.step_costs import StepCosts


class Meter:
    """Counts steps, their time, and the bytes that they must move: the weights once, each state in and out.

    ``costs`` learns from them when it is asked for.
    """

    def __init__(self, weight_bytes: int, state_bytes: int, costs: StepCosts) -> None:
        self._weight_bytes, self._state_bytes, self._costs = weight_bytes, state_bytes, costs
        self.steps = 0
        self.seconds = 0.0
        self.bytes_moved = 0
        self.times = [0] * (len(STEP_BUCKETS) + 1)  # steps by duration; the last count is of longer ones than any edge

    def count(self, seconds: float, rows: int, sequences: int, copies: int) -> None:
        """A step of so many rows and sequences took ``seconds``. ``copies``: of states that it kept."""
        self.steps += 1
        self.seconds += seconds
        self.bytes_moved += self._weight_bytes + 2 * sequences * self._state_bytes
        self.times[bisect_left(STEP_BUCKETS, seconds)] += 1
        if self._costs.asked:
            self._costs.count(seconds, rows, sequences, copies)
