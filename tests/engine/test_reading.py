"""Requests that sample nothing: scores after a context, and vectors of prompts."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from tests.engine.helpers import (
    Faulty,
    Speller,
    answers,
    assert_empty,
    complete,
    drain,
    request,
    run,
    sampling,
    stand_in,
)
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import Embed, EngineConfig, GenerationRequest, Row, RowOutput
from wingbeat.engine.scheduler import SCORED_ROWS
from wingbeat.models import Model
from wingbeat.ops.table import StepBatch
from wingbeat.sampling.params import SamplingParams

rng = np.random.default_rng(11)
CONTEXT = rng.integers(1, 266, 150).tolist()
CHOICES = [[7], [8, 9], [7, 9, 10], rng.integers(1, 266, 90).tolist(), [8]]
READ_ONLY = SamplingParams(max_tokens=0)
Pooling = Literal["mean", "shift"]


def make(model: Model, **config: Any) -> Engine:
    return Engine(model, None, EngineConfig(model="", **config))


def to_score(engine: Engine, prompts: list[list[int]], score_from: list[int], number: int = 1, top: int = 2):
    rows = [Row(i) for i in range(len(prompts))]
    fingerprint = engine.model.info.fingerprint
    return GenerationRequest(
        id=number,
        fingerprint=fingerprint,
        prompts=prompts,
        rows=rows,
        sampling=READ_ONLY,
        kind="score",
        score_from=score_from,
        prompt_logprobs=top,
    )


def choices_of(engine: Engine, number: int = 1) -> GenerationRequest:
    return to_score(engine, [CONTEXT + choice for choice in CHOICES], [len(CONTEXT)] * len(CHOICES), number)


def to_embed(
    engine: Engine, prompts: list[list[int]], layer: int = 1, pooling: Pooling = "mean", number: int = 1
) -> GenerationRequest:
    wanted = to_score(engine, prompts, [], number)
    return msgspec.structs.replace(wanted, kind="embed", embed=Embed(layer, pooling), prompt_logprobs=None)


def vectors(outputs: list[RowOutput], number: int = 1) -> list[bytes]:
    rows = sorted((output for output in outputs if output.request == number), key=lambda output: output.row)
    for row in rows:
        assert (row.finish_reason, row.token_ids, row.error) == ("length", [], None)
        assert row.extras is not None
    return [row.extras.embedding or b"" for row in rows if row.extras]


def exact(model: Model) -> None:
    if model.info.backend == "reference":
        pytest.skip("the reference is equal to itself in another batch to rounding only")


# --- scores


def test_choices_are_scored_after_their_context(model: Model) -> None:
    ended = answers(run(engine := make(model), choices_of(engine)))
    for row, choice in enumerate(CHOICES):
        plain = request(engine, 2, [CONTEXT + choice], READ_ONLY)
        plain.prompt_logprobs = 2
        whole = answers(run(engine, plain))[2, 0].extras
        found = ended[1, row].extras
        assert whole is not None
        assert whole.prompt_logprobs is not None
        assert found is not None
        assert found.prompt_logprobs is not None
        assert [entry.token for entry in found.prompt_logprobs if entry] == choice
        for entry, want in zip(found.prompt_logprobs, whole.prompt_logprobs[len(CONTEXT) :], strict=True):
            assert entry is not None
            assert want is not None
            if model.info.backend == "reference":
                assert entry.logprob == pytest.approx(want.logprob, abs=1e-4)
            else:
                assert entry == want


def test_the_context_is_read_once_and_remembered(model: Model) -> None:
    engine = make(model)
    rest = sum(map(len, CHOICES))
    run(engine, choices_of(engine))
    assert engine.stats().prompt_tokens == len(CONTEXT) - 1 + rest  # the last token of each choice predicts nothing
    again = run(engine, choices_of(engine, 2))
    assert [output.cached_tokens for output in again] == [len(CONTEXT) - 1] * len(CHOICES)
    assert engine.stats().prompt_tokens == len(CONTEXT) - 1 + 2 * rest


@pytest.mark.parametrize("budget", [7, 64, 512])
@pytest.mark.parametrize("memory", [0, None])
def test_scores_are_the_same_cold_cached_in_chunks_and_in_company(
    model: Model, budget: int, memory: int | None
) -> None:
    exact(model)
    cold = make(model, cache_memory=0)
    alone = [answers(run(cold, to_score(cold, [CONTEXT + choice], [len(CONTEXT)])))[1, 0].extras for choice in CHOICES]
    engine = make(model, token_budget=budget, max_batch=4, cache_memory=memory)
    for number in range(3):
        engine.submit(request(engine, 50 + number, [CONTEXT[number * 40 :]], sampling(20)))
    outputs = run(engine, choices_of(engine), choices_of(engine, 2))
    for number in (1, 2):
        assert [answers(outputs)[number, row].extras for row in range(len(CHOICES))] == alone


def test_a_state_that_has_seen_the_context_whole_is_not_taken(model: Model) -> None:
    """It could not tell what it predicted after the context's last token."""
    exact(model)
    engine = make(model)
    complete(engine, CONTEXT, sampling(3))
    complete(engine, CONTEXT + CHOICES[1], sampling(3))
    warm = answers(run(engine, choices_of(engine)))
    cold = answers(run(fresh := make(model, cache_memory=0), choices_of(fresh)))
    assert warm == cold


def test_what_generates_takes_over_from_what_scores(model: Model) -> None:
    exact(model)
    want = complete(make(model, cache_memory=0), [*CONTEXT, 3], sampling(6))
    engine = make(model)
    engine.submit(choices_of(engine, 2))
    engine.submit(request(engine, 1, [[*CONTEXT, 3]], sampling(6)))
    outputs = drain(engine)
    assert answers(outputs)[1, 0] == want
    assert max(output.cached_tokens for output in outputs if output.request == 1) == len(CONTEXT) - 1


def test_a_context_needs_no_logits() -> None:
    executable = Faulty(Speller([5] * 1000, 300), lambda *_: False)
    engine = make(stand_in(executable), cache_memory=0)
    run(engine, to_score(engine, [[7] * 400 + [5]], [400]), to_score(engine, [[8] * 300], [100], 2))
    assert len(executable.batches[0].tokens) == 399 + 99
    assert max(len(batch.logit_rows) for batch in executable.batches) == SCORED_ROWS


@pytest.mark.parametrize("kind", ["score", "embed"])
def test_steps_that_throw_cost_time_only(model: Model, kind: str) -> None:
    exact(model)

    def wanted(engine: Engine) -> GenerationRequest:
        return choices_of(engine) if kind == "score" else to_embed(engine, [CONTEXT, CONTEXT[:9]])

    want = answers(run(engine := make(model, token_budget=40), wanted(engine)))
    faulty = Faulty(model.executable, lambda number, _: number == 2)
    engine = make(Model(faulty, model.info), token_budget=40)
    engine.submit(request(engine, 9, [CONTEXT[5:]], sampling(9)))
    found = answers(run(engine, wanted(engine)))
    assert {key: value for key, value in found.items() if key[0] == 1} == want
    assert len(faulty.failed) == 1


def test_who_cannot_be_run_fails_alone() -> None:
    def throws(_: int, batch: StepBatch) -> bool:
        return 66 in batch.tokens

    engine = make(stand_in(Faulty(Speller([5] * 900, 300, bad_token=77), throws)))
    outputs = answers(
        run(
            engine,
            to_score(engine, [[7, 66, 5], [7, 8, 5], [7, 77, 5]], [1, 1, 1]),
            to_embed(engine, [[66, 5], [4, 6], [77, 5]], 0, number=2),
        )
    )
    reasons = [[outputs[number, row].finish_reason for row in range(3)] for number in (1, 2)]
    assert reasons == [["error", "length", "error"]] * 2
    assert "not finite" in str(outputs[1, 2].error)
    assert "not finite" in str(outputs[2, 2].error)
    assert np.frombuffer(vectors([outputs[2, 1]], 2)[0], "<f4").tolist() == [5.0]


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("kind", ["score", "embed"])
def test_cancelling_frees_everything(model: Model, kind: str, steps: int) -> None:
    engine = make(model, token_budget=32)
    engine.submit(choices_of(engine) if kind == "score" else to_embed(engine, [CONTEXT, CONTEXT[3:]]))
    for _ in range(steps):
        engine.step()
    engine.cancel(1)
    outputs = drain(engine)
    assert {output.finish_reason for output in outputs} == {"cancelled"}
    assert_empty(engine)


# --- vectors


@pytest.mark.parametrize("pooling", ["mean", "shift"])
@pytest.mark.parametrize("layer", [0, 1])
def test_vectors_are_the_same_in_chunks_and_in_company(model: Model, pooling: Pooling, layer: int) -> None:
    prompts = [CONTEXT, CONTEXT[:1], CONTEXT * 5]
    single = make(model)
    alone = [vectors(run(single, to_embed(single, [prompt], layer, pooling)))[0] for prompt in prompts]
    assert len(set(alone)) == (2 if pooling == "shift" and layer == 0 else 3)  # it has seen but the last token
    for budget in (7, 64, 512):
        engine = make(model, token_budget=budget, max_batch=4)
        engine.submit(request(engine, 50, [CONTEXT], sampling(9)))
        engine.submit(to_embed(engine, [CONTEXT[5:]], 0, number=51))
        found = vectors(run(engine, to_embed(engine, prompts, layer, pooling)))
        if model.info.backend == "reference":
            for vector, want in zip(found, alone, strict=True):
                assert np.allclose(np.frombuffer(vector, "<f4"), np.frombuffer(want, "<f4"), atol=1e-5)
        else:
            assert found == alone


def test_what_vectors_are(model: Model) -> None:
    executable, tokens = model.executable, np.array(CONTEXT, np.int32)
    pool, count = executable.layout.allocate(1), len(CONTEXT)
    rows, ones = np.arange(count, dtype=np.int32), np.ones(count, np.int32)
    executable.run(StepBatch(tokens, rows[:1], np.array([0, count], np.int32), rows[:0], rows, ones), pool)
    engine = make(model)
    mean = np.frombuffer(vectors(run(engine, to_embed(engine, [CONTEXT])))[0], "<f4")
    assert np.allclose(mean, executable.hidden().astype(np.float64).mean(0), atol=1e-6)
    shift = vectors(run(engine, to_embed(engine, [CONTEXT], 1, "shift")))[0]
    kept = executable.layout.views(pool, 0)["blocks.1.att.shift"]
    assert np.allclose(np.frombuffer(shift, "<f4"), kept, atol=1e-5)


def test_embedding_leaves_the_cache_to_others(model: Model) -> None:
    engine = make(model)
    run(engine, to_embed(engine, [CONTEXT, CONTEXT[1:]]))
    assert engine.stats().cached_states == 0


def test_what_cannot_be_is_refused(model: Model) -> None:
    engine = make(model)
    good, vector = to_score(engine, [[1, 2]], [1]), to_embed(engine, [[1, 2]])
    replace = msgspec.structs.replace
    for wrong, why in (
        (replace(good, score_from=[0]), "from 1 to 1"),
        (replace(good, score_from=[2]), "from 1 to 1"),
        (replace(good, score_from=[]), "0 score_from for 1 prompts"),
        (replace(good, prompts=[[]]), "score_from"),
        (replace(good, rows=[Row(0), Row(0, 1)]), "has one row"),
        (replace(good, keep=("end",)), "keeps no states"),
        (replace(good, prompt_logprobs=257), "from 0 to 256"),
        (replace(vector, embed=None), "the layer to embed with must be from 0 to 1"),
        (replace(vector, embed=Embed(2)), "the layer to embed with must be from 0 to 1"),
        (replace(vector, embed=Embed(-1)), "the layer to embed with must be from 0 to 1"),
        (replace(vector, session="x"), "keeps no states"),
    ):
        (output, *_) = run(engine, wrong)
        assert output.finish_reason == "error"
        assert why in str(output.error)
