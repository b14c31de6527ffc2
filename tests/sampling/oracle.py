"""Helpers of the sampling tests: an independent reading of the filters, and many draws from one row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wingbeat.sampling import samplers
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.samplers import Sampler, levels

IMPLEMENTATIONS = [False] if samplers._sampler is None else [False, True]
"""Values of `native` that this installation can run."""

EVERY_LEVEL: list[dict[str, Any]] = [{"native": False}, *({"native": True, "level": level} for level in levels())]
"""The twin, then the C++ sampler on each instruction set of this machine, as arguments of `Sampler`."""


def distribution(logits: list[float], params: SamplingParams) -> list[float]:
    """Probabilities after temperature, top_k, top_p and min_p, one token at a time in float64."""
    weights = [math.exp((logit - max(logits)) / params.temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.top_k > 0:
        order = order[: params.top_k]
    kept, mass, total = [], 0.0, sum(weights[token] for token in order)
    for token in order:
        if kept and mass >= params.top_p * total:
            break
        kept.append(token)
        mass += weights[token]
    kept = [token for token in kept if weights[token] >= params.min_p * weights[order[0]]]
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(logits))]


def draw(logits: list[float], params: SamplingParams, count: int, *, native: bool, slots: int = 500) -> np.ndarray:
    """How often each token is drawn from the same logits, with different seeds and positions."""
    sampler = Sampler(slots, len(logits), native=native)
    for slot in range(slots):
        sampler.start(slot, params, np.array([], np.int32), seed=slot * 0x9E3779B97F4A7C15, choice=slot % 3)
    rows = np.tile(np.array(logits, np.float32), (slots, 1))
    found = [
        sampler.sample(rows, np.arange(slots, dtype=np.int32), np.full(slots, position, np.int64)).tokens
        for position in range(count // slots)
    ]
    return np.bincount(np.concatenate(found), minlength=len(logits))


def chi_square_limit(degrees: int) -> float:
    """The value that chi-square exceeds once in 10,000 times (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + 3.719 * math.sqrt(spread)) ** 3
