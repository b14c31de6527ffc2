"""The body of POST /v1/chat/completions: messages and what belongs to a chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_schema import MAX_COUNT, GenerationBody, whole_numbers
from wingbeat.server.errors import bad_request, unsupported


def _content(value: Any) -> Any:
    """A text, or parts of type "text" (and an assistant's earlier "refusal"), joined."""
    if not isinstance(value, list):
        if value is not None and not isinstance(value, str):
            raise ValueError("a text or a list of parts is wanted")
        return value
    return "".join(_part(index, part) for index, part in enumerate(value))


def _part(index: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"part {index} is not an object with a type")
    if kind not in ("text", "refusal"):
        raise ValueError(f"part {index}: content of type {kind[:40]!r} is not supported, only 'text'")
    if not isinstance(part.get(kind), str):
        raise ValueError(f"part {index} has no {kind}")
    return part[kind]


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    str | None,
    BeforeValidator(_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}]}),
]


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = Field(
        None, validate_default=True, description="A text or parts of type `text`. Only an assistant's may be absent."
    )
    name: str | None = None
    reasoning_content: str | None = Field(None, description="An assistant's earlier reasoning.")
    tool_calls: list[dict[str, Any]] | None = Field(None, description="Refused when not empty: not supported yet.")

    @field_validator("content")
    @classmethod
    def _is_there(cls, content: str | None, info: ValidationInfo) -> str | None:
        if content is None and info.data.get("role") not in ("assistant", None):
            raise ValueError(f"a message of role {info.data['role']} needs content")
        return content


class ResponseFormat(BaseModel):
    type: str


class TemplateSettings(BaseModel):
    model_config = ConfigDict(strict=True)

    enable_thinking: bool | None = None


def wants_thinking(enable: bool | None, settings: TemplateSettings | None, effort: str | None) -> bool | None:
    """Whether to reason before the answer, by the three ways to say so; None when none of them was used."""
    if enable is not None:
        return enable
    if settings and settings.enable_thinking is not None:
        return settings.enable_thinking
    return None if effort is None else effort not in ("none", "minimal")


class ChatBody(GenerationBody):
    """Answer a conversation."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=MAX_COUNT, description="Default, and -1: until the model stops.")
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_COUNT, description="The newer name of `max_tokens`.")
    logprobs: bool | None = Field(None, description="Give the log-probability of each token.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="With `logprobs`: so many alternatives each.")
    response_format: ResponseFormat | None = Field(None, description='Only {"type": "text"} is supported yet.')
    tools: list[Any] | None = Field(None, description="Refused when not empty, unless `tool_choice` is `none`.")
    tool_choice: Any = None
    functions: list[Any] | None = Field(None, description="Refused when not empty, unless `function_call` is `none`.")
    function_call: Any = None
    enable_thinking: bool | None = Field(None, description="Beyond OpenAI. Reason before answering, where possible.")
    chat_template_kwargs: TemplateSettings | None = Field(None, description="Beyond OpenAI. `enable_thinking` in here.")
    reasoning_effort: str | None = Field(None, description="`none` and `minimal`: no reasoning; others: reasoning.")

    continue_final_message: bool | None = Field(None, description="Beyond OpenAI. Go on with the assistant's message.")
    add_generation_prompt: bool | None = Field(None, description="Beyond OpenAI. False with `continue_final_message`.")

    @field_validator("max_completion_tokens", "top_logprobs", mode="before")
    @classmethod
    def _more_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @field_validator("max_tokens", "max_completion_tokens", mode="before")
    @classmethod
    def _no_limit(cls, value: Any) -> Any:
        return None if type(value) in (int, float) and value == -1 else value

    @property
    def thinking(self) -> bool | None:
        """Whether to reason before the answer; None leaves it to the model's template."""
        return wants_thinking(self.enable_thinking, self.chat_template_kwargs, self.reasoning_effort)

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.response_format and self.response_format.type != "text":
            raise unsupported(f"response_format of type {self.response_format.type[:40]!r}", "response_format")
        if self.tools and self.tool_choice != "none":
            raise unsupported("Calling tools", "tools")
        if self.functions and self.function_call != "none":
            raise unsupported("Calling functions", "functions")
        for index, message in enumerate(self.messages):
            if message.tool_calls:
                raise unsupported("An earlier tool call", f"messages[{index}].tool_calls")
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs: true.", "top_logprobs")
        self._check_continuation()

    def _check_continuation(self) -> None:
        if not self.continue_final_message:
            if self.add_generation_prompt is False:
                raise unsupported(
                    "add_generation_prompt: false without continue_final_message: true", "add_generation_prompt"
                )
        elif self.add_generation_prompt:
            message = "continue_final_message and add_generation_prompt exclude each other."
            raise bad_request(message, "continue_final_message")
        elif self.messages[-1].role != "assistant":
            message = "continue_final_message: the last message must be the assistant's."
            raise bad_request(message, "continue_final_message")
