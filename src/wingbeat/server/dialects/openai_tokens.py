"""Log-probabilities in OpenAI's two shapes. Tokens are bytes here and texts there."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from wingbeat.engine.messages import RowOutput, TokenLogprob

TokenBytes = Callable[[int], bytes]

_Utf8 = codecs.getincrementaldecoder("utf-8")

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say (OpenAI uses the same number)."""


def token_text(data: bytes) -> str:
    r"""A token as text: itself, or `bytes:\xe4\xb8` where it is only part of a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def shown_logprobs(row: RowOutput) -> list[TokenLogprob]:
    """A row's log-probabilities without the token that only ended it, which has no place in the text."""
    logprobs = row.logprobs or []
    ended_by_token = row.finish_reason == "stop" and not isinstance(row.stop_reason, str)
    return logprobs[:-1] if ended_by_token else logprobs


def chat_logprobs(tokens: Sequence[TokenLogprob], token_bytes: TokenBytes) -> dict[str, Any]:
    """`logprobs` of a chat choice."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(token)
        return {"token": token_text(data), "logprob": max(logprob, _LOWEST), "bytes": list(data)}

    content = [
        {**entry(item.token, item.logprob), "top_logprobs": [entry(token, value) for token, value in item.top]}
        for item in tokens
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """`logprobs` of a completions choice, in pieces; `offset` is where the answer begins in the text."""

    def __init__(self, token_bytes: TokenBytes, wanted: int, offset: int) -> None:
        self._token_bytes = token_bytes
        self._wanted = wanted
        self._offset = offset
        self._decoder = _Utf8("replace")

    def push(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The next tokens. `text_offset` is the place of the character in which each token begins."""
        offsets = [self._place(self._token_bytes(item.token)) for item in tokens]
        return {
            "tokens": [self._text(item.token) for item in tokens],
            "token_logprobs": [max(item.logprob, _LOWEST) for item in tokens],
            "top_logprobs": [self._top(item) for item in tokens] if self._wanted else None,
            "text_offset": offsets,
        }

    def _place(self, data: bytes) -> int:
        """The offset of a token; moves on past it."""
        unfinished, _ = self._decoder.getstate()
        # Bytes that the token does not complete to a character are a U+FFFD of their own before it.
        broken = bool(unfinished) and _Utf8("replace").decode(unfinished + data[:1]).startswith("\ufffd")
        place = self._offset + broken
        self._offset += len(self._decoder.decode(data))
        return place

    def _text(self, token: int) -> str:
        return token_text(self._token_bytes(token))

    def _top(self, item: TokenLogprob) -> dict[str, float]:
        # OpenAI adds the chosen token when it is not among the most likely.
        ranked = [*item.top, (item.token, item.logprob)]
        return {self._text(token): max(logprob, _LOWEST) for token, logprob in reversed(ranked)}
