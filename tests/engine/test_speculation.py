"""Guesses change when tokens come, never which: tokens, log-probabilities and states are those without, bit for bit."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.helpers import Faulty, Speller, answers, assert_empty, drain, request, run, stand_in
from tests.random_models import random_model, write_safetensors
from wingbeat.engine import speculation
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, RowOutput
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.speculation import MOST_ROWS, best_length
from wingbeat.engine.step_costs import StepCosts
from wingbeat.models import Model, load_model
from wingbeat.ops import cpu
from wingbeat.sampling.constraint import Constraint
from wingbeat.sampling.params import SamplingParams, ThinkingBudget
from wingbeat.text.world import WorldTokenizer

needs_kernels = pytest.mark.skipif(not cpu.available(), reason="the reference makes no guesses")

VERSIONS = ["4", "5.0", "5.2", "6", "7", "7a"]
PHRASE = [11, 12, 13, 14, 15, 16, 17]
PROMPT = [9, *PHRASE, 30, 31, *PHRASE, 32, *PHRASE[:3]]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every guess is checked, however unlikely: rows cost nothing, and sequences are asked for them in each step."""
    free = StepCosts([1.0] * (speculation.MOST_ROWS + 1), 0.0)
    monkeypatch.setattr(free, "count", lambda *_: None)
    monkeypatch.setattr("wingbeat.engine.engine.StepCosts", lambda *_: free)
    monkeypatch.setattr(speculation, "LEAST_CHANCE", 0.0)
    monkeypatch.setattr(speculation, "PAUSES", (1,))


@pytest.fixture(scope="module")
def real_model(model_path: Path) -> Model:
    return load_model(model_path, dtype="int8", backend="cpu", threads=2)


def engine_of(model: Model, tokenizer: WorldTokenizer | None, **config: Any) -> Engine:
    return Engine(model, tokenizer, EngineConfig(model="", **config))


def speller_of(ids: list[int], **config: Any) -> Engine:
    return engine_of(stand_in(Speller(ids, 300)), None, **config)


def both(
    model: Model, tokenizer: WorldTokenizer | None, *wishes: dict[str, Any], **config: Any
) -> tuple[list[RowOutput], list[RowOutput], Engine]:
    """What an engine says without guesses and what one says with, and the latter. Wishes are those of ``asked``."""
    engines = [engine_of(model, tokenizer, speculative_tokens=most, **config) for most in (0, 15)]
    without, guessed = (
        run(engine, *(asked(engine, i, **wish) for i, wish in enumerate(wishes, 1))) for engine in engines
    )
    return without, guessed, engines[1]


def asked(
    engine: Engine, request_id: int, prompts: list[list[int]], params: SamplingParams, **more: Any
) -> GenerationRequest:
    wanted = request(engine, request_id, prompts, params)
    for name, value in more.items():
        setattr(wanted, name, value)
    return wanted


# What it is for


def test_an_answer_that_repeats_itself_comes_in_fewer_steps() -> None:
    plain, guessing = (speller_of(PHRASE * 20, speculative_tokens=most) for most in (0, 15))
    wish = {"prompts": [[7]], "params": SamplingParams(max_tokens=120)}
    expected, found = (answers(run(engine, asked(engine, 1, **wish))) for engine in (plain, guessing))
    assert found == expected
    assert plain.stats().steps == 120
    assert guessing.stats().steps < 40
    assert guessing.stats().generated_tokens == 120
    assert 80 < guessing.stats().accepted_tokens <= guessing.stats().drafted_tokens
    assert plain.stats().drafted_tokens == 0


def test_an_answer_that_was_predicted_comes_in_fewer_steps() -> None:
    text = np.random.default_rng(1).permutation(250)[:100].tolist()
    steps = []
    for draft in ([], text, [*text[:50], 299, *text[51:]]):
        engine = speller_of(text)
        outputs = run(engine, asked(engine, 1, [[7]], SamplingParams(max_tokens=100, ignore_eos=True), draft=draft))
        assert answers(outputs)[1, 0].token_ids == text
        steps.append(engine.stats().steps)
    assert steps[0] == 100
    assert steps[1] < 20
    assert steps[1] < steps[2] < 30


def test_a_prediction_that_comes_false_costs_next_to_nothing() -> None:
    text = np.random.default_rng(1).permutation(250)[:200].tolist()
    engine = speller_of(text)
    run(engine, asked(engine, 1, [[7]], SamplingParams(max_tokens=200, ignore_eos=True), draft=[299] * 200))
    assert engine.stats().steps == 200
    assert engine.stats().drafted_tokens < 40


def test_tokens_of_one_step_come_in_one_output() -> None:
    engine = speller_of(PHRASE * 20)
    engine.submit(asked(engine, 1, [[7]], SamplingParams(max_tokens=120)))
    sizes = []
    while engine.has_work:
        rows = engine.step().rows
        assert len(rows) == 1
        sizes.append(len(rows[0].token_ids))
    assert sum(sizes) == 120
    assert max(sizes) == 16


def test_with_many_sequences_there_are_no_guesses() -> None:
    engine = speller_of(PHRASE * 9)
    run(engine, asked(engine, 1, [[7]] * (speculation.MOST_DECODING + 1), SamplingParams(max_tokens=50)))
    assert engine.stats().drafted_tokens == 0
    assert engine.stats().steps == 50


def test_a_step_has_no_more_rows_than_it_may(eager: None) -> None:
    engine = speller_of(PHRASE * 20, token_budget=7)
    outputs = run(engine, asked(engine, 1, [[7], [8], [9]], SamplingParams(max_tokens=60)))
    assert all(answer.token_ids == (PHRASE * 20)[:60] for answer in answers(outputs).values())
    executable = engine.model.executable
    assert isinstance(executable, Speller)
    assert 3 < max(len(batch.tokens) for batch in executable.batches) <= 7


def test_a_draft_must_be_of_the_vocabulary() -> None:
    engine = speller_of(PHRASE)
    outputs = run(engine, asked(engine, 1, [[7]], SamplingParams(max_tokens=5), draft=[4, 300]))
    assert "token id 300 of the draft" in str(answers(outputs)[1, 0].error)


@pytest.mark.parametrize("most", [-1, 32])
def test_how_many_guesses_there_may_be(most: int) -> None:
    with pytest.raises(ValueError, match="speculative_tokens must be from 0 to 31"):
        speller_of(PHRASE, speculative_tokens=most)


def test_guesses_are_checked_where_they_gain_more_than_they_cost() -> None:
    sure, likely, unlikely = [1.0] * 15, [0.8**i for i in range(1, 16)], [0.1**i for i in range(1, 16)]
    costs = StepCosts([1 + 0.04 * max(0, rows - 1) for rows in range(MOST_ROWS + 1)], 0.03)
    assert best_length(sure, 1, 0, 1.0, costs) == 15
    assert 3 < best_length(likely, 1, 0, 1.0, costs) < 15
    assert best_length(unlikely, 1, 0, 1.0, costs) == 0
    assert best_length(likely, 12, 0, 12 / 1.44, costs) < best_length(likely, 1, 0, 1.0, costs)
    assert best_length([0.5], 1, 0, 1.0, costs) == 1
    assert best_length([0.25], 1, 0, 1.0, costs) == 1
    assert best_length([0.25], 15, 14, 1.0, costs) == 0  # 14 rows would have to be fed again


def test_where_a_row_costs_much_more_guesses_end_before_it() -> None:
    likely = [0.75**i for i in range(1, 16)]
    cliff = StepCosts([1.0] * 5 + [2.5] * (MOST_ROWS - 4), 0.03)
    assert best_length(likely, 1, 0, 1.0, cliff) == 3
    assert best_length([1.0] * 15, 1, 0, 1.0, cliff) == 15
    assert best_length(likely, 4, 0, 4.0, cliff) == 0


# The same answers


@pytest.fixture(params=VERSIONS, scope="module")
def version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"head_size": 16} if request.param[0] in "567" else {}
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    return write_safetensors(path, random_model(request.param, vocab=60, **sizes, seed=4))


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_every_version_and_dtype(version: Path, dtype: str, eager: None) -> None:
    model = load_model(version, dtype=dtype, threads=2)
    wishes = [
        {
            "prompts": [PROMPT, PROMPT[3:], PROMPT],
            "params": SamplingParams(seed=5, max_tokens=40, ignore_eos=True, logprobs=2, **more),
            "keep": ("end", "prompt", "reply"),
        }
        for more in ({"temperature": 0.0}, {"top_k": 2, "presence_penalty": 0.2}, {"temperature": 0.4, "top_p": 0.9})
    ]
    without, guessed, engine = both(model, None, *wishes, max_batch=12)
    assert answers(guessed) == answers(without)
    stats = engine.stats()
    assert 0 < stats.accepted_tokens < stats.drafted_tokens


PROMPTS = st.lists(st.lists(st.integers(1, 6) | st.integers(1, 290), min_size=1, max_size=40), min_size=1, max_size=3)
SAMPLING = st.builds(
    SamplingParams,
    sampler=st.sampled_from(["nucleus", "nucleus", "typical", "mirostat", "mirostat_full", "noise"]),
    order=st.sampled_from(["standard", "rwkv", "ai00", "joint"]),
    seed=st.integers(0, 9),
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
    top_k=st.sampled_from([0, 2, 3]),
    max_tokens=st.sampled_from([1, 2, 9, 60]),
    min_tokens=st.sampled_from([0, 0, 5]),
    logprobs=st.sampled_from([None, 2]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.1]),
    penalty_decay=st.sampled_from([1.0, 0.9]),
    penalties=st.sampled_from(["counts", "counts_decay_first", "values"]),
    penalty_free=st.sampled_from([(), (1, 2)]),
    global_penalty=st.booleans(),
    no_repeat=st.sampled_from([(), (1, 4)]),
    thinking=st.sampled_from([None, None, ThinkingBudget(3, (2, 5), True)]),
    repetition_penalty=st.sampled_from([1.0, 1.1]),
    logit_bias=st.dictionaries(st.integers(1, 12), st.sampled_from([3.0, 8.0]), max_size=4),
    stop=st.sampled_from([(), ("e",), ("stop",), ("\x03\x02\x01",), ("\x01\x02", "\x02\x02\x03")]),
    stop_token_ids=st.sampled_from([(), (3,)]),
    ignore_eos=st.booleans(),
)
WISHES = st.lists(
    st.fixed_dictionaries(
        {
            "prompts": PROMPTS,
            "params": SAMPLING,
            "keep": st.sampled_from([(), ("prompt",), ("end",), ("prompt", "end", "reply")]),
            "prompt_logprobs": st.sampled_from([None, None, 1]),
            "draft": st.just([]) | st.lists(st.integers(1, 6), max_size=30),
            "cache": st.booleans(),
        }
    ),
    min_size=1,
    max_size=4,
)
CONFIGS = st.fixed_dictionaries(
    {"max_batch": st.sampled_from([1, 3, 16]), "token_budget": st.sampled_from([1, 16, 512])}
)
FAULTS = st.sets(st.integers(2, 60), max_size=4)
CANCELS = st.dictionaries(st.integers(0, 20), st.integers(0, 3), max_size=2)
CHECKED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@needs_kernels
def test_any_requests(real_model: Model, tokenizer: WorldTokenizer, eager: None) -> None:
    accepted: list[int] = []

    @settings(CHECKED, max_examples=200)
    @given(WISHES, CONFIGS)
    def check(wishes: list[dict[str, Any]], config: dict[str, Any]) -> None:
        without, guessed, engine = both(real_model, tokenizer, *wishes, **config)
        assert answers(guessed) == answers(without)
        accepted.append(engine.stats().accepted_tokens)

    check()
    assert sum(count > 0 for count in accepted) > 20


@needs_kernels
@settings(CHECKED, max_examples=50)
@given(WISHES, CONFIGS, FAULTS, CANCELS)
def test_faults_and_cancels(
    real_model: Model,
    tokenizer: WorldTokenizer,
    eager: None,
    wishes: list[dict[str, Any]],
    config: dict[str, Any],
    faults: set[int],
    cancels: dict[int, int],
) -> None:
    plain = engine_of(real_model, tokenizer, speculative_tokens=0, **config)
    expected = answers(run(plain, *(asked(plain, i, **wish) for i, wish in enumerate(wishes))))
    executable = Faulty(real_model.executable, lambda step, _: step in faults)
    engine = engine_of(dataclasses.replace(real_model, executable=executable), tokenizer, **config)
    for i, wish in enumerate(wishes):
        engine.submit(asked(engine, i, **wish))
    outputs: list[RowOutput] = []
    for step in range(21):
        if step in cancels:
            engine.cancel(cancels[step])
        outputs += engine.step().rows
    found = answers([*outputs, *drain(engine)])
    assert_empty(engine)
    for key, answer in found.items():
        if answer.finish_reason in ("error", "cancelled"):
            assert answer.token_ids == expected[key].token_ids[: len(answer.token_ids)]
        else:
            assert answer == expected[key]


# What is kept of it


@needs_kernels
def test_a_cancelled_sequence_keeps_the_state_that_it_had(
    real_model: Model, tokenizer: WorldTokenizer, eager: None
) -> None:
    """Also where the state is some tokens behind: it says where it stands, and going on from there is the same."""
    params = SamplingParams(temperature=0.0, max_tokens=300, ignore_eos=True)
    plain = engine_of(real_model, tokenizer, speculative_tokens=0)
    whole = answers(run(plain, asked(plain, 1, [PROMPT], params)))[1, 0].token_ids
    behind = set()
    for steps in range(1, 14):
        engine = engine_of(real_model, tokenizer)
        engine.submit(asked(engine, 1, [PROMPT], params, keep=("end",)))
        outputs = [output for _ in range(steps) for output in engine.step().rows]
        engine.cancel(1)
        answer = answers([*outputs, *drain(engine)])[1, 0]
        assert answer.extras is not None
        state = answer.extras.state
        assert state is not None
        seen = state.position - len(PROMPT)
        said = answer.token_ids
        assert said == whole[: len(said)]
        behind.add(len(said) - seen)
        goes_on = asked(engine, 2, [said[seen:]], SamplingParams(temperature=0.0, max_tokens=9, ignore_eos=True))
        goes_on.state = state
        assert answers(run(engine, goes_on))[2, 0].token_ids == whole[len(said) :][:9]
    assert max(behind) > 1


@needs_kernels
@pytest.mark.parametrize("stop", [{"max_tokens": 25}, {"stop_token_ids": (2,)}, {"stop": ("\x03\x01",)}])
def test_a_conversation_goes_on_from_what_is_cached(
    real_model: Model, tokenizer: WorldTokenizer, eager: None, stop: dict[str, Any]
) -> None:
    """Five turns, each with all before it as its prompt, in a session."""
    bias = {1: 9.0, 2: 8.7, 3: 8.9}
    params = SamplingParams(**{"max_tokens": 60, "seed": 4, "top_k": 3, "logit_bias": bias, "ignore_eos": True, **stop})
    turns: list[list[RowOutput]] = []
    for most in (0, 15):
        engine = engine_of(real_model, tokenizer, speculative_tokens=most)
        history, said = list(PROMPT), []
        for turn in range(5):
            wanted = asked(engine, turn, [history], params, session="one", keep=("reply",))
            outputs = run(engine, wanted)
            answer = answers(outputs)[turn, 0]
            assert answer.extras is not None
            assert answer.extras.reply is not None
            said.append(answer)
            history = [*history, *answer.extras.reply, 40 + turn, 41, 42]
            assert outputs[-1].cached_tokens > 0 or turn == 0
        turns.append(said)
        accepted = engine.stats().accepted_tokens
        assert (accepted > 0) == (most > 0)
    assert turns[0] == turns[1]


@needs_kernels
def test_choices_begin_together_and_go_their_ways(real_model: Model, tokenizer: WorldTokenizer, eager: None) -> None:
    params = SamplingParams(seed=1, max_tokens=50, ignore_eos=True, top_k=2, logit_bias={1: 9.0, 2: 9.0})
    without, guessed, engine = both(real_model, tokenizer, {"prompts": [PROMPT] * 6, "params": params})
    assert answers(guessed) == answers(without)
    assert len({tuple(answer.token_ids) for answer in answers(without).values()}) > 1
    assert engine.stats().accepted_tokens > 0


@pytest.mark.parametrize(
    ("params", "guessed"),
    [
        (SamplingParams(), True),
        (SamplingParams(bad_words=("zzz",)), False),
        (SamplingParams(constraint=Constraint(kind="regex", grammar="[a-z]*")), False),
    ],
)
def test_nothing_is_guessed_where_a_grammar_may_forbid_it(params: SamplingParams, guessed: bool) -> None:
    wanted = asked(speller_of(PHRASE), 1, [PROMPT], params)
    sequence = Sequence(wanted, 0, np.array(PROMPT, np.int32), params, None, 9)
    assert (sequence.guess_at < math.inf) == guessed
