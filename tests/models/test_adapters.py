"""Adapters are merged as their formulas say, and refused with the tensor's name where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.random_models import normal, random_rwkv7, write_pth, write_safetensors
from wingbeat.adapter import Adapter
from wingbeat.formats.checkpoint import FormatError, open_checkpoint
from wingbeat.models.adapters import DORA_EPS, merge_adapters

KEY, VALUE, FFN = "blocks.0.att.key", "blocks.1.att.value", "blocks.1.ffn.key"
MODEL = random_rwkv7(layers=2, width=64)
RANK = 4


def draw(name: str, *shape: int) -> np.ndarray:
    return normal(7, name, *shape)


def factors(name: str) -> dict[str, np.ndarray]:
    """A LoRA of rank 4 for a matrix of the model."""
    out, inp = MODEL[name + ".weight"].shape
    return {f"{name}.lora_A": draw(name + "A", RANK, inp), f"{name}.lora_B": draw(name + "B", out, RANK)}


def delta(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return tensors[f"{name}.lora_B"].astype(np.float64) @ tensors[f"{name}.lora_A"].astype(np.float64)


def merge(tmp_path: Path, *adapters: Adapter) -> dict[str, np.ndarray]:
    base = dict(open_checkpoint(write_pth(tmp_path / "model.pth", MODEL)))
    merged = merge_adapters(base, adapters)
    assert merged.keys() == base.keys()
    assert {name: tensor.shape for name, tensor in merged.items()} == {name: t.shape for name, t in base.items()}
    return {name: tensor.read() for name, tensor in merged.items()}


def assert_only(merged: Mapping[str, np.ndarray], changed: Mapping[str, np.ndarray]) -> None:
    """``changed`` has the new values; all others are the model's."""
    for name, values in merged.items():
        if name in changed:
            assert np.abs(values - MODEL[name]).max() > 1e-3
            np.testing.assert_allclose(values, changed[name].reshape(values.shape), rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(values, MODEL[name])


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (32.0, 8.0)])
@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_lora(tmp_path: Path, alpha: float | None, scale: float, prefix: str) -> None:
    tensors = {**factors(KEY), **factors(FFN), "blocks.1.ln2.weight": draw("norm", 64)}
    path = write_pth(tmp_path / "lora.pth", {prefix + name: tensor for name, tensor in tensors.items()})
    assert_only(
        merge(tmp_path, Adapter(str(path), alpha)),
        {
            KEY + ".weight": MODEL[KEY + ".weight"] + scale * delta(tensors, KEY),
            FFN + ".weight": MODEL[FFN + ".weight"] + scale * delta(tensors, FFN),
            "blocks.1.ln2.weight": tensors["blocks.1.ln2.weight"],
        },
    )


def test_several_add_up(tmp_path: Path) -> None:
    first, second = factors(KEY), {name: draw(name + "2", *t.shape) for name, t in factors(KEY).items()}
    paths = write_pth(tmp_path / "a.pth", first), write_pth(tmp_path / "b.pth", second)
    merged = merge(tmp_path, Adapter(str(paths[0]), 2.0), Adapter(str(paths[1]), 12.0))
    assert_only(merged, {KEY + ".weight": MODEL[KEY + ".weight"] + 0.5 * delta(first, KEY) + 3 * delta(second, KEY)})


def test_dora_scales_the_columns(tmp_path: Path) -> None:
    tensors = {**factors(VALUE), f"{VALUE}.lora_M": draw("M", 1, 64)}
    w = MODEL[VALUE + ".weight"].astype(np.float64) + 2 * delta(tensors, VALUE)
    w = tensors[f"{VALUE}.lora_M"] * w / (np.linalg.norm(w, axis=0) + DORA_EPS)
    path = write_pth(tmp_path / "dora.pth", tensors)
    assert_only(merge(tmp_path, Adapter(str(path), 8.0)), {VALUE + ".weight": w})


@pytest.mark.parametrize("beside", [True, False])
def test_pissa_takes_away_what_it_began_from(tmp_path: Path, beside: bool) -> None:
    tensors = factors(KEY)
    began = {name.replace("lora_", "init_lora_"): draw(name + "0", *t.shape) for name, t in tensors.items()}
    path = write_pth(tmp_path / "pissa.pth", tensors)
    init = write_pth(tmp_path / ("init_pissa.pth" if beside else "began.pth"), began)
    first = began[f"{KEY}.init_lora_B"].astype(np.float64) @ began[f"{KEY}.init_lora_A"]
    adapter = Adapter(str(path), 99.0, None if beside else str(init))
    assert_only(merge(tmp_path, adapter), {KEY + ".weight": MODEL[KEY + ".weight"] - first + delta(tensors, KEY)})


@pytest.mark.parametrize("rank", [16, 24])
def test_disha_repeats_a_block(tmp_path: Path, rank: int) -> None:
    table = draw("disha", rank, 64)
    w = MODEL[KEY + ".weight"].astype(np.float64)
    for column in range(64):
        w[:, column] += table[column % rank]
    path = write_pth(tmp_path / "disha.pth", {KEY + ".disha": table})
    assert_only(merge(tmp_path, Adapter(str(path))), {KEY + ".weight": w})


def test_bone_of_blocks(tmp_path: Path) -> None:
    rank = 16
    table = draw("bone", 64 // rank, rank, rank)
    w = MODEL[FFN + ".weight"].astype(np.float64)
    for a in range(0, w.shape[0], rank):
        for b in range(0, 64, rank):
            block, m = w[a : a + rank, b : b + rank].copy(), table[b // rank]
            w[a : a + rank, b : b + rank] = block + block @ m + m
    path = write_pth(tmp_path / "bone.pth", {FFN + ".bone": table})
    assert_only(merge(tmp_path, Adapter(str(path))), {FFN + ".weight": w})


def test_the_converters_form_has_its_own_rules(tmp_path: Path) -> None:
    tensors = factors(KEY)
    full = draw("full", 64, 64)
    path = write_safetensors(
        tmp_path / "style.lora",
        {
            KEY + ".lora.0": tensors[KEY + ".lora_A"].T.copy(),
            KEY + ".lora.1": tensors[KEY + ".lora_B"],
            VALUE + ".weight": full,
            "blocks.0.att.x_k": draw("x", 64),
            "blocks.0.att.w1": draw("w1", 8, 64),
            "head.weight": draw("head", 50, 64),
        },
    )
    assert_only(
        merge(tmp_path, Adapter(str(path), 8.0)),
        {
            KEY + ".weight": MODEL[KEY + ".weight"] + 2 * delta(tensors, KEY),
            VALUE + ".weight": MODEL[VALUE + ".weight"] + 8 * full.astype(np.float64),
            "blocks.0.att.x_k": draw("x", 64),
            "blocks.0.att.w1": draw("w1", 8, 64).T,
        },
    )


REFUSED = {
    "another width": ({KEY + ".lora_A": draw("A", 4, 32), KEY + ".lora_B": draw("B", 64, 4)}, KEY),
    "another rank": ({KEY + ".lora_A": draw("A", 4, 64), KEY + ".lora_B": draw("B", 64, 5)}, KEY),
    "no second factor": ({KEY + ".lora_A": draw("A", 4, 64)}, KEY + ".lora_B is missing"),
    "another layer": ({"blocks.9.att.key.lora_A": draw("A", 4, 64)}, "blocks.9.att.key"),
    "another tensor": ({**factors(KEY), "blocks.0.att.x_q": draw("x", 64)}, "blocks.0.att.x_q"),
    "another vector": ({**factors(KEY), "blocks.0.att.x_k": draw("x", 32)}, r"blocks.0.att.x_k.*\[32\]"),
    "a table of no block": ({KEY + ".disha": draw("d", 16, 48)}, KEY),
    "blocks that do not fit": ({KEY + ".bone": draw("d", 3, 16, 16)}, KEY),
    "a long magnitude": ({**factors(KEY), KEY + ".lora_M": draw("M", 65)}, KEY + ".lora_M"),
    "half of a beginning": (
        {**factors(KEY), KEY + ".init_lora_A": draw("i", 4, 64)},
        KEY + ".init_lora_B is missing",
    ),
    "no adapter": ({"something": draw("s", 3)}, "not an adapter for this model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named(tmp_path: Path, case: str) -> None:
    tensors, message = REFUSED[case]
    path = write_pth(tmp_path / "adapter.pth", tensors)
    with pytest.raises(FormatError, match=message) as refused:
        merge(tmp_path, Adapter(str(path)))
    assert "adapter.pth" in str(refused.value)


def test_a_file_that_is_no_beginning(tmp_path: Path) -> None:
    path, other = write_pth(tmp_path / "a.pth", factors(KEY)), write_pth(tmp_path / "b.pth", factors(KEY))
    with pytest.raises(FormatError, match=r"b\.pth does not hold what a PiSSA adapter began from"):
        merge(tmp_path, Adapter(str(path), init=str(other)))
    with pytest.raises(FormatError, match="nowhere"):
        merge(tmp_path, Adapter(str(tmp_path / "nowhere.pth")))
