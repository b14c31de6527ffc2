"""POST /v1/chat/completions: messages to a prompt, pieces to chat choices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from wingbeat.engine.messages import RowOutput
from wingbeat.sampling.params import SamplingParams
from wingbeat.server.body import run_sized
from wingbeat.server.dialects.openai_answer import ObjectNames, Piece
from wingbeat.server.dialects.openai_chat_schema import ChatBody, ChatMessage
from wingbeat.server.dialects.openai_logprobs import ChatLogprobs
from wingbeat.server.dialects.openai_ranking import MeanLogprob
from wingbeat.server.dialects.openai_states import check_goes_on
from wingbeat.server.dialects.openai_tokens import TokenTexts
from wingbeat.server.dialects.openai_tools import FREE, AnswerForm
from wingbeat.server.registry import Prompts, ServedModel, Start
from wingbeat.server.session_turn import Turn
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.templates import Message
from wingbeat.text.tool_calls import CallDelta, WrittenCall

CHAT = ObjectNames("chatcmpl-", "chat.completion", "chat.completion.chunk")

_END_OF_THOUGHT = b"</think>"


class ChatPrompt(NamedTuple):
    segments: list[str]
    prompts: Prompts
    """One: the segments' tokens."""
    splitter: Callable[..., ReasoningSplitter]
    """Makes a splitter for an answer to it."""

    def splitter_of(self, sampling: SamplingParams) -> ReasoningSplitter:
        """A splitter for an answer with these parameters."""
        form = sampling.constraint
        return self.splitter(white_is_said=form is not None and not form.leading_white)


def spoken(messages: Iterable[ChatMessage]) -> list[Message]:
    """The messages as a template takes them."""
    return [
        Message(message.role, message.text, message.name, message.reasoning_content, tool_calls=message.calls)
        for message in messages
    ]


async def chat_prompt(
    body: ChatBody, model: ServedModel, start: Start, turn: Turn | None, form: AnswerForm
) -> ChatPrompt:
    """The conversation as the model's template renders it, tokenised segment by segment. What comes after a kept state
    is another turn; without messages its answer goes on."""
    if not body.messages:
        check_goes_on(start)
        model.check_chats()
        return _prompt([start.opening or " "], Prompts([[]], model.fingerprint), model, form)
    messages = spoken(body.messages)
    goes_on = bool(body.continue_final_message)
    return await conversation_prompt(
        *(messages, model, "messages"),
        thinking=body.thinking,
        effort=body.effort,
        thought=body.thought,
        continue_final=goes_on,
        choices=body.rows_per_prompt,
        last=body.truncate_prompt_tokens,
        follows=start.state is not None,
        turn=turn,
        form=form,
    )


async def predict(body: ChatBody, model: ServedModel, prompt: ChatPrompt) -> None:
    """Have the answer guessed from the text that the client expects. Raises ApiError (400) when that is too long."""
    text = None if body.prediction is None else body.prediction.content
    if text:
        space = "" if prompt.segments[-1][-1:].isspace() else " "  # answers begin with one then
        (prompt.prompts.draft,) = await model.encode([(space + text,)], "prediction")


async def conversation_prompt(
    messages: Sequence[Message],
    model: ServedModel,
    param: str,
    *,
    thinking: bool | None = None,
    effort: str | None = None,
    thought: str = "",
    continue_final: bool = False,
    choices: int = 1,
    last: int | None = None,
    follows: bool = False,
    turn: Turn | None = None,
    form: AnswerForm = FREE,
) -> ChatPrompt:
    """The prompt of these messages, which came in the field `param`; only the `last` so many of its tokens. `follows`:
    after an answer that was read already. In a session's turn they follow its log. The tools of `form` are told where
    the model does not know them yet.

    Raises ApiError (400) when it is too long, or the model has no form for conversations.
    """
    model.check_chats()
    template = model.profile.chat_template()
    if form.tools is not None:
        told = template.told_of(form.tools.told, form.tools.prompt)
        if not _knows_tools(messages, told, follows, turn):
            messages = template.with_tools(messages, told)
    if thinking is not False:
        messages = template.hinted(messages, effort)
    size = sum(len(message.content) for message in messages)
    render = model.profile.follow_up if follows else model.profile.render
    if turn is not None:
        size, render = size + turn.logged, functools.partial(turn.segments, param)
    segments = await run_sized(size, render, messages, thinking=thinking, continue_final=continue_final)
    if thought and not continue_final:
        segments = template.thinking_of(segments, thought)
    if form.constrains:
        segments = template.closed(segments)
    encoded = await model.encode([tuple(segments)], param, choices, last)
    if turn is not None:
        return _prompt(segments, turn.prompts(encoded), model, form)
    passing = 0 if continue_final else template.passing(messages, thinking)
    if passing and _is_under_way(messages):
        encoded.mark = max(0, len(encoded[0]) - sum(map(model.tokens_of, segments[-passing:])))
    return _prompt(segments, encoded, model, form)


def _prompt(segments: list[str], prompts: Prompts, model: ServedModel, form: AnswerForm) -> ChatPrompt:
    splitter = functools.partial(model.profile.splitter, segments, exact=form.constrains)
    return ChatPrompt(segments, prompts, splitter)


def _knows_tools(messages: Sequence[Message], told: str, follows: bool, turn: Turn | None) -> bool:
    """Whether the model has read `told`, what is said of the tools, before these messages."""
    if follows:  # what a kept state has seen is not known; a result is one of a call
        return bool(messages) and messages[0].role in ("tool", "function")
    return turn is not None and not _is_under_way(messages) and turn.holds(told)


def _is_under_way(messages: Iterable[Message]) -> bool:
    """Whether this is a conversation that has been answered, and so may go on."""
    return any(message.role == "assistant" for message in messages)


class ChatChoice:
    """One answer of the assistant: reasoning and content, told apart as they come."""

    def __init__(
        self,
        splitter: ReasoningSplitter,
        texts: TokenTexts,
        form: AnswerForm = FREE,
        *,
        logprobs: bool,
    ) -> None:
        self._splitter = splitter
        self._token_bytes = texts.token_bytes
        self._logprobs = (
            ChatLogprobs(texts, exact=splitter.exact, trims_start=splitter.trims_start) if logprobs else None
        )
        self._calls = form.reader()
        self._legacy = form.tools is not None and form.tools.legacy
        self._thought = _ThoughtCounter()
        self._reasoned = False
        self.mean_logprob = MeanLogprob()

    @property
    def calls(self) -> Sequence[WrittenCall]:
        """What was called so far."""
        return () if self._calls is None else self._calls.calls

    @property
    def shown(self) -> Callable[[str], str] | None:
        if self._calls is not None or self._logprobs is not None or not self._splitter.answering:
            return None
        return self._splitter.push_answer

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
        if self._calls is None:
            return Piece(content, reasoning, logprobs, row.finish_reason)
        content, calls = self._calls.push(content)
        if row.finish_reason is not None:
            content += self._calls.flush()
        return Piece(content, reasoning, logprobs, self._ending(row), calls)

    def _ending(self, row: RowOutput) -> str | None:
        if row.finish_reason != "stop" or not self.calls:
            return row.finish_reason
        return "function_call" if self._legacy else "tool_calls"

    def opening(self) -> dict[str, Any]:
        content = "" if self._calls is None else None  # there may be none
        return {"delta": {"role": "assistant", "content": content}, "logprobs": None, "finish_reason": None}

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        logprobs = self._logprobs.join([piece.logprobs]) if self._logprobs and piece.logprobs else None
        deltas = [self._call_delta(call) for call in piece.calls]
        if delta or logprobs is not None or not deltas:
            deltas.insert(0, delta)
        if piece.finish_reason is not None and piece.calls:
            deltas.append({})
        chunks: list[dict[str, Any]] = [{"delta": each, "logprobs": None, "finish_reason": None} for each in deltas]
        chunks[0]["logprobs"], chunks[-1]["finish_reason"] = logprobs, piece.finish_reason
        return chunks

    def _call_delta(self, call: CallDelta) -> dict[str, Any]:
        function = {"arguments": call.arguments} if call.name is None else {"name": call.name, "arguments": ""}
        if self._legacy:
            return {"function_call": function}
        if call.name is None:
            return {"tool_calls": [{"index": call.place, "function": function}]}
        begun = {"index": call.place, "id": self.calls[call.place].id, "type": "function", "function": function}
        return {"tool_calls": [begun]}

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        content = "".join(piece.text for piece in pieces)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.calls:
            message["content"] = content or None
            if self._legacy:
                message["function_call"] = self.calls[0].function
            else:
                message["tool_calls"] = [call.whole for call in self.calls]
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
