"""Names that other servers have for fields of ours."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from wingbeat.server.dialects.openai_sampling_schema import MAX_COUNT, whole_numbers


def _limit(value: Any) -> Any:
    """-1 means that there is no limit."""
    value = whole_numbers(value)
    return None if type(value) is int and value == -1 else value


def _probs(value: Any) -> Any:
    """0 means that none are wanted."""
    value = whole_numbers(value)
    return None if type(value) is int and value == 0 else value


AnswerLimit = Annotated[int | None, Field(ge=1, le=MAX_COUNT), BeforeValidator(_limit)]
"""The most tokens of an answer of a chat."""

Probs = Annotated[
    int | None, Field(ge=1, le=20, json_schema_extra=lambda schema: _or_zero(schema)), BeforeValidator(_probs)
]


def _or_zero(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"const": 0})


class OtherNames(BaseModel):
    """A field that is absent has the value of the first one here that is another name of it."""

    same: ClassVar[dict[str, str]] = {
        "repeat_penalty": "repetition_penalty",
        "sampling_seed": "seed",
        "no_stop_trim": "include_stop_str_in_output",
    }
    """Other names, and ours. Subclasses have more."""

    repeat_penalty: float | None = Field(
        None, gt=0, le=100, description="As `repetition_penalty`, by llama.cpp's and Ollama's name."
    )
    sampling_seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="As `seed`, by SGLang's name.")
    no_stop_trim: bool | None = Field(None, description="As `include_stop_str_in_output`, by SGLang's name.")
    cache_prompt: bool | None = Field(None, description="False is `no_cache`, by llama.cpp's name.")
    n_predict: AnswerLimit = Field(None, description="The most tokens to generate, by llama.cpp's name.")
    num_predict: AnswerLimit = Field(None, description="The most tokens to generate, by Ollama's name.")
    max_new_tokens: AnswerLimit = Field(None, description="The most tokens to generate, by SGLang's and others' name.")
    n_probs: Probs = Field(None, description="Log-probabilities of so many tokens at each place, by llama.cpp's name.")

    @field_validator("sampling_seed", mode="before")
    @classmethod
    def _other_numbers(cls, value: Any) -> Any:
        return whole_numbers(value)

    @model_validator(mode="after")
    def _by_other_names(self) -> Self:
        for other, name in self.same.items():
            value = getattr(self, other)
            if value is not None and getattr(self, name) is None:
                setattr(self, name, value)
        return self
