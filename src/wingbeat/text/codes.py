"""Vocabularies whose ids are codes of characters: ABC music in ASCII, and raw bytes."""

from __future__ import annotations

from typing import Literal

from wingbeat.text.tokenizer import Tokenizer


class CodeTokenizer(Tokenizer):
    """A token is the code of one character of ASCII, or of one byte of UTF-8.

    `abc`: ids 0 to 3 are special (2 begins a tune, 3 ends it), and characters beyond ASCII become "?". A tune's prompt
    is the character of code 2 and the tune's header.
    `bytes`: id 0 separates texts.
    """

    def __init__(self, kind: Literal["abc", "bytes"]) -> None:
        self.kind = kind
        self.path = None
        abc = kind == "abc"
        self._encoding = "ascii" if abc else "utf-8"
        self._first = 4 if abc else 1  # that has text
        self.vocab_size = 128 if abc else 256
        self.size = self.vocab_size - self._first
        self.start, self.end_of_text = (2, 3) if abc else (0, 0)

    def encode(self, text: str) -> list[int]:
        return list(text.encode(self._encoding, "replace"))

    def token_bytes(self, token_id: int) -> bytes:
        return bytes((token_id,)) if self._first <= token_id < self.vocab_size else b""
