"""POST /v1/chat/completions: messages to a prompt, pieces to chat choices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from wingbeat.engine.messages import RowOutput
from wingbeat.server.body import run_sized
from wingbeat.server.dialects.openai_answer import ObjectNames, Piece
from wingbeat.server.dialects.openai_chat_schema import ChatBody, ChatMessage
from wingbeat.server.dialects.openai_logprobs import ChatLogprobs
from wingbeat.server.dialects.openai_ranking import MeanLogprob
from wingbeat.server.dialects.openai_states import check_goes_on
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.registry import Prompts, ServedModel, Start
from wingbeat.server.session_turn import Turn
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.templates import Message

CHAT = ObjectNames("chatcmpl-", "chat.completion", "chat.completion.chunk")

_END_OF_THOUGHT = b"</think>"


class ChatPrompt(NamedTuple):
    segments: list[str]
    prompts: Prompts
    """One: the segments' tokens."""


def spoken(messages: Iterable[ChatMessage]) -> list[Message]:
    """The messages as a template takes them."""
    return [Message(message.role, message.text, message.name, message.reasoning_content) for message in messages]


async def chat_prompt(body: ChatBody, model: ServedModel, start: Start, turn: Turn | None) -> ChatPrompt:
    """The conversation as the model's template renders it, tokenised segment by segment. What comes after a kept state
    is another turn; without messages its answer goes on."""
    if not body.messages:
        check_goes_on(start)
        model.check_chats()
        return ChatPrompt([start.opening or " "], Prompts([[]], model.fingerprint))
    messages = spoken(body.messages)
    goes_on = bool(body.continue_final_message)
    return await conversation_prompt(
        *(messages, model, "messages"),
        thinking=body.thinking,
        effort=body.reasoning_effort,
        continue_final=goes_on,
        choices=body.rows_per_prompt,
        follows=start.state is not None,
        turn=turn,
    )


async def conversation_prompt(
    messages: Sequence[Message],
    model: ServedModel,
    param: str,
    *,
    thinking: bool | None = None,
    effort: str | None = None,
    continue_final: bool = False,
    choices: int = 1,
    follows: bool = False,
    turn: Turn | None = None,
) -> ChatPrompt:
    """The prompt of these messages, which came in the field `param`. `follows`: after an answer that was read already.
    In a session's turn they follow its log.

    Raises ApiError (400) when it is too long, or the model has no form for conversations.
    """
    model.check_chats()
    template = model.profile.chat_template()
    if thinking is not False:
        messages = template.hinted(messages, effort)
    size = sum(len(message.content) for message in messages)
    render = model.profile.follow_up if follows else model.profile.render
    if turn is not None:
        size, render = size + turn.logged, functools.partial(turn.segments, param)
    segments = await run_sized(size, render, messages, thinking=thinking, continue_final=continue_final)
    encoded = await model.encode([tuple(segments)], param, choices)
    if turn is not None:
        return ChatPrompt(segments, turn.prompts(encoded))
    passing = 0 if continue_final else template.passing(messages, thinking)
    if passing and _is_under_way(messages):
        encoded.mark = len(encoded[0]) - sum(map(model.tokens_of, segments[-passing:]))
    return ChatPrompt(segments, encoded)


def _is_under_way(messages: Iterable[Message]) -> bool:
    """Whether this is a conversation that has been answered, and so may go on."""
    return any(message.role == "assistant" for message in messages)


class ChatChoice:
    """One answer of the assistant: reasoning and content, told apart as they come."""

    def __init__(self, splitter: ReasoningSplitter, texts: TokenTexts, *, logprobs: bool) -> None:
        self._splitter = splitter
        self._token_bytes = texts.token_bytes
        self._logprobs = ChatLogprobs(texts) if logprobs else None
        self._thought = _ThoughtCounter()
        self._reasoned = False
        self.mean_logprob = MeanLogprob()

    @property
    def shown(self) -> Callable[[str], str] | None:
        return self._splitter.push_answer if self._splitter.answering and self._logprobs is None else None

    @property
    def reasoning_tokens(self) -> int:
        """Tokens up to the end of the reasoning, if there was any."""
        return self._thought.count if self._reasoned else 0

    @property
    def rest_opening(self) -> str:
        return self._splitter.opening

    def push(self, row: RowOutput) -> Piece:
        self.mean_logprob.push(row)
        if not self._splitter.answering:  # text comes later than its tokens, so this misses none
            for token in row.token_ids:
                self._thought.push(self._token_bytes(token))
        reasoning, content = self._splitter.push(row.text)
        if row.finish_reason is not None:
            last_reasoning, last_content = self._splitter.flush()
            reasoning, content = reasoning + last_reasoning, content + last_content
        self._reasoned = self._reasoned or bool(reasoning)
        logprobs = self._logprobs.push(row, content) if self._logprobs else ()
        return Piece(content, reasoning, logprobs, row.finish_reason)

    def opening(self) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        delta: dict[str, str] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        logprobs = self._logprobs.join([piece.logprobs]) if self._logprobs and piece.logprobs else None
        return {"delta": delta, "logprobs": logprobs, "finish_reason": piece.finish_reason}

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        content = "".join(piece.text for piece in pieces)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self._reasoned:
            message["reasoning_content"] = "".join(piece.reasoning for piece in pieces)
        return {
            "message": message,
            "logprobs": self._logprobs.join(piece.logprobs for piece in pieces) if self._logprobs else None,
            "finish_reason": pieces[-1].finish_reason,
        }


class _ThoughtCounter:
    """Counts tokens up to the one that completes `</think>`, across token borders."""

    def __init__(self) -> None:
        self.count = 0
        self._tail = b""
        self._closed = False

    def push(self, token: bytes) -> None:
        if self._closed:
            return
        self.count += 1
        seen = self._tail + token
        self._closed = _END_OF_THOUGHT in seen
        self._tail = seen[1 - len(_END_OF_THOUGHT) :]
