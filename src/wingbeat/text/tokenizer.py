"""What a tokenizer is to the rest of wingbeat, whatever its vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

END_OF_TEXT_NAME = "<|endoftext|>"
"""What the token that ends a text is called where it is shown."""


class Tokenizer(Protocol):
    """Text to token ids and back. Thread-safe: nothing changes after construction.

    The bytes of a text's tokens, joined, are the text; where a vocabulary cannot say all of a text (MIDI), what it can.
    Implementations derive from this class, and give `encode` and `token_bytes`.
    """

    kind: str
    """`world`, `20b`, `midi`, `piano`, `abc`, `bytes`, or `bpe` for any other byte-level BPE."""
    path: Path | None
    """The file of the vocabulary; None for one that wingbeat knows by heart."""
    size: int
    """How many tokens have text."""
    vocab_size: int
    """The largest id + 1. Rows that a model has beyond it are padding, and never sampled."""
    end_of_text: int
    """The token that ends a text. It has no bytes, and `encode` never gives it for a text that merely names it."""
    start: int
    """The token that a model reads in place of an empty prompt."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Never fails: what the vocabulary cannot express is replaced."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; empty for special tokens and for ids without a token."""
        ...

    def encode_segments(self, segments: Iterable[str]) -> list[int]:
        """Token ids of a prompt in pieces. No token crosses a border, so a role's label never joins its text."""
        return [token_id for segment in segments for token_id in self.encode(segment)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of tokens, joined."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a sequence of tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")
