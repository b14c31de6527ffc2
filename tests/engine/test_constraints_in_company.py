"""Constrained rows and all else that happens to rows: faults, caches, choices, guesses, budgets, states to keep."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.engine.helpers import Faulty, answers, assert_empty, drain, request, run
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowOutput
from wingbeat.models import Model, load_model
from wingbeat.ops import cpu
from wingbeat.ops.table import StepBatch
from wingbeat.sampling.constraint import Constraint
from wingbeat.sampling.params import SamplingParams, ThinkingBudget
from wingbeat.text.world import WorldTokenizer

PROMPT = [5, 6, 7, 8, 9]
SCHEMA = {
    "type": "object",
    "properties": {"wing": {"type": "string", "maxLength": 6}, "beat": {"type": "array", "maxItems": 3}},
    "required": ["wing", "beat"],
}
SCHEMA["properties"]["beat"]["items"] = {"enum": ["the ", 1, None]}
JSON = Constraint("json_schema", json.dumps(SCHEMA))
KBNF = Constraint("kbnf", 'start ::= #"[a-z]{6}" "!" | "stop";')
Make = Callable[..., Engine]


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    if not cpu.available():
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    return load_model(model_path, dtype="int8", backend="cpu", threads=2)


@pytest.fixture
def make(model: Model, tokenizer: WorldTokenizer) -> Iterator[Make]:
    made: list[Engine] = []

    def make(fault: Callable[[int, StepBatch], bool] | None = None, **config: Any) -> Engine:
        used = model if fault is None else dataclasses.replace(model, executable=Faulty(model.executable, fault))
        made.append(Engine(used, tokenizer, EngineConfig(model="", **config)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def under(constraint: Constraint | None, tokens: int = 300, **more: Any) -> SamplingParams:
    return SamplingParams(constraint=constraint, max_tokens=tokens, **{"temperature": 2.0, "seed": 1, **more})


def mixture(engine: Engine, prompt: list[int] = PROMPT) -> dict[tuple[int, int], RowOutput]:
    """Free rows, rows under both libraries, without words, and after a mark, all with one prompt."""
    wishes = [
        under(JSON, logprobs=1),
        under(KBNF, seed=2, frequency_penalty=0.5),
        under(None, 40, ignore_eos=True),
        under(None, 40, ignore_eos=True, bad_words=("e", "ab")),
        under(Constraint("regex", "[0-9]{4}", begins="é", leading_white=True), 2000, ignore_eos=True),
    ]
    return answers(run(engine, *(request(engine, i, [prompt] * 2, wish) for i, wish in enumerate(wishes, 1))))


def check(found: dict[tuple[int, int], RowOutput]) -> None:
    for row in range(2):
        assert [found[i, row].finish_reason for i in range(1, 6)] == ["stop", "stop", "length", "length", "stop"]
        jsonschema.validate(json.loads(found[1, row].text), SCHEMA)
        assert re.fullmatch("[a-z]{6}!|stop", found[2, row].text)
        assert not re.search("e|ab", found[4, row].text)
        assert re.search(r"é\s{0,2}[0-9]{4}$", found[5, row].text)
    assert found[1, 0].text != found[1, 1].text


@pytest.mark.parametrize("failing", [{1}, {3, 4}, {6, 9, 30}])
def test_a_step_that_fails_changes_nothing(make: Make, failing: set[int]) -> None:
    expected = mixture(make(max_batch=16))
    check(expected)
    engine = make(lambda step, batch: step in failing and len(batch.slots) > 1, max_batch=16)
    assert mixture(engine) == expected
    assert isinstance(engine.model.executable, Faulty)
    assert engine.model.executable.failed


def test_a_step_that_fails_after_its_tokens_are_drawn_changes_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(engine: Engine) -> RowOutput:
        free = request(engine, 2, [[6, 5]], under(None, 20, ignore_eos=True))  # a row that is alone fails
        return answers(run(engine, free, request(engine, 1, [PROMPT], under(JSON))))[1, 0]

    expected, engine = ask(make()), make()
    flush, failed = engine._guarded.grammars.flush, []

    def failing() -> None:
        if len(engine._guarded.grammars._lanes["llguidance"].accepted) > len(failed):
            failed.append(1)
            raise MemoryError
        flush()

    monkeypatch.setattr(engine._guarded.grammars, "flush", failing)
    assert ask(engine) == expected
    assert failed


def test_a_row_that_cannot_be_run_fails_alone(make: Make) -> None:
    engine = make(lambda _, batch: 66 in batch.tokens, max_batch=16)
    engine.submit(request(engine, 1, [[66, 5]], under(JSON)))
    engine.submit(request(engine, 2, [PROMPT] * 2, under(JSON)))
    found = answers(drain(engine))
    assert_empty(engine)
    assert "boom" in (found[1, 0].error or "")
    assert not engine._guarded
    for row in range(2):
        if found[2, row].error is None:  # it may have said 66 itself
            jsonschema.validate(json.loads(found[2, row].text), SCHEMA)


def test_a_cached_prompt_changes_nothing(make: Make, tmp_path: Path) -> None:
    expected = mixture(make(max_batch=16, cache_memory=0))
    engine = make(max_batch=16, cache_dir=str(tmp_path))
    assert mixture(engine) == expected
    assert mixture(engine) == expected  # nothing need be read
    engine.close()
    restarted = make(max_batch=16, cache_dir=str(tmp_path))
    assert mixture(restarted) == expected
    assert restarted.stats().cached_tokens > 0


def test_few_slots_change_nothing(make: Make) -> None:
    assert mixture(make(max_batch=3)) == mixture(make(max_batch=16, token_budget=4))


def test_guesses_change_nothing(make: Make) -> None:
    prompt = [97 + 1, 98 + 1, 99 + 1] * 20  # where much repeats itself
    expected = mixture(make(max_batch=16, speculative_tokens=0), prompt)
    assert mixture(make(max_batch=16, speculative_tokens=15), prompt) == expected


def test_a_grammar_begins_after_a_reasoning_that_is_cut_short(make: Make, tokenizer: WorldTokenizer) -> None:
    engine = make()
    budget = ThinkingBudget(7, tuple(tokenizer.encode("\n</think>")))
    for seed in range(3):
        marked = Constraint("regex", "[0-9]{3}", begins="</think>", leading_white=True)
        found = answers(
            run(engine, request(engine, 1, [PROMPT], under(marked, seed=seed, thinking=budget, ignore_eos=True)))
        )
        assert re.search(r"(?s)\n</think>\s{0,2}[0-9]{3}$", found[1, 0].text)
        assert found[1, 0].finish_reason == "stop"


def test_a_turn_goes_on_from_an_answer_under_a_grammar(make: Make) -> None:
    engine = make(max_batch=4, cache_memory=0)
    first = request(engine, 1, [PROMPT], under(JSON))
    first.keep = ("end", "reply")
    said = answers(run(engine, first))[1, 0]
    assert said.extras is not None
    assert said.extras.state is not None
    more = [10, 11, 12]
    after = request(engine, 2, [more], under(KBNF))
    after.state = said.extras.state
    gone_on = answers(run(engine, after))[2, 0]
    whole = request(engine, 2, [[*PROMPT, *said.token_ids, *more]], under(KBNF))
    anew = answers(run(engine, whole))[2, 0]
    assert (gone_on.token_ids, gone_on.text) == (anew.token_ids, anew.text)
    assert re.fullmatch("[a-z]{6}!|stop", anew.text)


def test_a_session_goes_on_from_an_answer_under_a_grammar(make: Make, tmp_path: Path) -> None:
    engine, plain = make(cache_dir=str(tmp_path)), make(cache_memory=0)
    first = request(engine, 1, [PROMPT], under(JSON))
    first.session = "a"
    said = answers(run(engine, first))[1, 0]
    history = [*PROMPT, *said.token_ids, 10, 11, 12]
    then = request(engine, 2, [history], under(JSON, seed=4))
    then.session = "a"
    outputs = run(engine, then)
    assert max(output.cached_tokens for output in outputs) >= len(PROMPT) + len(said.token_ids) - 1
    assert answers(outputs) == answers(run(plain, request(plain, 2, [history], under(JSON, seed=4))))
