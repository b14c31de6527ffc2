"""What rwkv_lightning's clients receive, for the OpenAPI document. Replies are rendered without these models; the tests
hold the two together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from wingbeat.server.dialects.openai_replies import Exact

Reason = Literal["stop", "length", "error"]


class TextError(Exact):
    error: str
    request_bsz: int | None = Field(
        None, description="With too many rows: how many there are. A stream is refused by such an event and `[DONE]`."
    )
    max_bsz: int | None = Field(None, description="With too many rows: how many there may be.")


class RowMessage(Exact):
    role: Literal["assistant"]
    content: str


class RowChoice(Exact):
    index: int
    message: RowMessage
    finish_reason: Reason
    error: str | None = Field(None, description="Why the row failed. Absent for the others.")


class TokenCounts(Exact):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class BatchReply(Exact):
    """The texts of all rows, in order."""

    id: str
    object: Literal["chat.completion", "FIM.completion"]
    created: int
    model: str
    choices: list[RowChoice]
    usage: TokenCounts
    dialogue_idx: int | None = Field(None, description="multi_state: the number of this turn. Absent elsewhere.")


class RowDelta(Exact):
    content: str | None = Field(None, description="Absent where a row ends without more text.")


class RowPiece(Exact):
    index: int
    delta: RowDelta
    finish_reason: Reason | None = Field(None, description="With the last piece of a row.")
    error: str | None = None


class BatchChunk(Exact):
    """The pieces of the rows that have one at the same time."""

    object: Literal["chat.completion.chunk"]
    choices: list[RowPiece]
    usage: TokenCounts | None = Field(None, description="At the end, with `include_usage`.")


class TreeEvent(Exact):
    """Before the end of a multi_state stream."""

    object: Literal["multi_state.dialogue_idx"]
    session_id: str
    dialogue_idx: int


class SessionEntry(Exact):
    session_id: str
    cache_level: Literal["L1 (VRAM)", "Database (Disk)"]
    last_updated: str
    timestamp: float


class StatusReply(Exact):
    status: Literal["success"]
    total_sessions: int
    l1_cache_count: int
    l2_cache_count: int
    database_count: int
    sessions: list[SessionEntry]


class DeleteReply(Exact):
    status: Literal["success", "not_found"]
    message: str


class Translation(Exact):
    detected_source_lang: str
    text: str
    error: str | None = Field(None, description="Why there is no translation of this text. Absent for the others.")


class TranslateReply(Exact):
    translations: list[Translation]


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": TextError, "description": "A field is wrong; the text names it."},
    401: {"model": TextError, "description": "A password is wanted."},
    413: {"model": TextError, "description": "The body is too large."},
    415: {"model": TextError, "description": "The body is compressed."},
    429: {"model": TextError, "description": "The queue is full; try again after `Retry-After` seconds."},
    500: {"model": TextError, "description": "The generation failed."},
    503: {"model": TextError, "description": "The model is loading or restarting."},
}
"""The errors of all routes, for the OpenAPI document."""

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": TextError, "description": "No such turn."}}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": TextError, "description": "The session has changed."}}
