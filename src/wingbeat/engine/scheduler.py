"""Who runs in the next step: decoding sequences first, then prompts, which share what is left of a token budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wingbeat.engine.beginnings import Beginnings
from wingbeat.engine.draws import Draws, draws_of
from wingbeat.engine.quarantine import Quarantine
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.speculation import DraftRows, Speculation
from wingbeat.engine.state_pool import StatePool
from wingbeat.ops.table import IntArray, StepBatch

MIN_PROMPT_ROWS = 16
"""Prompt rows a step takes even when decoding alone fills the budget, so that no prompt waits for ever."""


SCORED_ROWS = 64
"""Prompt rows that a step makes logits for when prompts are scored: their logits take 16 MB with 65,536 tokens."""


class ScoredRows(NamedTuple):
    """The logits ``first``, ``first + 1``, ... of a step predict ``targets``, which are tokens of the prompt."""

    sequence: Sequence
    first: int
    targets: IntArray


class HiddenRows(NamedTuple):
    """The hidden vectors ``first``, ``first + 1``, ... of a step up to ``end`` are those of tokens of a prompt."""

    sequence: Sequence
    first: int
    end: int


class StepPlan(NamedTuple):
    """A packed step. ``sequences[b]`` owns ``counts[b]`` rows of the batch."""

    batch: StepBatch
    sequences: list[Sequence]
    counts: list[int]
    decoding: int  # so many of them, the first ones, feed what they sampled last, and their drafts
    prompt_rows: int  # rows that are tokens of prompts
    draws: Draws  # for those that get a token
    drawn_rows: list[int]  # the row of the logits for each of them
    scored: list[ScoredRows]
    hidden: list[HiddenRows]
    drafts: list[DraftRows]

    @property
    def reads(self) -> bool:
        """Whether there are rows of sequences that are being read."""
        return self.decoding < len(self.sequences)


class Scheduler:
    """The waiting queue and the running set. It hands out the pool's slots, first come, first served."""

    def __init__(self, pool: StatePool, token_budget: int, beginnings: Beginnings, speculation: Speculation) -> None:
        if token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, not {token_budget}")
        self._pool = pool
        self._beginnings = beginnings
        self._speculation = speculation
        self._budget = token_budget
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self.quarantine = Quarantine()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run and nothing to admit."""
        return not (self._running or self._waiting)

    @property
    def predicted(self) -> list[Sequence]:
        """The running sequences whose first token is predicted already."""
        return [s for s in self._running if s.predicted is not None]

    def add(self, sequences: Iterable[Sequence]) -> None:
        self._waiting.extend(sequences)

    def admit(self) -> list[Sequence]:
        """Give free slots to the sequences that have waited longest, with what they begin from; returns those."""
        admitted: list[Sequence] = []
        while self._waiting and self._pool.free:
            sequence = self._waiting.popleft()
            sequence.slot = self._pool.acquire()
            self._beginnings.begin(sequence, self._running)
            self._running.append(sequence)
            admitted.append(sequence)
        return admitted

    def plan(self) -> StepPlan | None:
        """Pack the next step: each decoding sequence's token, and guesses of the next ones, then prompt chunks.

        None when nothing runs.
        """
        if not self._running:
            return None
        decoding, reading = [], []
        for sequence in self.quarantine.select(self._running):
            if sequence.predicted is not None:  # what may follow is not known yet
                continue
            if sequence.decoding:
                decoding.append(sequence)
            elif sequence.leader is None:
                reading.append(sequence)
        if not decoding and not reading:
            return None
        readers = self._share(reading, self._budget - len(decoding)) if reading else []
        reading_rows = sum(count for _, count in readers) if readers else 0
        drafts = self._speculation.propose(decoding, reading_rows, self._budget)
        if readers or drafts or self._speculation.behind:
            return _pack(decoding, drafts, readers)
        return _pack_decoding(decoding)

    def _share(self, reading: list[Sequence], left: int) -> list[tuple[Sequence, int]]:
        """Divide the rows that are left in the budget among prompts; returns those that get any, and how many."""
        wanted = [s.next_cut - s.fed for s in reading]
        scored = [i for i, s in enumerate(reading) if s.scores is not None and not s.unscored]
        for i, rows in zip(scored, share_rows([wanted[i] for i in scored], SCORED_ROWS), strict=True):
            wanted[i] = rows
        for i, sequence in enumerate(reading):
            if sequence.scores is not None and sequence.unscored:
                wanted[i] = min(wanted[i], sequence.unscored)
        shares = share_rows(wanted, max(left, MIN_PROMPT_ROWS))
        return [(s, share) for s, share in zip(reading, shares, strict=True) if share]

    def followers(self, leader: Sequence) -> list[Sequence]:
        """The sequences that wait for ``leader`` to read what they begin with."""
        return [s for s in self._running if s.leader is leader]

    def touched(self, plan: StepPlan) -> list[Sequence]:
        """The running sequences whose state or next token hangs on the step ``plan``."""
        planned = set(plan.sequences)
        return [s for s in self._running if s in planned or s.leader in planned]

    def twins(self, sequence: Sequence) -> list[Sequence]:
        """The other sequences, waiting ones too, that are yet to get past the prompt that ``sequence`` is reading."""
        if sequence.sampled:
            return []
        candidates = (*self._running, *self._waiting)
        return [s for s in candidates if s.prompt is sequence.prompt and not s.sampled and s is not sequence]

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running. A slot that it held is free again; what followed it begins anew."""
        if sequence.slot < 0:
            self._waiting.remove(sequence)
            return
        orphans = self._behind(sequence)
        self._running.remove(sequence)
        self.quarantine.remove(sequence)
        self._pool.release(sequence.slot)
        sequence.slot = -1
        for orphan in orphans:
            orphan.leader = None
            orphan.cuts = []  # of those that follow it, which begin anew as well
        for orphan in orphans:
            self._beginnings.begin(orphan, self._running)

    def _behind(self, sequence: Sequence) -> list[Sequence]:
        """Those that wait for ``sequence``, and those that wait for them, in the order in which they came."""
        behind = {sequence}
        for other in self._running:  # who follows comes later than its leader
            if other.leader in behind and other.fed < other.follow_to:
                behind.add(other)
        return [s for s in self._running if s in behind and s is not sequence]


def share_rows(wanted: list[int], rows: int) -> list[int]:
    """Divide ``rows`` of a step among prompts that want so many each, in order of arrival.

    Half of them are shared equally, so that a short prompt does not wait for a long one before it; the rest goes to
    the earliest, so that prompts of one length do not all end as late as the last.
    """
    if not wanted:
        return []
    fair = max(1, rows // (2 * len(wanted)))
    shares = []
    for want in wanted:
        shares.append(min(want, fair, rows))
        rows -= shares[-1]
    for i, want in enumerate(wanted):
        extra = min(want - shares[i], rows)
        shares[i] += extra
        rows -= extra
    return shares


def _pack_decoding(decoding: list[Sequence]) -> StepPlan:
    """What most steps are: cheap, since a small model's step is short."""
    count = len(decoding)
    starts, draws = _counting(count + 1), draws_of(decoding)
    batch = StepBatch(
        tokens=np.array([s.sampled[-1] for s in decoding], np.int32),
        slots=draws.slots,
        seq_starts=starts,
        logit_rows=starts[:count],
    )
    return StepPlan(batch, decoding, [1] * count, count, 0, draws, list(range(count)), [], [], [])


@lru_cache(maxsize=256)
def _counting(count: int) -> IntArray:
    numbers = np.arange(count, dtype=np.int32)
    numbers.flags.writeable = False  # it is shared
    return numbers


def _pack(
    decoding: list[Sequence], drafts: Mapping[Sequence, list[int]], readers: list[tuple[Sequence, int]]
) -> StepPlan:
    decoding = [*(s for s in decoding if s not in drafts), *drafts]  # the logits of most are then next to each other
    sequences = [*decoding, *(s for s, _ in readers)]
    chunks = [np.array(s.pending + drafts.get(s, []), np.int32) for s in decoding]
    chunks += [s.to_read[s.fed : s.fed + count] for s, count in readers]
    counts = [len(chunk) for chunk in chunks]
    starts = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=starts[1:])
    logit_rows: list[int] = []
    sampled: list[Sequence] = []
    drawn_rows: list[int] = []
    scored: list[ScoredRows] = []
    hidden: list[HiddenRows] = []
    hidden_rows: list[int] = []
    hidden_layers: list[int] = []
    drafted: list[DraftRows] = []
    prompt_rows = 0
    for sequence, end in zip(decoding, starts[1:].tolist(), strict=False):
        guesses = drafts.get(sequence, [])
        sampled.append(sequence)
        drawn_rows.append(len(logit_rows))
        if guesses:
            drafted.append(DraftRows(sequence, guesses, len(logit_rows) + 1))
        logit_rows.extend(range(end - len(guesses) - 1, end))
    for (sequence, count), start in zip(readers, starts[len(decoding) :].tolist(), strict=False):
        end = sequence.fed + count
        prompt_rows += max(0, min(end, len(sequence.prompt)) - sequence.fed)
        if sequence.scores is not None:
            first = max(sequence.fed + 1, sequence.scored_from)
            targets = sequence.prompt[first : end + 1]  # none of them for the prompt's last token
            if len(targets):
                scored.append(ScoredRows(sequence, len(logit_rows), targets))
                begin = start + first - 1 - sequence.fed
                logit_rows.extend(range(begin, begin + len(targets)))
        if sequence.wanted.embed is not None and sequence.wanted.embed.pooling == "mean":
            hidden.append(HiddenRows(sequence, len(hidden_rows), len(hidden_rows) + count))
            hidden_rows.extend(range(start, start + count))
            hidden_layers += [sequence.wanted.embed.layer] * count
        if end >= len(sequence.to_read) and not sequence.only_read:
            sampled.append(sequence)
            drawn_rows.append(len(logit_rows))
            logit_rows.append(start + count - 1)
    batch = StepBatch(
        tokens=np.concatenate(chunks),
        slots=np.array([s.slot for s in sequences], np.int32),
        seq_starts=starts,
        logit_rows=np.array(logit_rows, np.int32),
        hidden_rows=np.array(hidden_rows, np.int32),
        hidden_layers=np.array(hidden_layers, np.int32),
    )
    return StepPlan(
        *(batch, sequences, counts, len(decoding), prompt_rows, draws_of(sampled), drawn_rows),
        *(scored, hidden, drafted),
    )
