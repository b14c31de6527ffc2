"""rwkv_lightning's share in OpenAI's chats: `contents` in place of `messages`, and fields of its own beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from wingbeat.engine.merging import merge
from wingbeat.engine.messages import RowOutput
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.body import parse_fields
from wingbeat.server.dialects.lightning import Batches, Version
from wingbeat.server.dialects.lightning_chat_schema import LightningChatBody
from wingbeat.server.dialects.lightning_errors import checked, in_own_shape
from wingbeat.server.dialects.lightning_replies import ERRORS, BatchChunk, BatchReply, TextError
from wingbeat.server.dialects.lightning_sampling import CHAT, CHAT_TOKENS, DECAY, told_apart
from wingbeat.server.dialects.lightning_schema import BatchBody
from wingbeat.server.dialects.openai_chat_route import ChatForm
from wingbeat.server.dialects.openai_replies import ERRORS as CHAT_ERRORS
from wingbeat.server.dialects.openai_replies import ChatChunk, ChatReply, ErrorReply
from wingbeat.server.errors import ApiError, lightning_response
from wingbeat.server.openapi import body_of, stream_of
from wingbeat.server.registry import ServedModel
from wingbeat.server.step_writer import TextEvents
from wingbeat.server.streaming import StreamedReply

SCHEMAS = (LightningChatBody,)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""

DEFAULTS: dict[str, Any] = {
    "max_tokens": CHAT_TOKENS,
    "top_k": CHAT.top_k,
    "top_p": CHAT.top_p,
    "order": "joint",
    "penalties": "values",
    "presence_penalty": CHAT.alpha_presence,
    "frequency_penalty": CHAT.alpha_frequency,
    "penalty_decay": DECAY,
}


class LightningChats(ChatForm[LightningChatBody]):
    """OpenAI's chats with rwkv_lightning's fields. A request that has one of those gets its defaults for the others."""

    def __init__(self) -> None:
        super().__init__(LightningChatBody)

    def sampling(self, body: LightningChatBody, model: ServedModel) -> SamplingParams:
        params = super().sampling(body, model)
        if not body.is_own:
            return params
        stops = told_apart(body.stop_tokens or (), model, params.stop)
        given = {
            "max_tokens": body.token_limit,
            "top_k": body.top_k,
            "top_p": body.top_p,
            "order": body.sampler_order,
            "penalties": body.penalty_mode,
            "presence_penalty": _first(body.alpha_presence, body.presence_penalty),
            "frequency_penalty": _first(body.alpha_frequency, body.frequency_penalty),
            "penalty_decay": _first(body.alpha_decay, body.penalty_decay, body.half_life and params.penalty_decay),
        }
        return msgspec.structs.replace(
            params,
            **{name: DEFAULTS[name] if value is None else value for name, value in given.items()},
            stop=stops["stop"],
            stop_token_ids=tuple(dict.fromkeys((*params.stop_token_ids, *stops["stop_token_ids"]))),
        )

    def streamed(self, body: LightningChatBody, answer: StreamedReply) -> StreamedReply:
        tokens = body.chunk_size or 1
        return answer if tokens == 1 else InChunks(answer, tokens)


def _chat_or_batch() -> dict[str, Any]:
    """The body of a path that takes both: a chat has no `contents` there, for these make a batch."""
    described = body_of(LightningChatBody, BatchBody)
    chat, _ = described["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    chat["properties"] = {"contents": {"type": "null"}}
    return described


class ChatsAndBatches(LightningChats):
    """The same on a path that `contents` may come to in place of `messages`."""

    described: ClassVar[dict[str, Any]] = {
        "summary": "Answer a conversation, or continue prompts",
        "description": "`messages` are what OpenAI's clients send; `contents` are prompts, each a row of one batch.",
        "response_model": ChatReply | BatchReply,
        "responses": {
            200: stream_of(ChatChunk, BatchChunk, ErrorReply, TextError, end="[DONE]"),
            **{status: {**entry, "model": ErrorReply | TextError} for status, entry in (ERRORS | CHAT_ERRORS).items()},
        },
        "openapi_extra": _chat_or_batch(),
    }

    def __init__(self, batches: Batches, version: Version, *, alone: bool) -> None:
        """`alone`: what has neither is this dialect's."""
        super().__init__()
        self._batches, self._version, self._alone = batches, version, alone

    async def other(self, request: Request, raw: bytes) -> Response | None:
        if not self._alone and b'"contents"' not in raw:
            return None
        try:
            fields = await parse_fields(raw)
        except ApiError as error:
            if b'"messages"' in raw:
                raise
            return lightning_response(error)
        if not self._is_batch(fields):
            return None

        async def batch(request: Request) -> Response:
            body = await checked(fields, BatchBody, len(raw))
            return await self._batches.answer(request, body, self._version, pad_zero=body.pad_zero)

        return await in_own_shape(batch)(request)

    def _is_batch(self, fields: Any) -> bool:
        if not isinstance(fields, dict):
            return self._alone
        return fields.get("contents") is not None or (self._alone and "messages" not in fields)


class InChunks:
    """A streamed reply of which each piece of a row has so many tokens, but for its last."""

    def __init__(self, reply: StreamedReply, tokens: int) -> None:
        self._reply, self._tokens = reply, tokens
        self._held: dict[int, list[RowOutput]] = {}
        self.begin, self.end, self.failure = reply.begin, reply.end, reply.failure

    def step(self, rows: Sequence[RowOutput]) -> bytes:
        due: list[RowOutput] = []
        for row in rows:
            held = self._held.setdefault(row.row, [])
            held.append(row)
            if row.finish_reason is not None or sum(len(part.token_ids) for part in held) >= self._tokens:
                due += self._held.pop(row.row)
        return self._reply.step(merge(due)) if due else b""

    def text_events(self) -> TextEvents | None:
        return None


def _first(*values: float | None) -> float | None:
    """The first that is there."""
    return next((value for value in values if value is not None), None)
