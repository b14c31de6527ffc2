"""Layers in different dtypes: each matrix is stored as its layer says, on both backends, with the contract kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.test_official_logits import forward
from tests.random_models import random_rwkv7, write_pth
from wingbeat.models import load_model
from wingbeat.models.precision import quantised, uniform

TOKENS = np.array([3, 14, 15, 9, 2, 6, 5], np.int32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pth(tmp_path_factory.mktemp("model") / "model.pth", random_rwkv7(layers=3, width=64))


CHOICES = [
    ({"dtype": "float32", "quant": "int8"}, "int8 *3 -> float32"),
    ({"dtype": "bf16", "quant": "int8", "quant_layers": 2}, "int8 *2 -> bfloat16"),
    ({"quant": "int4", "quant_layers": 1}, "int4 *1 -> {auto}"),
    ({"dtype": "fp32", "quant": "int4", "quant_layers": 99}, "int4 *3 -> float32"),
    ({"dtype": "fp32", "quant": "int4", "quant_layers": 0}, "float32"),
    ({"dtype": "fp32", "quant": "nf4", "quant_layers": 2}, "nf4 *2 -> float32"),
    ({"strategy": "cuda fp16i8 *1 -> cpu fp32"}, "int8 *1 -> float32"),
    ({"strategy": "cuda fp16"}, "bfloat16"),
]


@pytest.mark.parametrize(("choice", "label"), CHOICES)
def test_the_kernels_agree_with_the_reference(path: Path, choice: dict[str, object], label: str) -> None:
    native = load_model(path, backend="cpu", threads=1, **choice)  # type: ignore[arg-type]
    reference = load_model(path, backend="reference", **choice)  # type: ignore[arg-type]
    assert native.info.dtype == label.format(auto="bfloat16")
    assert reference.info.dtype == label.format(auto="float32")
    if native.info.dtype != reference.info.dtype:
        return
    logits = forward(native.executable, TOKENS, [7])
    expected = forward(reference.executable, TOKENS, [7])
    assert np.abs(logits - expected).max() <= 0.02 * np.ptp(expected)
    np.testing.assert_array_equal(forward(native.executable, TOKENS, [1] * 7), logits)


def test_more_layers_cost_more(path: Path) -> None:
    exact = forward(load_model(path, dtype="float32", threads=1).executable, TOKENS, [7])
    errors = [
        np.abs(
            forward(load_model(path, dtype="fp32", quant="int4", quant_layers=n, threads=1).executable, TOKENS, [7])
            - exact
        )
        for n in (0, 1, 3)
    ]
    assert errors[0].max() == 0
    assert 0 < np.sqrt((errors[1] ** 2).mean()) < np.sqrt((errors[2] ** 2).mean())


def test_packed_weights_are_kept_for_each_choice(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path))
    for _ in range(2):
        found = [
            forward(
                load_model(path, quant="int8", quant_layers=n, threads=1, cache_packed=True).executable, TOKENS, [7]
            )
            for n in (1, 2)
        ]
        assert np.abs(found[0] - found[1]).max() > 0
    assert sorted(file.name.split("-")[1] for file in (tmp_path / "packed").iterdir()) == [
        "int8_1_bfloat16",
        "int8_2_bfloat16",
    ]


REFUSED = [
    ({"quant": "int3"}, "quant must be one of int8"),
    ({"dtype": "int8", "quant": "int4"}, "dtype 'int8' quantises everything"),
    ({"quant_layers": 3}, "quant_layers needs quant"),
    ({"quant": "int8", "quant_layers": -1}, "quant_layers must be 0 or more"),
    ({"strategy": "cuda fp16", "dtype": "int8"}, "one or the other"),
    ({"strategy": "cuda fp17"}, "Invalid strategy"),
    ({"dtype": "fp8"}, "dtype must be one of"),
]


@pytest.mark.parametrize(("choice", "message"), REFUSED)
def test_choices_that_make_no_sense(path: Path, choice: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(path, **choice)  # type: ignore[arg-type]


def test_labels() -> None:
    assert uniform("int8", 12).label == "int8"
    assert quantised("bfloat16", "int8", 12, 12).label == "int8 *12 -> bfloat16"
