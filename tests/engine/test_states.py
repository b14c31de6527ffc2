"""States as values: kept by one request, the beginning of another."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.engine.conftest import VOCAB
from tests.engine.helpers import Speller, answers, assert_empty, complete, request, run, sampling, stand_in
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, RowExtras, RowOutput, Submit
from wingbeat.engine.snapshot import StateArray, StateSnapshot
from wingbeat.models import Model
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer

PROMPT = np.random.default_rng(8).integers(1, 266, 40).tolist()


def make(model: Model, tokenizer: WorldTokenizer | None, **config: Any) -> Engine:
    return Engine(model, tokenizer, EngineConfig(model="", **config))


def keeping(engine: Engine, prompts: list[list[int]], params: SamplingParams, *keep: Any) -> GenerationRequest:
    wanted = request(engine, 1, prompts, params)
    wanted.keep = keep
    return wanted


def going_on(
    engine: Engine, state: StateSnapshot | None, prompts: list[list[int]], params: SamplingParams, request_id: int = 1
) -> GenerationRequest:
    assert state is not None
    wanted = request(engine, request_id, prompts, params)
    wanted.state = state
    return wanted


def extras(outputs: list[RowOutput], row: int = 0) -> RowExtras:
    (found,) = [output.extras for output in outputs if output.row == row and output.extras is not None]
    return found


def neighbours(engine: Engine) -> list[GenerationRequest]:
    return [request(engine, 50 + i, [PROMPT[i:]], SamplingParams(seed=i, max_tokens=30)) for i in range(6)]


PENALTIES = {"presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.3}


@pytest.mark.parametrize(
    "more", [{}, {"temperature": 0.0, **PENALTIES}, PENALTIES], ids=["drawn", "greedy", "penalties"]
)
@pytest.mark.parametrize("way", ["value", "frame", "file"])
@pytest.mark.parametrize("crowd", [False, True])
def test_going_on_equals_never_having_stopped(
    model: Model, tokenizer: WorldTokenizer, tmp_path: Path, way: str, crowd: bool, more: dict[str, float]
) -> None:
    if crowd and model.info.backend == "reference":
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    whole = complete(make(model, tokenizer), PROMPT, sampling(20, **more))
    engine = make(model, tokenizer, max_batch=8)
    first = run(engine, keeping(engine, [PROMPT], sampling(8, **more), "end"))
    state, said = extras(first).state, answers(first)[1, 0]
    assert state is not None
    assert state.position == len(PROMPT) + 8
    if way == "frame":
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=StateSnapshot)
    elif way == "file":
        state.save(tmp_path / "state")
        state, _ = StateSnapshot.load(tmp_path / "state")
    engine = make(model, tokenizer, max_batch=8)
    rest = going_on(engine, state, [[]], sampling(12, **more))
    outputs = run(engine, rest, *(neighbours(engine) if crowd else []))
    assert said.token_ids + answers(outputs)[1, 0].token_ids == whole.token_ids
    assert (said.logprobs or []) + (answers(outputs)[1, 0].logprobs or []) == whole.logprobs
    assert said.text + answers(outputs)[1, 0].text == whole.text


DECAYING = {**PENALTIES, "penalty_decay": 0.9, "penalty_history": (7, 9, 7), "penalty_free": (9, 40)}


@pytest.mark.parametrize(
    "more",
    [
        {"sampler": "mirostat", "tau": 2.0, "rate": 0.5},
        {"sampler": "mirostat_full", "rate": 0.5, "repetition_penalty": 1.4, "repetition_over": "answer"},
        {"sampler": "typical", "penalties": "values", **DECAYING},
        {"sampler": "noise", "noise": 2.0, "penalties": "counts_decay_first", **DECAYING},
        {"order": "ai00", "penalties": "values", "penalty_decay": 1.0, "frequency_penalty": 0.3},
        {"order": "rwkv", "top_p": 0.8, **DECAYING},
        {
            "order": "joint",
            "top_k": 20,
            "min_tokens": 14,
            "stop_token_ids": (*range(99),),
            "no_repeat": (*range(99, 266),),
            **PENALTIES,
        },
    ],
    ids=lambda more: more.get("sampler") or more.get("order"),
)
def test_every_sampler_goes_on_as_if_it_had_never_stopped(
    model: Model, tokenizer: WorldTokenizer, tmp_path: Path, more: dict[str, Any]
) -> None:
    """Twice, from files; the second time after more tokens of the same answer."""
    if model.info.backend == "reference":
        pytest.skip("the sampler and the engine are the same")
    params = sampling(30, **more)
    whole = complete(make(model, tokenizer), PROMPT, params)
    state, said = None, []
    for tokens in (5, 9, 16):
        engine = make(model, tokenizer)
        part = msgspec.structs.replace(params, max_tokens=tokens)
        wanted = keeping(engine, [PROMPT if state is None else []], part, "end")
        wanted.state = state
        outputs = run(engine, wanted)
        said += answers(outputs)[1, 0].token_ids
        if answers(outputs)[1, 0].finish_reason == "stop":
            break
        kept = extras(outputs).state
        assert kept is not None
        kept.save(tmp_path / "state")
        state, _ = StateSnapshot.load(tmp_path / "state")
    assert said == whole.token_ids
    assert len(said) > 5


def test_the_state_after_a_prompt_stands_for_its_tokens(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer, token_budget=17)
    begin, end = PROMPT[:25], PROMPT[25:]
    read = run(engine, keeping(engine, [begin], SamplingParams(max_tokens=0), "prompt"))
    assert [(o.finish_reason, o.token_ids) for o in read] == [("length", [])]
    state = extras(read).prompt_state
    assert state is not None
    assert state.position == 25
    answer = answers(run(engine, going_on(engine, state, [end], sampling(9))))[1, 0]
    expected = complete(make(model, tokenizer, token_budget=17), PROMPT, sampling(9))
    assert answer.token_ids == expected.token_ids
    assert answer.prompt_tokens == 15  # its own


def test_the_state_after_the_prompt_is_that_even_if_more_is_said(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer)
    outputs = run(engine, keeping(engine, [PROMPT], sampling(5), "prompt", "end"))
    assert [output.extras is not None for output in outputs] == [True, *[False] * 4, True]
    assert [len(output.token_ids) for output in outputs] == [1, 1, 1, 1, 1, 0]  # the last one was fed after all
    first, last = outputs[0].extras, outputs[-1].extras
    assert first is not None
    assert last is not None
    assert (first.state, last.prompt_state) == (None, None)
    read = run(engine, keeping(engine, [PROMPT], sampling(0), "prompt", "end"))
    assert extras(read).prompt_state == extras(read).state == first.prompt_state
    assert first.prompt_state is not None
    assert last.state is not None
    assert (first.prompt_state.position, last.state.position) == (len(PROMPT), len(PROMPT) + 5)


def test_answers_to_one_prompt_share_the_beginning_and_keep_their_ends(model: Model, tokenizer: WorldTokenizer) -> None:
    if model.info.backend == "reference":
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    engine = make(model, tokenizer, max_batch=3)
    begin, end = PROMPT[:25], PROMPT[25:]
    state = extras(run(engine, keeping(engine, [begin], SamplingParams(max_tokens=0), "prompt"))).prompt_state
    many = going_on(engine, state, [end] * 4, sampling(6))
    many.keep = ("prompt", "end")
    outputs = run(engine, many)
    whole = answers(run(engine, request(engine, 1, [PROMPT] * 4, sampling(6))))
    assert [a.token_ids for a in answers(outputs).values()] == [a.token_ids for a in whole.values()]
    ends = [output.extras for output in outputs if output.finish_reason]
    states = [e.state for e in ends if e is not None and e.state is not None]
    assert [state.position for state in states] == [46] * 4
    assert all(one != other for one, other in combinations(states, 2))
    assert [o.row for o in outputs if o.extras and o.extras.prompt_state] == [0]


def test_a_cancelled_row_gives_its_state_back(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer, max_batch=2, token_budget=64)
    engine.submit(keeping(engine, [PROMPT] * 3, sampling(100), "end"))
    said = [row for _ in range(5) for row in engine.step().rows]
    engine.cancel(1)
    ended = engine.step().rows
    assert [output.finish_reason for output in ended] == ["cancelled"] * 3
    assert ended[2].extras is None  # it waited for a slot
    assert_empty(engine)
    for row in range(2):
        tokens = [token for output in said if output.row == row for token in output.token_ids]
        state = extras(ended, row).state
        assert state is not None
        assert state.position == len(PROMPT) + len(tokens) - 1
        rest = going_on(engine, state, [tokens[-1:]], sampling(4))
        rest.rows[0].choice = row
        alone = request(engine, 1, [PROMPT], sampling(9))
        alone.rows[0].choice = row
        expected = answers(run(engine, alone))[1, 0].token_ids
        assert tokens + answers(run(engine, rest))[1, 0].token_ids == expected


def test_a_row_cancelled_while_it_reads_has_no_state(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer, token_budget=16)
    engine.submit(keeping(engine, [PROMPT] * 2, sampling(9), "prompt", "end"))
    engine.step()
    engine.cancel(1)
    assert [(o.finish_reason, o.extras) for o in engine.step().rows] == [("cancelled", None)] * 2


def test_a_row_that_fails_has_no_state(tokenizer: WorldTokenizer) -> None:
    engine = make(stand_in(Speller([5] * 10, 300, bad_token=66)), tokenizer)
    outputs = run(engine, keeping(engine, [[66]], sampling(3), "prompt", "end"))
    assert [(o.finish_reason, o.extras) for o in outputs] == [("error", None)]


def test_states_are_kept_only_when_asked_for(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer)
    assert all(o.extras is None for o in run(engine, request(engine, 1, [PROMPT] * 2, sampling(3))))


def changed(state: StateSnapshot, **changes: Any) -> StateSnapshot:
    return msgspec.structs.replace(state, **changes)


def test_a_state_that_does_not_fit_is_refused(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer)
    state = extras(run(engine, keeping(engine, [PROMPT], sampling(2), "end"))).state
    assert state is not None
    name, field = next(iter(state.arrays.items()))
    fewer = {key: array for key, array in state.arrays.items() if key != name}
    flat = {**state.arrays, name: StateArray([len(field.data) // 4, 1], field.data)}
    short = {**state.arrays, name: StateArray(field.shape, field.data[4:])}
    for bad, message in [
        (changed(state, fingerprint="other"), "made by another model"),
        (changed(state, position=-1), "position must be from 0"),
        (changed(state, position=2**63), "position must be from 0"),
        (changed(state, arrays=fewer), "fields are not those of this model"),
        (changed(state, arrays={**state.arrays, "more": field}), "fields are not those of this model"),
        (changed(state, arrays=flat), "fields are not those of this model"),
        (changed(state, arrays=short), "cannot have the shape"),
    ]:
        (output,) = run(engine, going_on(engine, bad, [[7]], sampling(2)))
        assert output.finish_reason == "error"
        assert message in str(output.error)
    assert state.logits is not None
    few = changed(state, logits=StateArray([3], bytes(12)))
    (output,) = run(engine, going_on(engine, few, [[7]], sampling(2)))
    assert "the state's logits are (3,)" in str(output.error)
    (output,) = run(engine, going_on(engine, changed(state, logits=None), [[]], sampling(2)))
    assert "needs a prompt of at least one token" in str(output.error)
    (output,) = run(engine, keeping(engine, [[7]], sampling(2), "all"))
    assert "keep must hold 'prompt', 'end', 'reply', not 'all'" in str(output.error)


def test_a_request_with_a_state_is_one_frame(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer)
    state = extras(run(engine, keeping(engine, [PROMPT], sampling(2), "end"))).state
    wanted = going_on(engine, state, [[7]], sampling(2))
    wanted.keep, wanted.prompt_logprobs = ("prompt", "end"), 0
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Submit(wanted)), type=Submit).request == wanted
    outputs = run(engine, wanted)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(outputs), type=list[RowOutput]) == outputs


def test_what_matched_a_stop_is_in_no_state(tokenizer: WorldTokenizer, model: Model) -> None:
    """The stop may take several tokens, begin within one, or be a token itself."""
    if model.info.backend == "reference":
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    engine = make(model, tokenizer)
    spoken = {"logit_bias": dict.fromkeys([*range(98, 123), *range(257, 266)], 100.0)}  # letters and words
    said = complete(engine, PROMPT, sampling(30, **spoken))
    text = tokenizer.decode(said.token_ids)
    places = [i for i in range(len(text) - 5) if text.find(text[i : i + 5]) == i]
    assert len(places) > 20
    assert any(len(tokenizer.token_bytes(token)) > 1 for token in said.token_ids)
    for stops in [{"stop": (text[i : i + 5],)} for i in places] + [{"stop_token_ids": (said.token_ids[7],)}]:
        wanted = keeping(engine, [PROMPT], sampling(30, **spoken, **stops), "end", "reply")
        found = extras(run(engine, wanted))
        answer = answers(run(engine, wanted))[1, 0]
        assert found.reply is not None
        assert found.state is not None
        assert tokenizer.decode(found.reply) == answer.text
        read = run(engine, keeping(engine, [PROMPT + found.reply], sampling(0), "prompt"))
        expected = extras(read).prompt_state
        assert expected is not None
        assert (found.state.arrays, found.state.logits) == (expected.arrays, expected.logits)


def test_a_continuation_that_cannot_be_is_refused(tokenizer: WorldTokenizer, model: Model) -> None:
    """A file may come from anywhere; what it says of its answer reaches the sampler."""
    engine = make(model, tokenizer)
    state = extras(run(engine, keeping(engine, [PROMPT], sampling(2), "end"))).state
    assert state is not None
    assert state.continuation is not None
    for changes in [
        {"generated": {VOCAB: 1}},
        {"generated": {3: 10**12}},
        {"generated": {3: 0}},
        {"read": [-1]},
        {"choice": -1},
        {"seed": 2**64},
        {"undecoded": b"1234"},
        {"last": VOCAB},
        {"weights": {VOCAB: (1.0, 0)}},
        {"weights": {3: (math.inf, 0)}},
        {"weights": {3: (1.0, -1)}},
        {"mu": math.nan},
    ]:
        bad = changed(state, continuation=msgspec.structs.replace(state.continuation, **changes))
        (output,) = run(engine, going_on(engine, bad, [[]], sampling(2)))
        assert "what the state says of its answer cannot be" in str(output.error)
