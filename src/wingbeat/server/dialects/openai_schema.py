"""What OpenAI clients may send: the request bodies, their ranges and what is refused with a reason.

JSON is checked strictly (a number in quotes is not a number; 1.0 is 1, as JSON has one kind of number). `null` means
absent, unknown fields are ignored. Some values with which other servers mean "absent" are taken as such.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.sampling.params import MAX_STOP_LENGTH
from wingbeat.server.dialects.openai_constraints import ConstraintFields
from wingbeat.server.dialects.openai_other_names import OtherNames
from wingbeat.server.dialects.openai_other_schema import OtherFields
from wingbeat.server.dialects.openai_sampling_schema import MAX_COUNT, SamplingFields, whole_numbers
from wingbeat.server.errors import bad_request

__all__ = ["MAX_COUNT", "GenerationBody", "example", "whole_numbers"]

MAX_STOPS = 16
MAX_BIASES = 2**16


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
    if len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens can have a bias")
    for token in value:
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ValueError(f"the key {token[:40]!r} is not a token id")
    return {int(token): bias for token, bias in value.items()}


def _schema(kind: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [kind, {"type": "null"}]})


def example(body: dict[str, Any], **schema: Any) -> ConfigDict:
    """The configuration of a body that is shown by `body` at /docs, where it is the request that one can send."""
    return ConfigDict(strict=True, json_schema_extra={**schema, "examples": [body]})


TEXTS = {"type": "array", "items": {"type": "string"}}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_STOP = {"type": "string", "maxLength": MAX_STOP_LENGTH}
_STOPS = {"type": "array", "items": {"anyOf": [_STOP, {"type": "null"}]}, "maxItems": MAX_STOPS}
_BIASES = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": MAX_BIASES,
}

Stops = Annotated[list[str] | None, BeforeValidator(_stops), _schema({"anyOf": [_STOP, _STOPS]})]
Bias = Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]] | None, BeforeValidator(_bias), _schema(_BIASES)]


MAX_SESSION_ID = 128


def printable(most: int) -> BeforeValidator:
    """For names of up to so many characters."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and not (0 < len(value) <= most and value.isprintable()):
            raise ValueError(f"1 to {most} printable characters are wanted")
        return value

    return BeforeValidator(check)


_SESSION_ID = {"type": "string", "minLength": 1, "maxLength": MAX_SESSION_ID}
SessionId = Annotated[str | None, printable(MAX_SESSION_ID), _schema(_SESSION_ID)]


def _prompt_tokens(value: Any) -> Any:
    value = whole_numbers(value)
    if type(value) is int and value == 0:
        raise ValueError("must be at least 1, or -1")
    return value


PromptTokens = Annotated[
    int | None,
    Field(ge=-1, le=MAX_COUNT),
    BeforeValidator(_prompt_tokens),
    _schema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_COUNT}, {"const": -1}]}),
]


def or_false(schema: dict[str, Any]) -> None:
    """Adds false to what a field's schema allows."""
    schema["anyOf"].append({"const": False})


NotYet: Any = Field(
    None,
    description="Refused when not empty: not supported yet.",
    json_schema_extra={"enum": [None, False, 0, "", [], {}]},
)
Ignored = "Without effect."


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = Field(None, description="End the stream with a chunk that holds the token counts.")
    include_obfuscation: bool | None = Field(None, description="Without effect: nothing is added to hide lengths.")


class GenerationBody(SamplingFields, ConstraintFields, OtherNames, OtherFields):
    """The fields that chat and plain completions share."""

    model: str | None = Field(None, description="The loaded model's id, `model` or any name that starts with `rwkv`.")
    stream: bool | None = Field(None, description="Send server-sent events as tokens are generated.")
    stream_options: StreamOptions | None = Field(None, description="Only together with `stream`.")
    n: int | None = Field(None, ge=1, le=128, description="Answers to one prompt.")
    temperature: float | None = Field(None, ge=0, le=2, description="Default 1. 0 takes the most likely token.")
    top_p: float | None = Field(None, ge=0, le=1, description="Default 1 (off).")
    logit_bias: Bias = Field(None, description="Token id to a number added to its logit, -100 to 100.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="Same seed, same answer. -1: random.")
    stop: Stops = Field(None, description="Texts that end the answer and are left out of it.")
    user: str | None = Field(None, description=Ignored)

    state: str | None = Field(
        None,
        min_length=1,
        description="Beyond OpenAI. The state to begin from: the name of an initial state, the id or the name of one "
        "that was kept, a file in the server's folder of states, or a state's file in base64.",
    )
    return_state: bool | Literal["id", "base64"] | None = Field(
        None, description="Beyond OpenAI. Give the state after each answer: the id of a kept one (true), or its file."
    )

    session_id: SessionId = Field(
        None, description="Beyond OpenAI. Go on with the session of this name, or begin it: send only what is new."
    )
    no_cache: bool | None = Field(None, description="Beyond OpenAI. Neither use nor keep cached states of the prompt.")
    truncate_prompt_tokens: PromptTokens = Field(
        None,
        description="Beyond OpenAI. Read the last so many tokens of each prompt only; -1: as many as the server takes.",
    )

    @field_validator("n", "seed", "max_tokens", mode="before", check_fields=False)
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @field_validator("seed", "sampling_seed")
    @classmethod
    def _random_seed(cls, seed: int | None) -> int | None:
        return None if seed == -1 else seed

    @field_validator("model")
    @classmethod
    def _any_model(cls, model: str | None) -> str | None:
        return model or None

    def refuse_unsupported(self) -> None:
        """Raises ApiError for what is well formed but cannot be done, or makes no sense."""
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options: only together with stream: true.", "stream_options")
        if self.session_id is not None and (self.n or 1) > 1:
            raise bad_request("n: a session goes on with one answer.", "n")
        if self.session_id is not None and self.truncate_prompt_tokens is not None:
            problem = "truncate_prompt_tokens: not with session_id; a session is read as a whole."
            raise bad_request(problem, "truncate_prompt_tokens")
        if self.cache_prompt is False:
            self.no_cache = True

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)
