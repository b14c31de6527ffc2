"""Tokens in the words of a reply: their texts and bytes as JSON, and their places in the text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from wingbeat.engine.messages import TokenLogprob
from wingbeat.text.tokenizer import END_OF_TEXT_NAME

TokenBytes = Callable[[int], bytes]

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say (OpenAI uses the same number)."""

_Utf8 = codecs.getincrementaldecoder("utf-8")
_encode = msgspec.json.Encoder().encode


def token_text(data: bytes) -> str:
    r"""A token as text: itself, or `bytes:\xe4\xb8` where it is only part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class TokenTexts:
    """The tokens of a request as JSON, remembered: the likely ones come again and again."""

    def __init__(self, token_bytes: TokenBytes, end_of_text: int = 0) -> None:
        self.token_bytes = token_bytes
        self._end_of_text = end_of_text
        self._texts: dict[int, str] = {}
        self._lists: dict[int, str] = {}

    def text(self, token: int) -> str:
        """The JSON string of its text; of its name where it has none."""
        known = self._texts.get(token)
        if known is None:
            data = self.token_bytes(token)
            known = self._texts[token] = text_json(data) if data else _encode(self._name(token)).decode()
        return known

    def byte_list(self, token: int) -> str:
        """The JSON array of its bytes."""
        known = self._lists.get(token)
        if known is None:
            known = self._lists[token] = bytes_json(self.token_bytes(token))
        return known

    def _name(self, token: int) -> str:
        return END_OF_TEXT_NAME if token == self._end_of_text else f"token_id:{token}"


def text_json(data: bytes) -> str:
    """The JSON string of `token_text`."""
    return _encode(token_text(data)).decode()


def bytes_json(data: bytes) -> str:
    """The JSON array of these bytes."""
    return str(list(data)).replace(" ", "")


def number(logprob: float) -> str:
    """A log-probability as JSON."""
    return repr(max(logprob, _LOWEST))


class TextPlaces:
    """Where tokens stand in the text that they make, in characters."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._decoder = _Utf8("replace")
        self._read = 0

    def next(self, token: int) -> tuple[int, int]:
        """The place of the character in which the next token begins, and how many characters are complete with it."""
        data = self._token_bytes(token)
        start = self._read + self._broken(data[:1])
        self._read += len(self._decoder.decode(data))
        return start, self._read

    def _broken(self, first: bytes) -> int:
        """How many U+FFFD come before a token that begins so: its byte does not go on with an unfinished character."""
        unfinished, _ = self._decoder.getstate()
        if not unfinished or len((unfinished + first).decode("utf-8", "replace")) == 1:
            return 0
        return len(unfinished.decode("utf-8", "replace"))


class PlacedToken(NamedTuple):
    """A sampled token and its place in the row's text (see `TextPlaces.next`)."""

    item: TokenLogprob
    start: int
    end: int


class TokenQueue:
    """A row's sampled tokens, placed, in order, until their text is shown."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._places = TextPlaces(token_bytes)
        self._tokens: list[PlacedToken] = []

    def add(self, items: Iterable[TokenLogprob]) -> None:
        self._tokens += (PlacedToken(item, *self._places.next(item.token)) for item in items)

    def take(self, shown: Callable[[PlacedToken], bool]) -> list[PlacedToken]:
        """The tokens before the first that is not `shown`; they leave the queue."""
        count = next((index for index, token in enumerate(self._tokens) if not shown(token)), len(self._tokens))
        taken, self._tokens = self._tokens[:count], self._tokens[count:]
        return taken
