"""From a checked body to what the engine is asked: which model, with which sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from wingbeat.sampling.params import SamplingParams
from wingbeat.server.dialects.openai_schema import GenerationBody
from wingbeat.server.registry import ModelRegistry, ServedModel

T = TypeVar("T")


def ready_model(registry: ModelRegistry, body: GenerationBody) -> ServedModel:
    """The model that the request names. Raises ApiError: 404 when there is none, 503 while it cannot be asked."""
    model = registry.find(body.model)
    model.check_ready()
    return model


def sampling_params(
    body: GenerationBody, model: ServedModel, max_tokens: int | None, stops: Sequence[str], logprobs: int | None
) -> SamplingParams:
    """OpenAI's defaults for what is absent. Raises ApiError (400) for token ids outside the vocabulary."""
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
        stop_token_ids=tuple(dict.fromkeys(stop_ids)),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
