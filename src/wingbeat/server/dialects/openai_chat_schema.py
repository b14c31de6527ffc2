"""The body of POST /v1/chat/completions: messages and what belongs to a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_forms import ResponseFormat
from wingbeat.server.dialects.openai_other_names import AnswerLimit
from wingbeat.server.dialects.openai_other_schema import Off
from wingbeat.server.dialects.openai_ranking import RankingBody
from wingbeat.server.dialects.openai_schema import MAX_COUNT, Ignored, example, whole_numbers
from wingbeat.server.dialects.openai_tools import AnswerForm, offered_tools
from wingbeat.server.dialects.openai_tools_schema import (
    MAX_TOOLS,
    EarlierCall,
    EarlierCalls,
    FunctionBody,
    FunctionCallField,
    ToolBody,
    Tools,
    ToolUseFields,
)
from wingbeat.server.errors import bad_request, not_supported, unsupported
from wingbeat.text.templates import TOOLS
from wingbeat.text.tools import ToolCall


def _content(value: Any, info: ValidationInfo) -> Any:
    """A text, or parts of type "text" (and an assistant's earlier "refusal"), joined."""
    kinds = ("text", "refusal") if info.data.get("role") == "assistant" else ("text",)
    if not isinstance(value, list):
        if value is not None and not isinstance(value, str):
            raise ValueError("a text or a list of parts is wanted")
        return value
    return "".join(_part(index, part, kinds) for index, part in enumerate(value))


def _part(index: int, part: Any, kinds: Sequence[str]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"part {index} is not an object with a type")
    if kind not in kinds:
        raise not_supported(f"part {index}: content of type {kind[:40]!r} is not supported, only 'text'")
    if not isinstance(part.get(kind), str):
        raise ValueError(f"part {index} has no {kind}")
    return part[kind]


_PARTS = [
    {"type": "object", "properties": {"type": {"const": kind}, kind: {"type": "string"}}, "required": ["type", kind]}
    for kind in ("text", "refusal")
]
Content = Annotated[
    str | None,
    BeforeValidator(_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": _PARTS}}, {"type": "null"}]}),
]


Refused: Any = Field(None, description="Refused: not supported yet.", json_schema_extra={"type": "null"})


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = Field(
        None,
        validate_default=True,
        description="A text or parts of type `text`. Only an assistant's or a function's may be absent.",
    )
    name: str | None = Field(None, description="Without effect: the trained format has no place for it.")
    reasoning_content: str | None = Field(None, description="An assistant's earlier reasoning.")
    refusal: str | None = Field(None, description="An assistant's earlier refusal; stands for absent content.")
    tool_call_id: str | None = Field(None, description="Of a tool's message. " + Ignored)
    tool_calls: EarlierCalls = Field(None, description="What an assistant called, as it stood in an answer.")
    function_call: EarlierCall = Field(None, description="The same in the older form, of one call.")
    audio: Any = Refused

    @field_validator("content")
    @classmethod
    def _is_there(cls, content: str | None, info: ValidationInfo) -> str | None:
        if content is None and info.data.get("role") not in ("assistant", "function", None):
            raise ValueError(f"a message of role {info.data['role']} needs content")
        return content

    @property
    def text(self) -> str:
        """What was said."""
        return self.content or self.refusal or ""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """What was called after it was said."""
        return (*(self.tool_calls or ()), *((self.function_call,) if self.function_call else ()))

    def refuse_unsupported(self, path: str) -> None:
        """Raises ApiError for what is well formed but cannot be done; `path` is that of this message."""
        if self.audio is not None:
            raise unsupported("Audio", f"{path}.audio")


def check_messages(messages: Sequence[ChatMessage], goes_on: bool | None, begins: bool | None) -> None:
    """Raises ApiError for messages that cannot be told, or whose last one cannot be continued although it should be.

    `goes_on` and `begins` are the fields `continue_final_message` and `add_generation_prompt`.
    """
    for index, message in enumerate(messages):
        message.refuse_unsupported(f"messages[{index}]")
    if goes_on and begins:
        problem = "continue_final_message and add_generation_prompt exclude each other."
        raise bad_request(problem, "continue_final_message")
    if goes_on and not (messages and messages[-1].role == "assistant"):
        problem = "continue_final_message: the last message must be the assistant's."
        raise bad_request(problem, "continue_final_message")


class Prediction(BaseModel):
    """What the answer may well be, to be faster."""

    model_config = ConfigDict(strict=True)

    type: Literal["content"]
    content: Content


class PromptCacheOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    mode: Literal["implicit", "explicit"] | None = None
    ttl: str | None = None


class TemplateSettings(BaseModel):
    model_config = ConfigDict(strict=True)

    enable_thinking: bool | None = None
    tool_prompt: str | None = Field(
        None, description="What the model is told of tools, in other words; `{tools}` stands for their JSON list."
    )

    @field_validator("tool_prompt")
    @classmethod
    def _has_place(cls, value: str | None) -> str | None:
        if value and TOOLS not in value:
            raise ValueError(f"{TOOLS} is wanted in it, the place of the tools")
        return value or None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def wants_thinking(
    enable: bool | None, settings: TemplateSettings | None, effort: Effort | None, budget: int | None = None
) -> bool | None:
    """Whether to reason before the answer, by the four ways to say so; None when none of them was used."""
    if budget == 0:
        return False
    if enable is not None:
        return enable
    if settings and settings.enable_thinking is not None:
        return settings.enable_thinking
    return None if effort is None else effort not in ("none", "minimal")


def _metadata(value: Any) -> Any:
    if value is None:
        return None
    texts = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    if not texts or len(value) > 16 or any(len(name) > 64 or len(text) > 512 for name, text in value.items()):
        raise ValueError("an object of up to 16 texts is wanted, with names of up to 64 characters and texts of 512")
    return value


_METADATA = {
    "type": "object",
    "additionalProperties": {"type": "string", "maxLength": 512},
    "propertyNames": {"maxLength": 64},
    "maxProperties": 16,
}
Metadata = Annotated[
    dict[str, str] | None, PlainValidator(_metadata), WithJsonSchema({"anyOf": [_METADATA, {"type": "null"}]})
]


class ChatBody(RankingBody, ToolUseFields):
    """Answer a conversation."""

    model_config = example({"messages": [{"role": "user", "content": "What is RWKV?"}], "max_tokens": 100})

    messages: list[ChatMessage] = Field(
        [],
        description="The conversation. With a kept `state` it follows what that has seen; without messages the last "
        "answer goes on.",
    )
    same: ClassVar[dict[str, str]] = {
        **RankingBody.same,
        **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens"), "max_tokens"),
        "thinking_token_budget": "thinking_budget",
    }

    max_tokens: AnswerLimit = Field(None, description="Default, and -1: until the model stops.")
    max_completion_tokens: AnswerLimit = Field(None, description="The newer name of `max_tokens`.")
    logprobs: bool | None = Field(None, description="Give the log-probability of each token.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="With `logprobs`: so many alternatives each.")
    response_format: ResponseFormat | None = Field(None, description="The form of the answer.")
    tools: list[ToolBody] | None = Tools
    functions: list[FunctionBody] | None = Field(
        None, max_length=MAX_TOOLS, description="The older way to say `tools`. An answer has one call at most."
    )
    function_call: FunctionCallField = Field(
        None, description="With `functions`: `auto` (default), `none`, or an object with the name of one."
    )
    modalities: list[Literal["text", "audio"]] | None = Field(None, max_length=2, description="`audio` is refused.")
    echo: Annotated[Any, Off("the last message before its answer; continue_final_message goes on with it", False)] = (
        None
    )
    audio: Any = Refused
    moderation: Any = Refused
    web_search_options: Any = Refused

    metadata: Metadata = Field(None, description="Up to 16 texts by their names. " + Ignored)
    store: bool | None = Field(None, description="Without effect: answers are not stored.")
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = Field(
        None, description=Ignored
    )
    safety_identifier: str | None = Field(None, description=Ignored)
    prompt_cache_key: str | None = Field(None, description=Ignored)
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = Field(None, description=Ignored)
    prompt_cache_options: PromptCacheOptions | None = Field(None, description=Ignored)
    prediction: Prediction | None = Field(
        None, description="Text that the answer will probably be: where it is, the answer comes sooner."
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description=Ignored)

    reasoning_effort: Effort | None = Field(
        None, description="`none` and `minimal`: no reasoning; others: reasoning, with models that can."
    )
    enable_thinking: bool | None = Field(None, description="Beyond OpenAI. Reason before answering, where possible.")
    chat_template_kwargs: TemplateSettings | None = Field(None, description="Beyond OpenAI. `enable_thinking` in here.")
    thinking_budget: int | None = Field(
        None,
        ge=0,
        le=MAX_COUNT,
        description="Beyond OpenAI. After so many tokens of reasoning the answer begins, with models that reason; 0: "
        "no reasoning.",
    )
    thinking_token_budget: int | None = Field(
        None, ge=0, le=MAX_COUNT, description="As `thinking_budget`, by vLLM's name."
    )
    continue_final_message: bool | None = Field(None, description="Beyond OpenAI. Go on with the assistant's message.")
    add_generation_prompt: bool | None = Field(None, description="Beyond OpenAI. False with `continue_final_message`.")

    @field_validator("top_logprobs", "thinking_budget", "thinking_token_budget", mode="before")
    @classmethod
    def _more_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.n_probs and self.logprobs is None:
            self.logprobs, self.top_logprobs = True, self.n_probs
        return self

    @property
    def thinking(self) -> bool | None:
        """Whether to reason before the answer; None leaves it to the model's template."""
        return wants_thinking(
            self.enable_thinking, self.chat_template_kwargs, self.reasoning_effort, self.thinking_budget
        )

    @property
    def effort(self) -> str | None:
        """For how much reasoning, by the names of `ChatTemplate.effort_hints`."""
        return self.reasoning_effort

    @property
    def thought(self) -> str:
        """What a reasoning begins with."""
        return ""

    @property
    def sampled_logprobs(self) -> int | None:
        """How many alternatives the engine is asked for; ranking needs the log-probabilities of the tokens at least."""
        return (self.top_logprobs or 0) if self.logprobs or self.ranks else None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        self.refuse_contradictions(self.token_limit)
        self._check_messages()
        for name, what in (("audio", "Audio"), ("moderation", "Moderation"), ("web_search_options", "Web search")):
            if getattr(self, name) is not None:
                raise unsupported(what, name)
        if self.modalities and "audio" in self.modalities:
            raise unsupported("Audio", "modalities")
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs: true.", "top_logprobs")
        if self.add_generation_prompt is False and not self.continue_final_message:
            what = "add_generation_prompt: false without continue_final_message: true"
            raise unsupported(what, "add_generation_prompt")

    def _check_messages(self) -> None:
        if not self.messages and self.state is None:
            missing = "messages" not in self.model_fields_set
            problem = "this field is required" if missing else "must have at least 1 entry"
            code = "missing_required_parameter" if missing else "invalid_value"
            raise bad_request(f"messages: {problem}.", "messages", code)
        check_messages(self.messages, self.continue_final_message, self.add_generation_prompt)

    @property
    def form(self) -> AnswerForm:
        """What an answer may be. Raises ApiError (400) for tools and forms that make no sense."""
        text = self.asked_form(self.response_format and self.response_format.asked())
        if not self.functions:
            if self.function_call is not None and self.function_call.mode == "required":
                raise bad_request("function_call: there are no functions to choose from.", "function_call")
            tools = None if self.tools is None else [tool.function for tool in self.tools]
            offered = offered_tools(tools, self.tool_choice, self.parallel_tool_calls, prompt=self.tool_prompt)
            return AnswerForm(offered, text)
        if self.tools:
            raise bad_request("functions and tools exclude each other; tools is the newer field.", "functions")
        fields = ("functions", "function_call")
        offered = offered_tools(self.functions, self.function_call, False, fields, ".parameters", self.tool_prompt)
        return AnswerForm(offered, text)

    @property
    def tool_prompt(self) -> str | None:
        return self.chat_template_kwargs.tool_prompt if self.chat_template_kwargs else None
