"""What a sequence says: its tokens as text, up to a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wingbeat.text.stream import StopMatcher, StreamDecoder
from wingbeat.text.tokenizer import END_OF_TEXT_NAME, Tokenizer


class Transcript:
    """Turns tokens into the text that may be shown by now. Without a tokenizer there is none.

    ``undecoded`` are the first bytes of a character that an earlier answer, which this one continues, has left.
    ``special``: show the end of text by its name.
    """

    __slots__ = ("_bytes", "_decoder", "_stops", "_tokenizer")

    def __init__(
        self, tokenizer: Tokenizer | None, stops: Sequence[str], undecoded: bytes = b"", *, special: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._bytes = _bytes_of(tokenizer, special=special)
        self._decoder = StreamDecoder(undecoded)
        self._stops = StopMatcher(stops) if stops else None

    @property
    def undecoded(self) -> bytes:
        """The bytes of a character that is not complete yet."""
        return self._decoder.pending

    def push(self, token: int, *, stops: bool = True) -> tuple[str, str | None]:
        """The text that ``token`` brings to light, and the stop string that it completes. ``stops`` False: text that
        is no part of one."""
        text = self._decoder.push(self._bytes(token))
        return self._stops.push(text) if stops and self._stops is not None else (text, None)

    def push_last(self, token: int) -> str:
        """The text that is left, with that of ``token``, which ends it."""
        return self.without_stops() + self._decoder.push(self._bytes(token))

    def without_stops(self) -> str:
        """Look for stops no longer. Returns the text that was held back for one."""
        stops, self._stops = self._stops, None
        return "" if stops is None else stops.flush()

    def flush(self, *, goes_on: bool) -> str:
        """The text held back so far: what was half a stop will not be completed any more. Neither will half a
        character, unless the answer ``goes_on`` another time."""
        text = "" if goes_on else self._decoder.flush()
        if self._stops is None:
            return text
        shown, matched = self._stops.push(text)
        return shown if matched is not None else shown + self._stops.flush()

    def before(self, tokens: list[int], stop: str) -> list[int]:
        """``tokens``, the last of which completed ``stop``, up to where that began.

        Where it began within a token, the rest of that token as the tokenizer writes it.
        """
        assert self._tokenizer is not None
        pieces = list(map(self._bytes, tokens))
        said, wanted = b"".join(pieces), stop.encode("utf-8", "replace")
        end = said.find(wanted, max(0, len(said) - len(pieces[-1]) - len(wanted) + 1))
        if end < 0:  # bytes that are no characters, and stand for others in the text
            return tokens[:-1]
        whole, length = 0, 0
        while whole < len(pieces) and length + len(pieces[whole]) <= end:
            length += len(pieces[whole])
            whole += 1
        rest = said[length:end].decode("utf-8", "ignore")
        return tokens[:whole] + (self._tokenizer.encode(rest) if rest else [])


def _bytes_of(tokenizer: Tokenizer | None, *, special: bool) -> Callable[[int], bytes]:
    """What tells the bytes that are shown for a token."""
    if tokenizer is None:
        return lambda token: b""
    end, token_bytes = tokenizer.end_of_text, tokenizer.token_bytes
    if not special:
        return token_bytes
    return lambda token: END_OF_TEXT_NAME.encode() if token == end else token_bytes(token)
