"""What clients of Ai00 send and receive."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator
from pydantic.json_schema import WithJsonSchema

from wingbeat.server.dialects.openai_replies import Exact
from wingbeat.server.dialects.openai_schema import TEXTS, example

MAX_CHOICES = 4096


def _texts(value: Any) -> list[str]:
    """A text, texts or nothing, as a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError("a text or a list of texts is wanted")


_TEXTS = WithJsonSchema({"anyOf": [{"type": "string"}, TEXTS, {"type": "null"}]})
Joined = Annotated[str, PlainValidator(lambda value: "".join(_texts(value))), _TEXTS]
"""A list is the parts of one text, which nothing separates."""


class ChoosesBody(BaseModel):
    """Rank choices by how likely they are after a text."""

    model_config = example({"input": "The sky is", "choices": [" blue.", " made of cheese."]})

    model: str | None = Field(None, description="Under /v1 as for completions; elsewhere without effect.")
    input: Joined = Field("", description="What the choices follow: a text, or the parts of one.")
    choices: list[str] | None = Field(None, max_length=MAX_CHOICES, description="Each is tokenised by itself.")
    state: str | None = Field(
        None,
        description="The state to begin from, by name or id, as for completions. A UUID that names none means the "
        "default one.",
    )
    calibrate: bool | None = Field(
        None, description="Take off how likely each choice is after nothing, so that common ones do not win by that."
    )


class RankedChoice(Exact):
    object: Literal["choice"]
    index: int
    """Its place in the request."""
    rank: int
    """From 0, the best."""
    choice: str
    perplexity: float | None
    """The mean negative log-likelihood of its tokens; null for a choice that is empty or impossible."""


class ChoosesReply(Exact):
    object: Literal["list"]
    model: str
    data: list[RankedChoice]
