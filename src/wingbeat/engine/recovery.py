"""What becomes of the sequences of a step that threw.

The states of such a step are lost: some were advanced, some not. But a state is a function of its sequence's tokens,
to the last bit and in any company, so each sequence is put back to where it began and reads its tokens again, alone
(see ``Quarantine``). The one that throws alone is the one that cannot be run, and fails; the others find themselves
exactly where they were. A fault that shows in company only would come again and again: each time is a strike for all
who were there, and more than ``MAX_STRIKES`` end a sequence. Strikes are forgotten when a culprit is found.
"""

from __future__ import annotations

from wingbeat.engine.scheduler import Scheduler, StepPlan
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.state_pool import StatePool
from wingbeat.sampling.samplers import Sampler

MAX_STRIKES = 3


class Recovery:
    """Puts sequences back into the slots of ``pool`` and ``sampler``."""

    def __init__(self, scheduler: Scheduler, pool: StatePool, sampler: Sampler) -> None:
        self._scheduler, self._pool, self._sampler = scheduler, pool, sampler

    def recover(self, plan: StepPlan) -> list[Sequence]:
        """Put back what hung on a step that threw. Returns the sequences that are to fail instead."""
        ends = {s: s.fed + count for s, count in zip(plan.sequences, plan.counts, strict=True) if s.slot >= 0}
        failing = self._judge(list(ends), alone=len(plan.sequences) == 1)
        for sequence in self._scheduler.touched(plan):
            if sequence in failing:
                continue
            if sequence in ends:
                self._scheduler.quarantine.add(sequence, until=ends[sequence])
            self._put_back(sequence)
        return failing

    def _judge(self, sequences: list[Sequence], *, alone: bool) -> list[Sequence]:
        """Those of the step's sequences that are to fail, and their twins, who would have to read the same."""
        for sequence in sequences:
            sequence.strikes += 1
        if alone:
            failing = sequences
            self._scheduler.pardon()
        else:
            failing = [s for s in sequences if s.strikes > MAX_STRIKES]
        return failing + [twin for s in failing for twin in self._scheduler.twins(s)]

    def _put_back(self, sequence: Sequence) -> None:
        sequence.restart()
        self._pool.reset(sequence.slot, sequence.origin.arrays)
        sequence.start_sampling(self._sampler)
