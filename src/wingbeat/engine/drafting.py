"""What a sequence will probably say next: what followed the last time that it came this way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wingbeat.ops.table import IntArray

MOST_INDEXED = 16_384
"""Tokens of a prompt, its newest, and of an expected answer, its first, that are looked through. They are indexed at
once, in about 3 ms, while everybody waits."""

CANDIDATES = 8
"""Earlier places, the latest ones, among which the one is chosen that has most tokens in common with the end."""

LONGEST = 32
"""Tokens in common beyond which no place is better than another."""

SURE = 8
"""An expected answer is trusted, before its first token, like a place with so many tokens in common."""

CHANCES = (0.02, 0.1, 0.15, 0.35, 0.65, 0.85)
"""That a guess comes true, before any was seen to, by the tokens in common: 0, 1, 2-3, 4-7, 8-15, more."""

LOST = 8
"""Wrong guesses in a row after which a place is followed no longer."""

MEMORY = 1 / 16
"""The weight of the newest guess in a sequence's own figures in place of these."""

_KIND = [min(common.bit_length(), len(CHANCES) - 1) for common in range(LONGEST + 1)]
_SHIFT = 2**32
_BORDER = -1  # no token: what comes before it has nothing to do with what comes after it


class Drafter:
    """Guesses the next tokens of one sequence.

    It follows an earlier place of the sequence's tokens, where what came before is what comes before now, and guesses
    that the same will follow. ``expected`` are tokens that the answer is expected to consist of: another place to
    follow, from its beginning on. Where a guess is wrong and no better place is known it goes on one token further: of
    a text that is edited, single words change.

    Each token that comes is compared with its guess, be it used or not. So how often guesses come true is known
    without a try. A token costs about half a microsecond, however long the prompt.
    """

    __slots__ = ("_before", "_chances", "_common", "_latest", "_lost", "_place", "_tokens", "idle", "seen")

    def __init__(self, prompt: IntArray, expected: Sequence[int] = ()) -> None:
        self._tokens: list[int] = [*expected[:MOST_INDEXED], _BORDER, *prompt[-MOST_INDEXED:].tolist()]
        # By two tokens, as one number: the place behind their latest occurrence. For the token at i: the place behind
        # the occurrence of it and its predecessor before this one; -1: none.
        self._latest, self._before = _index(np.array(self._tokens, np.int64))
        self._chances = list(CHANCES)
        self._place = 0 if len(expected) else -1  # of the token that is the guess; -1: there is none
        self._common = SURE if len(expected) else 0
        self._lost = 0  # guesses in a row that were wrong
        self.seen = 0  # tokens of the answer
        self.idle = 0  # how often in a row nothing came of asking it
        if not len(expected) and self._before[-1] >= 0:
            self._place, self._common = self._best(self._before[-1])

    def see(self, tokens: Iterable[int]) -> None:
        """The next tokens of the answer."""
        history, latest, before, chances = self._tokens, self._latest, self._before, self._chances
        place, common = self._place, self._common
        last, begin = history[-1], len(history)
        for here, token in enumerate(tokens, begin + 1):
            if place >= 0:
                chance = chances[_KIND[common]]
                if history[place] == token:
                    chances[_KIND[common]] = chance + MEMORY * (1.0 - chance)
                    common = min(common + 1, LONGEST)
                    self._lost = 0
                else:
                    chances[_KIND[common]] = chance - MEMORY * chance
                    common = 0
                    self._lost += 1
                place = place + 1 if self._lost < LOST else -1
            history.append(token)
            pair = last * _SHIFT + token
            found = latest.get(pair, -1)
            before.append(found)
            latest[pair] = here
            last = token
            if found >= 0 and common < 2:
                place, common = self._best(found)
                self._lost = 0
        self._place, self._common = place, common
        self.seen += len(history) - begin

    def guess(self, most: int, least: float = 0.0) -> tuple[list[int], list[float]]:
        """Up to ``most`` tokens that may come next, and for each the chance that it and those before it do.

        They end before one whose chance is below ``least``.
        """
        guesses: list[int] = []
        chances: list[float] = []
        chance, here = 1.0, len(self._tokens)
        for ahead in range(most if self._place >= 0 else 0):
            place = self._place + ahead
            token = self._tokens[place] if place < here else guesses[place - here]  # what repeats itself goes on to
            if token == _BORDER:
                break
            chance *= self._chances[_KIND[min(self._common + ahead, LONGEST)]]
            if chance < least:
                break
            guesses.append(token)
            chances.append(chance)
        return guesses, chances

    def _best(self, place: int) -> tuple[int, int]:
        """The best of ``place`` and those before it, and the tokens that it has in common with the end: two or more."""
        best, most = place, 0
        for _ in range(CANDIDATES):
            common = self._common_at(place)
            if common > most:
                best, most = place, common
            place = self._before[place - 1]
            if place < 0 or most >= LONGEST:
                break
        return best, most

    def _common_at(self, place: int) -> int:
        """How many tokens before ``place`` are the last ones, too."""
        tokens, here = self._tokens, len(self._tokens)
        common, most = 2, min(place, LONGEST)
        while common < most and tokens[place - 1 - common] == tokens[here - 1 - common] != _BORDER:
            common += 1
        return common


def _index(history: NDArray[np.int64]) -> tuple[dict[int, int], list[int]]:
    """The tables of a ``Drafter`` for ``history`` [T], in one pass; T is at least 1."""
    pairs = history[:-1] * _SHIFT + history[1:]
    order = np.argsort(pairs, kind="stable")
    again = np.flatnonzero(pairs[order[1:]] == pairs[order[:-1]])
    before = np.full(len(history), -1)
    before[order[again + 1] + 1] = order[again] + 2
    return dict(zip(pairs.tolist(), range(2, len(history) + 1), strict=True)), before.tolist()
