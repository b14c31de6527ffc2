"""States of prompts that were read before: the same answers, with less reading."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.helpers import Faulty, answers, assert_empty, drain, request, run, sampling
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowOutput
from wingbeat.engine.prefix_cache import PrefixCache
from wingbeat.models import Model, load_model
from wingbeat.ops import cpu
from wingbeat.ops.table import StateLayout

TEXT = np.random.default_rng(4).integers(1, 266, 4000).tolist()


def make(model: Model, **config: Any) -> Engine:
    return Engine(model, None, EngineConfig(model="", **config))


def cached(outputs: list[RowOutput]) -> dict[tuple[int, int], int]:
    return {(o.request, o.row): o.cached_tokens for o in outputs if o.finish_reason is not None}


@pytest.fixture(scope="module")
def real(model_path: Path) -> Model:
    if not cpu.available():
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    return load_model(model_path, dtype="float32", backend="cpu", threads=1)


@pytest.fixture(scope="module")
def plain(real: Model) -> Engine:
    """Without a cache."""
    return make(real, cache_memory=0)


def test_the_same_prompt_again_needs_no_step(model: Model) -> None:
    executable = Faulty(model.executable, lambda *_: False)
    engine = make(dataclasses.replace(model, executable=executable))
    first = run(engine, request(engine, 1, [TEXT[:100]], sampling(1)))
    steps = len(executable.batches)
    again = run(engine, request(engine, 1, [TEXT[:100]], sampling(1)))
    assert len(executable.batches) == steps
    assert answers(again) == answers(first)
    assert (cached(first), cached(again)) == ({(1, 0): 0}, {(1, 0): 100})
    assert engine.stats().cached_tokens == 100


def test_what_is_new_is_read(model: Model) -> None:
    engine = make(model)
    run(engine, request(engine, 1, [TEXT[:100]], sampling(1)))
    longer = run(engine, request(engine, 1, [TEXT[:130]], sampling(5)))
    assert cached(longer) == {(1, 0): 100}
    if model.info.backend == "cpu":
        cold = make(model, cache_memory=0)
        assert answers(longer) == answers(run(cold, request(cold, 1, [TEXT[:130]], sampling(5))))
    shorter = run(engine, request(engine, 1, [TEXT[:99]], sampling(1)))
    assert cached(shorter) == {(1, 0): 0}


def test_an_answer_is_the_beginning_of_the_next_prompt(real: Model, plain: Engine) -> None:
    engine = make(real)
    ids = TEXT[:50]
    for turn in range(6):
        outputs = run(engine, request(engine, 1, [ids], sampling(40)))
        assert answers(outputs) == answers(run(plain, request(plain, 1, [ids], sampling(40))))
        assert cached(outputs)[1, 0] == (0 if turn == 0 else len(ids) - 21)  # the answer's last token was not fed
        ids = [*ids, *answers(outputs)[1, 0].token_ids, *TEXT[:20]]


def test_long_prompts_leave_states_on_their_way(real: Model) -> None:
    engine = make(real, token_budget=300)
    run(engine, request(engine, 1, [TEXT[:1500]], sampling(1)))
    other = run(engine, request(engine, 1, [TEXT[:1450] + TEXT[3000:3100]], sampling(1)))
    assert cached(other)[1, 0] == 1200


def test_where_two_prompts_part_a_third_begins(real: Model, plain: Engine) -> None:
    engine = make(real)
    prompts = [TEXT[:217] + TEXT[1000 + 100 * i :][:60] for i in range(4)]
    found = [run(engine, request(engine, 1, [prompt], sampling(3))) for prompt in prompts]
    assert [cached(outputs)[1, 0] for outputs in found] == [0, 0, 217, 217]
    for prompt, outputs in zip(prompts, found, strict=True):
        assert answers(outputs) == answers(run(plain, request(plain, 1, [prompt], sampling(3))))


def test_prompts_that_come_together_are_read_once(real: Model, plain: Engine) -> None:
    executable = Faulty(real.executable, lambda *_: False)
    engine = make(dataclasses.replace(real, executable=executable), max_batch=64)
    prompts = [TEXT[:1000] + TEXT[2000 + 10 * i :][:10] for i in range(60)]
    prompts += [prompts[0], TEXT[:1000], TEXT[:1004], TEXT[5:50]]
    requests = [request(engine, i, [prompt], sampling(3)) for i, prompt in enumerate(prompts)]
    outputs = run(engine, *requests)
    assert sum(len(batch.tokens) for batch in executable.batches) <= 1000 + 60 * 10 + 64 * 3 + 100
    for i, prompt in enumerate(prompts):
        expected = answers(run(plain, request(plain, i, [prompt], sampling(3))))[i, 0]
        assert answers(outputs)[i, 0] == expected
    assert engine.stats().prompt_tokens + engine.stats().cached_tokens >= sum(map(len, prompts))


def test_who_follows_goes_on_when_the_leader_is_gone(real: Model, plain: Engine) -> None:
    engine = make(real, token_budget=100)
    prompts = [[*TEXT[:900], i] for i in range(1, 5)]
    for i, prompt in enumerate(prompts):
        engine.submit(request(engine, i, [prompt], sampling(3)))
    for _ in range(7):
        engine.step()
    engine.cancel(0)
    engine.step()
    engine.cancel(1)
    found = answers(drain(engine))
    assert_empty(engine)
    for i in (2, 3):
        assert found[i, 0] == answers(run(plain, request(plain, i, [prompts[i]], sampling(3))))[i, 0]
    assert engine.stats().prompt_tokens < 1500  # what the first had read was not lost


def test_who_follows_a_follower_goes_on_too(real: Model, plain: Engine) -> None:
    """The first leaves a state behind that is further on than where the third was to take over from the second."""
    engine = make(real, token_budget=100)
    prompts = [TEXT[:900], [*TEXT[:850], *TEXT[1000:1400]], [*TEXT[:850], *TEXT[1000:1100], 7]]
    for i, prompt in enumerate(prompts):
        engine.submit(request(engine, i, [prompt], sampling(3)))
    engine.step()
    chain = engine._scheduler._running
    assert [s.leader for s in chain] == [None, chain[0], chain[1]]
    for _ in range(6):
        engine.step()
    engine.cancel(0)
    found = answers(drain(engine, 200))
    assert_empty(engine)
    for i in (1, 2):
        assert found[i, 0] == answers(run(plain, request(plain, i, [prompts[i]], sampling(3))))[i, 0]


def test_a_second_in_line_that_begins_further_on_leaves_nobody_behind(real: Model, plain: Engine) -> None:
    engine = make(real, token_budget=100)
    prompts = [TEXT[:900], [*TEXT[:850], 5], [*TEXT[:300], 6], [*TEXT[:300], 6, *TEXT[1000:1100]]]
    for i, prompt in enumerate(prompts):
        engine.submit(request(engine, i, [prompt], sampling(3)))
    engine.step()
    second, third = engine._scheduler._running[1:3]
    third.leader, third.follow_to = second, 300  # it would have, had the first not been there
    second.cuts.append(300)
    for _ in range(6):
        engine.step()
    engine.cancel(0)  # its state after 512 tokens stays: the second begins beyond where the third was to take over
    found = answers(drain(engine, 200))
    assert_empty(engine)
    for i in (1, 2, 3):
        assert found[i, 0] == answers(run(plain, request(plain, i, [prompts[i]], sampling(3))))[i, 0]


def test_a_request_may_do_without(real: Model) -> None:
    engine = make(real)
    for _ in range(2):
        alone = request(engine, 1, [TEXT[:100]], sampling(1))
        alone.cache = False
        assert cached(run(engine, alone)) == {(1, 0): 0}
    assert engine.stats().cached_states == 0
    scored = request(engine, 1, [TEXT[:100]], sampling(1))
    scored.prompt_logprobs = 0
    run(engine, scored)
    assert cached(run(engine, scored)) == {(1, 0): 0}  # who wants to know what was predicted must have it read
    assert cached(run(engine, request(engine, 1, [TEXT[:100]], sampling(1)))) == {(1, 0): 100}


def test_states_that_do_not_begin_alike_are_kept_apart(real: Model) -> None:
    engine = make(real)
    first = request(engine, 1, [TEXT[:40]], sampling(0))
    first.keep = ("prompt",)
    (output,) = run(engine, first)
    assert output.extras is not None
    state = output.extras.prompt_state
    found = []
    for key in ("a", "b", "a", ""):
        wanted = request(engine, 1, [TEXT[:100]], sampling(2))
        wanted.state = state
        wanted.state_key = key
        outputs = run(engine, wanted)
        found.append((cached(outputs)[1, 0], answers(outputs)[1, 0].token_ids))
    assert [tokens for tokens, _ in found] == [0, 0, 100, 0]
    assert len({tuple(ids) for _, ids in found}) == 1


def test_memory_is_bounded_and_the_worthiest_stay(real: Model) -> None:
    one = real.executable.layout.slot_bytes + 4 * real.executable.vocab_size
    engine = make(real, cache_memory=10 * one)
    long = TEXT[:800]
    run(engine, request(engine, 1, [long], sampling(1)))
    for i in range(100):
        run(engine, request(engine, 1, [TEXT[i + 1 :][:20]], sampling(1)))
        assert engine.stats().cached_states <= 10
        assert engine.stats().cached_bytes <= 10 * one
    assert cached(run(engine, request(engine, 1, [long], sampling(1)))) == {(1, 0): 800}
    tree = engine._cache._trees["fresh"]
    assert sum(len(node.children) for node in [tree.root]) <= 10


def test_a_memory_too_small_for_a_state_is_no_cache(real: Model) -> None:
    engine = make(real, cache_memory=100)
    for _ in range(2):
        assert cached(run(engine, request(engine, 1, [TEXT[:100]], sampling(1)))) == {(1, 0): 0}


def test_states_are_never_shared() -> None:
    layout = StateLayout()
    layout.add("x", 16)
    cache = PrefixCache(layout, 2)
    tokens = np.arange(20, dtype=np.int32).tobytes()
    source, logits = np.ones(16, np.float32), np.ones(3, np.float32)
    cache.store("fresh", tokens, source, logits)
    source[:] = logits[:] = 7
    found = cache.match("fresh", tokens).state
    assert found is not None
    assert found.logits is not None
    target = np.zeros(16, np.float32)
    cache.use(found, target)
    assert (target.tolist(), found.logits.tolist()) == ([1] * 16, [1] * 3)


PIECES = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(
    lambda pieces: [token for piece in pieces for token in TEXT[piece * 70 :][: 20 + 17 * piece]]
)
WISHES = st.lists(st.tuples(PIECES, st.integers(0, 12), st.integers(0, 20), st.integers(1, 3)), min_size=1, max_size=12)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(WISHES, st.sampled_from([2, 4, 16]), st.sampled_from([16, 64, 512]), st.sampled_from([3, 8, None]))
def test_answers_are_those_without_a_cache(
    real: Model,
    plain: Engine,
    wishes: list[tuple[list[int], int, int, int]],
    max_batch: int,
    budget: int,
    blocks: int | None,
) -> None:
    """Whoever comes when, and however little the cache holds; some are cancelled on the way."""
    one = real.executable.layout.slot_bytes + 4 * real.executable.vocab_size
    memory = None if blocks is None else blocks * one
    engine = make(real, max_batch=max_batch, token_budget=budget, cache_memory=memory)
    outputs: list[RowOutput] = []
    cancelled = {i for i, (_, _, step, _) in enumerate(wishes) if step % 7 == 6}
    for step in range(21):
        for i, (prompt, tokens, when, rows) in enumerate(wishes):
            if when == step:
                wanted = request(
                    engine, i, [prompt] * rows, sampling(tokens, presence_penalty=0.5, repetition_penalty=1.2)
                )
                wanted.keep = ("end", "reply") if i % 3 == 0 else ()
                engine.submit(wanted)
            if when + 2 == step and i in cancelled:
                engine.cancel(i)
        outputs += engine.step().rows
    outputs += drain(engine)
    assert_empty(engine)
    assert sorted(engine._pool._free) == list(range(max_batch))
    found = answers(outputs)
    for i, (prompt, tokens, _, rows) in enumerate(wishes):
        if i in cancelled:
            continue
        params = sampling(tokens, presence_penalty=0.5, repetition_penalty=1.2)
        expected = answers(run(plain, request(plain, i, [prompt] * rows, params)))
        for row in range(rows):
            assert found[i, row].token_ids == expected[i, row].token_ids
            assert found[i, row].logprobs == expected[i, row].logprobs
            extras = found[i, row].extras
            if extras is not None and extras.state is not None:
                assert extras.reply == found[i, row].token_ids
                assert extras.state == fed(plain, [*prompt, *extras.reply], extras.state)


def fed(engine: Engine, ids: list[int], like: Any) -> Any:
    """The state after these tokens, which were read as a prompt."""
    wanted = request(engine, 1, [ids], sampling(0))
    wanted.keep = ("prompt",)
    (output,) = run(engine, wanted)
    assert output.extras is not None
    assert output.extras.prompt_state is not None
    return msgspec.structs.replace(output.extras.prompt_state, continuation=like.continuation)


def test_a_mark_is_where_the_next_prompt_may_begin(real: Model) -> None:
    engine = make(real)
    for turn in range(4):
        ids = TEXT[: 100 + 60 * turn]
        wanted = request(engine, 1, [[*ids, 5, 6]], sampling(3))
        wanted.marks = [len(ids)]
        assert cached(run(engine, wanted))[1, 0] == (40 + 60 * turn if turn else 0)
    wanted.marks = [1, 2]
    (output,) = run(engine, wanted)
    assert "2 marks for 1 prompts" in str(output.error)


def test_the_newest_states_of_conversations_outlive_the_earlier_ones() -> None:
    """With room for three states of each, every turn reads what is new, and nothing else."""
    conversations, turn = 10, np.arange(1, 41, dtype=np.int32)
    layout = StateLayout()
    layout.add("x", 16)
    slot, logits = np.zeros(16, np.float32), np.zeros(4, np.float32)
    cache = PrefixCache(layout, 3 * conversations)
    said = [np.full(1, 100 + number, np.int32) for number in range(conversations)]
    for number in list(range(conversations)) * 20:
        prompt = np.concatenate([said[number], turn])
        found = cache.match("fresh", prompt.tobytes()).state
        assert (0 if found is None else found.node.depth) == (0 if len(prompt) == 41 else len(said[number]))
        if found is not None:
            cache.use(found, slot)
        cache.store("fresh", prompt.tobytes(), slot, logits)
        said[number] = np.concatenate([prompt, turn])
        cache.store("fresh", said[number].tobytes(), slot)
