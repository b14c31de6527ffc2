"""What a model would take is told before it is loaded, by its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.random_models import random_rwkv7, write_pth
from wingbeat.engine.messages import EngineConfig
from wingbeat.engine.weigh import weigh
from wingbeat.engine.weigher import PROCESS_BYTES
from wingbeat.models import load_model, quantize_model

BIG = random_rwkv7(layers=2, width=512, vocab=64)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pth(tmp_path_factory.mktemp("model") / "model.pth", BIG)


@pytest.mark.parametrize(
    "choice",
    [{"dtype": "float32"}, {"dtype": "int8"}, {"quant": "int4", "quant_layers": 1}, {"strategy": "cpu fp32"}],
    ids=str,
)
async def test_it_is_near_what_is_packed(path: Path, choice: dict[str, object]) -> None:
    packed = load_model(path, threads=1, **choice).executable.weight_bytes  # type: ignore[arg-type]
    largest = max(tensor.nbytes for tensor in BIG.values())
    told = await weigh(EngineConfig(model=str(path), **choice)) - PROCESS_BYTES - largest  # type: ignore[arg-type]
    assert packed <= told <= 1.1 * packed


async def test_a_prefab_takes_its_size(path: Path, tmp_path: Path) -> None:
    size, _ = quantize_model(path, tmp_path / "m.prefab", dtype="int8", threads=1)
    assert await weigh(EngineConfig(model=str(tmp_path / "m.prefab"))) == size + PROCESS_BYTES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "/nowhere/model.pth"}, "/nowhere/model.pth does not exist"),
        ({"dtype": "int3"}, "dtype must be one of"),
        ({"strategy": "cuda fp17"}, "Invalid strategy"),
        ({"backend": "quantum"}, "backend must be"),
    ],
)
async def test_what_cannot_be_loaded_is_told(path: Path, config: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await weigh(EngineConfig(**{"model": str(path)} | config))
