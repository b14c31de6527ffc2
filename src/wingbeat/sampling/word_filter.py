"""Tokens that would write a given text, alone or after what is written: those are forbidden, whatever the tokenisation.

What counts of the text so far is its longest end that begins one of the words, which is a state of the Aho-Corasick
automaton of the words' bytes. A token completes a word w after a text that ends in its first k bytes if the token
begins with the others; or it contains w by itself. So there is one mask for each state, made when it is first needed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wingbeat.sampling.token_index import TokenIndex

Bits = NDArray[np.uint32]
MOST_MASKS = 512
"""Masks that an automaton keeps; the others are made again."""


class Automaton:
    """Aho-Corasick over bytes. A state is the longest end of the text that begins a word; 0 is none."""

    def __init__(self, words: Iterable[bytes]) -> None:
        self.texts = [b""]  # of each state
        self._next: list[dict[int, int]] = [{}]
        self._fallback = [0]
        self._full = [False]  # whether the state's text ends with a whole word
        for word in words:
            self._insert(word)
        self._link()

    def ends(self, state: int) -> list[int]:
        """The state and the others whose texts end its text, without the empty one."""
        found = []
        while state:
            found.append(state)
            state = self._fallback[state]
        return found

    def advance(self, state: int, data: bytes) -> tuple[int, bool]:
        """The state after more bytes, and whether a word was completed on the way."""
        full = False
        for byte in data:
            state = self._step(state, byte)
            full = full or self._full[state]
        return state, full

    def _step(self, state: int, byte: int) -> int:
        while (found := self._next[state].get(byte)) is None:
            if state == 0:
                return 0
            state = self._fallback[state]
        return found

    def _insert(self, word: bytes) -> None:
        state = 0
        for i, byte in enumerate(word):
            following = self._next[state].setdefault(byte, len(self.texts))
            if following == len(self.texts):
                self.texts.append(word[: i + 1])
                self._next.append({})
                self._fallback.append(0)
                self._full.append(False)
            state = following
        self._full[state] = True

    def _link(self) -> None:
        queue = list(self._next[0].values())
        for state in queue:  # which grows: breadth first, so a fallback is ready before its users
            for byte, following in self._next[state].items():
                self._fallback[following] = self._step(self._fallback[state], byte)
                self._full[following] = self._full[following] or self._full[self._fallback[following]]
                queue.append(following)


class WordFilter:
    """Masks that keep words out of a text. May be shared: what differs between texts is the state, 0 at first."""

    def __init__(self, index: TokenIndex, words: Iterable[str]) -> None:
        self._index = index
        self._words = sorted({word.encode("utf-8", "replace") for word in words})
        self._automaton = Automaton(self._words)
        contain = [index.containing(word) for word in self._words]
        self._base = index.everything & ~index.mask(np.concatenate(contain))
        self._masks: dict[int, Bits] = {}

    def advance(self, state: int, token: bytes) -> int:
        """The state after a token."""
        return self._automaton.advance(state, token)[0]

    def mask(self, state: int) -> Bits:
        """The tokens that complete no word; not to be changed."""
        found = self._masks.get(state)
        if found is None:
            if len(self._masks) >= MOST_MASKS:
                self._masks.clear()
            found = self._masks[state] = self._make(state)
        return found

    def _make(self, state: int) -> Bits:
        automaton, index = self._automaton, self._index
        begun = [automaton.texts[end] for end in automaton.ends(state)]
        rests = {word[len(text) :] for text in begun for word in self._words if word.startswith(text)}
        if not rests:
            return self._base
        completing = [index.starting_with(rest) for rest in rests if rest]
        return self._base & ~index.mask(np.concatenate(completing)) if completing else self._base


class MarkFilter:
    """Masks for the text before a mark: all is free, but a token that completes the mark must end with it."""

    def __init__(self, index: TokenIndex, mark: str) -> None:
        self._index = index
        self._mark = mark.encode("utf-8", "replace")
        self._automaton = Automaton([self._mark])
        self._base = index.everything & ~index.mask(index.containing_before_end(self._mark))
        self._masks: dict[int, Bits] = {}

    def advance(self, state: int, token: bytes) -> tuple[int, bool]:
        """The state after a token, and whether the mark is complete."""
        return self._automaton.advance(state, token)

    def mask(self, state: int) -> Bits:
        """The tokens that do not run past the mark; not to be changed."""
        found = self._masks.get(state)
        if found is None:
            index, bits = self._index, self._base
            for end in self._automaton.ends(state):
                rest = self._mark[len(self._automaton.texts[end]) :]
                beyond = np.setdiff1d(index.starting_with(rest), index.exactly(rest))
                bits = bits & ~index.mask(beyond)
            found = self._masks[state] = bits
        return found
