import numpy as np
import pytest

from tests.sampling.oracle import IMPLEMENTATIONS
from wingbeat.sampling.params import MAX_LOGPROBS, SamplingParams
from wingbeat.sampling.samplers import Sampler

pytestmark = pytest.mark.parametrize("native", IMPLEMENTATIONS)


def log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("vocab", [3, 500, 20000])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_they_are_the_log_softmax_of_the_raw_logits(native, vocab, scale):
    """Bias, penalties, temperature and filters do not change them."""
    row = np.random.default_rng(vocab).normal(0, scale, vocab).astype(np.float32)
    exact = log_softmax(row)
    filters = {"temperature": 0.5, "top_k": 30, "logit_bias": {1: 3.0}, "repetition_penalty": 1.4}
    asked = [SamplingParams(logprobs=20, **filters), SamplingParams(logprobs=0), SamplingParams()]
    sampler = Sampler(3, vocab, native=native)
    for slot, params in enumerate(asked):
        sampler.start(slot, params, np.array([0, 2], np.int32), seed=5, choice=slot)
    result = sampler.sample(np.stack([row] * 3), np.arange(3), np.zeros(3, np.int64))

    assert result.logprobs[:2] == pytest.approx(exact[result.tokens[:2]], abs=2e-6)
    assert np.isnan(result.logprobs[2])
    assert result.top[1:] == [[], None]
    best = np.argsort(-row, kind="stable")[:20]
    assert result.top[0] is not None
    assert [token for token, _ in result.top[0]] == best.tolist()
    assert [value for _, value in result.top[0]] == pytest.approx(exact[best], abs=2e-6)


def test_ties_are_listed_by_id(native):
    sampler = Sampler(1, 300, native=native)
    sampler.start(0, SamplingParams(logprobs=MAX_LOGPROBS), np.array([], np.int32), seed=0, choice=0)
    row = (np.arange(300) % 3 == 1).astype(np.float32)[None]
    top = sampler.sample(row, np.array([0]), np.array([0])).top[0]
    assert top is not None
    assert [token for token, _ in top] == [*range(1, 300, 3), *(t for t in range(300) if t % 3 != 1)][:MAX_LOGPROBS]


def test_tokens_without_probability_are_left_out(native):
    inf = np.inf
    for row, listed in [([0, -inf, 0, -inf], [0, 2]), ([inf, 5, inf, 0], [0, 2])]:
        sampler = Sampler(1, 4, native=native)
        sampler.start(0, SamplingParams(logprobs=4), np.array([], np.int32), seed=0, choice=0)
        top = sampler.sample(np.array([row], np.float32), np.array([0]), np.array([0])).top[0]
        assert top is not None
        assert [token for token, _ in top] == listed
        assert [value for _, value in top] == pytest.approx([-np.log(2)] * 2)
