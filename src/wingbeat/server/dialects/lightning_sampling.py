"""From rwkv_lightning's fields to the engine's parameters. Its versions differ in order and defaults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from wingbeat.sampling.params import MAX_STOPS, SamplingParams
from wingbeat.server.dialects.lightning_schema import SamplingBody
from wingbeat.server.errors import bad_request
from wingbeat.server.registry import ServedModel

T = TypeVar("T")

SEED_TOKENS = 1024
NEWER_TOKENS = 8192
NOISE = 1.5

SEED_STOPS = ("\n\n", "User")
"""Each a token of the World vocabulary, 261 and 24281. The end of text is one always."""
NEWER_STOPS = ("\nUser:",)

_LABEL = re.compile(r"\n[^\n]{1,100}:")

_NOT_COUNTED = "\t\n 0123456789"
"""What comes again and again in good text, and costs nothing in v2 and v3."""


class Defaults(NamedTuple):
    """What holds for fields that a request leaves out."""

    top_k: int
    top_p: float
    alpha_presence: float
    alpha_frequency: float


SEED = Defaults(top_k=1, top_p=0.3, alpha_presence=0.5, alpha_frequency=0.5)
NEWER = Defaults(top_k=50, top_p=0.6, alpha_presence=2.0, alpha_frequency=0.2)
CHAT = Defaults(top_k=20, top_p=0.6, alpha_presence=1.0, alpha_frequency=0.1)
DECAY = 0.996
CHAT_TOKENS = 4096


def noisy(body: SamplingBody, model: ServedModel) -> SamplingParams:
    """v1: the largest logit after noise was added; the newer rules for requests that only these can mean."""
    asks_newer = any(
        value is not None
        for value in (body.top_k, body.top_p, body.alpha_presence, body.alpha_frequency, body.alpha_decay)
    )
    if body.noise is None and asks_newer:
        return joint(body, model, SEED, SEED_TOKENS, seed_stops=True)
    return _params(body, model, SEED_TOKENS, seed_stops=True, sampler="noise", noise=_or(body.noise, NOISE))


def ordered(body: SamplingBody, model: ServedModel) -> SamplingParams:
    """v2 and v3: penalties, temperature, top_k, top_p."""
    return _params(
        *(body, model, SEED_TOKENS),
        seed_stops=True,
        penalties="counts_decay_first",
        penalty_free=_single_tokens(model, _NOT_COUNTED),
        penalty_free_presence=True,
        **_filters(body, SEED),
    )


def joint(
    body: SamplingBody,
    model: ServedModel,
    defaults: Defaults = NEWER,
    tokens: int = NEWER_TOKENS,
    *,
    seed_stops: bool = False,
) -> SamplingParams:
    """The newer routes: top_k and top_p at once, penalties that fade."""
    return _params(
        *(body, model, tokens), seed_stops=seed_stops, order="joint", penalties="values", **_filters(body, defaults)
    )


def plain(body: SamplingBody, model: ServedModel) -> SamplingParams:
    """big_batch: nothing but the temperature."""
    return _params(body, model, NEWER_TOKENS, seed_stops=False)


def _params(body: SamplingBody, model: ServedModel, tokens: int, *, seed_stops: bool, **rules: Any) -> SamplingParams:
    stops: Sequence[int | str] | None = body.stop_tokens
    if stops is None:
        stops = _single_tokens(model, SEED_STOPS) if seed_stops else NEWER_STOPS
    return SamplingParams(
        temperature=_or(body.temperature, 1.0),
        max_tokens=_or(body.max_tokens, tokens),
        **told_apart(stops, model),
        seed=body.seed,
        ignore_eos=body.ignore_eos,
        **rules,
    )


def told_apart(stops: Sequence[int | str], model: ServedModel, beside: Sequence[str] = ()) -> dict[str, Any]:
    """`stop_tokens`, with other texts `beside` them, as the texts and the ids that the engine takes. Ids that the
    vocabulary lacks are left out. Raises ApiError (400) for too many texts.

    With a label that begins a line the blank line before it goes, too: half of it would be left at the end of the text,
    and in what a session remembers.
    """
    own = [stop for stop in stops if isinstance(stop, str) and stop]
    texts = list(dict.fromkeys([*beside, *own]))
    if len(texts) > MAX_STOPS:
        counted = f", with the {len(beside)} of `stop` and of the model" if beside else ""
        message = f"stop_tokens: {len(texts)} texts{counted}, and at most {MAX_STOPS} are possible."
        raise bad_request(message, "stop_tokens")
    after_blank = [f"\n{stop}" for stop in own if _LABEL.fullmatch(stop)]
    ids = (stop for stop in stops if isinstance(stop, int) and 0 <= stop < model.vocab_size)
    return {
        "stop": tuple(dict.fromkeys([*texts, *after_blank]))[:MAX_STOPS],
        "stop_token_ids": tuple(dict.fromkeys(ids)),
    }


def _filters(body: SamplingBody, defaults: Defaults) -> dict[str, Any]:
    return {
        "top_k": _or(body.top_k, defaults.top_k),
        "top_p": _or(body.top_p, defaults.top_p),
        "presence_penalty": _or(body.alpha_presence, defaults.alpha_presence),
        "frequency_penalty": _or(body.alpha_frequency, defaults.alpha_frequency),
        "penalty_decay": _or(body.alpha_decay, DECAY),
    }


def _single_tokens(model: ServedModel, texts: Iterable[str]) -> tuple[int, ...]:
    """The tokens of those texts that are one."""
    if model.tokenizer is None:
        return ()
    encoded = [model.tokenizer.encode(text) for text in texts]
    return tuple(ids[0] for ids in encoded if len(ids) == 1)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
