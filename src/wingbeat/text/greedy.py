"""Greedy longest-match tokenisation in plain Python: the readable twin of native/trie.cpp, used without a compiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


class GreedyMatcher:
    """Token ids by bytes, for greedy longest-match tokenisation.

    Tokens are grouped by their first two bytes; a group knows the lengths that occur in it, longest first.
    """

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        """Ids are 1 or more. Raises ValueError unless every single byte has a token."""
        if not all(bytes([byte]) in ids for byte in range(256)):
            raise ValueError("every single byte needs a token")
        if b"" in ids or min(ids.values()) < 1:
            raise ValueError("a token needs at least one byte and an id above 0")
        self._ids = dict(ids)
        lengths: defaultdict[bytes, set[int]] = defaultdict(lambda: {1})
        for token in ids:
            lengths[token[:2]].add(len(token))
        self._lengths = {start: tuple(sorted(group, reverse=True)) for start, group in lengths.items()}

    def encode(self, text: bytes) -> list[int]:
        """The ids of the longest tokens, left to right."""
        ids, lengths = self._ids, self._lengths
        found: list[int] = []
        at, end = 0, len(text)
        while at < end:
            for length in lengths.get(text[at : at + 2], (1,)):
                # Near the end the slice is shorter than asked for; then it is all that is left, so still the longest.
                piece = text[at : at + length]
                token_id = ids.get(piece)
                if token_id is not None:
                    found.append(token_id)
                    at += len(piece)
                    break
        return found
