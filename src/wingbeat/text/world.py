"""The World tokenizer: greedy longest match over the bytes of the text, no pre-tokenisation, no merges."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from wingbeat.text.greedy import GreedyMatcher
from wingbeat.text.vocab import VocabError, default_vocab_path, find_vocab, own_vocab, read_vocab

try:
    _native = import_module(
        "wingbeat._text"
    )  # by name: the layer check takes a plain import for one of the package root
except ImportError:  # installed without a C++ compiler
    _native = None

__all__ = ["END_OF_TEXT", "VocabError", "WorldTokenizer", "default_vocab_path", "find_vocab", "tokenizer_for"]

END_OF_TEXT = 0
_MAX_PADDING = 512  # rows that a model may have beyond its vocabulary, when the two are matched by guess


class WorldTokenizer:
    """Text to token ids and back, from a World-format vocabulary file.

    Thread-safe: nothing changes after construction.
    """

    def __init__(self, vocab_path: str | Path, *, native: bool | None = None) -> None:
        """Read the vocabulary. `native` chooses the C++ trie (True), its Python twin (False) or what there is (None).

        Raises VocabError for a malformed file, OSError for an unreadable one, RuntimeError when `native=True` and the
        native module is not built.
        """
        if native and _native is None:
            raise RuntimeError("the native tokenizer is not built: reinstall wingbeat with a C++ compiler present")
        self.path = Path(vocab_path)
        tokens = read_vocab(self.path)
        self.size = len(tokens)
        """How many tokens have text."""
        self.vocab_size = max(tokens) + 1
        """The largest id + 1; id 0 (end of text) and gaps included."""
        self.native = _native is not None and native is not False
        ids = {token: token_id for token_id, token in tokens.items()}
        self._matcher = _native.Trie(ids) if _native is not None and self.native else GreedyMatcher(ids)
        self._bytes = [tokens.get(token_id, b"") for token_id in range(self.vocab_size)]

    def encode(self, text: str | bytes) -> list[int]:
        """Token ids of a text. Never fails: what UTF-8 cannot express (lone surrogates) becomes "?"."""
        return self.encode_bytes(text.encode("utf-8", "replace") if isinstance(text, str) else text)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any bytes, valid UTF-8 or not. The native trie lets other threads run meanwhile."""
        return self._matcher.encode(data)

    def encode_segments(self, segments: Iterable[str]) -> list[int]:
        """Token ids of a prompt in pieces. No token crosses a border, so a role's label never joins its text."""
        return [token_id for segment in segments for token_id in self.encode(segment)]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; empty for the end of text and for ids without a token."""
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of a sequence of tokens, joined."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a sequence of tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"WorldTokenizer({self.path.name!r}, size={self.size}, vocab_size={self.vocab_size})"


def tokenizer_for(model_path: str | Path, vocab_size: int, override: str | Path | None = None) -> WorldTokenizer | None:
    """The tokenizer of a model whose logits have `vocab_size` rows, or None when no vocabulary fits.

    In this order: the file `override`; the vocabulary beside the model; the World vocabulary when the rows fit it.
    Raises VocabError when a file that was named, or that carries the model's own name, has ids beyond the model's rows.
    """
    explicit = override if override is not None else own_vocab(model_path)
    if explicit is not None:
        tokenizer = WorldTokenizer(explicit)
        if tokenizer.vocab_size > vocab_size:
            raise VocabError(
                f"{explicit} has token ids up to {tokenizer.vocab_size - 1}, but the model has only {vocab_size} rows: "
                "it belongs to another model"
            )
        return tokenizer
    beside = find_vocab(model_path)
    for path in (beside, _world_vocab(vocab_size)):
        if path is not None:
            tokenizer = WorldTokenizer(path)
            if tokenizer.vocab_size <= vocab_size <= tokenizer.vocab_size + _MAX_PADDING:
                return tokenizer
    return None


def _world_vocab(vocab_size: int) -> Path | None:
    # Ids go up to 65529; checkpoints pad to 65536. Decided by number, so that other models need no `rwkv` package.
    return default_vocab_path() if 65530 <= vocab_size <= 65536 else None
