"""Slots and turns."""

from __future__ import annotations

import numpy as np
import pytest

from wingbeat.engine.beginnings import Beginnings
from wingbeat.engine.messages import GenerationRequest, Row
from wingbeat.engine.prefix_cache import PrefixCache
from wingbeat.engine.scheduler import Scheduler, share_rows
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.speculation import Speculation
from wingbeat.engine.state_pool import StatePool, available_memory, default_slots
from wingbeat.engine.step_costs import StepCosts
from wingbeat.ops.table import StateLayout
from wingbeat.sampling.params import SamplingParams


def layout(floats: int = 16) -> StateLayout:
    result = StateLayout()
    result.add("field", floats, initial=1.5)
    return result


def sequence(prompt: np.ndarray) -> Sequence:
    request = GenerationRequest(fingerprint="", prompts=[], rows=[Row(0)], sampling=SamplingParams())
    return Sequence(request, 0, prompt, request.sampling, None, 100)


def scheduler_of(pool: StatePool, budget: int) -> Scheduler:
    speculation = Speculation(pool, 0, StepCosts([1.0] * 33, 0.0))
    return Scheduler(pool, budget, Beginnings(pool, PrefixCache(pool.layout, 0)), speculation)


def test_a_pool_hands_out_each_slot_once() -> None:
    pool = StatePool(layout(), 3)
    assert sorted(pool.acquire() for _ in range(3)) == [0, 1, 2]
    assert (pool.free, pool.in_use) == (0, 3)
    pool.release(1)
    assert pool.acquire() == 1
    with pytest.raises(ValueError, match="at least one slot"):
        StatePool(layout(), 0)


def test_a_copied_state_shares_nothing() -> None:
    pool = StatePool(layout(), 2)
    pool.states[0] = 7.0
    pool.copy(0, 1)
    pool.reset(0)
    assert (pool.states[0, 0], pool.states[1, 0]) == (1.5, 7.0)


def test_the_default_number_of_slots_follows_the_memory() -> None:
    assert default_slots(layout()) == 64
    quarter = available_memory() // 4 // 4
    assert 2 <= default_slots(layout(quarter // 5)) <= 10
    assert default_slots(layout(2 * quarter)) == 1


def test_a_new_sequence_finds_a_fresh_state() -> None:
    pool = StatePool(layout(), 1)
    pool.states[:] = 9.0
    scheduler = scheduler_of(pool, 10)
    scheduler.add([sequence(np.array([1], np.int32))])
    scheduler.admit()
    assert pool.states[0, 0] == 1.5


def test_a_step_packs_decoding_rows_before_prompt_chunks() -> None:
    pool = StatePool(layout(), 3)
    scheduler = scheduler_of(pool, 6)
    reading, decoding, late = (sequence(np.arange(n, dtype=np.int32)) for n in (9, 2, 4))
    scheduler.add([reading, decoding, late])
    assert scheduler.admit() == [reading, decoding, late]
    decoding.fed, decoding.sampled = 2, [42]
    reading.fed = 3
    plan = scheduler.plan()
    assert plan is not None
    batch = plan.batch
    assert plan.sequences == [decoding, reading, late]
    assert batch.tokens.tolist() == [42, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3]
    assert batch.seq_starts.tolist() == [0, 1, 7, 11]
    assert batch.slots.tolist() == [decoding.slot, reading.slot, late.slot]
    assert plan.draws.sequences == [decoding, reading, late]
    assert batch.logit_rows.tolist() == [0, 6, 10]


def test_prompts_share_a_step() -> None:
    assert share_rows([], 100) == []
    assert share_rows([1000], 100) == [100]
    assert share_rows([1000, 20], 100) == [80, 20]
    assert share_rows([1000, 1000, 5], 120) == [95, 20, 5]  # a fair share each, the rest to the earliest
    assert share_rows([3, 1000, 1000], 120) == [3, 97, 20]
    assert share_rows([10, 20], 100) == [10, 20]
    assert share_rows([50] * 6, 4) == [1, 1, 1, 1, 0, 0]


def test_a_prompt_without_a_share_waits_for_the_next_step() -> None:
    scheduler = scheduler_of(StatePool(layout(), 20), 1)
    sequences = [sequence(np.arange(5, dtype=np.int32)) for _ in range(20)]
    scheduler.add(sequences)
    scheduler.admit()
    plan = scheduler.plan()
    assert plan is not None
    assert (plan.sequences, plan.counts) == (sequences[:16], [1] * 16)


def test_twins_follow_the_one_that_reads() -> None:
    scheduler = scheduler_of(StatePool(layout(), 3), 10)
    prompt = np.arange(30, dtype=np.int32)
    first, second, other, late = (sequence(p) for p in (prompt, prompt, prompt.copy(), prompt))
    scheduler.add([first, second, other, late])
    assert scheduler.admit() == [first, second, other]
    assert (first.leader, second.leader, other.leader) == (None, first, None)
    plan = scheduler.plan()
    assert plan is not None
    assert plan.sequences == [first, other]
    assert scheduler.touched(plan) == [first, second, other]
    first.fed = 30  # read to the end: who comes now reads for itself
    scheduler.remove(other)
    assert scheduler.admit() == [late]
    assert late.leader is None


def test_removing_a_sequence_frees_its_slot_or_its_place() -> None:
    pool = StatePool(layout(), 1)
    scheduler = scheduler_of(pool, 10)
    running, waiting = sequence(np.zeros(1, np.int32)), sequence(np.zeros(1, np.int32))
    scheduler.add([running, waiting])
    scheduler.admit()
    scheduler.remove(waiting)
    scheduler.remove(running)
    assert (scheduler.waiting, scheduler.running, pool.free) == (0, 0, 1)
    assert scheduler.plan() is None
