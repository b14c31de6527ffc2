"""What OpenAI clients receive, for the OpenAPI document. Replies are rendered without these models, for speed; the
tests hold the two together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Exact(BaseModel):
    """A reply with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(Exact):
    cached_tokens: int


class CompletionTokensDetails(Exact):
    reasoning_tokens: int


class Usage(Exact):
    """Token counts over all choices. A prompt counts once, however many answers it got."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


FinishReason = Literal["stop", "length"]


class Reply(Exact):
    id: str
    created: int
    model: str
    system_fingerprint: str


class CompletionLogprobs(Exact):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class PromptLogprob(Exact):
    logprob: float
    rank: int
    """1 is the most likely. Of the prompt's own token: how many tokens are at least as likely."""
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""With `prompt_logprobs`, for each token of the prompt: the tokens by their ids, the prompt's own one first. Null for
the first, which nothing predicted."""


class CompletionChoice(Exact):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    prompt_logprobs: PromptLogprobs | None = None
    finish_reason: FinishReason
    state: str | None = None
    """With `return_state`, in a stream on the choice's last chunk."""
    state_error: str | None = None
    """Why there is no state, though there should be one."""


class SessionReport(Exact):
    """Of a request with `session_id`: whether the session goes on with this answer. If not, `error` says why."""

    id: str
    saved: bool
    error: str | None


class CompletionReply(Reply):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage
    session: SessionReport | None = None


class CompletionChunkChoice(CompletionChoice):
    finish_reason: FinishReason | None  # type: ignore[assignment]


class CompletionChunk(Reply):
    object: Literal["text_completion"]
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None


class TopLogprob(Exact):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Exact):
    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Exact):
    name: str
    arguments: str
    """JSON, valid for the schema of the function's parameters unless the answer was cut off."""


class ToolCall(Exact):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Exact):
    role: Literal["assistant"]
    content: str | None
    """What is said, before any calls. Null only where there are calls and nothing else."""
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: CalledFunction | None = None


ChatFinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class ChatChoice(Exact):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    state: str | None = None
    """With `return_state`."""
    state_error: str | None = None
    """Why there is no state, though there should be one."""


class ChatReply(Reply):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_logprobs: PromptLogprobs | None = None
    usage: Usage
    session: SessionReport | None = None


class FunctionDelta(Exact):
    name: str | None = None
    arguments: str


class ToolCallDelta(Exact):
    """The beginning of a call, with its id and name, or a piece of its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatDelta(Exact):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    function_call: FunctionDelta | None = None


class ChatChunkChoice(Exact):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    state: str | None = None
    """With `return_state`, on the choice's last chunk."""
    state_error: str | None = None
    """Why there is no state, though there should be one."""


class ChatChunk(Reply):
    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(Exact):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Exact):
    object: Literal["list"]
    data: list[ModelCard]


class ErrorDetail(Exact):
    message: str
    type: str
    param: str | None
    code: str | None
    name: str | None = None
    """Of the status, under `/api` only, as `brief` is: the message again. Ai00's clients know them."""
    brief: str | None = None


class ErrorReply(Exact):
    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "A field is wrong or not supported; `param` names it."},
    401: {"model": ErrorReply, "description": "An API key is wanted."},
    404: {"model": ErrorReply, "description": "No such model."},
    409: {"model": ErrorReply, "description": "The session has changed; send the request again."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    415: {"model": ErrorReply, "description": "The body is compressed."},
    429: {"model": ErrorReply, "description": "The queue is full; try again after `Retry-After` seconds."},
    500: {"model": ErrorReply, "description": "The generation failed."},
    503: {"model": ErrorReply, "description": "The model is loading or restarting."},
}
"""The errors of routes that generate, for the OpenAPI document."""

EMBED_ERRORS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    501: {"model": ErrorReply, "description": "The embedding model cannot run here; the message says why."},
}
"""Those of routes that embed."""
