"""Conversations in the model's own chat format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from wingbeat.llm.answers import Completion
from wingbeat.llm.forms import AnswerReader, ChatForm, JsonSchema
from wingbeat.llm.generating import DEFAULT_MAX_TOKENS, Generating
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.profile import ModelProfile
from wingbeat.text.templates import Message
from wingbeat.text.tools import Tool, ToolCall

_TEXTS = ("role", "content", "name", "reasoning_content", "tool_call_id")


class ChatRequest(NamedTuple):
    """What is asked for an answer: the prompt in segments, how it is drawn, and what takes it apart."""

    segments: list[str]
    sampling: SamplingParams
    reader: AnswerReader


class Chatting(Generating):
    """The part of ``LLM`` that answers conversations."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        *,
        thinking: bool | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        schema: JsonSchema | None = None,
    ) -> Completion:
        """The reply to a conversation of ``{"role": ..., "content": ...}`` in the model's own chat format.

        The format's stops are added to those of ``sampling_params``; None takes the model's chat defaults.

        Args:
            thinking: whether to reason before the answer; None leaves it to the model.
            tools: functions that the model may call: ``Tool``s, or objects in OpenAI's form. ``tool_calls`` of the
                reply holds the calls, whose arguments are valid for their schemas; its ``message`` and one of the role
                "tool" for each result go on with the conversation.
            tool_choice: "auto", "none", "required", or the name of the tool to call.
            parallel_tool_calls: up to 16 calls in one reply; False: one.
            schema: a JSON schema, or its text, for which the reply is valid; with tools it is that or calls.

        Raises ValueError for a bad conversation, parameter, tool or schema, GenerationError when the answer fails.
        """
        form = ChatForm(tools, tool_choice, schema, parallel=parallel_tool_calls)
        told = [to_message(message) for message in messages]
        asked = chat_request(self.profile, told, sampling_params, thinking, form)
        completion = self.generate(self.tokenizer.encode_segments(asked.segments), asked.sampling)[0]
        completion.reasoning, completion.text = asked.reader.push(completion.text, last=True)
        completion.tool_calls = asked.reader.calls()
        return completion


def chat_request(
    profile: ModelProfile,
    messages: Sequence[Message],
    params: SamplingParams | None,
    thinking: bool | None,
    form: ChatForm,
) -> ChatRequest:
    """What is asked for the reply to ``messages``. Raises ValueError for what is wrong with them or the form."""
    template = profile.chat_template()
    segments = profile.render(form.tell(messages, template), thinking=thinking)
    if form.constrains:
        segments = template.closed(segments)
    splitter = profile.splitter(segments, exact=form.constrains)
    sampling, constraint = chat_sampling(profile, params, thinking), form.constraint(splitter)
    if constraint is not None:
        if sampling.constraint is not None:
            raise ValueError("an answer has one form: leave out the constraint, or the tools and the schema")
        sampling = msgspec.structs.replace(sampling, constraint=constraint)
    return ChatRequest(segments, sampling, AnswerReader(splitter, form.reader()))


def chat_sampling(profile: ModelProfile, params: SamplingParams | None, thinking: bool | None) -> SamplingParams:
    """Parameters for a chat reply: ``params``, None for the model's own, with the stops of its format on top."""
    if params is None:
        params = SamplingParams(max_tokens=DEFAULT_MAX_TOKENS, **profile.sampling_for(thinking))
    return msgspec.structs.replace(params, stop=(*params.stop, *profile.stops))


def to_message(message: Mapping[str, Any]) -> Message:
    """A message of a caller. Raises ValueError for one of another form."""
    known = isinstance(message, Mapping) and not message.keys() - {*_TEXTS, "tool_calls"} and "role" in message
    calls = tuple(map(_to_call, message.get("tool_calls") or ())) if known else ()
    if not known or ("content" not in message and not calls):
        raise ValueError(f"a message is {{'role': ..., 'content': ...}}, not {message!r:.100}")
    for field in _TEXTS:
        value = message.get(field)
        if not (isinstance(value, str) or (value is None and (field not in ("role", "content") or calls))):
            raise ValueError(f"a message's {field} is a text, not {value!r:.100}")
    return Message(
        message["role"],
        message.get("content") or "",
        message.get("name"),
        message.get("reasoning_content"),
        tool_calls=calls,
    )


def _to_call(call: Any) -> ToolCall:
    """A call as it stands in a message: a ``ToolCall`` or an object of OpenAI's. Raises ValueError for another."""
    if isinstance(call, ToolCall):
        return call
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            return ToolCall(function["name"], arguments)
        if isinstance(arguments, Mapping):
            return ToolCall(function["name"], json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))
    raise ValueError(f"a call is {{'function': {{'name': ..., 'arguments': ...}}}}, not {call!r:.100}")
