"""What each filter keeps, and that the draws follow the distribution."""

import math

import numpy as np
import pytest

from tests.sampling.oracle import IMPLEMENTATIONS, chi_square_limit, distribution, draw
from wingbeat.sampling.masses import exp2_f32, masses
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.rng import uniform
from wingbeat.sampling.samplers import Sampler

pytestmark = pytest.mark.parametrize("native", IMPLEMENTATIONS)

LOGITS = [0.3, -1.2, 2.0, 1.9, -4.0, 0.3, 1.1, -0.5, 0.0, 2.0, -2.2, 0.8]
POWERS_OF_TWO = math.log2(math.e)  # at this temperature a logit of -k has the mass 2^-k exactly


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.6),
        SamplingParams(temperature=2.5),
        SamplingParams(top_k=5),
        SamplingParams(top_p=0.7),
        SamplingParams(min_p=0.2),
        SamplingParams(temperature=1.4, top_k=8, top_p=0.9, min_p=0.15),
    ],
)
def test_draws_follow_the_distribution(native, params):
    expected = np.array(distribution(LOGITS, params)) * 6000
    found = draw(LOGITS, params, 6000, native=native)
    possible = expected > 0
    assert (found[~possible] == 0).all()
    statistic = ((found - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < chi_square_limit(int(possible.sum()) - 1)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"top_p": 0.0}, {0}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.51}, {0, 1}),
        ({"top_p": 0.75}, {0, 1}),
        ({"top_p": 0.76}, {0, 1, 2}),  # tokens 2 and 3 are equal: the lower id wins
        ({"top_p": 0.99}, {0, 1, 2, 3}),
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 4}, {0, 1, 2, 3}),
        ({"top_k": -1}, {0, 1, 2, 3}),
        ({"top_k": 10**6}, {0, 1, 2, 3}),
        ({"min_p": 0.25}, {0, 1, 2, 3}),
        ({"min_p": 0.26}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 2, "top_p": 0.6}, {0}),  # top_p looks at what top_k left: 2/3 and 1/3
        ({"top_k": 2, "top_p": 0.7}, {0, 1}),
    ],
)
def test_borders_are_exact(native, filters, kept):
    params = SamplingParams(temperature=POWERS_OF_TWO, **filters)
    found = draw([0.0, -1.0, -2.0, -2.0], params, 500, native=native)
    assert set(np.flatnonzero(found)) == kept


def test_the_draw_is_the_inverse_of_the_cumulative_distribution(native):
    sampler = Sampler(1, 4, native=native)
    sampler.start(0, SamplingParams(temperature=POWERS_OF_TWO), np.array([], np.int32), seed=7, choice=2)
    for position in range(100):
        row = np.array([[-2, -2, -1, 0]], np.float32)
        found = sampler.sample(row, np.array([0], np.int32), np.array([position])).tokens[0]
        assert found == np.searchsorted([0.125, 0.25, 0.5, 1.0], uniform(7, 2, position), side="right")


def test_greedy_takes_the_most_likely_token_and_the_lower_id_of_equal_ones(native):
    for logits, best in [([1.0, 3.0, 3.0, 2.0], 1), ([-0.0, 0.0], 0), ([-5.0, -math.inf], 0), ([1.0, math.inf], 1)]:
        for temperature in (0.0, 1e-7):
            assert draw(logits, SamplingParams(temperature=temperature), 4, native=native, slots=2)[best] == 4


def test_a_bias_of_minus_100_bans_and_a_positive_one_forces(native):
    found = draw([1.0, 2.0, 3.0], SamplingParams(logit_bias={2: -100.0}), 1000, native=native)
    assert found[2] == 0
    assert found.min(initial=1000, where=[True, True, False]) > 100
    assert draw([1.0, 2.0, 3.0], SamplingParams(logit_bias={0: 50.0}), 500, native=native)[0] == 500


def test_the_largest_temperature_is_uniform_and_a_tiny_one_greedy(native):
    uniform_counts = draw([0.0, 5.0, -5.0, 1.0], SamplingParams(temperature=1e300), 4000, native=native)
    assert ((uniform_counts - 1000.0) ** 2 / 1000).sum() < chi_square_limit(3)
    assert draw([0.0, 5.0, 4.9], SamplingParams(temperature=1e-5), 500, native=native)[1] == 500


def test_infinite_logits_share_everything(native):
    inf = math.inf
    found = draw([inf, 0.0, inf, -inf, 100.0], SamplingParams(top_p=0.99), 2000, native=native)
    assert found[0] + found[2] == 2000
    assert abs(found[0] - 1000) < 100


@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_top_p_is_exact_in_a_large_flat_row(native, top_p):
    """Thousands of tokens survive: the row is cut by its histogram in C++, by a sort in NumPy."""
    vocab = 8192
    logits = np.random.default_rng(1).permutation(np.linspace(-1, 1, vocab)).astype(np.float32)
    mass = masses(logits, 1.0)
    order = np.argsort(-logits, kind="stable")
    allowed = order[: int(np.searchsorted(np.cumsum(mass[order]), top_p * mass.sum())) + 1]
    found = draw(logits.tolist(), SamplingParams(top_p=top_p), 1000, native=native, slots=100)
    assert set(np.flatnonzero(found)) <= set(allowed.tolist())
    assert found[allowed[-len(allowed) // 10 :]].sum() > 25  # the least likely tenth of the set is reached


def test_exp2_is_accurate(native):
    x = -np.random.default_rng(0).uniform(0, 30.5, 100_000).astype(np.float32)
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(exp2_f32(x) - exact) / np.spacing(exact.astype(np.float32))).max() < 2
    assert exp2_f32(np.zeros(1, np.float32))[0] == 1
