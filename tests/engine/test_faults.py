"""Faults anywhere in the engine, at any moment and several at once: each costs at most requests that it hit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.helpers import Faulty, answers, assert_empty, request
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, RowOutput
from wingbeat.engine.recovery import MAX_STRIKES
from wingbeat.models import Model, load_model
from wingbeat.ops import cpu
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer

PLACES = {
    "sample": lambda engine: engine._sampler,
    "score": lambda engine: engine._sampler,
    "start": lambda engine: engine._sampler,
    "views": lambda engine: engine._pool,
    "sequences": lambda engine: engine._intake,
    "store": lambda engine: engine._cache,
}
"""Methods that may run out of memory, by whose they are."""

PROMPTS = st.lists(st.lists(st.integers(1, 290), min_size=1, max_size=40), min_size=1, max_size=4)
SAMPLING = st.builds(
    SamplingParams,
    seed=st.integers(0, 9),
    max_tokens=st.sampled_from([0, 1, 3, 12]),
    logprobs=st.sampled_from([None, 2]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    stop=st.sampled_from([(), ("e",), ("stop",)]),
)


class Wish(NamedTuple):
    """A request, and when it comes: before which step."""

    step: int
    prompts: list[list[int]]
    times: int
    sampling: SamplingParams
    prompt_logprobs: int | None
    keep: tuple[Any, ...]

    def request(self, engine: Engine, request_id: int) -> GenerationRequest:
        asked = request(engine, request_id, self.prompts * self.times, self.sampling)
        asked.prompt_logprobs, asked.keep = self.prompt_logprobs, self.keep
        return asked


WISHES = st.lists(
    st.builds(
        Wish,
        st.integers(0, 6),
        PROMPTS,
        st.integers(1, 3),
        SAMPLING,
        st.sampled_from([None, 2]),
        st.sampled_from([(), ("prompt",), ("end",), ("prompt", "end")]),
    ),
    min_size=1,
    max_size=6,
)
CALLS = st.sets(st.integers(1, 40), max_size=5)
FAULTS = st.fixed_dictionaries({}, optional=dict.fromkeys(("run", "token_bytes", *PLACES), CALLS))
CANCELS = st.dictionaries(st.integers(0, 20), st.integers(0, 5), max_size=3)
CONFIGS = st.fixed_dictionaries(
    {"max_batch": st.sampled_from([1, 2, 4, 16]), "token_budget": st.sampled_from([1, 16, 64])}
)


@pytest.fixture(scope="module")
def real_model(model_path: Any) -> Model:
    if not cpu.available():
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    return load_model(model_path, dtype="float32", backend="cpu", threads=1)


def unlucky(method: Callable[..., Any], calls: set[int]) -> Callable[..., Any]:
    """A method whose calls of these numbers do all their work and throw then."""
    count = itertools.count(1)

    def call(*args: Any, **options: Any) -> Any:
        result = method(*args, **options)
        if next(count) in calls:
            raise MemoryError
        return result

    return call


def run(
    engine: Engine, wishes: list[Wish], cancels: Mapping[int, int] | None = None
) -> dict[tuple[int, int], RowOutput]:
    outputs: list[RowOutput] = []
    to_come = dict(enumerate(wishes))
    for step in range(2000):
        for i in [i for i, wish in to_come.items() if wish.step <= step]:
            engine.submit(to_come.pop(i).request(engine, i))
        if cancels and step in cancels:
            engine.cancel(cancels[step])
        outputs += engine.step().rows
        if not to_come and not engine.has_work:
            break
    assert_empty(engine)
    assert sorted(engine._pool._free) == list(range(engine._pool.slots))
    assert not engine._scheduler.quarantine._suspects
    return answers(outputs)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(WISHES, FAULTS, CANCELS, CONFIGS)
def test_others_go_on_and_nothing_is_left(
    real_model: Model,
    tokenizer: WorldTokenizer,
    wishes: list[Wish],
    faults: dict[str, set[int]],
    cancels: dict[int, int],
    config: dict[str, Any],
) -> None:
    expected = run(Engine(real_model, tokenizer, EngineConfig(model="", **config)), wishes)

    executable = Faulty(real_model.executable, lambda step, _: step in faults.get("run", ()))
    engine = Engine(dataclasses.replace(real_model, executable=executable), tokenizer, EngineConfig(model="", **config))
    for place, owner in PLACES.items():
        holder = owner(engine)
        setattr(holder, place, unlucky(getattr(holder, place), faults.get(place, set())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "token_bytes", unlucky(tokenizer.token_bytes, faults.get("token_bytes", set())))
        found = run(engine, wishes, cancels)

    assert found.keys() == expected.keys()
    failed = {key for key, answer in found.items() if answer.finish_reason == "error"}
    cut = {key for key, answer in found.items() if answer.finish_reason == "cancelled"}
    assert {i for i, _ in cut} <= set(cancels.values())
    for key, answer in found.items():
        if key in failed | cut:
            assert answer.token_ids == expected[key].token_ids[: len(answer.token_ids)]
        else:
            assert answer == expected[key]
    thrown = sum(map(len, faults.values()))
    if thrown <= MAX_STRIKES:  # more of them may strike out sequences that were there each time
        assert len({i for i, _ in failed}) <= thrown
    if not failed | cut:
        assert found == expected
