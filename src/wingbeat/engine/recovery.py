"""What becomes of the sequences of a step that threw.

The states of such a step are lost: some were advanced, some not. But a state is a function of its sequence's tokens,
to the last bit and in any company, so each sequence is put back to where it began and reads its tokens again, alone
(see ``Quarantine``). The one that throws alone is the one that cannot be run, and fails; the others find themselves
exactly where they were. A fault that shows in company only would come again and again: a sequence that was there
``MAX_STRIKES`` times fails the next time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from wingbeat.engine.scheduler import Scheduler, StepPlan
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.state_pool import StatePool
from wingbeat.sampling.samplers import Sampler

log = logging.getLogger(__name__)

MAX_STRIKES = 3


class Recovery:
    """Puts sequences back into the slots of ``pool`` and ``sampler``."""

    def __init__(self, scheduler: Scheduler, pool: StatePool, sampler: Sampler) -> None:
        self._scheduler, self._pool, self._sampler = scheduler, pool, sampler

    def recover(self, plan: StepPlan) -> list[Sequence]:
        """Put back what hung on a step that threw. Returns the sequences that are to fail instead.

        With a sequence that fails while it reads go its twins, which would have to read the same.
        """
        ends = {s: s.fed for s in plan.sequences if s.slot >= 0}
        if len(plan.sequences) == 1 and not plan.drafts:  # guesses may be to blame: it begins anew without
            failing = list(ends)
            for sequence in failing:
                self._scheduler.quarantine.convict(sequence)
        else:
            failing = [s for s in ends if s.strikes >= MAX_STRIKES]
        failing += [twin for s in failing for twin in self._scheduler.twins(s)]
        for sequence in self._scheduler.touched(plan):
            if sequence not in failing and not self._put_back(sequence):
                failing += [sequence, *self._scheduler.twins(sequence)]
        self._scheduler.quarantine.add({s: end for s, end in ends.items() if s not in failing})
        return failing

    def read_again(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Have sequences read what they were to go on without. Returns those that are to fail instead."""
        return [s for s in sequences if not len(s.to_read) or not self._put_back(s)]

    def _put_back(self, sequence: Sequence) -> bool:
        """Whether that was possible: memory may be short, which is how the step came to throw."""
        try:
            sequence.restart()
            self._pool.reset(sequence.slot, sequence.origin.arrays)
            sequence.start_sampling(self._sampler)
        except Exception:
            log.exception("a sequence cannot be run again")
            return False
        return True
