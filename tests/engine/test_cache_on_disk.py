"""Cached states outlive the engine, and what is wrong on disk costs no more than time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.helpers import answers, assert_empty, drain, request
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowOutput
from wingbeat.models import Model, load_model
from wingbeat.ops import cpu
from wingbeat.sampling.params import SamplingParams

TEXT = np.random.default_rng(4).integers(1, 266, 1000).tolist()


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    if not cpu.available():
        pytest.skip("the reference is equal to itself in another batch to rounding only")
    return load_model(model_path, dtype="float32", backend="cpu", threads=1)


def make(model: Model, folder: Path, **config: Any) -> Engine:
    return Engine(model, None, EngineConfig(model="", cache_dir=str(folder), **config))


def ask(engine: Engine, prompt: list[int], tokens: int = 3, session: str | None = None) -> RowOutput:
    wanted = request(engine, 1, [prompt], SamplingParams(seed=3, max_tokens=tokens, ignore_eos=True))
    wanted.session = session
    engine.submit(wanted)
    outputs = drain(engine)
    assert_empty(engine)
    (answer,) = answers(outputs).values()
    answer.cached_tokens = outputs[-1].cached_tokens
    return answer


def test_another_engine_goes_on_where_one_has_ended(model: Model, tmp_path: Path) -> None:
    first = make(model, tmp_path)
    cold = ask(first, TEXT[:300], 20)
    first.close()
    second = make(model, tmp_path)
    assert second.stats().disk_states > 0
    warm = ask(second, TEXT[:300], 20)
    assert (warm.token_ids, warm.cached_tokens) == (cold.token_ids, 300)  # the logits are there, too
    longer = ask(second, [*TEXT[:300], *cold.token_ids, 5])
    assert longer.cached_tokens == 319
    second.close()
    off = make(model, tmp_path, cache_memory=0)
    assert ask(off, TEXT[:300]).cached_tokens == 0


def test_the_states_of_others_are_not_taken(model: Model, tmp_path: Path) -> None:
    first = make(model, tmp_path)
    ask(first, TEXT[:300])
    first.close()
    assert make(model, tmp_path, gn_eps=1e-5)._cache.match("fresh", np.array(TEXT, np.int32).tobytes()).shared == 0


@pytest.mark.parametrize("harm", ["cut", "altered", "gone", "swapped"])
def test_a_damaged_state_is_read_again(
    model: Model, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = make(model, tmp_path)
    cold = ask(first, TEXT[:300])
    ask(first, TEXT[500:800])
    first.close()
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    contents = [file.read_bytes() for file in files]
    for file, content, other in zip(files, contents, contents[::-1], strict=True):
        match harm:
            case "cut":
                file.write_bytes(content[:-100])
            case "altered":
                file.write_bytes(content[:-9] + b"x" + content[-8:])
            case "gone":
                file.unlink()
            case _:
                file.write_bytes(other)
    second = make(model, tmp_path)
    with caplog.at_level(logging.INFO):
        again = ask(second, TEXT[:300])
    assert (again.token_ids, again.cached_tokens) == (cold.token_ids, 0)
    assert (harm == "gone") == (not caplog.records)
    assert ask(second, TEXT[:300]).cached_tokens == 300


def test_a_session_keeps_its_last_state_until_it_is_forgotten(model: Model, tmp_path: Path) -> None:
    first = make(model, tmp_path)
    ids = TEXT[:5]  # too short to be worth it otherwise
    for _ in range(3):
        ids = [*ids, *ask(first, ids, session="mine").token_ids, 9]
    first.close()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    second = make(model, tmp_path)
    assert ask(second, ids, session="mine").cached_tokens == len(ids) - 2
    second.forget(["mine"])
    second.close()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_request_that_waits_for_the_disk_can_be_cancelled(model: Model, tmp_path: Path) -> None:
    first = make(model, tmp_path)
    ask(first, TEXT[:300])
    first.close()
    second = make(model, tmp_path)
    second.submit(request(second, 1, [TEXT[:300]], SamplingParams(max_tokens=3)))
    second.submit(request(second, 2, [TEXT[700:]], SamplingParams(max_tokens=3)))
    assert second.stats().waiting == 2
    second.cancel(1)
    outputs = drain(second)
    assert_empty(second)
    assert {o.request: o.finish_reason for o in outputs if o.finish_reason} == {1: "cancelled", 2: "length"}


def test_states_are_written_while_nothing_runs(model: Model, tmp_path: Path) -> None:
    engine = make(model, tmp_path)
    for i in range(8):
        ask(engine, TEXT[100 * i :][:100])
    waiting = len(engine._cache._unwritten)
    assert waiting >= 4  # they were not worth the engine's time
    while engine.rest():
        pass
    assert not engine._cache._unwritten
    engine.close()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 8


def test_what_leaves_memory_unwritten_is_not_written(model: Model, tmp_path: Path) -> None:
    one = model.executable.layout.slot_bytes + 4 * model.executable.vocab_size
    engine = make(model, tmp_path, cache_memory=3 * one)
    for i in range(8):
        ask(engine, TEXT[100 * i :][:100])
    assert len(engine._cache._unwritten) <= 3
    engine.close()
    assert 1 <= len(list(tmp_path.rglob("*.safetensors"))) <= 5
