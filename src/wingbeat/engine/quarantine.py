"""The sequences under suspicion: each runs alone, in turn with the others, until it is past where a step threw."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from wingbeat.engine.sequence import Sequence


class Incident:
    """A step of several sequences that threw. When each has run alone and none threw, that is a strike for all."""

    def __init__(self, sequences: Iterable[Sequence]) -> None:
        self._sequences = list(sequences)
        self._open = len(self._sequences)  # how many have not run alone yet

    def acquit(self) -> None:
        """One of them did not throw, or is gone."""
        self._open -= 1
        if self._open == 0:
            for sequence in self._sequences:
                sequence.strikes += 1

    def convict(self) -> None:
        """One of them threw: the others are not to blame."""
        self._sequences.clear()


class Suspicion(NamedTuple):
    until: int  # the tokens to be fed, alone, that clear a sequence of it
    incident: Incident


class Quarantine:
    """Who must run alone, and which sequences may share the next step."""

    def __init__(self) -> None:
        self._suspects: dict[Sequence, Suspicion] = {}
        self._alone = False  # whether the step before was a suspect's

    def add(self, ends: Mapping[Sequence, int]) -> None:
        """A step threw that would have left these sequences with so many tokens fed."""
        incident = Incident(ends)
        self._suspects.update({sequence: Suspicion(until, incident) for sequence, until in ends.items()})

    def convict(self, sequence: Sequence) -> None:
        """``sequence`` threw alone; it is to be removed."""
        if sequence in self._suspects:
            self._suspects[sequence].incident.convict()

    def remove(self, sequence: Sequence) -> None:
        """Suspect a sequence no longer; nothing happens if it is no suspect."""
        if sequence in self._suspects:
            self._suspects.pop(sequence).incident.acquit()

    def clear(self, sequences: Iterable[Sequence]) -> None:
        """A step of these did not throw: those that are far enough may join the others again."""
        for sequence in sequences if self._suspects else ():
            if sequence in self._suspects and (sequence.decoding or self._left(sequence) <= 0):
                self.remove(sequence)

    def select(self, running: Collection[Sequence]) -> Collection[Sequence]:
        """Those of ``running`` that may share the next step: a suspect none, the others what suspects leave them.

        The suspect nearest to its end comes first, so that most are back soon.
        """
        if not self._suspects:
            return running
        others = [s for s in running if s not in self._suspects and s.leader not in self._suspects]
        self._alone = not self._alone or not others
        return [min(self._suspects, key=self._left)] if self._alone else others

    def _left(self, sequence: Sequence) -> int:
        return self._suspects[sequence].until - sequence.fed
