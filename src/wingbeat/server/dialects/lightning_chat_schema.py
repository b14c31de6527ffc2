"""A conversation as rwkv_lightning's clients ask for it: OpenAI's body, with fields of its own beside."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.sampling.params import MAX_STOP_LENGTH
from wingbeat.server.dialects.lightning_schema import LARGEST, MAX_CHUNK, MAX_STOP_IDS, at_least_one, stop_tokens
from wingbeat.server.dialects.openai_chat_schema import ChatBody, ChatMessage
from wingbeat.server.dialects.openai_schema import example, whole_numbers


class Thinking(NamedTuple):
    """What a value of `think_type` stands for."""

    thinks: bool
    effort: str | None = None
    thought: str = ""


THINKING: Mapping[str, Thinking] = MappingProxyType(
    {
        "fast": Thinking(False),
        "free": Thinking(True),
        "preferChinese": Thinking(True, thought="嗯"),
        "en": Thinking(True, "think"),
        "enShort": Thinking(True, "low"),
        "enLong": Thinking(True, "high"),
    }
)


def _turn(value: Any) -> Any:
    """The one text of `contents`, alone or in a list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a list of one text is wanted")
    if len(texts) > 1:
        raise ValueError(f"one text is wanted here, not {len(texts)}; /v2/chat/completions takes many")
    return texts


_STOP = {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": MAX_STOP_LENGTH}]}
_STOPS = {"anyOf": [*_STOP["anyOf"], {"type": "array", "items": _STOP, "maxItems": MAX_STOP_IDS}, {"type": "null"}]}
_TURNS = {"type": "array", "items": {"type": "string"}, "maxItems": 1}
Stops = Annotated[
    Annotated[list[int | str], Field(max_length=MAX_STOP_IDS)] | None,
    BeforeValidator(lambda value: None if value is None else stop_tokens(whole_numbers(value))),
    WithJsonSchema(_STOPS),
]
Turn = Annotated[
    list[str] | None,
    BeforeValidator(lambda value: None if value is None else _turn(value)),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TURNS, {"type": "null"}]}),
]
Alpha = Annotated[float | None, Field(ge=-LARGEST, le=LARGEST)]
Own = "rwkv_lightning's. "


class LightningChatBody(ChatBody):
    """Answer a conversation."""

    model_config = example({"messages": [{"role": "user", "content": "What is RWKV?"}], "max_tokens": 100})

    system: str | None = Field(None, description=Own + "What the system says first.")
    contents: Turn = Field(None, description=Own + "On /openai/v1: one more turn of the user.")
    stop_tokens: Stops = Field(None, description=Own + "Token ids and texts that end the answer, beside `stop`.")
    alpha_presence: Alpha = Field(None, description=Own + "Subtracted once from the logits of tokens that came.")
    alpha_frequency: Alpha = Field(None, description=Own + "Subtracted each further time that a token came.")
    alpha_decay: float | None = Field(
        None, gt=0, le=1, description=Own + "Multiplies what is subtracted, with each token."
    )
    enable_think: bool | None = Field(None, description=Own + "`enable_thinking`; false where it is left out.")
    think: bool | None = Field(None, description=Own + "The same.")
    think_type: Literal["fast", "free", "preferChinese", "en", "enShort", "enLong"] | None = Field(
        None, description=Own + "How to reason: not at all, freely, in Chinese, in English, there briefly or at length."
    )
    chunk_size: Annotated[int, AfterValidator(at_least_one)] | None = Field(
        None, le=MAX_CHUNK, description=Own + "Tokens of an answer in each of its streamed pieces. Default 1."
    )
    use_prefix_cache: bool | None = Field(None, description=Own + "False is `no_cache`.")

    @field_validator("chunk_size", mode="before")
    @classmethod
    def _whole_chunk(cls, value: Any) -> Any:
        return whole_numbers(value)

    @model_validator(mode="after")
    def _in_messages(self) -> Self:
        """What is said outside of `messages` becomes a part of them."""
        if self.contents:
            self.messages = [*self.messages, _said("user", self.contents[0])]
        if self.system:
            self.messages = _told(self.system, self.messages)
        if self.use_prefix_cache is False:
            self.no_cache = True
        return self

    @property
    def is_own(self) -> bool:
        """Whether any field is rwkv_lightning's, so that its defaults hold."""
        return any(getattr(self, name) is not None for name in type(self).__annotations__)

    @property
    def _way(self) -> Thinking | None:
        """How to reason, by rwkv_lightning's fields."""
        if self.think_type is not None:
            return THINKING[self.think_type]
        if not self.is_own:
            return None
        return THINKING["free" if self.enable_think or self.think else "fast"]

    @property
    def thinking(self) -> bool | None:
        asked = super().thinking
        return self._way.thinks if asked is None and self._way is not None else asked

    @property
    def effort(self) -> str | None:
        return self.reasoning_effort or (self._way and self._way.effort)

    @property
    def thought(self) -> str:
        return self._way.thought if self._way is not None and self.thinking else ""


def _told(system: str, messages: list[ChatMessage]) -> list[ChatMessage]:
    """The messages, of which the system's first one begins with `system`."""
    if messages and messages[0].role in ("system", "developer"):
        first = messages[0]
        return [first.model_copy(update={"content": f"{system}\n{first.text}"}), *messages[1:]]
    return [_said("system", system), *messages]


def _said(role: str, content: str) -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content})
