"""Bodies and replies of /tokenize and /detokenize, as users of vLLM and of llama.cpp know them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainValidator, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_chat_schema import (
    ChatMessage,
    Effort,
    TemplateSettings,
    check_messages,
    wants_thinking,
)
from wingbeat.server.dialects.openai_replies import Exact
from wingbeat.server.dialects.openai_schema import IDS, Ignored, NotYet, example, whole_numbers
from wingbeat.server.dialects.openai_tools import OfferedTools, offered_tools
from wingbeat.server.dialects.openai_tools_schema import ToolBody, ToolChoiceField, Tools
from wingbeat.server.errors import bad_request, unsupported

_SOURCES = ("prompt", "messages", "content")


def _content(value: Any) -> Any:
    """A text, or texts and token ids, as a list."""
    value = whole_numbers([value] if isinstance(value, str) else value)
    if value is None or (isinstance(value, list) and all(type(part) in (str, int) for part in value)):
        return value
    raise ValueError("a text or a list of texts and token ids is wanted")


_MIXED = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}
Content = Annotated[
    list[str | int] | None,
    PlainValidator(_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, _MIXED, {"type": "null"}]}),
]


class TokenizeBody(BaseModel):
    """What to tokenise: `prompt` or `messages`, as for vLLM, or `content`, as for llama.cpp. Exactly one of them."""

    model_config = example({"prompt": "What is RWKV?"})

    model: str | None = Field(None, description="As for completions.")

    prompt: str | None = Field(None, description="A text.")
    messages: list[ChatMessage] | None = Field(
        None, min_length=1, description="A conversation, as /v1/chat/completions."
    )
    return_token_strs: bool | None = Field(None, description="With `prompt` or `messages`: give the tokens' texts too.")
    add_special_tokens: bool | None = Field(None, description="Without effect: these models have no such tokens.")
    add_generation_prompt: bool | None = Field(None, description="With `messages`: begin an answer. Default true.")
    continue_final_message: bool | None = Field(None, description="With `messages`: go on with the last one instead.")
    reasoning_effort: Effort | None = Field(None, description="With `messages`: as for a chat.")
    enable_thinking: bool | None = Field(None, description="With `messages`: as for a chat.")
    chat_template_kwargs: TemplateSettings | None = Field(None, description="`enable_thinking` in here.")
    chat_template: Any = NotYet
    tools: list[ToolBody] | None = Tools
    tool_choice: ToolChoiceField = Field(None, description="With `tools`: with `none` the model is not told of them.")

    content: Content = Field(None, description="A text, or texts and token ids, one after the other.")
    with_pieces: bool | None = Field(None, description="With `content`: give each token with its text, or its bytes.")
    add_special: bool | None = Field(None, description="Without effect: these models have no such tokens.")
    parse_special: bool | None = Field(None, description=Ignored)

    @property
    def thinking(self) -> bool | None:
        """Whether the answer would begin with reasoning; None leaves it to the model's template."""
        return wants_thinking(self.enable_thinking, self.chat_template_kwargs, self.reasoning_effort)

    @property
    def offered(self) -> OfferedTools | None:
        """The tools that the model is told of. Raises ApiError (400) as for a chat."""
        prompt = self.chat_template_kwargs.tool_prompt if self.chat_template_kwargs else None
        tools = None if self.tools is None else [tool.function for tool in self.tools]
        return offered_tools(tools, self.tool_choice, None, prompt=prompt)

    def check(self) -> None:
        """Raises ApiError for combinations that make no sense and for what cannot be done."""
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if not given:
            message = "prompt: this field is required (or messages, or content)."
            raise bad_request(message, "prompt", "missing_required_parameter")
        if len(given) > 1:
            raise bad_request(f"{given[1]}: only one of {', '.join(_SOURCES)} can be tokenised.", given[1])
        if self.chat_template:
            raise unsupported("chat_template", "chat_template")
        if self.messages:
            check_messages(self.messages, self.continue_final_message, self.add_generation_prompt)


class DetokenizeBody(BaseModel):
    """Token ids to be joined to a text."""

    model_config = example({"tokens": [73, 106, 34]})

    model: str | None = Field(None, description="As for completions.")
    tokens: list[int] = Field(json_schema_extra=IDS)

    @field_validator("tokens", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return whole_numbers(value)


class TokenizeReply(Exact):
    """For `prompt` and `messages`."""

    count: int
    max_model_len: int
    """The most prompt tokens of one request; the models themselves have no limit."""
    tokens: list[int]
    token_strs: list[str] | None


class TokenPiece(Exact):
    id: int
    piece: str | list[int]
    """Its text, or its bytes where it is only part of a character."""


class ContentTokens(Exact):
    """For `content`; pieces with `with_pieces`."""

    tokens: list[int] | list[TokenPiece]


class DetokenizeReply(Exact):
    """The text, under the names of both."""

    prompt: str
    content: str


class TokenizerInfo(Exact):
    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: None
    eos_token: str
    pad_token: None
    unk_token: None
