"""Several tokens of a sequence in one step: guesses are fed behind its last token, and checked with what is drawn.

A guess costs a row of a step, which is little while the weights are what takes the time. At each fed row a token is
drawn, as it would be without guesses: the numeric contract makes its logits, to the last bit, those of a step of its
own. As long as the drawn tokens are the guessed ones the next row is right, too. Where they part, the state has seen
what was never said. It is put back to where it was before the step, and the next step feeds what was drawn since then:
some rows more, and no step more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from wingbeat.engine.drafting import Drafter
from wingbeat.engine.messages import MOST_GUESSES
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.state_pool import StatePool
from wingbeat.engine.step_costs import StepCosts
from wingbeat.ops.copying import copy_state

MOST_DRAFTS = 8
"""Sequences that have guesses checked in one step: the state of each is kept aside."""

MOST_DECODING = 12
"""With more sequences in a step than these there are no guesses: a row costs nearly what a token is worth."""

MOST_ROWS = 32
"""Rows of a step with guesses: beyond them the kernels need another pass over the weights."""

LEAST_CHANCE = 0.02
"""Guesses that come true more rarely are not worth a thought."""

PAUSES = (1, 1, 2, 4, 8, 16, 32)
"""Steps until a sequence is asked for guesses again, when nothing came of it so many times in a row. What is asked in
vain is asked in the same step as the others, so that most steps know nothing of guesses."""

NO_DRAFTS: Mapping[Sequence, list[int]] = {}


class DraftRows(NamedTuple):
    """Of a packed step: ``tokens`` are fed as guesses; the logits ``first``, ``first + 1``, ... say what is drawn after
    each of them."""

    sequence: Sequence
    tokens: list[int]
    first: int


@dataclass(slots=True)
class _Open:
    """A draft that no drawn token has contradicted yet."""

    draft: DraftRows
    fed: int  # tokens that the state had seen before the step
    kept: int  # where that state is kept
    taken: int = 0  # guesses that came true


class Speculation:
    """Decides which guesses are fed, and sees to it that states have seen nothing but what was drawn.

    At most ``most`` guesses for a sequence in a step; 0: none at all.
    """

    def __init__(self, pool: StatePool, most: int, costs: StepCosts) -> None:
        if not 0 <= most <= MOST_GUESSES:
            raise ValueError(f"speculative_tokens must be from 0 to {MOST_GUESSES}, not {most}")
        self._pool, self._most, self._costs = pool, most, costs
        self._kept = pool.layout.allocate(min(MOST_DRAFTS, pool.slots) if most else 0)  # states, before their drafts
        self._open: dict[Sequence, _Open] = {}
        self._behind: set[Sequence] = set()
        self._steps = 0
        self.drafted = self.accepted = 0  # tokens

    @property
    def behind(self) -> bool:
        """Whether there are sequences whose state has to see more than the token that was drawn last."""
        return bool(self._behind)

    @property
    def checking(self) -> bool:
        """Whether guesses were fed in this step that no drawn token has contradicted yet."""
        return bool(self._open)

    def propose(self, decoding: list[Sequence], others: int, budget: int) -> Mapping[Sequence, list[int]]:
        """Guesses for a step of ``decoding`` and of ``others`` rows, where they promise more than they cost.

        A step may have ``budget`` rows. Those that are left are shared fairly, since all are to come to an end.
        """
        self._steps += 1
        if not self._most or len(decoding) > MOST_DECODING:
            return NO_DRAFTS
        steps = self._steps
        due = [sequence for sequence in decoding if sequence.guess_at <= steps]
        rows = len(decoding) + others + (sum(sequence.behind for sequence in self._behind) if self._behind else 0)
        room = min(MOST_ROWS, budget) - rows
        if not due or room < 1:
            return NO_DRAFTS
        return self._drafts(due, rows, room, len(decoding) + others)

    def _drafts(self, due: list[Sequence], rows: int, room: int, useful: float) -> dict[Sequence, list[int]]:
        """``useful``: the tokens that the step brings forward; it has so many ``rows``, and ``room`` for more."""
        drafts: dict[Sequence, list[int]] = {}
        costs = self._costs
        costs.asked = True
        cost = costs.of[rows] + (len(due) - 1) * costs.state
        for waiting, sequence in zip(range(len(due), 0, -1), due, strict=True):
            most = min(self._most, room // min(waiting, MOST_DRAFTS), sequence.tokens_left - 1)
            if most < 1 or len(drafts) == len(self._kept):
                continue
            guesses, chances = _guess(sequence, most)
            length = best_length(chances, rows, sequence.behind, useful / cost, costs) if guesses else 0
            guesses = sequence.before_end(guesses[:length])
            if guesses:
                drafts[sequence] = guesses
                useful += sum(chances[: len(guesses)])
                cost += costs.of[rows + len(guesses)] - costs.of[rows] + costs.copy
                rows += len(guesses)
                room -= len(guesses)
            else:
                self._pause(sequence)
        return drafts

    def _pause(self, sequence: Sequence) -> None:
        """Nothing came of asking ``sequence``: it is asked again soon, or, if that is how it goes, later."""
        drafter = sequence.drafter
        if drafter is not None:
            drafter.idle += 1
            pause = PAUSES[min(drafter.idle, len(PAUSES) - 1)]
            sequence.guess_at = (self._steps // pause + 1) * pause

    def keep(self, drafts: Iterable[DraftRows], fed: Iterable[Sequence]) -> None:
        """Keep the states of those that have drafts in the step that is about to run; ``fed`` are all that run."""
        if self._open:
            self._open.clear()
        for kept, draft in enumerate(drafts):
            sequence = draft.sequence
            copy_state(self._kept[kept], self._pool.states[sequence.slot])
            self._open[sequence] = _Open(draft, sequence.fed, kept)
            self.drafted += len(draft.tokens)
        if self._behind:
            self._behind.difference_update(fed)

    def leave(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self._behind.discard(sequence)

    def undone(self, sequence: Sequence, token: int, *, ended: bool) -> bool:
        """Check the token that was drawn for ``sequence``. Whether its state had to be put back."""
        check = self._open.get(sequence)
        if check is None:
            return False
        guesses = check.draft.tokens
        if not ended and check.taken < len(guesses) and token == guesses[check.taken]:
            check.taken += 1
            return False
        del self._open[sequence]
        self.accepted += check.taken
        if check.taken and sequence.drafter is not None:
            sequence.drafter.idle = 0
        if check.taken == len(guesses):
            return False
        if not check.taken:
            self._pause(sequence)
        copy_state(self._pool.states[sequence.slot], self._kept[check.kept])
        sequence.fed = check.fed
        self._behind.add(sequence)
        return True

    def agreed(self) -> tuple[list[Sequence], list[int]]:
        """The sequences whose guesses have all come true so far, and the logits that say what comes next."""
        gone = [sequence for sequence in self._open if sequence.slot < 0]  # they could not be sampled
        for sequence in gone:
            del self._open[sequence]
        return list(self._open), [check.draft.first + check.taken - 1 for check in self._open.values()]


def best_length(chances: list[float], rows: int, behind: int, rate: float, costs: StepCosts) -> int:
    """How many guesses to check, given the ``chances`` that all up to each of them come true.

    ``rate``: tokens that a step of ``rows`` brings forward without them, for each unit of its cost. ``behind``: those
    of its rows that must be fed again, beside the guesses that came true, if not all do.
    """
    of, last = costs.of, len(costs.of) - 1
    here, next_time = of[rows], of[rows - behind]
    best, most, expected = 0, 0.0, 0.0
    for length, chance in enumerate(chances, 1):
        expected += chance
        again = of[min(rows + 1 + math.ceil(expected), last)] - next_time
        cost = costs.copy + of[rows + length] - here + (1 - chance) * (costs.copy + again)
        gain = expected - rate * cost
        if gain > most:
            best, most = length, gain
    return best


def _guess(sequence: Sequence, most: int) -> tuple[list[int], list[float]]:
    """What may come next, see ``Drafter.guess``; nothing where there is no memory to find out."""
    try:
        drafter = sequence.drafter
        if drafter is None:
            drafter = sequence.drafter = Drafter(sequence.prompt, sequence.expected)
        drafter.see(sequence.sampled[drafter.seen :])
        return drafter.guess(most, LEAST_CHANCE)
    except MemoryError:
        sequence.drafter, sequence.guess_at = None, math.inf
        return [], []
