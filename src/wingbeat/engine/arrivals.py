"""Requests that have come, while states for their prompts are read from disk."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import wait
from typing import NamedTuple

from wingbeat.engine.prefix_cache import Fetch, PrefixCache
from wingbeat.engine.scheduler import Scheduler
from wingbeat.engine.sequence import Sequence

PATIENCE = 0.05
"""Seconds to wait for a disk before looking for other work again."""


class Arrival(NamedTuple):
    sequences: list[Sequence]
    fetches: list[Fetch]


class Arrivals:
    """Hands sequences on to ``scheduler`` once what ``cache`` has on disk for them is in memory."""

    def __init__(self, cache: PrefixCache, scheduler: Scheduler) -> None:
        self._cache, self._scheduler = cache, scheduler
        self._pending: list[Arrival] = []

    @property
    def waiting(self) -> int:
        return sum(len(arrival.sequences) for arrival in self._pending)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """The rows of a request."""
        rows = list(sequences)
        prompts = {id(sequence.prompt): sequence for sequence in rows if sequence.reusable}
        found = [
            self._cache.fetch(sequence.origin.key, sequence.path, sequence.reusable)
            for sequence in prompts.values()
            if sequence.origin.key is not None
        ]
        fetches = [fetch for fetch in found if fetch is not None]
        if fetches:
            self._pending.append(Arrival(rows, fetches))
        else:
            self._scheduler.add(rows)

    def hand_on(self) -> None:
        """Hand on those whose states are there. Where nothing runs meanwhile, wait for some a while."""
        if not self._pending:
            return
        if self._scheduler.idle:
            wait([fetch.snapshot for fetch in self._pending[0].fetches], PATIENCE)
        still: list[Arrival] = []
        for arrival in self._pending:
            if not all(fetch.snapshot.done() for fetch in arrival.fetches):
                still.append(arrival)
                continue
            for fetch in arrival.fetches:
                self._cache.fetched(fetch)
            self._scheduler.add(arrival.sequences)
        self._pending = still

    def remove(self, sequence: Sequence) -> bool:
        """Forget a sequence; False if it is not here."""
        for arrival in self._pending:
            if sequence in arrival.sequences:
                arrival.sequences.remove(sequence)
                return True
        return False
