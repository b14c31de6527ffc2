"""Byte-level BPE from a `tokenizer.json`, as the Pile models (RWKV-4 Pile, Raven, Novel) have it: the 20B tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.vocab import MAX_TOKEN_ID, VocabError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

_END_OF_TEXT = "<|endoftext|>"
_NEWLINE, _BLANK_LINE = 187, 535  # in the 20B vocabulary
_PIECE = 1 << 16  # characters that are encoded at a time: the library needs some hundred bytes for each token
_SAFE_CUT = re.compile(r"(?<=\S)(?= )")  # no pre-token goes from what is no white space into a space


class BpeTokenizer(Tokenizer):
    """The tokenizer of a `tokenizer.json` with a byte-level BPE model.

    Special tokens have no bytes, and a text that holds the name of one is encoded as the text that it is.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises VocabError for a file that is not such a tokenizer, OSError for an unreadable one."""
        self.path = Path(path)
        self._library = _read(self.path)
        added = self._library.get_added_tokens_decoder()
        ids = self._library.get_vocab(with_added_tokens=True)
        if not ids or max(ids.values()) > MAX_TOKEN_ID:
            raise VocabError(f"{path}: token ids must be from 0 to {MAX_TOKEN_ID}, and there must be some")
        self.vocab_size = max(ids.values()) + 1
        self._bytes = [b""] * self.vocab_size
        for text, token_id in ids.items():
            if token_id not in added:
                self._bytes[token_id] = _unmapped(text, self.path)
            elif not added[token_id].special:
                self._bytes[token_id] = added[token_id].content.encode()
        self.size = sum(map(bool, self._bytes))
        self.start = self.end_of_text = ids.get(_END_OF_TEXT, 0)
        is_20b = (self.token_bytes(_NEWLINE), self.token_bytes(_BLANK_LINE)) == (b"\n", b"\n\n")
        self.kind = "20b" if is_20b else "bpe"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Lone surrogates become "?". Other threads run meanwhile."""
        text = text.encode("utf-8", "replace").decode()
        return [token for piece in _pieces(text) for token in self._encode(piece)]

    def encode_segments(self, segments: Iterable[str]) -> list[int]:
        """Token ids of a prompt in pieces.

        In the text that the Pile models were trained on, the two line ends of a blank line are one token only where
        more white space or the end of the document follows, and so they are two at the end of a segment.
        """
        found: list[int] = []
        for segment in segments:
            found += self.encode(segment)
            if self.kind == "20b" and found and found[-1] == _BLANK_LINE:
                found[-1:] = _NEWLINE, _NEWLINE
        return found

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""

    def _encode(self, text: str) -> list[int]:
        # The call for a batch is the one that lets other threads run.
        return self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids


def _read(path: Path) -> HuggingFaceTokenizer:
    from tokenizers import Tokenizer as HuggingFaceTokenizer  # here: few models need it

    data = path.read_bytes()
    try:
        form: Any = json.loads(data)
        model, steps = form["model"].get("type"), json.dumps([form["pre_tokenizer"], form["decoder"]])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise VocabError(f"{path} is not a tokenizer.json file") from None
    if model == "WordLevel":
        raise VocabError(f"{path} lists words. The MIDI models' are built in: name the tokenizer midi or piano")
    if model != "BPE" or '"ByteLevel"' not in steps:
        raise VocabError(f"{path} holds a tokenizer of another kind ({model}): wingbeat reads byte-level BPE")
    try:
        library = HuggingFaceTokenizer.from_buffer(data)
    except Exception as error:  # the library knows no narrower type
        raise VocabError(f"{path} is not a tokenizer.json file that can be used: {error}") from None
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return library


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that are encoded alike alone and together."""
    start = 0
    while cut := _SAFE_CUT.search(text, start + _PIECE):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _byte_characters() -> dict[str, int]:
    """The printable character that stands for each byte in the vocabulary, as GPT-2 chose them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_characters()


def _unmapped(token: str, path: Path) -> bytes:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError as error:
        raise VocabError(f"{path}: {error} in the token {token!r} stands for no byte") from None
