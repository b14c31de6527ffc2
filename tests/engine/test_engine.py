"""The engine on small random models, with every backend that this installation has."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.engine.helpers import answers, assert_empty, complete, drain, request
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig
from wingbeat.models import Model
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer


def make(model: Model, tokenizer: WorldTokenizer, **config: Any) -> Engine:
    return Engine(model, tokenizer, EngineConfig(model="", **config))


def prompt(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, 266, length).tolist()


def test_a_seeded_request_is_the_same_alone_and_among_others(model: Model, tokenizer: WorldTokenizer) -> None:
    sampling = SamplingParams(seed=5, max_tokens=24, ignore_eos=True, repetition_penalty=1.3, presence_penalty=0.5)
    alone = complete(make(model, tokenizer, max_batch=40), prompt(0, 20), sampling)
    engine = make(model, tokenizer, max_batch=40, token_budget=50)
    outputs = []
    for i in range(32):
        engine.submit(request(engine, 100 + i, [prompt(i, 1 + i)], SamplingParams(seed=i, max_tokens=3 * i)))
        if i == 15:
            engine.submit(request(engine, 1, [prompt(0, 20)], sampling))
        if i % 3 == 0:
            outputs += engine.step().rows
    crowded = answers(o for o in outputs + drain(engine) if o.request == 1)
    assert len(alone.token_ids) == 24
    assert crowded[1, 0] == alone


def test_reading_a_prompt_in_chunks_changes_nothing(model: Model, tokenizer: WorldTokenizer) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=8, logprobs=3, ignore_eos=True)
    whole = complete(make(model, tokenizer, max_batch=1), prompt(1, 100), sampling)
    chunked = complete(make(model, tokenizer, max_batch=1, token_budget=17), prompt(1, 100), sampling)
    assert chunked.token_ids == whole.token_ids
    assert chunked.logprobs is not None
    assert whole.logprobs is not None
    pairs = zip(chunked.logprobs, whole.logprobs, strict=True)
    if model.info.backend == "reference":  # BLAS: equal to rounding only
        assert all(a.logprob == pytest.approx(b.logprob, abs=1e-4) for a, b in pairs)
    else:
        assert chunked.logprobs == whole.logprobs


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_choices_of_one_prompt_equal_separate_requests(model: Model, tokenizer: WorldTokenizer, slots: int) -> None:
    sampling = SamplingParams(seed=9, max_tokens=10, ignore_eos=True)
    engine = make(model, tokenizer, max_batch=slots, token_budget=20)
    prompts = [prompt(2, 45)] * 5 + [prompt(3, 45)]
    engine.submit(request(engine, 1, prompts, sampling))
    together = answers(drain(engine))
    assert_empty(engine)
    for row, ids in enumerate(prompts):
        alone = request(engine, 2, [ids], sampling)
        alone.rows[0].choice = row if row < 5 else 0
        engine.submit(alone)
        assert answers(drain(engine))[2, 0].token_ids == together[1, row].token_ids
    assert len({tuple(answer.token_ids) for answer in together.values()}) == 6


def test_choices_share_the_reading_of_their_prompt(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer, max_batch=8)
    engine.submit(request(engine, 1, [prompt(2, 45)] * 8, SamplingParams(max_tokens=2, ignore_eos=True)))
    drain(engine)
    assert engine.stats().prompt_tokens == 45


def test_choices_share_their_prompt_in_the_frame_and_in_the_engine(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer, max_batch=8)
    one = request(engine, 1, [prompt(2, 4000)], SamplingParams())
    many = request(engine, 1, [prompt(2, 4000)] * 100, SamplingParams())
    assert len(msgspec.msgpack.encode(many)) < len(msgspec.msgpack.encode(one)) + 100 * 8
    engine.submit(many)
    assert len({id(sequence.prompt) for sequence in engine._groups[1].values()}) == 1


def test_many_requests_with_random_cancels_leave_nothing(model: Model, tokenizer: WorldTokenizer) -> None:
    rng = random.Random(0)
    engine = make(model, tokenizer, max_batch=10, token_budget=32)
    outputs, expected = [], set()
    for i in range(64):
        rows = [prompt(i, rng.randrange(40))] * rng.choice([1, 1, 1, 2, 4])
        expected |= {(i, row) for row in range(len(rows))}
        engine.submit(request(engine, i, rows, SamplingParams(seed=i, max_tokens=rng.randrange(14))))
        for _ in range(rng.randrange(3)):
            outputs += engine.step().rows
        if rng.random() < 0.5:
            engine.cancel(rng.randrange(i + 1))
    outputs += drain(engine)
    ended = answers(outputs)
    assert ended.keys() == expected
    assert {answer.finish_reason for answer in ended.values()} >= {"cancelled", "length"}
    assert_empty(engine)
    # The survivors' states were not disturbed: one of them is what it is alone.
    survivor = max(i for i, _ in ended if ended[i, 0].finish_reason == "length" and ended[i, 0].prompt_tokens > 10)
    ids = prompt(survivor, ended[survivor, 0].prompt_tokens)
    limit = SamplingParams(seed=survivor, max_tokens=ended[survivor, 0].completion_tokens)
    assert complete(engine, ids, limit).token_ids == ended[survivor, 0].token_ids


def test_the_default_batch_fits_the_memory(model: Model, tokenizer: WorldTokenizer) -> None:
    assert make(model, tokenizer).stats().slots == 64  # these states are small
