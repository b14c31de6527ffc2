"""What OpenAI clients may send: the request bodies, their ranges and what is refused with a reason.

JSON is checked strictly (a number in quotes is not a number; 1.0 is 1, as JSON has one kind of number). `null` means
absent, unknown fields are ignored. Some values with which other servers mean "absent" are taken as such.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationInfo, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.sampling.params import MAX_STOP_LENGTH
from wingbeat.server.errors import bad_request, unsupported

MAX_STOPS = 16
MAX_CHOICES = 4096
"""Prompts times `n` of one request."""
DEFAULT_MAX_TOKENS = 16
"""Of plain completions."""
MAX_COUNT = 2**31 - 1

NOT_YET = (
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar", "json_schema"),
    *("min_tokens", "prompt_logprobs"),
)
"""Fields of other servers that change the answer: ignoring them would be a silent fault."""


def _stops(value: Any) -> Any:
    """One text or a list of texts, as a list."""
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return None
    if isinstance(stops, list):
        stops = [stop for stop in stops if stop is not None]
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("a text or a list of texts is wanted")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop texts are possible")
    if any(len(stop) > MAX_STOP_LENGTH for stop in stops):
        raise ValueError(f"a stop text may have {MAX_STOP_LENGTH} characters at most")
    return [stop for stop in stops if stop]


def _bias(value: Any) -> Any:
    """Token ids arrive as JSON keys."""
    if not isinstance(value, dict):
        return value
    for token in value:
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError(f"the key {token[:40]!r} is not a token id")
    return {int(token): bias for token, bias in value.items()}


def _whole(value: Any) -> Any:
    """Whole numbers, and lists of them, as integers, however they were written."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _schema(kind: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [kind, {"type": "null"}]})


_TEXTS = {"type": "array", "items": {"type": "string"}}
_IDS = {"type": "array", "items": {"type": "integer"}}
_BIASES = {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}

Stops = Annotated[
    list[str] | None,
    BeforeValidator(_stops),
    _schema({"anyOf": [{"type": "string"}, {**_TEXTS, "maxItems": MAX_STOPS}]}),
]
Bias = Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]] | None, BeforeValidator(_bias), _schema(_BIASES)]


NotYet: Any = Field(None, description="Refused when not empty: not supported yet.")


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = Field(None, description="End the stream with a chunk that holds the token counts.")


class GenerationBody(BaseModel):
    """The fields that chat and plain completions share."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str | None = Field(None, description="The loaded model's id, `model` or any name that starts with `rwkv`.")
    stream: bool | None = Field(None, description="Send server-sent events as tokens are generated.")
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128, description="Answers to one prompt.")
    temperature: float | None = Field(None, ge=0, le=2, description="Default 1. 0 takes the most likely token.")
    top_p: float | None = Field(None, ge=0, le=1, description="Default 1 (off).")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Default 0. Over generated tokens.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Default 0. Over generated tokens.")
    logit_bias: Bias = Field(None, description="Token id to a number added to its logit, -100 to 100.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="Same seed, same answer. -1: random.")
    stop: Stops = Field(None, description="Texts that end the answer and are left out of it.")

    top_k: int | None = Field(None, ge=-1, le=MAX_COUNT, description="Beyond OpenAI. 0 or -1 is off.")
    min_p: float | None = Field(None, ge=0, le=1, description="Beyond OpenAI. 0 is off.")
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="Beyond OpenAI. 1 is off.")
    stop_token_ids: list[int] | None = Field(None, max_length=256, description="Beyond OpenAI. Token ids that end it.")
    ignore_eos: bool | None = Field(None, description="Beyond OpenAI. Go on after the end of text.")

    guided_json: Any = NotYet
    guided_regex: Any = NotYet
    guided_choice: Any = NotYet
    guided_grammar: Any = NotYet
    structured_outputs: Any = NotYet
    grammar: Any = NotYet
    json_schema: Any = NotYet
    min_tokens: Any = NotYet
    prompt_logprobs: Any = NotYet

    @field_validator("n", "seed", "top_k", "stop_token_ids", "max_tokens", mode="before", check_fields=False)
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return _whole(value)

    @field_validator("seed")
    @classmethod
    def _random_seed(cls, seed: int | None) -> int | None:
        return None if seed == -1 else seed

    @field_validator("model")
    @classmethod
    def _any_model(cls, model: str | None) -> str | None:
        return model or None

    def refuse_unsupported(self) -> None:
        """Raises ApiError for what is well formed but cannot be done."""
        for name in NOT_YET:
            value = getattr(self, name)
            if value or (name == "prompt_logprobs" and type(value) is int):
                raise unsupported(name, name)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


Body = TypeVar("Body", bound=GenerationBody)

# --- POST /v1/completions ---------------------------------------------------------------------------------------------


def _prompts(value: Any) -> Any:
    """A text, texts, token ids or lists of token ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, str) for item in value):
            return value
        if all(isinstance(item, list) and item and all(type(token) is int for token in item) for item in value):
            return value
    raise ValueError("a text, a list of texts, a list of token ids or a list of such lists is wanted")


Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_prompts),  # checking a million ids once is enough
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS}]}),
]


class CompletionBody(GenerationBody):
    """Continue one or several prompts."""

    prompt: Prompts = Field(description="One or several prompts; `choices` holds `n` answers to each, in order.")
    max_tokens: int | None = Field(None, ge=-1, le=MAX_COUNT, description="Default 16. -1: until the model stops.")
    logprobs: int | None = Field(None, ge=0, le=20, description="Log-probabilities of so many tokens at each place.")
    echo: bool | None = Field(None, description="Begin the answer with the prompt.")
    best_of: int | None = Field(None, ge=1, le=128, description="Only accepted when equal to `n`.")
    suffix: str | None = Field(None, description="Refused: the models do not fill in the middle.")

    @field_validator("logprobs", mode="before")
    @classmethod
    def _no_logprobs(cls, value: Any) -> Any:
        return None if value is False else _whole(value)

    @property
    def token_limit(self) -> int | None:
        if self.max_tokens is None:
            return DEFAULT_MAX_TOKENS
        return None if self.max_tokens == -1 else self.max_tokens

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if len(self.prompt) * (self.n or 1) > MAX_CHOICES:
            raise bad_request(f"prompt: prompts times n may be {MAX_CHOICES} at most; send several requests.", "prompt")
        if self.suffix:
            raise bad_request("suffix: RWKV models continue text, they do not fill in the middle.", "suffix")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise unsupported("best_of other than n", "best_of")
        if self.echo and self.logprobs is not None:
            raise unsupported("echo together with logprobs (the log-probabilities of a prompt)", "logprobs")


# --- POST /v1/chat/completions ----------------------------------------------------------------------------------------


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
        return _whole(value)

    @field_validator("max_tokens", "max_completion_tokens", mode="before")
    @classmethod
    def _no_limit(cls, value: Any) -> Any:
        return None if type(value) in (int, float) and value == -1 else value

    @property
    def thinking(self) -> bool | None:
        """Whether to reason before the answer; None leaves it to the model's template."""
        if self.enable_thinking is not None:
            return self.enable_thinking
        if self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking is not None:
            return self.chat_template_kwargs.enable_thinking
        return None if self.reasoning_effort is None else self.reasoning_effort not in ("none", "minimal")

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
