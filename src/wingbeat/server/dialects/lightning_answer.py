"""rwkv_lightning's answer to one request: one event for the pieces of all rows, or one reply with all texts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from wingbeat.engine.messages import RowOutput
from wingbeat.server.errors import ApiError, unavailable
from wingbeat.server.registry import ServedModel

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"

MAX_EVENT = 32_000
"""Bytes of the pieces in one event: clients read events line by line."""
MAX_PIECE = 5_000
"""Characters of a piece. JSON has six bytes at most for one."""


class RowText:
    """What one row has written, and what of it was not sent yet."""

    __slots__ = ("_pieces", "error", "finish_reason", "size", "tokens")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.tokens = self.size = 0  # tokens and characters that were not sent yet
        self.finish_reason: str | None = None
        self.error: str | None = None

    def take(self, row: RowOutput) -> None:
        if row.text:
            self._pieces.append(row.text)
            self.size += len(row.text)
        self.tokens += len(row.token_ids)
        self.finish_reason, self.error = row.finish_reason, row.error

    def flush(self) -> str:
        """What was not sent before."""
        text = "".join(self._pieces)
        self._pieces.clear()
        self.tokens = self.size = 0
        return text


class BatchAnswer:
    """Turns the rows of a generation into rwkv_lightning's reply.

    A row that fails says so, and the others go on; when the engine is gone all have failed, and so has the reply.
    """

    def __init__(
        self, model: ServedModel, rows: int, *, identity: str, kind: str = "chat.completion", name: str = "rwkv7"
    ) -> None:
        self._model, self._identity, self._kind, self._name = model, identity, kind, name
        self.rows = [RowText() for _ in range(rows)]
        self._unfinished = rows
        self._prompt_tokens = self._completion_tokens = 0

    def take(self, rows: Sequence[RowOutput]) -> None:
        """Keep what a step brought. Raises ApiError when the engine is gone."""
        for row in rows:
            self.rows[row.row].take(row)
            if row.finish_reason is not None:
                self._end(row)

    def _end(self, row: RowOutput) -> None:
        self._unfinished -= 1
        if row.finish_reason == "cancelled":
            raise unavailable("The generation was cancelled: the server is stopping.")
        if row.finish_reason == "error" and self._model.status != "ok":
            raise unavailable(row.error or "The engine failed.")
        self._prompt_tokens += row.prompt_tokens
        self._completion_tokens += row.completion_tokens

    def check_complete(self) -> None:
        """Raises ApiError when the generation ended before all of its rows had, or all of them failed."""
        if self._unfinished:
            raise unavailable("The engine stopped before the answer was complete.")
        if all(row.error for row in self.rows):
            raise ApiError(500, self.rows[0].error or "", code="generation_failed")

    @property
    def usage(self) -> dict[str, int]:
        read, written = self._prompt_tokens, self._completion_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def whole(self, more: Mapping[str, Any] | None = None) -> bytes:
        """The reply, with the fields in `more`. Raises ApiError as `check_complete`."""
        self.check_complete()
        reply = {
            "id": self._identity,
            "object": self._kind,
            "created": int(time.time()),
            "model": self._name,
            "choices": [_choice(index, row) for index, row in enumerate(self.rows)],
            "usage": self.usage,
        }
        return encode({**reply, **(more or {})})


def _choice(index: int, row: RowText) -> dict[str, Any]:
    message = {"role": "assistant", "content": row.flush()}
    choice = {"index": index, "message": message, "finish_reason": row.finish_reason}
    return {**choice, "error": row.error} if row.error else choice


class BatchStream:
    """`BatchAnswer` as events. A row's piece is sent once it has `chunk_size` tokens; rows that have one at the same
    step share an event, as long as that stays short."""

    def __init__(self, answer: BatchAnswer, chunk_size: int, *, include_usage: bool = False) -> None:
        self._answer, self._chunk_size, self._include_usage = answer, chunk_size, include_usage

    def begin(self) -> bytes:
        return b""

    def step(self, rows: Sequence[RowOutput]) -> bytes:
        self._answer.take(rows)
        moved = dict.fromkeys(row.row for row in rows)  # one may have several tokens, of which the last ends it
        return b"".join(self._events([row for row in moved if self._due(self._answer.rows[row])]))

    def _due(self, row: RowText) -> bool:
        return row.finish_reason is not None or row.tokens >= self._chunk_size or row.size >= MAX_PIECE

    def _events(self, due: Sequence[int]) -> Iterator[bytes]:
        choices: list[bytes] = []
        size = 0
        for choice in (piece for index in due for piece in _pieces(index, self._answer.rows[index])):
            if choices and size + len(choice) > MAX_EVENT:
                yield _pieces_event(choices)
                choices, size = [], 0
            choices.append(choice)
            size += len(choice)
        if choices:
            yield _pieces_event(choices)

    def text_events(self) -> None:
        return None

    def end(self) -> bytes:
        try:
            self._answer.check_complete()
        except ApiError as error:
            return self.failure(error)
        if not self._include_usage:
            return DONE
        return event({"object": "chat.completion.chunk", "choices": [], "usage": self._answer.usage}) + DONE

    def failure(self, error: ApiError) -> bytes:
        return event({"error": error.message}) + DONE


def event(fields: Mapping[str, Any]) -> bytes:
    return b"data: " + encode(fields) + b"\n\n"


def _pieces_event(choices: Sequence[bytes]) -> bytes:
    return b'data: {"object":"chat.completion.chunk","choices":[' + b",".join(choices) + b"]}\n\n"


def _pieces(index: int, row: RowText) -> Iterator[bytes]:
    """What a row has to send, as JSON: nothing for one that goes on and has no whole character yet, several pieces of
    a text that is long, because the client was slow to read."""
    text = row.flush()
    while len(text) > MAX_PIECE:
        yield encode({"index": index, "delta": {"content": text[:MAX_PIECE]}})
        text = text[MAX_PIECE:]
    choice: dict[str, Any] = {"index": index, "delta": {"content": text} if text else {}}
    if row.finish_reason is not None:
        choice["finish_reason"] = row.finish_reason
    elif not text:
        return
    yield encode({**choice, "error": row.error} if row.error else choice)
