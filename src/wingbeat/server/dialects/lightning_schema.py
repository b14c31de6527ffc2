"""What rwkv_lightning's clients may send. Types are coerced as its server does ("5" is 5, one text is a list of one);
unknown fields are ignored, `null` means absent.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from wingbeat.sampling.params import MAX_STOP_LENGTH, MAX_STOPS
from wingbeat.server.dialects.openai_schema import MAX_SESSION_ID, SessionId, printable

MAX_TOKENS = 1_000_000
MAX_CHUNK = 100_000
SEED_CHUNK, NEWER_CHUNK = 32, 4
MAX_STOP_IDS = 1_000
MAX_TREE_ID = MAX_SESSION_ID - 12
"""A turn's number follows it in the name of its session."""
LARGEST = 1e6
"""Of penalties and the like: beyond it there are no more differences."""


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def stop_tokens(value: Any) -> Any:
    """Ids and texts, in one list; one alone counts as a list."""
    entries = [value] if isinstance(value, str | int) and not isinstance(value, bool) else value
    if not isinstance(entries, list):
        return entries
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, int | str):
            raise ValueError("token ids and texts are wanted")
        if isinstance(entry, str) and len(entry) > MAX_STOP_LENGTH:
            raise ValueError(f"a stop text may have {MAX_STOP_LENGTH} characters at most")
    if sum(isinstance(entry, str) for entry in entries) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop texts are possible")
    return entries


def at_least_one(value: int) -> int:
    """What is less counts as 1."""
    return max(1, value)


def _not_below_zero(value: float | None) -> float | None:
    return None if value is None else max(0.0, value)


def _top_k(value: int | None) -> int | None:
    return None if value is None else min(max(0, value), 2**31 - 1)


def _top_p(value: float | None) -> float | None:
    return value if value is None or 0 <= value <= 1 else 1.0


Texts = Annotated[list[str], BeforeValidator(_texts)]
StopTokens = Annotated[Annotated[list[int | str], Field(max_length=MAX_STOP_IDS)] | None, BeforeValidator(stop_tokens)]
Temperature = Annotated[float | None, Field(ge=0, le=LARGEST, description="Default 1. 0 takes the most likely token.")]
TopK = Annotated[int | None, AfterValidator(_top_k)]
TopP = Annotated[float | None, AfterValidator(_top_p)]
Penalty = Annotated[float | None, Field(ge=-LARGEST, le=LARGEST)]


def shown(body: dict[str, Any]) -> ConfigDict:
    """The configuration of a body that is shown by `body` at /docs."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class Body(BaseModel):
    """A body whose fields that are null count as absent."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if v is not None} if isinstance(fields, dict) else fields


class SamplingBody(Body):
    """How to draw the tokens of each row, and when a row ends. Each route has its own defaults, see docs."""

    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS, description="The most tokens to generate for each row.")
    stop_tokens: StopTokens = Field(None, description="Token ids and texts that end a row and are left out of it.")
    temperature: Temperature = None
    noise: float | None = Field(None, ge=0, le=LARGEST, description="v1: the most that is added to each logit.")
    top_k: TopK = Field(None, description="Keep so many most likely tokens. 0 and less: all.")
    top_p: TopP = Field(None, description="Keep the most likely tokens of this mass, 0 to 1. Outside of that: all.")
    alpha_presence: Penalty = Field(None, description="Subtracted once from the logits of tokens that came.")
    alpha_frequency: Penalty = Field(None, description="Subtracted for each time that a token came.")
    alpha_decay: float | None = Field(None, gt=0, le=1, description="Multiplies what is subtracted, each token.")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="Same seed, same texts.")
    ignore_eos: bool = Field(False, description="Go on after the model's own end of text.")


class ReplyBody(Body):
    """How the reply is to look."""

    model: str = Field("rwkv7", max_length=256, description="Repeated in the reply. It chooses nothing.")
    stream: bool = Field(False, description="Send the pieces of all rows as they are written.")
    chunk_size: Annotated[int, AfterValidator(at_least_one)] = Field(
        NEWER_CHUNK, le=MAX_CHUNK, description="Tokens of a row in each of its pieces. Less than 1 means 1."
    )
    include_usage: bool = Field(False, description="End a stream with an event that holds the token counts.")
    password: str | None = Field(None, description="A key, where the server wants one; or send it as a header.")


class BigBatchBody(SamplingBody, ReplyBody):
    """Prompts to continue, each a row of one batch."""

    model_config = shown({"contents": ["Once upon a time"], "max_tokens": 16, "temperature": 0.8})

    contents: Texts = Field(description="The prompts, read as they are.")
    temperature: Annotated[float | None, AfterValidator(_not_below_zero)] = Field(
        None, ge=-LARGEST, le=LARGEST, description="Default 1. 0 and less take the most likely token."
    )
    stream: bool = Field(True, description="Send the pieces of all rows as they are written.")


class BatchBody(BigBatchBody):
    """The same with what v1, v2 and v3 know beside."""

    model_config = shown(
        {
            "contents": ["Chinese: 今天天气很好\n\nEnglish:", "Chinese: 我喜欢读书\n\nEnglish:"],
            "max_tokens": 64,
            "stop_tokens": [0, 261, 24281],
            "temperature": 1.0,
            "top_k": 1,
            "stream": False,
        }
    )

    temperature: Temperature = None
    chunk_size: Annotated[int, AfterValidator(at_least_one)] = Field(
        SEED_CHUNK, le=MAX_CHUNK, description="Tokens of a row in each of its pieces. Less than 1 means 1."
    )
    stream: bool = Field(False, description="Send the pieces of all rows as they are written.")
    pad_zero: bool = Field(True, description="v2 and v3: begin each prompt with the document start.")


class TurnBody(SamplingBody, ReplyBody):
    """One turn of a conversation."""

    contents: Texts = Field(description="One prompt: the new turn, as the model is to read it.")


class StateBody(TurnBody):
    """A turn that follows the last one of a session."""

    model_config = shown({"session_id": "mine", "contents": ["User: Hello!\n\nAssistant:"], "max_tokens": 32})

    session_id: SessionId = Field(None, description="The conversation. Absent: nothing is remembered.")


class TreeBody(TurnBody):
    """A turn that follows any other one of a tree."""

    model_config = shown(
        {"session_id": "mine", "dialogue_idx": 0, "contents": ["User: Hello!\n\nAssistant:"], "max_tokens": 32}
    )

    session_id: Annotated[str, printable(MAX_TREE_ID), Field(min_length=1, max_length=MAX_TREE_ID)]
    dialogue_idx: int = Field(ge=0, le=2**31 - 1, description="The turn to go on from; 0: the beginning.")


class InfillBody(SamplingBody, ReplyBody):
    """Gaps to fill between texts, each a row of one batch."""

    model_config = shown(
        {"prefix": ["A cat darted from the alley,"], "suffix": ["And then a lamp came on."], "max_tokens": 32}
    )

    prefix: Texts = Field(description="What comes before each gap.")
    suffix: Texts = Field(description="What comes after it; as many as `prefix` has.")


class StatusBody(Body):
    model_config = shown({})

    password: str | None = None


class DeleteBody(StatusBody):
    model_config = shown({"session_id": "mine", "delete_prefix": True})

    session_id: Annotated[str, Field(min_length=1, max_length=MAX_SESSION_ID)]
    delete_prefix: bool = Field(False, description="Delete the turns of a tree, too.")
