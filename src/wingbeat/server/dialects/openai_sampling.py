"""From the fields that say how tokens are drawn to the engine's parameters. OpenAI's defaults for what is absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from wingbeat.sampling.params import SamplingParams, ThinkingBudget
from wingbeat.server.dialects.openai_sampling_schema import SamplingFields
from wingbeat.server.dialects.openai_schema import GenerationBody
from wingbeat.server.registry import ServedModel

T = TypeVar("T")

_TAU = {"typical": 0.5, "mirostat": 3.0, "mirostat_full": 3.0}
_NOISE = 1.5

END_OF_REASONING = "\n</think>"
"""What is put into the model's mouth when it has reasoned for long enough."""


def sampling_params(
    body: GenerationBody, model: ServedModel, max_tokens: int | None, stops: Sequence[str], logprobs: int | None
) -> SamplingParams:
    """How to draw what `body` asks for. Raises ApiError (400) for token ids outside the vocabulary."""
    bias, stop_ids = body.logit_bias or {}, body.stop_token_ids or []
    model.check_tokens(bias, "logit_bias")
    for name in ("stop_token_ids", "penalty_free_ids", "no_repeat_ids", "allowed_token_ids"):
        model.check_tokens(getattr(body, name) or [], name)
    return SamplingParams(
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=_or(body.top_k, 0),
        min_p=_or(body.min_p, 0.0),
        **_sampler(body),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        **_penalties(body),
        logit_bias=bias,
        seed=body.seed,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        stop=tuple(dict.fromkeys((*stops, *(body.stop or ())))),
        stop_token_ids=_ids(stop_ids),
        shown_stops=(*(body.stop or ()), *stop_ids) if body.include_stop_str_in_output else (),
        allowed_token_ids=None if body.allowed_token_ids is None else tuple(sorted(set(body.allowed_token_ids))),
        bad_words=tuple(dict.fromkeys(body.bad_words or ())),
        ignore_eos=bool(body.ignore_eos),
        skip_special_tokens=body.skip_special_tokens is not False,
        logprobs=logprobs,
    )


def with_budget(
    sampling: SamplingParams, tokens: int | None, model: ServedModel, segments: Sequence[str]
) -> SamplingParams:
    """`sampling` with an end to the reasoning after so many tokens, where the model can reason. `segments` are those of
    the prompt."""
    if tokens is None or model.profile.thinking == "none" or model.tokenizer is None:
        return sampling
    begun = model.profile.splitter(segments).reasoning
    budget = ThinkingBudget(tokens, tuple(model.tokenizer.encode(END_OF_REASONING)), begun)
    return msgspec.structs.replace(sampling, thinking=budget)


def _sampler(body: SamplingFields) -> dict[str, Any]:
    sampler, tau, rate = _or(body.sampler, "nucleus"), body.tau, body.rate
    if body.typical_p is not None and body.typical_p < 1:
        sampler, tau = "typical", body.typical_p
    elif body.mirostat:
        sampler, tau, rate = "mirostat", _or(body.mirostat_tau, tau), _or(body.mirostat_eta, rate)
    return {
        "sampler": sampler,
        "order": _or(body.sampler_order, "standard"),
        "tau": tau if tau is not None else _TAU.get(sampler),
        "rate": _or(rate, 0.1),
        "noise": _or(body.noise, _NOISE if sampler == "noise" else 0.0),
    }


def _penalties(body: SamplingFields) -> dict[str, Any]:
    decay = body.penalty_decay
    if decay is None and body.half_life is not None:
        decay = 0.5 ** (1 / body.half_life)
    return {
        "repetition_over": _or(body.repetition_over, "all"),
        "penalty_decay": _or(decay, 1.0),
        "penalties": _or(body.penalty_mode, "counts"),
        "penalty_free": _ids(body.penalty_free_ids or ()),
        "global_penalty": bool(body.global_penalty),
        "no_repeat": _ids(body.no_repeat_ids or ()),
    }


def _ids(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
