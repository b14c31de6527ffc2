"""The sequences under suspicion: each runs alone, in turn with the others, until it is past where a step threw."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from wingbeat.engine.sequence import Sequence


class Quarantine:
    """Sequences that were in a step that threw, and how many tokens each must be fed, alone, to be cleared of it."""

    def __init__(self) -> None:
        self._suspects: dict[Sequence, int] = {}
        self._alone = False  # whether the step before was a suspect's

    def add(self, sequence: Sequence, until: int) -> None:
        """Suspect ``sequence`` until steps of its own have fed it ``until`` tokens, or all that it has to read."""
        self._suspects[sequence] = until

    def discard(self, sequence: Sequence) -> None:
        """Forget a sequence; nothing happens if it is no suspect."""
        self._suspects.pop(sequence, None)

    def select(self, running: Collection[Sequence]) -> Collection[Sequence]:
        """Those of ``running`` that may share the next step: a suspect none, healthy ones what suspects leave them.

        The suspect nearest to its end comes first, so that most are back soon.
        """
        if not self._suspects:
            return running
        healthy = [s for s in running if s not in self._suspects and s.leader not in self._suspects]
        self._alone = not self._alone or not healthy
        return [min(self._suspects, key=self._left)] if self._alone else healthy

    def clear(self, sequences: Iterable[Sequence]) -> None:
        """A step of these did not throw: acquit those that are far enough."""
        for sequence in sequences if self._suspects else ():
            if sequence in self._suspects and (sequence.decoding or self._left(sequence) <= 0):
                del self._suspects[sequence]

    def _left(self, sequence: Sequence) -> int:
        return self._suspects[sequence] - sequence.fed
