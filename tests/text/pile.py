"""A small tokenizer in the form of the 20B tokenizer of the Pile models, which cannot be kept here."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

NEWLINE, BLANK_LINE = 187, 535
_MERGES = ("Ċ Ċ", "Ġ t", "h e", "Ġt he", "i n", "in g", "w ing", "a t", "e at", "b eat", "ä ¸", "ä¸ ĸ")


def pile_tokenizer(rows: int = 50277) -> Tokenizer:
    """Two special tokens, the bytes that UTF-8 uses, a few merges, words that no merge makes, runs of spaces.

    As in the real one, id 187 is the line end, 535 the blank line and the last 23 are runs of 24 to 2 spaces.
    """
    vocab = {name: token_id for token_id, name in enumerate(["<|endoftext|>", "<|padding|>", *_byte_characters()])}
    for merge in _MERGES[1:]:
        vocab.setdefault(merge.replace(" ", ""), len(vocab))
    fillers = (f"filler{n}" for n in count())
    while len(vocab) < rows - 23:
        vocab["ĊĊ" if len(vocab) == BLANK_LINE else next(fillers)] = len(vocab)
    made = Tokenizer(models.BPE(vocab=vocab, merges=[(*merge.split(),) for merge in _MERGES]))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<|endoftext|>", "<|padding|>")])
    made.add_tokens([AddedToken(" " * length, normalized=True) for length in range(24, 1, -1)])
    assert (made.token_to_id("Ċ"), made.token_to_id("ĊĊ")) == (NEWLINE, BLANK_LINE)
    return made


def write_pile(path: Path, rows: int = 50277) -> Path:
    """The same as a `tokenizer.json` with so many tokens."""
    pile_tokenizer(rows).save(str(path))
    return path


def _byte_characters() -> list[str]:
    codes = [code for code in range(0x110000) if code < 0x800 or code % 64 == 0]
    text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    return sorted({character for piece, _ in pieces for character in piece})
