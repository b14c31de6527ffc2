"""Steps that throw: the sequence that cannot be run fails, the others go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.engine.helpers import Faulty, Speller, answers, assert_empty, drain, request, stand_in
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowExtras, RowOutput
from wingbeat.engine.recovery import MAX_STRIKES
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.models import Model
from wingbeat.ops.table import StepBatch
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.results import SampleResult
from wingbeat.text.world import WorldTokenizer

BAD = 66
LONG = SamplingParams(max_tokens=50, ignore_eos=True)
Fault = Callable[[int, StepBatch], bool]


def faulty(model: Model, tokenizer: WorldTokenizer, fault: Fault, **config: Any) -> tuple[Engine, Faulty]:
    executable = Faulty(model.executable, fault)
    broken = dataclasses.replace(model, executable=executable)
    return Engine(broken, tokenizer, EngineConfig(model="", **config)), executable


def speller(tokenizer: WorldTokenizer, ids: Iterable[int], fault: Fault, **config: Any) -> tuple[Engine, Faulty]:
    return faulty(stand_in(Speller([*ids], 300)), tokenizer, fault, **config)


def poisoned(_step: int, batch: StepBatch) -> bool:
    return BAD in batch.tokens


def prompt(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, 66, length).tolist()


def submit_all(engine: Engine) -> list[RowOutput]:
    """Requests of every kind, so that soon some read, some follow, some generate and some wait.

    Some begin from a state that is no fresh one. Samplers and penalties differ.
    """
    ways: list[dict[str, Any]] = [
        {},
        {"sampler": "mirostat", "rate": 0.5},
        {"sampler": "mirostat_full", "rate": 0.5, "penalty_decay": 0.9},
        {"penalties": "values", "penalty_decay": 0.8, "penalty_history": (5, 6, 5)},
        {"sampler": "noise", "noise": 3.0, "no_repeat": tuple(range(40))},
    ]
    shapes = {name: field.shape for name, field in engine.model.executable.layout.fields.items()}
    arrays = {name: np.full(shape, 0.25, np.float32) for name, shape in shapes.items()}
    for i in range(9):
        sampling = SamplingParams(
            seed=i,
            max_tokens=3 + 4 * i,
            ignore_eos=True,
            logprobs=2,
            presence_penalty=0.5,
            **{"frequency_penalty": 0.2, "repetition_penalty": 1.2, **ways[i % len(ways)]},
        )
        wanted = request(engine, i, [prompt(i, 1 + 13 * i)] * (1 + i % 3), sampling)
        wanted.prompt_logprobs = 3 if i % 2 else None
        wanted.keep = ("prompt", "end") if i % 4 == 1 else ()
        wanted.state = StateSnapshot.from_arrays(wanted.fingerprint, 100, arrays) if i in (2, 5) else None
        engine.submit(wanted)
    return drain(engine)


def extras_of(outputs: Iterable[RowOutput]) -> dict[tuple[int, int], list[RowExtras]]:
    found: dict[tuple[int, int], list[RowExtras]] = {}
    for output in outputs:
        if output.extras is not None:
            found.setdefault((output.request, output.row), []).append(output.extras)
    return found


@pytest.mark.parametrize("failing", [{1}, {2}, {3, 20}, {6, 7, 8}, {25, 40, 60}])
def test_what_fails_once_changes_nothing(model: Model, tokenizer: WorldTokenizer, failing: set[int]) -> None:
    if model.info.backend == "reference":
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    config = {"max_batch": 8, "token_budget": 24}
    expected = submit_all(Engine(model, tokenizer, EngineConfig(model="", **config)))
    engine, executable = faulty(
        model, tokenizer, lambda step, batch: step in failing and len(batch.slots) > 1, **config
    )
    found = submit_all(engine)
    assert executable.failed
    assert answers(found) == answers(expected)
    assert extras_of(found) == extras_of(expected)
    assert len(extras_of(found)) > 5
    assert_empty(engine)


def test_the_guilty_fail_and_the_others_go_on(tokenizer: WorldTokenizer) -> None:
    engine, executable = speller(tokenizer, range(100, 200), poisoned, max_batch=16, token_budget=32)
    for i in range(12):
        ids = prompt(i, 5 + 3 * i)
        engine.submit(request(engine, i, [[*ids, BAD, *ids] if i in (4, 9) else ids] * 2, LONG))
    ended = answers(drain(engine))
    for (i, _), answer in ended.items():
        if i in (4, 9):
            assert answer.finish_reason == "error"
            assert "FloatingPointError: boom" in str(answer.error)
            continue
        length = 5 + 3 * i
        assert answer.token_ids == [*range(99 + length, 149 + length)]
        assert answer.prompt_tokens == length
    assert len(executable.failed[-1].slots) == 1
    assert_empty(engine)


def test_a_sequence_may_become_guilty_while_it_generates(tokenizer: WorldTokenizer) -> None:
    """It keeps what it said; the others, who never say that token, end as they should."""
    engine, _ = speller(tokenizer, range(40, 100), poisoned, max_batch=8)
    for i, length in enumerate([20, 2, 4, 6]):
        engine.submit(request(engine, i, [[7] * length], SamplingParams(max_tokens=16)))
    ended = answers(drain(engine))
    assert ended[0, 0].finish_reason == "error"
    assert ended[0, 0].token_ids == [*range(59, BAD + 1)]
    assert (ended[0, 0].prompt_tokens, ended[0, 0].completion_tokens) == (20, 8)
    for i, length in [(1, 2), (2, 4), (3, 6)]:
        assert ended[i, 0].finish_reason == "length"
        assert ended[i, 0].token_ids == [*range(39 + length, 55 + length)]
    assert_empty(engine)


def test_whoever_is_alone_fails_at_once(tokenizer: WorldTokenizer) -> None:
    engine, executable = speller(tokenizer, [5] * 100, poisoned)
    engine.submit(request(engine, 1, [[7, BAD]] * 3, LONG))  # one reads, two follow
    assert [o.finish_reason for o in engine.step().rows] == ["error"] * 3
    assert len(executable.batches) == 1
    assert_empty(engine)


def test_answers_that_wait_for_a_slot_fail_with_the_prompt_they_share(tokenizer: WorldTokenizer) -> None:
    engine, executable = speller(tokenizer, [5] * 100, poisoned, max_batch=2)
    engine.submit(request(engine, 1, [[BAD]] * 6, LONG))
    engine.submit(request(engine, 2, [[7]], SamplingParams(max_tokens=2)))
    ended = answers(drain(engine))
    assert [ended[1, row].finish_reason for row in range(6)] == ["error"] * 6
    assert ended[2, 0].token_ids == [5, 5]
    assert len(executable.failed) == 1
    assert_empty(engine)


def test_an_innocent_sequence_survives_any_number_of_guilty_ones(tokenizer: WorldTokenizer) -> None:
    engine, executable = speller(tokenizer, [5] * 400, poisoned, max_batch=4)
    engine.submit(request(engine, 0, [[7] * 3], SamplingParams(max_tokens=300, ignore_eos=True)))
    for i in range(1, 4 * MAX_STRIKES):
        engine.step()
        engine.submit(request(engine, i, [[BAD]], LONG))
        for _ in range(6):
            engine.step()
    ended = answers([o for o in drain(engine) if o.request == 0 and o.finish_reason])
    assert ended[0, 0].completion_tokens == 300
    assert len(executable.failed) == 2 * (4 * MAX_STRIKES - 1)  # together, then alone


def test_an_innocent_sequence_survives_guilty_ones_that_take_long_to_find(tokenizer: WorldTokenizer) -> None:
    """Each of them is found only after the others have struck, too."""
    ids = [5] * 200 + [BAD] * 10
    engine, executable = speller(tokenizer, ids, poisoned, max_batch=16, token_budget=16, speculative_tokens=0)
    for i in range(4 * MAX_STRIKES):
        engine.submit(request(engine, i, [[7] * (190 - i)], SamplingParams(max_tokens=40)))
    engine.submit(request(engine, 99, [[7]], SamplingParams(max_tokens=150)))
    ended = answers(drain(engine))
    assert {ended[i, 0].finish_reason for i in range(4 * MAX_STRIKES)} == {"error"}
    assert ended[99, 0].token_ids == [5] * 150
    together = [len(batch.slots) for batch in executable.failed if len(batch.slots) > 1]
    assert len(together) > MAX_STRIKES + 1
    assert_empty(engine)


def test_what_fails_in_company_only_costs_those_who_would_make_up_the_company(tokenizer: WorldTokenizer) -> None:
    engine, executable = speller(tokenizer, [5] * 100, lambda _, batch: len(batch.slots) > 2, max_batch=4)
    for i in range(4):
        engine.submit(request(engine, i, [[7]], LONG))
    ended = answers(drain(engine))
    failed = [answer for answer in ended.values() if answer.finish_reason == "error"]
    assert 1 <= len(failed) <= 3
    assert all(answer.completion_tokens >= MAX_STRIKES - 1 for answer in failed)  # each replay was progress
    assert all(answer.token_ids == [5] * 50 for answer in ended.values() if answer not in failed)
    assert MAX_STRIKES < len(executable.failed) <= 4 * MAX_STRIKES
    assert_empty(engine)


def test_replays_alternate_with_the_work_of_others(tokenizer: WorldTokenizer) -> None:
    engine, _ = speller(tokenizer, [5] * 1000, lambda step, _: step == 2, max_batch=4, token_budget=16)
    for i in (1, 2):
        engine.submit(request(engine, i, [[7 + i] * 100], LONG))
    engine.step()
    engine.step()  # fails
    engine.submit(request(engine, 3, [[7]], LONG))
    generated = [sum(o.request == 3 for o in engine.step().rows) for _ in range(6)]
    assert sum(generated) == 3
    assert max(map(sum, pairwise(generated))) == 1  # every other step
    assert len(answers(drain(engine))) == 3


def test_the_shortest_replay_comes_first(tokenizer: WorldTokenizer) -> None:
    engine, executable = speller(tokenizer, [5] * 1000, lambda step, _: step == 3, max_batch=4, token_budget=64)
    for i, length in enumerate([60, 3, 20]):
        engine.submit(request(engine, i, [[10 + i] * length], LONG))
    for _ in range(8):
        engine.step()
    assert [batch.tokens[0] for batch in executable.batches[3:8:2]] == [11, 12, 10]


def test_cancelling_during_a_replay_leaves_nothing(tokenizer: WorldTokenizer) -> None:
    rng = random.Random(1)
    for _ in range(20):
        engine, _ = speller(tokenizer, [5] * 1000, lambda step, _: step in (3, 5), max_batch=6, token_budget=16)
        for i in range(4):
            engine.submit(request(engine, i, [[7] * rng.randrange(1, 60)] * rng.choice([1, 3]), LONG))
        outputs = [row for _ in range(rng.randrange(3, 14)) for row in engine.step().rows]
        engine.cancel(rng.randrange(4))
        answers(outputs + drain(engine))
        assert_empty(engine)


def test_a_draw_that_fails_is_repeated_with_the_same_penalties(model: Model, tokenizer: WorldTokenizer) -> None:
    """The tokens of the step that failed had been counted already when it failed."""
    if model.info.backend == "reference":
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    config = {"max_batch": 8, "token_budget": 64}
    expected = answers(submit_all(Engine(model, tokenizer, EngineConfig(model="", **config))))
    engine = Engine(model, tokenizer, EngineConfig(model="", **config))
    sample, calls = engine._sampler.sample, 0

    def unlucky(*args: Any) -> SampleResult:
        nonlocal calls
        calls += 1
        result = sample(*args)
        if calls in (2, 40):
            raise MemoryError
        return result

    engine._sampler.sample = unlucky
    assert answers(submit_all(engine)) == expected
    assert calls > 40
    assert_empty(engine)


def test_a_token_that_cannot_be_shown_fails_its_row_alone(
    tokenizer: WorldTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_bytes = tokenizer.token_bytes
    monkeypatch.setattr(tokenizer, "token_bytes", lambda token: 1 // 0 if token == 20 else token_bytes(token))
    engine, executable = speller(tokenizer, [5, 6, 20, 8, 9], lambda *_: False, max_batch=8)
    engine.submit(request(engine, 1, [[7], [7, 7, 7], [7] * 4], SamplingParams(max_tokens=2)))
    ended = answers(drain(engine))
    assert "ZeroDivisionError" in str(ended[1, 1].error)
    assert ended[1, 0].token_ids == [5, 6]
    assert ended[1, 2].token_ids == [8, 9]
    assert len(executable.batches) == 2  # nothing was repeated
    assert_empty(engine)


def no_memory(*_: Any) -> None:
    raise MemoryError


def test_a_sequence_that_cannot_begin_fails_with_those_of_its_prompt(tokenizer: WorldTokenizer) -> None:
    engine, executable = speller(tokenizer, [5] * 100, lambda *_: False, max_batch=3)
    start = engine._sampler.start
    engine._sampler.start = no_memory
    engine.submit(request(engine, 1, [[7]] * 4, LONG))  # one would read, two follow, one waits
    ended = answers(engine.step().rows)
    assert {ended[1, row].finish_reason for row in range(4)} == {"error"}
    assert "MemoryError" in str(ended[1, 0].error)
    assert_empty(engine)
    engine._sampler.start = start
    engine.submit(request(engine, 2, [[7]], SamplingParams(max_tokens=2)))
    assert answers(drain(engine))[2, 0].token_ids == [5, 5]
    assert [len(batch.slots) for batch in executable.batches] == [1, 1]


def test_sequences_that_cannot_be_put_back_fail(tokenizer: WorldTokenizer) -> None:
    engine, _ = speller(tokenizer, [5] * 100, lambda step, _: step == 2, max_batch=6)
    engine.submit(request(engine, 1, [[7], [8]], SamplingParams(max_tokens=4)))
    engine.submit(request(engine, 2, [[7, 7]] * 2, SamplingParams(max_tokens=4)))
    outputs = engine.step().rows
    start = engine._sampler.start
    engine._sampler.start = lambda slot, *rest: no_memory() if slot == 1 else start(slot, *rest)
    ended = answers([*outputs, *drain(engine)])
    assert [ended[1, row].finish_reason for row in (0, 1)] == ["length", "error"]
    assert [ended[2, row].token_ids for row in (0, 1)] == [[5] * 4] * 2
    assert_empty(engine)


def test_a_state_that_cannot_be_kept_costs_no_slot(tokenizer: WorldTokenizer) -> None:
    engine, _ = speller(tokenizer, [5] * 100, lambda *_: False, max_batch=3)
    engine._pool.views = no_memory  # type: ignore[assignment]
    wanted = request(engine, 1, [[7], [8]], LONG)
    wanted.keep = ("end",)
    engine.submit(wanted)
    engine.step()
    engine.cancel(1)
    assert [output.finish_reason for output in engine.step().rows] == ["error"] * 2
    assert_empty(engine)


def test_a_request_that_cannot_be_taken_fails_alone(tokenizer: WorldTokenizer) -> None:
    engine, _ = speller(tokenizer, [5] * 100, lambda *_: False, max_batch=3)
    engine.submit(request(engine, 1, [[7]], SamplingParams(max_tokens=2)))
    engine._intake.sequences = no_memory  # type: ignore[assignment]
    engine.submit(request(engine, 2, [[7], [8]], LONG))
    ended = answers(drain(engine))
    assert ended[1, 0].token_ids == [5, 5]
    assert [ended[2, row].error for row in (0, 1)] == ["MemoryError"] * 2
