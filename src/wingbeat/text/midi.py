"""The vocabularies of the MIDI models: one word a token, for waits and for notes.

A note is `instrument:note:velocity`, both numbers hexadecimal: `pi:3c:7`. A wait of n times 8 ms is `t<n>`. A prompt
begins with `<pad>`; the model then writes `<start> ... <end>`, and `<pad>` when it is done.
"""

from __future__ import annotations

from typing import Literal

from wingbeat.text.tokenizer import Tokenizer

_NAMED = ("<pad>", "<start>", "<end>")
_LONGEST_WAIT = 125
_NOTES = 128
_INSTRUMENTS = ("p", "d", "t", "m", "b", "g", "v", "tr", "pi", "s", "f", "l", "pa")
_FORMS = {"midi": (_INSTRUMENTS, 12), "piano": (("p",), 16)}
"""The instruments and how many velocities there are, of each kind."""


class MidiTokenizer(Tokenizer):
    """Words between white space, in any case. Unknown ones become `<pad>`, which is also the end of the text.

    The bytes of a token are its word after a space, so that words stay apart however they are joined.
    """

    def __init__(self, kind: Literal["midi", "piano"]) -> None:
        self.kind = kind
        self.path = None
        instruments, velocities = _FORMS[kind]
        waits = (f"t{n}" for n in range(1, _LONGEST_WAIT + 1))
        notes = (f"{i}:{note:x}:{vel:x}" for i in instruments for note in range(_NOTES) for vel in range(velocities))
        words = [*_NAMED, *waits, *notes]
        self._ids = {word: token_id for token_id, word in enumerate(words)}
        self._bytes = [b"", *(f" {word}".encode() for word in words[1:])]
        self.vocab_size = len(words)
        self.size = self.vocab_size - 1
        self.start = self.end_of_text = 0

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word, self.end_of_text) for word in text.lower().split()]

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id] if 0 <= token_id < self.vocab_size else b""
