"""The body and the reply of POST /v1/embeddings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, field_validator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_completions_schema import prompts_in
from wingbeat.server.dialects.openai_replies import Exact
from wingbeat.server.dialects.openai_schema import IDS, Ignored, example, whole_numbers

MAX_INPUTS = 2048
"""As OpenAI has it."""


def _inputs(value: Any) -> list[str | list[int]]:
    """A text, texts, token ids or lists of token ids, none of them empty."""
    inputs = [] if value is None else prompts_in(value)
    if not inputs or not all(inputs):
        raise ValueError("an empty input has no vector")
    if len(inputs) > MAX_INPUTS:
        raise ValueError(f"{len(inputs)} inputs; at most {MAX_INPUTS} in one request")
    return inputs


_TEXT = {"type": "string", "minLength": 1}
_IDS = {**IDS, "minItems": 1}
_MANY = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS}
Inputs = Annotated[
    list[str | list[int]],
    PlainValidator(_inputs),
    WithJsonSchema({"anyOf": [_TEXT, _IDS, {**_MANY, "items": _TEXT}, {**_MANY, "items": _IDS}]}),
]


class EmbeddingsBody(BaseModel):
    """Vectors of texts."""

    model_config = example({"input": ["The sky is blue.", "Der Himmel ist blau."]})

    input: Inputs = Field(description="A text, texts, token ids or lists of token ids; `data` has a vector for each.")
    model: str | None = Field(None, description="As for completions, or the embedding model.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers (the default), or the bytes of little-endian float32."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Only the first so many values, at most the model's width. Default: all."
    )
    user: str | None = Field(None, description=Ignored)

    layer: int | None = Field(
        None,
        ge=-1024,
        le=1023,
        description="Beyond OpenAI, of the RWKV model. From 0, negative ones from the end. Default: the last one.",
    )
    pooling: Literal["mean", "shift"] | None = Field(
        None,
        description="Beyond OpenAI, of the RWKV model. `mean` (the default): the mean over all tokens of the hidden "
        "vector after that layer; `shift`: what its time mixing keeps of the last token, as Ai00 has it.",
    )
    normalize: bool | None = Field(None, description="Beyond OpenAI. Vectors of length 1. Default: true.")
    prefix: str | None = Field(
        None, description="Beyond OpenAI, of the embedding model. Put directly before each text, such as `query: `."
    )

    @field_validator("dimensions", "layer", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return whole_numbers(value)


class Embedding(Exact):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Exact):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(Exact):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage
