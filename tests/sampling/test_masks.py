"""Masks: which tokens a row may get."""

import math

import numpy as np
import pytest

from tests.sampling.oracle import EVERY_LEVEL, IMPLEMENTATIONS
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.results import Masks
from wingbeat.sampling.samplers import Sampler

NOTHING = np.array([], np.int32)


def bits_of(allowed: list[np.ndarray], vocab: int) -> np.ndarray:
    """uint32 [M, ceil(V / 32)]: one row for each list of token ids."""
    bits = np.zeros((len(allowed), (vocab + 31) // 32), np.uint32)
    for row, tokens in zip(bits, allowed, strict=True):
        for token in tokens.tolist():
            row[token >> 5] |= np.uint32(1 << (token & 31))
    return bits


@pytest.mark.parametrize("kind", EVERY_LEVEL)
def test_only_allowed_tokens_are_drawn(kind):
    rng, vocab = np.random.default_rng(0), 1000 - 3
    logits = rng.normal(0, 2, (60, vocab)).astype(np.float32)
    lists = [rng.permutation(vocab)[: 1 + 7 * row] for row in range(60)]
    filters = [{"temperature": 0}, {}, {"top_p": 0.9}, {"top_k": 20}, {"top_k": 500, "min_p": 0.01}]
    sampler = Sampler(60, vocab, **kind)
    for slot in range(60):
        sampler.start(slot, SamplingParams(**filters[slot % 5]), NOTHING, seed=slot, choice=0)
    before = logits.copy()
    masks = Masks(bits_of(lists, vocab), np.arange(60))
    result = sampler.sample(logits, np.arange(60), np.zeros(60, np.int64), masks)
    assert all(token in tokens for token, tokens in zip(result.tokens.tolist(), lists, strict=True))
    for row in range(0, 60, 5):
        assert result.tokens[row] == lists[row][np.argmax(logits[row, lists[row]])]
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_a_masked_row_is_one_whose_other_logits_are_minus_infinity(native):
    rng, vocab = np.random.default_rng(1), 700
    logits = rng.normal(0, 2, (4, vocab)).astype(np.float32)
    allowed = np.flatnonzero(rng.random(vocab) < 0.3)
    cut = np.full_like(logits, -np.inf)
    cut[:, allowed] = logits[:, allowed]
    params = SamplingParams(top_p=0.9, repetition_penalty=1.3, presence_penalty=0.5, logit_bias={5: 3.0})
    plain, masked = (Sampler(4, vocab, native=native) for _ in range(2))
    for slot in range(4):
        for sampler in (plain, masked):
            sampler.start(slot, params, allowed[:40], seed=slot, choice=0)
    masks = Masks(bits_of([allowed], vocab), np.zeros(4, np.int32))
    for position in range(10):
        positions = np.full(4, position)
        wanted = plain.sample(cut, np.arange(4), positions).tokens
        assert masked.sample(logits, np.arange(4), positions, masks).tokens.tolist() == wanted.tolist()


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_rows_may_share_a_mask_or_have_none_and_report_raw_logprobs(native):
    logits = np.tile(np.array([3, 2, 1, 0], np.float32), (4, 1))
    sampler = Sampler(4, 4, native=native)
    for slot in range(4):
        sampler.start(slot, SamplingParams(temperature=0, logprobs=4), NOTHING, seed=0, choice=0)
    masks = Masks(np.array([[0b1100], [0b0010]], np.uint32), np.array([0, -1, 0, 1]))
    result = sampler.sample(logits, np.arange(4), np.zeros(4, np.int64), masks)
    assert result.tokens.tolist() == [2, 0, 2, 1]
    total = math.log(sum(map(math.exp, range(4))))
    told = [details for details in result.details if details is not None]
    assert [each.logprob for each in told] == pytest.approx([1 - total, 3 - total, 1 - total, 2 - total], abs=1e-6)
    assert all([token for token, _ in each.top] == [0, 1, 2, 3] for each in told)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_where_nothing_is_allowed_the_row_alone_fails(native):
    logits = np.zeros((3, 70), np.float32)
    logits[2, 69] = np.nan  # not allowed, and yet the row is broken
    sampler = Sampler(3, 70, native=native)
    for slot in range(3):
        sampler.start(slot, SamplingParams(), NOTHING, seed=0, choice=0)
    masks = Masks(np.array([[0, 0, 0], [0, 0, 1]], np.uint32), np.array([0, 1, 1]))
    assert sampler.sample(logits, np.arange(3), np.zeros(3, np.int64), masks).tokens.tolist() == [-1, 64, -1]


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
def test_masks_that_do_not_fit_are_refused(native):
    sampler = Sampler(1, 70, native=native)
    sampler.start(0, SamplingParams(), NOTHING, seed=0, choice=0)
    for bits, rows, error in [
        (np.zeros((1, 2)), [0], ValueError),
        (np.zeros(3), [0], ValueError),
        (np.zeros((1, 3)), [0, 0], ValueError),
        (np.zeros((1, 3)), [1], IndexError),
        (np.zeros((1, 3)), [-2], IndexError),
    ]:
        masks = Masks(bits.astype(np.uint32), np.array(rows, np.int32))
        with pytest.raises(error, match="masks"):
            sampler.sample(np.zeros((1, 70), np.float32), np.array([0]), np.array([0]), masks)
