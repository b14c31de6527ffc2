"""Tuned initial states: read in the two orientations of files, refused by the tensor that does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.random_models import normal, write_pth, write_safetensors
from wingbeat.formats.checkpoint import FormatError
from wingbeat.models.tuned_states import read_tuned_state
from wingbeat.ops.table import StateLayout

HEADS, SIZE = 3, 20


def layout_of(layers: int = 2) -> StateLayout:
    layout = StateLayout()
    for i in range(layers):
        layout.add(f"blocks.{i}.att.shift", HEADS * SIZE)
        layout.add(f"blocks.{i}.att.wkv", HEADS, SIZE, SIZE, matrix=True)
    return layout


def tensors(layers: int = 2, *shape: int) -> dict[str, np.ndarray]:
    names = [f"blocks.{i}.att.time_state" for i in range(layers)]
    return {name: normal(1, name, *(shape or (HEADS, SIZE, SIZE))) for name in names}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".st", ".state"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_orientation_is_that_of_the_container(tmp_path: Path, suffix: str, prefix: str) -> None:
    stored = {prefix + name: array for name, array in tensors().items()}
    write = write_pth if suffix == ".pth" else write_safetensors
    state = read_tuned_state(write(tmp_path / f"tuned{suffix}", stored), layout_of())
    assert list(state) == list(layout_of().fields)
    for i, array in enumerate(tensors().values()):
        value_key = array.swapaxes(1, 2) if suffix in (".st", ".state") else array
        np.testing.assert_array_equal(state[f"blocks.{i}.att.wkv"], value_key)
        assert not state[f"blocks.{i}.att.shift"].any()


def test_half_precision_is_widened(tmp_path: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in tensors().items()}
    state = read_tuned_state(write_safetensors(tmp_path / "s.safetensors", half), layout_of())
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(state["blocks.1.att.wkv"], half["blocks.1.att.time_state"].astype(np.float32))


REFUSED = {
    "fewer layers": (tensors(1), r"blocks\.1\.att\.time_state.*missing"),
    "more layers": (tensors(3), r"blocks\.2\.att\.time_state.*another"),
    "another shape": (tensors(2, HEADS, SIZE, SIZE - 1), r"blocks\.0\.att\.time_state.*\[3, 20, 19\]"),
    "a model": ({**tensors(), "emb.weight": normal(1, "emb", 4, 4)}, r"emb\.weight"),
    "another trainer": ({**tensors(), "blocks.0.att.time_offset": normal(1, "o", 4)}, "time_offset"),
    "not finite": (
        {**tensors(), "blocks.1.att.time_state": np.full((HEADS, SIZE, SIZE), np.nan, np.float32)},
        "finite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named(tmp_path: Path, case: str) -> None:
    stored, message = REFUSED[case]
    with pytest.raises(FormatError, match=message) as refused:
        read_tuned_state(write_pth(tmp_path / "tuned.pth", stored), layout_of())
    assert "tuned.pth" in str(refused.value)


def test_a_state_without_matrices_has_none(tmp_path: Path) -> None:
    layout = StateLayout()
    layout.add("blocks.0.att.wkv", 3, 8)
    with pytest.raises(FormatError, match="RWKV-4"):
        read_tuned_state(write_pth(tmp_path / "tuned.pth", tensors()), layout)
