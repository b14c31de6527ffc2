"""From the fields that say how tokens are drawn to the engine's parameters. OpenAI's defaults for what is absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.openai_schema import GenerationBody
from wingbeat.server.registry import ServedModel

T = TypeVar("T")

_TAU = {"typical": 0.5, "mirostat": 3.0, "mirostat_full": 3.0}
_NOISE = 1.5


def sampling_params(
    body: GenerationBody, model: ServedModel, max_tokens: int | None, stops: Sequence[str], logprobs: int | None
) -> SamplingParams:
    """How to draw what `body` asks for. Raises ApiError (400) for token ids outside the vocabulary."""
    bias, stop_ids = body.logit_bias or {}, body.stop_token_ids or []
    model.check_tokens(bias, "logit_bias")
    model.check_tokens(stop_ids, "stop_token_ids")
    return SamplingParams(
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=_or(body.top_k, 0),
        min_p=_or(body.min_p, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        logit_bias=bias,
        seed=body.seed,
        max_tokens=max_tokens,
        stop=tuple(dict.fromkeys((*stops, *(body.stop or ())))),
        stop_token_ids=_ids(stop_ids),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
    )


def _ids(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
