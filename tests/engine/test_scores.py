"""The log-probabilities of a prompt's own tokens."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tests.engine.helpers import Faulty, Speller, answers, assert_empty, complete, drain, request, stand_in
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowOutput, TokenLogprob
from wingbeat.engine.scheduler import SCORED_ROWS
from wingbeat.models import Model
from wingbeat.ops.table import StepBatch
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer

PROMPT = np.random.default_rng(4).integers(1, 266, 2 * SCORED_ROWS + 20).tolist()
READ_ONLY = SamplingParams(max_tokens=0)


def make(model: Model, tokenizer: WorldTokenizer | None, **config: Any) -> Engine:
    return Engine(model, tokenizer, EngineConfig(model="", **config))


def score(engine: Engine, prompts: list[list[int]], sampling: SamplingParams, top: int = 3) -> list[RowOutput]:
    wanted = request(engine, 1, prompts, sampling)
    wanted.prompt_logprobs = top
    engine.submit(wanted)
    outputs = drain(engine)
    assert_empty(engine)
    return outputs


def scores_of(outputs: list[RowOutput], row: int = 0) -> list[TokenLogprob | None]:
    """Of the row's first output; no other has any."""
    first, *others = [output for output in outputs if output.row == row]
    assert all(other.extras is None for other in others)
    assert first.extras is not None
    assert first.extras.prompt_logprobs is not None
    return first.extras.prompt_logprobs


@pytest.mark.parametrize("budget", [7, 50, 512])
def test_a_prompts_scores_are_what_generating_it_reports(model: Model, tokenizer: WorldTokenizer, budget: int) -> None:
    sampling = SamplingParams(seed=1, max_tokens=30, ignore_eos=True, logprobs=3)
    said = complete(make(model, tokenizer), PROMPT, sampling)
    engine = make(model, tokenizer, token_budget=budget)
    outputs = score(engine, [[*PROMPT, *said.token_ids]], READ_ONLY)
    scores = scores_of(outputs)
    assert scores[0] is None
    assert [entry.token for entry in scores if entry] == [*PROMPT, *said.token_ids][1:]
    for entry, expected in zip(scores[len(PROMPT) :], said.logprobs or [], strict=True):
        assert entry is not None
        if model.info.backend == "reference":  # equal to itself in another batch to rounding only
            assert entry.logprob == pytest.approx(expected.logprob, abs=1e-4)
        else:
            assert entry == msgspec.structs.replace(expected, rank=entry.rank)
        ranks = [place for place, (token, _) in enumerate(entry.top, start=1) if token == entry.token]
        assert ranks in ([], [entry.rank])
        assert ranks or entry.rank > len(entry.top)
    assert [(o.token_ids, o.finish_reason, o.prompt_tokens) for o in outputs] == [([], "length", len(PROMPT) + 30)]


def test_they_are_the_log_softmax_of_the_models_logits(model: Model, tokenizer: WorldTokenizer) -> None:
    executable = model.executable
    tokens, rows = np.array(PROMPT, np.int32), len(PROMPT)
    batch = StepBatch(tokens, np.zeros(1, np.int32), np.array([0, rows], np.int32), np.arange(rows, dtype=np.int32))
    logits = executable.run(batch, executable.layout.allocate(1))[:-1, : tokenizer.vocab_size].astype(np.float64)
    expected = logits[np.arange(rows - 1), PROMPT[1:]] - np.log(np.exp(logits).sum(1))
    found = [entry.logprob for entry in scores_of(score(make(model, tokenizer), [PROMPT], READ_ONLY)) if entry]
    assert found == pytest.approx(expected, abs=1e-4)


def test_scoring_changes_no_answer(model: Model, tokenizer: WorldTokenizer) -> None:
    if model.info.backend == "reference":
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    sampling = SamplingParams(seed=1, max_tokens=9, ignore_eos=True, logprobs=1)
    plain = complete(make(model, tokenizer), PROMPT, sampling)
    outputs = score(make(model, tokenizer, token_budget=40), [PROMPT], sampling)
    assert [len(output.token_ids) for output in outputs] == [1] * 9
    assert answers(outputs)[1, 0].logprobs == plain.logprobs


def test_one_row_of_each_prompt_has_the_scores(model: Model, tokenizer: WorldTokenizer) -> None:
    other = PROMPT[5:50]
    prompts = [PROMPT, PROMPT, other, PROMPT, other]
    outputs = score(make(model, tokenizer, max_batch=3), prompts, SamplingParams(max_tokens=2, ignore_eos=True))
    for row, prompt in enumerate(prompts):
        if row in (0, 2):
            assert len(scores_of(outputs, row)) == len(prompt)
        else:
            assert all(output.extras is None for output in outputs if output.row == row)
    assert len(answers(outputs)) == 5


def test_a_row_that_only_scores_makes_nobody_read_twice(model: Model, tokenizer: WorldTokenizer) -> None:
    engine = make(model, tokenizer, max_batch=8)
    outputs = score(engine, [PROMPT] * 4, READ_ONLY)
    assert {o.finish_reason for o in answers(outputs).values()} == {"length"}
    assert engine.stats().prompt_tokens == len(PROMPT)
    assert engine.stats().generated_tokens == 0


@pytest.mark.parametrize(("prompt", "entries"), [([], 0), ([7], 1), ([7, 8], 2)])
def test_short_prompts(tokenizer: WorldTokenizer, prompt: list[int], entries: int) -> None:
    for sampling in (READ_ONLY, SamplingParams(max_tokens=1)):
        engine = make(stand_in(Speller([8] * 9, 300)), tokenizer)
        scores = scores_of(score(engine, [prompt], sampling))
        assert len(scores) == entries
        assert scores[:1] == [None] * min(entries, 1)
        assert all(entry is not None and entry.top[0] == (8, entry.logprob) for entry in scores[1:])


def test_a_step_makes_few_logits(tokenizer: WorldTokenizer) -> None:
    executable = Faulty(Speller([5] * 1000, 300), lambda *_: False)
    engine = make(stand_in(executable), tokenizer, token_budget=512)
    for i in range(3):
        wanted = request(engine, i, [[7] * 200], SamplingParams(max_tokens=3))
        wanted.prompt_logprobs = 0 if i < 2 else None
        engine.submit(wanted)
    outputs = drain(engine)
    assert max(len(batch.logit_rows) for batch in executable.batches) <= SCORED_ROWS + 3
    assert len(executable.batches[0].tokens) == SCORED_ROWS + 200  # the prompt without scores is not held back
    for i in range(2):
        assert len(scores_of([o for o in outputs if o.request == i])) == 200


def test_impossible_tokens_have_no_probability(tokenizer: WorldTokenizer) -> None:
    """Ids beyond the vocabulary are padding: a model may be fed them, but never says them."""
    scores = scores_of(score(make(stand_in(Speller([5] * 9, 300)), tokenizer), [[7, 299, 5]], READ_ONLY))
    assert [entry.logprob for entry in scores if entry] == [-np.inf, pytest.approx(0, abs=1e-3)]


def test_a_prompt_that_cannot_be_scored_fails_with_its_answers(tokenizer: WorldTokenizer) -> None:
    engine = make(stand_in(Speller([5] * 100, 300, bad_token=66)), tokenizer, max_batch=2)
    wanted = request(engine, 1, [[66] * 5, [66] * 5, [66] * 5, [7] * 5], SamplingParams(max_tokens=2))
    wanted.prompt_logprobs = 1
    engine.submit(wanted)
    ended = answers(drain(engine))
    assert ["not finite" in str(ended[1, row].error) for row in range(4)] == [True, True, True, False]
    assert ended[1, 3].token_ids == [5, 5]
    assert_empty(engine)


@pytest.mark.parametrize("top", [-1, 257])
def test_too_many_alternatives_are_refused(tokenizer: WorldTokenizer, top: int) -> None:
    outputs = score(make(stand_in(Speller([5], 300)), tokenizer), [[7]], READ_ONLY, top)
    assert "prompt_logprobs must be from 0 to 256" in str(outputs[0].error)
