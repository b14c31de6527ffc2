"""Log-probabilities in OpenAI's two shapes. Tokens are bytes here and texts there.

They are rendered to JSON while they arrive, so that a long reply is not rendered in one piece at its end.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from wingbeat.engine.messages import RowOutput, TokenLogprob

TokenBytes = Callable[[int], bytes]

Columns = tuple[bytes, ...]
"""Some tokens as they stand inside JSON arrays, one item an array, without the brackets. Empty for no tokens."""

_Utf8 = codecs.getincrementaldecoder("utf-8")
_encode = msgspec.json.Encoder().encode

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say (OpenAI uses the same number)."""


def token_text(data: bytes) -> str:
    r"""A token as text: itself, or `bytes:\xe4\xb8` where it is only part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class TokenTexts:
    """The tokens of a request as JSON, remembered: the likely ones come again and again."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self.token_bytes = token_bytes
        self._texts: dict[int, str] = {}
        self._lists: dict[int, str] = {}

    def text(self, token: int) -> str:
        """The JSON string of `token_text`."""
        known = self._texts.get(token)
        if known is None:
            known = self._texts[token] = _encode(token_text(self.token_bytes(token))).decode()
        return known

    def byte_list(self, token: int) -> str:
        """The JSON array of its bytes."""
        known = self._lists.get(token)
        if known is None:
            known = self._lists[token] = str(list(self.token_bytes(token))).replace(" ", "")
        return known


class PlacedToken(NamedTuple):
    """A token and the place of the character in which it begins."""

    item: TokenLogprob
    place: int


class ShownTokens:
    """A row's tokens as far as their text is shown.

    A token that only ended the row has no place in the text. Nor has one that belongs to a stop text; with `hold`, one
    whose text is still held back waits until it is shown or turns out to be a stop.
    """

    def __init__(self, token_bytes: TokenBytes, *, hold: bool) -> None:
        self._token_bytes = token_bytes
        self._hold = hold
        self._held: list[PlacedToken] = []
        self._decoder = _Utf8("replace")
        self._read = self._shown = 0  # characters of all tokens so far, and of the text that may be shown

    def push(self, row: RowOutput) -> list[PlacedToken]:
        """The tokens that this output shows."""
        logprobs = row.logprobs or []
        stopped_by_text = isinstance(row.stop_reason, str)
        if row.finish_reason == "stop" and not stopped_by_text:
            logprobs = logprobs[:-1]
        tokens = self._held + [PlacedToken(item, self._place(self._token_bytes(item.token))) for item in logprobs]
        self._shown += len(row.text)
        if not self._hold or (row.finish_reason is not None and not stopped_by_text):
            return tokens
        count = next((index for index, token in enumerate(tokens) if token.place >= self._shown), len(tokens))
        self._held = tokens[count:]
        return tokens[:count]

    def _place(self, data: bytes) -> int:
        """The place of the next token; moves on past it."""
        unfinished, _ = self._decoder.getstate()
        # Bytes that the token does not complete to a character are a U+FFFD of their own before it.
        broken = bool(unfinished) and _Utf8("replace").decode(unfinished + data[:1]).startswith("\ufffd")
        place = self._read + broken
        self._read += len(self._decoder.decode(data))
        return place


class ChatLogprobs:
    """`logprobs` of a chat choice."""

    def __init__(self, texts: TokenTexts, *, hold: bool = False) -> None:
        self._texts = texts
        self._shown = ShownTokens(texts.token_bytes, hold=hold)

    def push(self, row: RowOutput) -> Columns:
        """The tokens that this output shows."""
        tokens = self._shown.push(row)
        return (",".join(self.entry(token.item) for token in tokens).encode(),) if tokens else ()

    def join(self, pieces: Iterable[Columns]) -> msgspec.Raw:
        """The field for these tokens."""
        content = b",".join(piece[0] for piece in pieces if piece)
        return msgspec.Raw(b'{"content":[' + content + b'],"refusal":null}')

    def entry(self, item: TokenLogprob) -> str:
        """A token with its alternatives."""
        top = ",".join(f"{{{self._fields(token, logprob)}}}" for token, logprob in item.top)
        return f'{{{self._fields(item.token, item.logprob)},"top_logprobs":[{top}]}}'

    def _fields(self, token: int, logprob: float) -> str:
        texts = self._texts
        return f'"token":{texts.text(token)},"logprob":{_number(logprob)},"bytes":{texts.byte_list(token)}'


class CompletionLogprobs:
    """`logprobs` of a completions choice: `wanted` alternatives; `offset` is where the answer begins in the text."""

    def __init__(self, texts: TokenTexts, wanted: int, offset: int = 0, *, hold: bool = False) -> None:
        self._texts = texts
        self._wanted = wanted
        self._offset = offset
        self._shown = ShownTokens(texts.token_bytes, hold=hold)

    def push(self, row: RowOutput) -> Columns:
        """The tokens that this output shows. `text_offset` is the place of the character in which each begins."""
        tokens = self._shown.push(row)
        if not tokens:
            return ()
        columns = (
            (self._texts.text(token.item.token) for token in tokens),
            (_number(token.item.logprob) for token in tokens),
            (self._top(token.item) for token in tokens if self._wanted),
            (str(self._offset + token.place) for token in tokens),
        )
        return tuple(",".join(column).encode() for column in columns)

    def join(self, pieces: Iterable[Columns]) -> msgspec.Raw:
        """The field for these tokens."""
        columns = list(zip(*(piece for piece in pieces if piece), strict=True)) or [()] * 4
        tokens, values, top, offsets = (b"[" + b",".join(column) + b"]" for column in columns)
        fields = {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
        if not self._wanted:
            fields["top_logprobs"] = b"null"
        return msgspec.Raw(_encode({name: msgspec.Raw(value) for name, value in fields.items()}))

    def _top(self, item: TokenLogprob) -> str:
        best: dict[str, str] = {}
        # OpenAI adds the chosen token when it is not among the most likely.
        for token, logprob in (*item.top, (item.token, item.logprob)):
            best.setdefault(self._texts.text(token), _number(logprob))
        return "{" + ",".join(f"{text}:{logprob}" for text, logprob in best.items()) + "}"


def _number(logprob: float) -> str:
    return repr(max(logprob, _LOWEST))
