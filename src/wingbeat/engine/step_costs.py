"""How long a step takes by the number of its rows: modelled at first, then as steps were seen to take."""

from __future__ import annotations

from collections.abc import Sequence

SPEED_STEP = 1.05
"""How far one step moves the estimate of the machine's speed, which changes with whatever else it does."""

FIRST, LAST = 0.3, 0.03
"""How far the n-th step of a kind moves the estimate of what it costs: by a share of FIRST / n, but at least LAST."""

COPY_OF_STATE = 1.5
"""What a copy of a state takes, beside the reading and writing of one in a step: it goes past the caches."""


class StepCosts:
    """Costs in units of a step of one row.

    ``curve``: what a step of 0, 1, ... rows costs, as modelled. ``state``: what each sequence beside the first adds by
    its state. Measured are five kinds of steps, since kernels take rows by fours, eights, sixteens: those of 2, 3-4,
    5-8, 9-16 and 17-32 rows; within a kind the model holds. Estimates are medians, or nearly: each step moves them by a
    little, up or down, however far off it was itself.
    """

    def __init__(self, curve: Sequence[float], state: float) -> None:
        self.of = list(curve)
        self.state = state
        self.copy = COPY_OF_STATE * state
        self.asked = False  # whether somebody wants to know, so that it pays to look at the clock
        self._seconds = 0.0  # of a step of one row
        self._seen = [0] * (len(curve) - 2).bit_length()

    def count(self, seconds: float, rows: int, sequences: int, copies: int) -> None:
        """A step of so many rows and sequences, with so many copies of a state, took ``seconds``."""
        self.asked = False
        if rows >= len(self.of):
            return
        expected = self.of[rows] + (sequences - 1) * self.state + copies * self.copy
        if not self._seconds:
            self._seconds = seconds / expected
            return
        slower = seconds > self._seconds * expected
        self._seconds *= SPEED_STEP if slower else 1 / SPEED_STEP
        if rows > 1:
            self._correct((rows - 1).bit_length(), slower=slower)

    def _correct(self, kind: int, *, slower: bool) -> None:
        """Steps of 2^(kind - 1) + 1 to 2^kind rows cost a little more than was thought, or less."""
        self._seen[kind - 1] += 1
        factor = 1 + max(FIRST / self._seen[kind - 1], LAST)
        for rows in range(2 ** (kind - 1) + 1, min(2**kind + 1, len(self.of))):
            self.of[rows] *= factor if slower else 1 / factor
