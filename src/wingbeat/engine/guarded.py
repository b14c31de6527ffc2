"""The sequences that may not say just anything: which of them can be sampled now, and which have come to their end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Rows
from typing import NamedTuple

from wingbeat.engine.guard import Guards
from wingbeat.engine.messages import Compile, Compiled
from wingbeat.engine.sequence import Sequence

MASK_SECONDS = 0.01
"""How long a step in which nothing else can be done waits for a mask."""


class Sorted(NamedTuple):
    """Rows of a step, by what is to become of them."""

    due: list[int]
    """A token can be drawn."""
    late: list[int]
    """What may come next is not known yet."""
    over: list[int]
    """Nothing more is to be said."""
    failed: list[int]


class Guarded:
    """Keeps the sequences under a constraint or a list of words, and what their grammar processes say."""

    def __init__(self, guards: Guards) -> None:
        self._guards, self.grammars = guards, guards.grammars
        self._sequences: set[Sequence] = set()
        self._refused: list[Compiled] = []

    def __bool__(self) -> bool:
        return bool(self._sequences)

    @property
    def checking(self) -> bool:
        """Whether a constraint is being compiled for somebody who waits for the answer."""
        return self.grammars.checking

    def prepare(self) -> None:
        """Make now what the first constraint would make the other rows wait for."""
        self._guards.prepare()

    def compile(self, command: Compile) -> None:
        """Have a constraint compiled; ``take_compiled`` has the answer in the end."""
        try:
            self.grammars.check(command)
        except ValueError as error:
            self._refused.append(Compiled(command.id, str(error)))

    def take_compiled(self) -> list[Compiled]:
        """Answers to ``compile`` since the last call."""
        refused, self._refused = self._refused, []
        return refused + self.grammars.take_compiled()

    def watch(self, sequences: Iterable[Sequence]) -> None:
        """See to it that the sequences of a request say what it lets them say."""
        for sequence in sequences:
            if sequence.needs_sampling and (guard := self._guards.guard(sequence.sampling)) is not None:
                sequence.watch(guard)
                self._sequences.add(sequence)

    def leave(self, sequence: Sequence) -> None:
        """A sequence has ended, or will never run."""
        if sequence.guard is not None:
            sequence.guard.close()
            self._sequences.discard(sequence)

    def poll(self) -> None:
        """Take what the grammar processes have said."""
        self.grammars.poll()

    def flush(self) -> None:
        """Tell the grammar processes of the tokens that were drawn."""
        if self._sequences:
            self.grammars.flush()

    def first(self, sequences: Rows[Sequence]) -> Iterable[int]:
        """The rows, those under a guard first: their grammar processes work while the others' tokens are reported."""
        return self._guarded_first(sequences) if self._sequences else range(len(sequences))

    def _guarded_first(self, sequences: Rows[Sequence]) -> Iterator[int]:
        for row, sequence in enumerate(sequences):
            if sequence.guard is not None:
                yield row
        self.grammars.flush()
        for row, sequence in enumerate(sequences):
            if sequence.guard is None:
                yield row

    def heed(self) -> tuple[list[Sequence], list[Sequence]]:
        """The sequences whose grammar has failed, and those that are over, before a step is planned."""
        if self.grammars.checking or any(s.predicted is not None for s in self._sequences):
            self.grammars.poll()  # else it is soon enough before the next draw
        self.flush()  # what a step that threw has left
        failed = [s for s in self._sequences if _error(s) is not None]
        over = [s for s in self._sequences if _error(s) is None and s.over and s.sampled and s.ending is None]
        return failed, over

    def wait(self) -> None:
        """Wait a moment for what lets a sequence go on that has been read."""
        self._wait([s for s in self._sequences if s.predicted is not None])

    def sort(self, sequences: Rows[Sequence]) -> Sorted:
        """Tell what can become of these rows. Where none can be sampled it waits a moment."""
        self.grammars.poll()
        if not any(s.guard is None or s.guard.ready for s in sequences):
            self._wait(sequences)
            self.grammars.poll()
        found = Sorted([], [], [], [])
        for row, sequence in enumerate(sequences):
            _place(sequence, found).append(row)
        return found

    def shut(self) -> None:
        """End the grammar processes."""
        self.grammars.shut()

    def _wait(self, sequences: Iterable[Sequence]) -> None:
        self.grammars.wait((s.guard.grammar for s in sequences if s.guard and s.guard.grammar), MASK_SECONDS)


def _error(sequence: Sequence) -> str | None:
    return None if sequence.guard is None else sequence.guard.error


def _place(sequence: Sequence, found: Sorted) -> list[int]:
    """Where a row belongs. A guard that has failed or is complete counts as ready, so that is asked last."""
    if sequence.guard is None:
        return found.due
    if sequence.guard.error is not None:
        return found.failed
    if sequence.over:
        return found.over
    return found.due if sequence.guard.ready else found.late
