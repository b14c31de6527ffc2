"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_schema import IDS, MAX_COUNT, TEXTS, GenerationBody, whole_numbers
from wingbeat.server.errors import bad_request, unsupported

MAX_CHOICES = 4096
"""Prompts times `n` of one request."""
DEFAULT_MAX_TOKENS = 16


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
    WithJsonSchema({"anyOf": [{"type": "string"}, TEXTS, IDS, {"type": "array", "items": IDS}]}),
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
        return None if value is False else whole_numbers(value)

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
