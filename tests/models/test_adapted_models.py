"""A model loaded with adapters is the model that was saved merged, on every backend and in every dtype."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.test_official_logits import forward
from tests.random_models import normal, random_rwkv7, write_pth
from wingbeat.adapter import Adapter
from wingbeat.models import load_model
from wingbeat.models.loader import load_checkpoint

MODEL = random_rwkv7(layers=2, width=64)
NAMES = [f"blocks.{i}.{matrix}" for i in range(2) for matrix in ("att.key", "att.output", "ffn.key", "ffn.value")]
TOKENS = np.array([3, 14, 15, 9, 2, 6], np.int32)


def adapter_tensors() -> dict[str, np.ndarray]:
    tensors = {}
    for name in NAMES:
        out, inp = MODEL[name + ".weight"].shape
        tensors[name + ".lora_A"] = normal(5, name + "A", 4, inp) * np.float32(0.2)
        tensors[name + ".lora_B"] = normal(5, name + "B", out, 4) * np.float32(0.2)
    return tensors


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The model, the adapter, and the model with the adapter in it."""
    folder, tensors = tmp_path_factory.mktemp("adapted"), adapter_tensors()
    merged = dict(MODEL)
    for name in NAMES:
        product = tensors[name + ".lora_B"] @ tensors[name + ".lora_A"]
        merged[name + ".weight"] = MODEL[name + ".weight"] + np.float32(2) * product
    return (
        write_pth(folder / "model.pth", MODEL),
        write_pth(folder / "lora.pth", tensors),
        write_pth(folder / "merged.pth", merged),
    )


@pytest.mark.parametrize(
    ("backend", "dtype"), [("reference", "float32"), ("cpu", "float32"), ("cpu", "bfloat16"), ("cpu", "int8")]
)
def test_the_logits_are_those_of_the_merged_model(paths: tuple[Path, Path, Path], backend: str, dtype: str) -> None:
    base, lora, merged = paths
    adapted = load_model(base, dtype=dtype, backend=backend, threads=1, adapters=[Adapter(str(lora), 8.0)]).executable
    expected = forward(load_model(merged, dtype=dtype, backend=backend, threads=1).executable, TOKENS, [6])
    plain = forward(load_model(base, dtype=dtype, backend=backend, threads=1).executable, TOKENS, [6])
    logits = forward(adapted, TOKENS, [6])
    np.testing.assert_array_equal(logits, expected)
    assert np.abs(logits - plain).max() > 0.05


def test_what_is_merged_makes_another_model(paths: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, lora, _ = paths
    other = write_pth(tmp_path / "other.pth", {n: t * np.float32(1.01) for n, t in adapter_tensors().items()})
    choices: list[list[Adapter]] = [[], [Adapter(str(lora))], [Adapter(str(lora), 8.0)], [Adapter(str(other))]]
    choices.append([Adapter(str(lora)), Adapter(str(other))])
    fingerprints = [load_checkpoint(base, adapters).fingerprint for adapters in choices]
    assert len(set(fingerprints)) == len(choices)
    assert load_checkpoint(base, [Adapter(str(lora), 8.0)]).fingerprint == fingerprints[2]


def test_packed_weights_are_kept_for_each(
    paths: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path))
    base, lora, merged = paths
    expected = forward(load_model(merged, dtype="int8", threads=1).executable, TOKENS, [6])
    plain = forward(load_model(base, dtype="int8", threads=1, cache_packed=True).executable, TOKENS, [6])
    for _ in range(2):  # anew, then from the cache
        adapted = load_model(base, dtype="int8", threads=1, cache_packed=True, adapters=[Adapter(str(lora), 8.0)])
        np.testing.assert_array_equal(forward(adapted.executable, TOKENS, [6]), expected)
    again = load_model(base, dtype="int8", threads=1, cache_packed=True)
    np.testing.assert_array_equal(forward(again.executable, TOKENS, [6]), plain)
