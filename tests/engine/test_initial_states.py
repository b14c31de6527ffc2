"""Requests begin from tuned states by name, whatever begins beside them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.helpers import answers, assert_empty, drain, request
from tests.random_models import normal, random_rwkv7, write_pth, write_safetensors
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, RowOutput
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.models import Model, load_model
from wingbeat.sampling.params import SamplingParams

LAYERS, WIDTH, VOCAB = 2, 64, 300
PROMPT = [5, 77, 140, 9]
PARAMS = SamplingParams(seed=4, max_tokens=12, ignore_eos=True, logprobs=0)


def tensors(seed: int) -> dict[str, np.ndarray]:
    return {f"blocks.{i}.att.time_state": normal(seed, str(i), 1, WIDTH, WIDTH) for i in range(LAYERS)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("states")
    model = random_rwkv7(layers=LAYERS, width=WIDTH, vocab=VOCAB, seed=3)
    return {
        "model": write_pth(folder / "model.pth", model),
        "with_state": write_pth(folder / "with_state.pth", model | tensors(9)),
        "poet": write_pth(folder / "poet.pth", tensors(1)),
        "lawyer": write_safetensors(folder / "lawyer.st", {n: t.swapaxes(1, 2) for n, t in tensors(2).items()}),
        "stranger": write_pth(folder / "stranger.pth", {"blocks.0.att.time_state": normal(1, "s", 2, 32, 32)}),
    }


@pytest.fixture(scope="module")
def model(files: dict[str, Path]) -> Model:
    return load_model(files["model"], dtype="float32", threads=1)


def make(model: Model, files: dict[str, Path], **config: Any) -> Engine:
    states = {name: str(files[name]) for name in ("poet", "lawyer")}
    return Engine(model, None, EngineConfig(model="", states=states, **config))


def asking(engine: Engine, request_id: int, name: str | None) -> GenerationRequest:
    wanted = request(engine, request_id, [PROMPT], PARAMS)
    wanted.initial_state = name
    return wanted


Drawn = list[tuple[int, float]]  # tokens and their log-probabilities


def drawn(outputs: Iterable[RowOutput]) -> Drawn:
    return [(each.token, each.logprob) for output in outputs for each in output.logprobs or ()]


def tokens(engine: Engine, *names: str | None) -> list[Drawn]:
    for number, name in enumerate(names):
        engine.submit(asking(engine, number, name))
    outputs = drain(engine)
    assert_empty(engine)
    return [drawn(output for output in outputs if output.request == number) for number in range(len(names))]


def from_arrays(engine: Engine, seed: int) -> Drawn:
    """The same through a snapshot made by hand, whose arrays are canonical."""
    layout = engine.model.executable.layout
    arrays = layout.export(layout.allocate(1), 0)
    for i in range(LAYERS):
        arrays[f"blocks.{i}.att.wkv"] = tensors(seed)[f"blocks.{i}.att.time_state"]
    wanted = request(engine, 1, [PROMPT], PARAMS)
    wanted.state = StateSnapshot.from_arrays(engine.model.info.fingerprint, 0, arrays)
    engine.submit(wanted)
    return drawn(drain(engine))


def test_each_request_begins_from_its_own(model: Model, files: dict[str, Path]) -> None:
    engine = make(model, files)
    poet, lawyer, fresh = from_arrays(engine, 1), from_arrays(engine, 2), tokens(engine, None)[0]
    assert len({tuple(poet), tuple(lawyer), tuple(fresh)}) == 3
    together = tokens(engine, "poet", None, "lawyer", "none", "poet")
    assert together == [poet, fresh, lawyer, fresh, poet]


def test_one_may_be_the_default(model: Model, files: dict[str, Path]) -> None:
    engine = make(model, files, default_state="lawyer")
    assert engine.initial_states.names == ["none", "poet", "lawyer"]
    assert tokens(engine, None, "none") == [from_arrays(engine, 2), tokens(make(model, files), None)[0]]


def test_the_models_own_state_is_the_default(model: Model, files: dict[str, Path]) -> None:
    engine = make(load_model(files["with_state"], dtype="float32", threads=1), files)
    assert engine.initial_states.names == ["none", "internal", "poet", "lawyer"]
    own, fresh, named = tokens(engine, None, "none", "internal")
    assert own == named == from_arrays(engine, 9)
    assert fresh == tokens(make(model, files), None)[0]


def test_an_unknown_name_fails_alone(model: Model, files: dict[str, Path]) -> None:
    engine = make(model, files)
    engine.submit(asking(engine, 1, "painter"))
    engine.submit(asking(engine, 2, "poet"))
    outputs = drain(engine)
    assert [output.error for output in outputs if output.request == 1] == [
        "state: there is no initial state 'painter'; there are none, poet, lawyer"
    ]
    assert answers([output for output in outputs if output.request == 2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"states": {"a": "stranger"}}, r"stranger\.pth.*blocks\.0\.att\.time_state"),
        ({"states": {"a": "model"}}, r"model\.pth.*does not belong to a tuned initial state"),
        ({"states": {"none": "poet"}}, "cannot have the name 'none'"),
        ({"states": {"a": "poet"}, "default_state": "b"}, "no initial state 'b'; there are none, a"),
    ],
)
def test_what_does_not_fit_stops_the_start(
    model: Model, files: dict[str, Path], config: dict[str, Any], message: str
) -> None:
    config["states"] = {name: str(files[file]) for name, file in config["states"].items()}
    with pytest.raises(ValueError, match=message):
        Engine(model, None, EngineConfig(model="", **config))
