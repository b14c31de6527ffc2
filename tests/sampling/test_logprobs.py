"""What is said of a token's probability: of one drawn, and of one given."""

import numpy as np
import pytest

from tests.sampling.oracle import IMPLEMENTATIONS
from tests.sampling.test_samplers import make_logits
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

    listed, alone, nothing = result.details
    assert listed is not None
    assert alone is not None
    assert nothing is None
    assert [listed.logprob, alone.logprob] == pytest.approx(exact[result.tokens[:2]], abs=2e-6)
    assert alone.top == []
    best = np.argsort(-row, kind="stable")[:20]
    assert [token for token, _ in listed.top] == best.tolist()
    assert [value for _, value in listed.top] == pytest.approx(exact[best], abs=2e-6)


def test_ties_are_listed_by_id(native):
    sampler = Sampler(1, 300, native=native)
    sampler.start(0, SamplingParams(logprobs=MAX_LOGPROBS), np.array([], np.int32), seed=0, choice=0)
    row = (np.arange(300) % 3 == 1).astype(np.float32)[None]
    details = sampler.sample(row, np.array([0]), np.array([0])).details[0]
    assert details is not None
    expected = [*range(1, 300, 3), *(t for t in range(300) if t % 3 != 1)]
    assert [token for token, _ in details.top] == expected[:MAX_LOGPROBS]


def test_tokens_without_probability_are_left_out(native):
    inf = np.inf
    for row, listed in [([0, -inf, 0, -inf], [0, 2]), ([inf, 5, inf, 0], [0, 2])]:
        sampler = Sampler(1, 4, native=native)
        sampler.start(0, SamplingParams(logprobs=4), np.array([], np.int32), seed=0, choice=0)
        details = sampler.sample(np.array([row], np.float32), np.array([0]), np.array([0])).details[0]
        assert details is not None
        assert [token for token, _ in details.top] == listed
        assert [value for _, value in details.top] == pytest.approx([-np.log(2)] * 2)


@pytest.mark.parametrize("kind", ["normal", "coarse", "peaked", "strange"])
@pytest.mark.parametrize("vocab", [1, 64, 65, 5003])
def test_a_given_token_scores_what_it_would_have_drawn(native, kind, vocab):
    rows, valid = 8, max(1, vocab - 2)
    logits = make_logits(kind, rows, vocab, 3)
    logits[1] = -np.inf
    sampler = Sampler(rows, vocab, valid_vocab=valid, native=native)
    for slot in range(rows):
        sampler.start(slot, SamplingParams(logprobs=7, temperature=2.0), np.array([], np.int32), seed=slot, choice=0)
    drawn = sampler.sample(logits, np.arange(rows), np.zeros(rows, np.int64))
    scored = sampler.score(logits, np.maximum(drawn.tokens, 0), 7)
    assert np.isnan(scored.logprobs[1])
    assert drawn.details[1] is None
    for row, details in enumerate(drawn.details):
        assert scored.top[row] == ([] if details is None else details.top)
        assert details is None or details.logprob == scored.logprobs[row]

    twin = Sampler(1, vocab, valid_vocab=valid, native=False)
    targets = np.random.default_rng(0).integers(0, vocab, rows)
    mine, other = (s.score(logits, targets, 3) for s in (sampler, twin))
    np.testing.assert_array_equal(mine.logprobs, other.logprobs)
    assert mine.top == other.top
    np.testing.assert_array_equal(mine.ranks, other.ranks)
    assert mine.ranks[1] == 0
    seen = logits[:, :valid]
    wanted = [(seen[row] >= seen[row, t]).sum() if t < valid else valid for row, t in enumerate(targets.tolist())]
    assert [r for r in mine.ranks.tolist() if r] == [w for w, r in zip(wanted, mine.ranks.tolist(), strict=True) if r]


def test_a_given_token_may_be_impossible(native):
    sampler = Sampler(1, 4, valid_vocab=3, native=native)
    row = [0.0, 0.0, -np.inf, 9.0]
    scored = sampler.score(np.array([row] * 3, np.float32), np.array([1, 2, 3]), 4)
    assert scored.logprobs.tolist() == [pytest.approx(-np.log(2)), -np.inf, -np.inf]
    assert [[token for token, _ in top] for top in scored.top] == [[0, 1]] * 3
    assert scored.ranks.tolist() == [2, 3, 3]  # tokens as likely as it count too


def test_there_may_be_no_rows_and_no_alternatives(native):
    sampler = Sampler(1, 4, native=native)
    assert sampler.score(np.zeros((0, 4), np.float32), np.array([], np.int32), 2).top == []
    assert sampler.score(np.zeros((1, 4), np.float32), np.array([2]), 0).top == [[]]
