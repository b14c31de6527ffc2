"""What clients of the Responses API receive, for the OpenAPI document. Replies are rendered without these models, for
speed; the tests hold the two together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from wingbeat.server.dialects.openai_replies import ErrorDetail, Exact, SessionReport, TokenLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class ReasoningText(Exact):
    type: Literal["reasoning_text"]
    text: str


class Reasoning(Exact):
    """What the model thought before it answered."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any] = Field(max_length=0)
    encrypted_content: None
    content: list[ReasoningText]


class OutputText(Exact):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[TokenLogprob]


class OutputMessage(Exact):
    """The answer."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class FunctionCall(Exact):
    """A call of a function. Its `call_id` goes with the result, in an item `function_call_output` of the next input."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


Item = Annotated[Reasoning | OutputMessage | FunctionCall, Field(discriminator="type")]
Part = Annotated[ReasoningText | OutputText, Field(discriminator="type")]


class InputTokensDetails(Exact):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Exact):
    reasoning_tokens: int


class ResponseUsage(Exact):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(Exact):
    code: Literal["server_error"]
    message: str


class IncompleteDetails(Exact):
    reason: Literal["max_output_tokens"]


class PlainText(Exact):
    type: Literal["text", "json_object"]


class SchemaText(Exact):
    type: Literal["json_schema"]
    name: str
    description: str | None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool


class TextInEffect(Exact):
    format: PlainText | SchemaText
    verbosity: Literal["low", "medium", "high"]


class ReasoningInEffect(Exact):
    effort: str | None
    summary: str | None


class ResponseReply(Exact):
    """A response: what was generated, and the settings that were asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    usage: ResponseUsage | None
    output: list[Item]

    model: str
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    text: TextInEffect
    reasoning: ReasoningInEffect
    tools: list[Any]
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any]
    parallel_tool_calls: bool
    max_tool_calls: int | None
    truncation: Literal["auto", "disabled"]
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    background: Literal[False]
    previous_response_id: None
    conversation: None
    prompt: None
    state: str | None = None
    """With `return_state`, once the response has ended."""
    state_error: str | None = None
    """Why there is no state, though there should be one."""
    session: SessionReport | None = None


class InputTokens(Exact):
    object: Literal["response.input_tokens"]
    input_tokens: int


class Event(Exact):
    sequence_number: int


class ResponseStateEvent(Event):
    """How the whole response stands: first twice as it begins, and last as it ended."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: ResponseReply


class OutputItemEvent(Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: Item


class PlacedEvent(Event):
    item_id: str
    output_index: int
    content_index: int


class ContentPartEvent(PlacedEvent):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Part


class OutputTextDelta(PlacedEvent):
    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[TokenLogprob]


class OutputTextDone(PlacedEvent):
    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[TokenLogprob]


class ReasoningTextDelta(PlacedEvent):
    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningTextDone(PlacedEvent):
    type: Literal["response.reasoning_text.done"]
    text: str


class CallEvent(Event):
    item_id: str
    output_index: int


class ArgumentsDelta(CallEvent):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDone(CallEvent):
    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(Event):
    """Why the response failed, after `response.failed`."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None
    error: ErrorDetail


class ResponseEvent(
    RootModel[
        Annotated[
            ResponseStateEvent
            | OutputItemEvent
            | ContentPartEvent
            | OutputTextDelta
            | OutputTextDone
            | ReasoningTextDelta
            | ReasoningTextDone
            | ArgumentsDelta
            | ArgumentsDone
            | ErrorEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """One event of a stream; the `event:` line before it repeats its type."""
