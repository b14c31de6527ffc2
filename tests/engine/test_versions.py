"""Every version in the same engine: batches, chunks, saved states, quantised and kept weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.helpers import answers, assert_empty, complete, drain, request
from tests.random_models import random_model, write_safetensors
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowOutput
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.models import Model, load_model
from wingbeat.ops import cpu
from wingbeat.sampling.params import SamplingParams

VOCAB = 60
PROMPT = np.random.default_rng(8).integers(1, VOCAB, 40).tolist()

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the reference is equal to itself to rounding only")


@pytest.fixture(params=["4", "5.0", "5.2", "6", "7a"], scope="module")
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    sizes = {} if request.param == "4" else {"head_size": 16}
    return write_safetensors(folder / "tiny.safetensors", random_model(request.param, vocab=VOCAB, **sizes, seed=4))


@pytest.fixture(params=["float32", "int8", "int4"])
def model(request: pytest.FixtureRequest, path: Path) -> Model:
    return load_model(path, dtype=request.param, threads=2)


def engine_of(model: Model, token_budget: int = 512) -> Engine:
    return Engine(model, None, EngineConfig(model="", max_batch=8, token_budget=token_budget))


def sampling(tokens: int) -> SamplingParams:
    return SamplingParams(seed=3, max_tokens=tokens, ignore_eos=True, logprobs=2)


def said(answer: RowOutput) -> tuple[list[int], object]:
    return answer.token_ids, answer.logprobs


def test_alone_in_chunks_and_in_company(model: Model) -> None:
    alone = said(complete(engine_of(model), PROMPT, sampling(12)))
    assert len(set(alone[0])) > 3
    for budget in (7, 64, 512):
        engine = engine_of(model, budget)
        for number in range(6):
            engine.submit(request(engine, 50 + number, [PROMPT[number:]], SamplingParams(seed=number, max_tokens=9)))
        engine.step()
        engine.submit(request(engine, 1, [PROMPT], sampling(12)))
        engine.cancel(52)
        assert said(answers(drain(engine))[1, 0]) == alone
        assert_empty(engine)


def test_going_on_from_a_saved_state(model: Model, tmp_path: Path) -> None:
    whole = said(complete(engine_of(model), PROMPT, sampling(12)))
    engine = engine_of(model)
    first = request(engine, 1, [PROMPT], sampling(5))
    first.keep = ("end",)
    engine.submit(first)
    outputs = drain(engine)
    (state,) = [o.extras.state for o in outputs if o.extras is not None]
    assert state is not None
    state.save(tmp_path / "state")
    begun = answers(outputs)[1, 0]
    engine = engine_of(model)
    rest = request(engine, 1, [[]], sampling(7))
    rest.state, _ = StateSnapshot.load(tmp_path / "state")
    engine.submit(rest)
    ended = answers(drain(engine))[1, 0]
    assert begun.token_ids + ended.token_ids == whole[0]
    assert [*(begun.logprobs or []), *(ended.logprobs or [])] == whole[1]


def test_packed_weights_that_were_kept(
    model: Model, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path))
    want = said(complete(engine_of(model), PROMPT, sampling(4)))
    for _ in range(2):
        kept = load_model(path, dtype=model.info.dtype, threads=2, cache_packed=True)
        assert said(complete(engine_of(kept), PROMPT, sampling(4))) == want
    assert len(list(tmp_path.glob("packed/*.packed"))) == 1


def test_loading_tells_each_byte_once(path: Path) -> None:
    told: list[tuple[int, int]] = []
    load_model(path, dtype="int8", threads=1, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert max(done for done, _ in told) == told[-1][1]
