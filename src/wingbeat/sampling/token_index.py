"""The tokens of a vocabulary by what their bytes begin with or contain, in NumPy."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from wingbeat.text.tokenizer import Tokenizer

WORD = 32
"""Tokens in a word of a mask: bit ``t & 31`` of word ``t >> 5`` is token t."""


class TokenIndex:
    """Finds tokens of ``tokenizer`` among the first ``vocab_size`` ids, and makes masks of so many bits."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.words = -(-vocab_size // WORD)
        self.end_of_text = tokenizer.end_of_text
        ids = range(min(vocab_size, tokenizer.vocab_size))
        self.tokens = [tokenizer.token_bytes(token) for token in ids]
        pairs = sorted((token, token_id) for token_id, token in enumerate(self.tokens) if token)
        self._sorted = [token for token, _ in pairs]
        self._ids = np.array([token_id for _, token_id in pairs], np.int32)
        self._all = b"".join(self._sorted)
        lengths = np.array([len(token) for token in self._sorted], np.int64)
        self._ends = np.cumsum(lengths)
        self._bytes = np.frombuffer(self._all, np.uint8)
        self._places = np.argsort(self._bytes, kind="stable")  # of each byte value, one value after the other
        self._first = np.searchsorted(self._bytes[self._places], np.arange(257))
        self.everything = self.mask(np.append(self._ids, self.end_of_text))

    def starting_with(self, prefix: bytes) -> NDArray[np.int32]:
        """Ids of the tokens whose bytes begin with ``prefix``, which itself is one of them if it is a token."""
        first = bisect_left(self._sorted, prefix)
        last = bisect_left(self._sorted, _after(prefix)) if _after(prefix) else len(self._sorted)
        return self._ids[first:last]

    def exactly(self, text: bytes) -> NDArray[np.int32]:
        """Ids of the tokens with just these bytes."""
        found = self.starting_with(text)
        return np.array([token for token in found.tolist() if self.tokens[token] == text], np.int32)

    def containing(self, text: bytes) -> NDArray[np.int32]:
        """Ids of the tokens whose bytes contain ``text``."""
        return self._containing(text, 0)

    def containing_before_end(self, text: bytes) -> NDArray[np.int32]:
        """Ids of the tokens whose bytes contain ``text`` with something behind it."""
        return self._containing(text, 1)

    def white(self, length: int) -> NDArray[np.int32]:
        """Ids of the tokens that are white space of at most so many characters."""
        found = [t for t, token in enumerate(self.tokens) if 0 < len(token) <= length and not token.strip(b" \t\r\n")]
        return np.array(found, np.int32)

    def mask(self, ids: NDArray[np.int32]) -> NDArray[np.uint32]:
        """uint32 [words] with the bits of these tokens set."""
        flags = np.zeros(self.words * WORD, np.bool_)
        flags[ids] = True
        return np.packbits(flags, bitorder="little").view(np.uint32)

    def _containing(self, text: bytes, behind: int) -> NDArray[np.int32]:
        starts = self._find(text)
        tokens = np.searchsorted(self._ends, starts, side="right")
        return np.unique(self._ids[tokens[starts + len(text) + behind <= self._ends[tokens]]])

    def _find(self, text: bytes) -> NDArray[np.int64]:
        """Where ``text``, which is not empty, begins among the bytes of all tokens."""
        counts = self._first[1:] - self._first[:-1]
        order = sorted(range(len(text)), key=lambda i: int(counts[text[i]]))  # the rarest byte leaves few places
        rarest = text[order[0]]
        starts = self._places[self._first[rarest] : self._first[rarest + 1]] - order[0]
        starts = starts[(starts >= 0) & (starts + len(text) <= len(self._all))]
        for i in order[1:]:
            starts = starts[self._bytes[starts + i] == text[i]]
        return starts


def _after(prefix: bytes) -> bytes:
    """The smallest bytes above all that begin with ``prefix``; empty where there are none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""
