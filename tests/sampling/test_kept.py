"""What each sampler draws: that the draws follow its formula, and the published test vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.sampling.oracle import EVERY_LEVEL, IMPLEMENTATIONS, chi_square_limit, draw
from wingbeat.sampling import kept
from wingbeat.sampling.masses import masses
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.rng import noise
from wingbeat.sampling.samplers import Sampler

LOGITS = [0.3, -1.2, 2.0, 1.9, -4.0, 0.3, 1.1, -0.5, 0.0, 2.0, -2.2, 0.8]
VECTOR = np.array([3, 2, 1, 0, -1, -5], np.float32)
NOTHING = np.array([], np.int32)


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def powers(p: list[float], chosen: set[int], temperature: float) -> list[float]:
    weights = [p[i] ** (1 / temperature) if i in chosen else 0.0 for i in range(len(p))]
    return [weight / sum(weights) for weight in weights]


def by_rank(p: list[float]) -> list[int]:
    return sorted(range(len(p)), key=lambda i: (-p[i], i))


def walk(p: list[float], order: list[int], mass: float) -> set[int]:
    """Ai00's: on while the mass of those before is at most `mass`."""
    chosen: set[int] = set()
    before = 0.0
    for i in order:
        if before > mass:
            break
        chosen.add(i)
        before += p[i]
    return chosen


def expected_rwkv(params: SamplingParams) -> list[float]:
    p = softmax(LOGITS)
    order, running = by_rank(p), 0.0
    for i in order:
        running += p[i]
        if running >= params.top_p:
            cutoff = p[i]
            break
    chosen = [i for i in order if p[i] >= cutoff][: params.top_k or None]
    return powers(p, set(chosen), params.temperature)


def expected_ai00(params: SamplingParams) -> list[float]:
    p = softmax(LOGITS)
    return powers(p, walk(p, by_rank(p)[: params.top_k or None], params.top_p), params.temperature)


def expected_joint(params: SamplingParams) -> list[float]:
    p = softmax([logit / params.temperature for logit in LOGITS])
    share, mass, count = [0.0] * len(p), 0.0, 0.0
    for value in sorted(set(p), reverse=True):
        ties = [i for i in range(len(p)) if p[i] == value]
        part = min(1.0, (params.top_p - mass) / (len(ties) * value), ((params.top_k or len(p)) - count) / len(ties))
        for i in ties:
            share[i] = max(0.0, part) * value
        mass, count = mass + len(ties) * value, count + len(ties)
    return [value / sum(share) for value in share]


def expected_typical(params: SamplingParams) -> list[float]:
    p = softmax(LOGITS)
    entropy = -sum(x * math.log(x) for x in p)
    order = sorted(range(len(p)), key=lambda i: (abs(-math.log(p[i]) - entropy), i))
    return powers(p, walk(p, order[: params.top_k or None], params.tau or 0.5), params.temperature)


def expected_mirostat(params: SamplingParams) -> list[float]:
    p = softmax(LOGITS)
    order = by_rank(p)
    above = [rank for rank, i in enumerate(order) if -math.log2(p[i]) > 2 * (params.tau or 3)]
    return powers(p, set(order[: above[0] + 1] if above else order), 1.0)


def expected_full(params: SamplingParams) -> list[float]:
    p = softmax(LOGITS)
    chosen = {i for i in range(len(p)) if -math.log2(p[i]) <= 2 * (params.tau or 3)}
    return powers(p, {i for i in chosen if p[i] >= params.min_p * max(p)}, params.temperature)


CASES: list[tuple[Any, dict[str, Any]]] = [
    (expected_rwkv, {"order": "rwkv", "top_p": 0.3, "temperature": 1.7}),
    (expected_rwkv, {"order": "rwkv", "top_p": 0.9, "top_k": 6, "temperature": 0.6}),
    (expected_ai00, {"order": "ai00", "top_p": 0.5, "temperature": 2.0}),
    (expected_ai00, {"order": "ai00", "top_p": 0.95, "top_k": 5}),
    (expected_joint, {"order": "joint", "top_p": 0.6, "temperature": 1.3}),
    (expected_joint, {"order": "joint", "top_p": 0.97, "top_k": 5}),
    (expected_joint, {"order": "joint", "top_k": 1}),
    (expected_typical, {"sampler": "typical", "temperature": 1.5}),
    (expected_typical, {"sampler": "typical", "tau": 0.8, "top_k": 4}),
    (expected_mirostat, {"sampler": "mirostat", "tau": 1.2, "rate": 0.0}),
    (expected_mirostat, {"sampler": "mirostat", "tau": 9.0, "rate": 0.0}),
    (expected_full, {"sampler": "mirostat_full", "tau": 1.7, "rate": 0.0, "temperature": 1.4}),
    (expected_full, {"sampler": "mirostat_full", "tau": 3.0, "rate": 0.0, "min_p": 0.2, "temperature": 0.7}),
]


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
@pytest.mark.parametrize(("formula", "fields"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_draws_follow_the_formula(native: bool, formula: Any, fields: dict[str, Any]) -> None:
    params = SamplingParams(**fields)
    params.validate()
    expected = np.array(formula(params)) * 4000
    found = draw(LOGITS, params, 4000, native=native)
    possible = expected > 0
    assert (found[~possible] == 0).all()
    statistic = ((found - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < chi_square_limit(max(1, int(possible.sum()) - 1))


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_noise_is_uniform_and_added_to_tempered_logits(native: bool) -> None:
    """Of two tokens that are d apart after temperature, the lower one wins with (1 - d / noise)^2 / 2."""
    params = SamplingParams(sampler="noise", noise=2.0, temperature=0.5)
    found = draw([0.25, 0.0, -0.8], params, 4000, native=native)
    assert found[2] == 0  # 2.1 below the first: out of reach
    found = draw([0.25, 0.0], params, 4000, native=native)
    chance = (1 - 0.5 / 2) ** 2 / 2
    assert abs(found[1] - 4000 * chance) < 4 * math.sqrt(4000 * chance * (1 - chance))
    assert draw([0.25, 0.0], SamplingParams(sampler="noise"), 500, native=native)[1] == 0


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_noise_is_that_of_each_token(native: bool) -> None:
    rows = np.random.default_rng(0).normal(0, 1, (1, 300)).astype(np.float32)
    sampler = Sampler(1, 300, native=native)
    sampler.start(0, SamplingParams(sampler="noise", noise=5.0), NOTHING, seed=9, choice=2)
    for position in range(20):
        loud = [rows[0, i] + 5 * noise(9, 2, position, i) for i in range(300)]
        assert sampler.sample(rows, np.array([0]), np.array([position])).tokens[0] == int(np.argmax(loud))


@pytest.mark.parametrize(
    ("repeated", "temperature", "weights"),
    [
        ((), 1.0, (0.643914, 0.236883, 0.087144)),
        ((), 1.2, (0.615963, 0.267696, 0.116340)),
        ((), 2.0, (0.506480, 0.307196, 0.186324)),
        ((0, 4), 1.2, (0.483031, 0.318434, 0.138391, 0.060144)),
    ],
)
def test_mirostat_full_has_the_published_weights(
    repeated: tuple[int, ...], temperature: float, weights: tuple[float, ...]
) -> None:
    logits = VECTOR.copy()
    for token in repeated:
        logits[token] = logits[token] / 1.2 if logits[token] > 0 else logits[token] * 1.2
    params = SamplingParams(sampler="mirostat_full", tau=3.0, min_p=0.05, temperature=temperature)
    found = kept.mirostat_full(logits, params, 6.0)
    assert found[: len(weights)] / found.sum() == pytest.approx(
        np.array(weights) / sum(weights), abs=2e-6
    )  # the first are published before min_p
    assert (found[len(weights) :] == 0).all()


@pytest.mark.parametrize("kind", EVERY_LEVEL)
def test_mirostat_full_follows_the_published_surprise(kind: dict[str, Any]) -> None:
    sampler = Sampler(40, 6, **kind)
    for slot in range(40):
        params = SamplingParams(sampler="mirostat_full", tau=3.0, min_p=0.05)
        sampler.start(slot, params, NOTHING, seed=slot, choice=0)
    result = sampler.sample(np.tile(VECTOR, (40, 1)), np.arange(40), np.zeros(40, np.int64))
    seen = {token: each.mu for token, each in zip(result.tokens.tolist(), result.details, strict=True) if each}
    assert seen == pytest.approx({0: 6.23477, 1: 6.09050, 2: 5.94623}, abs=1e-5)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_mirostat_aims_at_its_surprise(native: bool) -> None:
    """Ai00's: mu - rate * (log2 of the kept mass - log2 p - tau), at most 4 tau."""
    logits = np.array([LOGITS], np.float32)
    sampler = Sampler(1, len(LOGITS), native=native)
    params = SamplingParams(sampler="mirostat", tau=1.0, rate=0.7)
    sampler.start(0, params, NOTHING, seed=3, choice=0)
    mu = 2.0
    for position in range(50):
        mass = kept.mirostat(logits[0], mu)
        result = sampler.sample(logits, np.array([0]), np.array([position]))
        p = masses(logits[0], 1.0)[result.tokens[0]]
        mu = min(mu - 0.7 * (math.log2(mass.sum()) - math.log2(p) - 1), 4.0)
        assert result.details[0] is not None
        assert result.details[0].mu == pytest.approx(mu, abs=1e-5)
        mu = result.details[0].mu


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
@pytest.mark.parametrize("sampler", ["nucleus", "typical", "mirostat", "mirostat_full", "noise"])
def test_temperature_0_is_greedy_whatever_the_sampler(native: bool, sampler: Any) -> None:
    params = SamplingParams(sampler=sampler, temperature=0, noise=9, order="joint")
    assert draw(LOGITS, params, 20, native=native, slots=10)[2] == 20
