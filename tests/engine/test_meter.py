"""What the engine counts of its steps."""

from __future__ import annotations

import time

import pytest

from tests.engine.helpers import Speller, drain, request, speller_engine
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import STEP_BUCKETS, EngineConfig
from wingbeat.engine.meter import Meter
from wingbeat.engine.step_costs import StepCosts
from wingbeat.models import Model
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer


def test_steps_are_counted_by_duration() -> None:
    meter = Meter(weight_bytes=1000, state_bytes=10, costs=StepCosts([1.0] * 5, 0.0))
    for seconds in (0.0, STEP_BUCKETS[0], STEP_BUCKETS[0] * 1.01, STEP_BUCKETS[-1], 2 * STEP_BUCKETS[-1]):
        meter.count(seconds, rows=3, sequences=3, copies=0)
    assert meter.times == [2, 1, *[0] * (len(STEP_BUCKETS) - 3), 1, 1]
    assert (meter.steps, meter.bytes_moved) == (5, 5 * (1000 + 2 * 3 * 10))
    assert meter.seconds == pytest.approx(STEP_BUCKETS[0] * 2.01 + 3 * STEP_BUCKETS[-1])


def test_the_engine_counts_every_step_and_no_other_time(tokenizer: WorldTokenizer) -> None:
    engine = speller_engine(tokenizer, [5] * 100, max_batch=4, token_budget=16)
    fresh = engine.stats()
    assert (fresh.steps, fresh.step_seconds, fresh.bytes_moved, sum(fresh.step_times)) == (0, 0.0, 0, 0)
    start = time.perf_counter()
    engine.submit(request(engine, 1, [[7] * 40, [8] * 3], SamplingParams(max_tokens=5)))
    drain(engine)
    elapsed = time.perf_counter() - start
    stats = engine.stats()
    executable = engine.model.executable
    assert isinstance(executable, Speller)
    assert stats.steps == sum(stats.step_times) == len(executable.batches)
    assert 0 < stats.step_seconds <= elapsed
    sequences = sum(len(batch.slots) for batch in executable.batches)
    assert stats.bytes_moved == stats.steps * 1000 + 2 * sequences * engine.model.executable.layout.slot_bytes
    engine.step()
    assert engine.stats() == stats


def test_a_models_bytes_are_those_of_its_weights(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = Engine(model, tokenizer, EngineConfig(model=""), read_bandwidth=5e9)
    engine.submit(request(engine, 1, [[7]], SamplingParams(max_tokens=1)))
    stats = engine.step().stats
    executable = model.executable
    assert stats.read_bandwidth == 5e9
    assert stats.bytes_moved == executable.weight_bytes + 2 * executable.layout.slot_bytes
    width = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.5}[model.info.dtype]
    looked_up = 300 * 64 + 2 * 64  # the embedding table and its norm
    assert executable.weight_bytes >= width * (model.info.parameters - looked_up)
