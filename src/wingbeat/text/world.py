"""The World tokenizer: greedy longest match over the bytes of the text, no pre-tokenisation, no merges."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from wingbeat.text.greedy import GreedyMatcher
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.vocab import VocabError, read_vocab

try:
    _native = import_module(
        "wingbeat._text"
    )  # by name: the layer check takes a plain import for one of the package root
except ImportError:  # installed without a C++ compiler
    _native = None

END_OF_TEXT = 0


class WorldTokenizer(Tokenizer):
    """The tokenizer of a World-format vocabulary file, or of such a vocabulary that another file carries."""

    kind = "world"
    start = end_of_text = END_OF_TEXT

    def __init__(
        self, path: str | Path, tokens: Mapping[int, bytes] | None = None, *, native: bool | None = None
    ) -> None:
        """The vocabulary in the file `path`: read from it, or `tokens`, which it carries in another form.

        `native` chooses the C++ trie (True), its Python twin (False) or what there is (None).

        Raises VocabError for a malformed file, OSError for an unreadable one, RuntimeError when `native=True` and the
        native module is not built.
        """
        if native and _native is None:
            raise RuntimeError("the native tokenizer is not built: reinstall wingbeat with a C++ compiler present")
        self.path = Path(path)
        if tokens is None:
            tokens = read_vocab(self.path)
        self.size = len(tokens)
        self.vocab_size = max(tokens) + 1  # id 0 and gaps included
        self.native = _native is not None and native is not False
        ids = {token: token_id for token_id, token in tokens.items()}
        try:
            self._matcher = _native.Trie(ids) if _native is not None and self.native else GreedyMatcher(ids)
        except ValueError as error:
            raise VocabError(f"{path}: not a complete World vocabulary: {error}") from None
        self._bytes = [tokens.get(token_id, b"") for token_id in range(self.vocab_size)]

    def encode(self, text: str | bytes) -> list[int]:
        """Token ids of a text. Never fails: what UTF-8 cannot express (lone surrogates) becomes "?"."""
        return self.encode_bytes(text.encode("utf-8", "replace") if isinstance(text, str) else text)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any bytes, valid UTF-8 or not. The native trie lets other threads run meanwhile."""
        return self._matcher.encode(data)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; empty for the end of text and for ids without a token."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def __repr__(self) -> str:
        return f"WorldTokenizer({str(self.path)!r}, size={self.size}, vocab_size={self.vocab_size})"
