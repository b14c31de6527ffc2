"""What comes of a prompt: answers whole and in pieces, and the error of one that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from wingbeat.engine.messages import FinishReason, RowOutput, TokenLogprob
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.text.tools import ToolCall


class Completion(msgspec.Struct):
    """One prompt's answer. ``token_ids`` hold every sampled token, the one that ended it included; ``text`` does not.

    ``finish_reason`` is "stop" (``stop_reason`` then holds the stop string or id; None: the end of text), "length" or
    "error". Of ``chat`` only: ``reasoning`` is what a thinking model wrote before its answer, ``tool_calls`` what it
    called after it.
    """

    prompt_ids: list[int]
    text: str = ""
    token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    reasoning: str = ""
    tool_calls: list[ToolCall] = []

    @property
    def message(self) -> dict[str, Any]:
        """The answer as the next message of its conversation."""
        return message_of(self.text, self.tool_calls)


class Chunk(msgspec.Struct):
    """A piece of a streamed answer; the last one has a ``finish_reason``.

    ``prompt_state``, ``state`` and ``reply`` (the answer's tokens without its stop) are what ``stream`` was told to
    keep; ``reasoning`` is that of a ``Conversation``.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None
    stop_reason: str | int | None = None
    reasoning: str = ""
    prompt_state: StateSnapshot | None = None
    state: StateSnapshot | None = None
    reply: list[int] | None = None


class GenerationError(RuntimeError):
    """The model could not answer. ``completions`` holds what there is, of all prompts of the call."""

    def __init__(self, message: str, completions: list[Completion]) -> None:
        super().__init__(message)
        self.completions = completions


def message_of(text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """An answer as a message in OpenAI's form, which ``to_message`` takes."""
    called = [{"type": "function", "function": call._asdict()} for call in calls]
    return {"role": "assistant", "content": text, **({"tool_calls": called} if called else {})}


def append(completion: Completion, output: RowOutput) -> None:
    """Add a piece of its row."""
    completion.text += output.text
    completion.token_ids += output.token_ids
    if output.logprobs is not None:
        completion.logprobs = completion.logprobs or []
        completion.logprobs += output.logprobs
    completion.finish_reason, completion.stop_reason = output.finish_reason, output.stop_reason
    completion.error = output.error


def checked(completions: list[Completion]) -> list[Completion]:
    """The completions. Raises GenerationError where one failed."""
    failed = [c for c in completions if c.finish_reason == "error"]
    if failed:
        message = failed[0].error or "the generation failed"
        raise GenerationError(f"{len(failed)} of {len(completions)} completions failed: {message}", completions)
    return completions
