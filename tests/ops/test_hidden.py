"""Hidden vectors: what a program tells of its layers, on every backend, version and kernel level."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.models import ALL_SHAPES, Shape, batch, native, reference
from tests.ops.test_kernels import LEVELS, TOLERANCE, tokens_of
from wingbeat.ops.reference import layer_norm
from wingbeat.ops.table import Executable, FloatArray, StepBatch


def tapped(step: StepBatch, rows: list[int], layers: list[int]) -> StepBatch:
    return step._replace(hidden_rows=np.array(rows, np.int32), hidden_layers=np.array(layers, np.int32))


def hidden(executable: Executable, tokens: list[int], chunks: list[int], layer: int) -> FloatArray:
    """Of every token, fed in pieces."""
    pool = executable.layout.allocate(1)
    out, at = [], 0
    for size in chunks:
        executable.run(tapped(batch([(0, tokens[at : at + size])]), list(range(size)), [layer] * size), pool)
        out.append(np.array(executable.hidden()))
        at += size
    return np.concatenate(out)


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_the_last_layers_is_what_the_head_reads(name: str) -> None:
    """And that of the one before it is what the last layer's ``ln1`` makes its token shift of."""
    shape = ALL_SHAPES[name]
    arrays = shape.arrays(1)
    executable = reference(shape, "float32")
    tokens, last = tokens_of(shape, 5), shape.layers - 1
    pool = executable.layout.allocate(1)
    logits = executable.run(tapped(batch([(0, tokens)]), list(range(5)), [last] * 5), pool)
    head = np.asarray(arrays["head.weight"], np.float32)
    assert np.allclose(executable.hidden() @ head.T, logits, atol=1e-4)
    if last:
        norm = [np.asarray(arrays[f"blocks.{last}.ln1.{part}"], np.float32).reshape(-1) for part in ("weight", "bias")]
        shift = executable.layout.views(pool, 0)[f"blocks.{last}.att.shift"]
        before = hidden(executable, tokens, [5], last - 1)
        assert np.allclose(layer_norm(before[-1], norm[0], norm[1], 1e-5), shift, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("name", ALL_SHAPES)
@pytest.mark.parametrize("level", LEVELS)
def test_the_kernels_equal_the_reference_and_themselves(level: str, name: str, dtype: str) -> None:
    shape = ALL_SHAPES[name]
    tokens = tokens_of(shape, 40)
    executable, truth = native(shape, dtype, level=level), reference(shape, dtype)
    for layer in {0, shape.layers - 1}:
        whole, want = hidden(executable, tokens, [40], layer), hidden(truth, tokens, [40], layer)
        assert whole.shape == (40, shape.width)
        assert np.abs(whole - want).max() <= TOLERANCE[dtype] * np.ptp(want)
        for chunks in ([1] * 40, [17, 1, 22]):
            assert hidden(executable, tokens, chunks, layer).tobytes() == whole.tobytes()


@pytest.mark.parametrize("make", [reference, lambda s, d: native(s, d, level="")], ids=["reference", "cpu"])
def test_each_row_may_ask_for_another_layer(make) -> None:
    if make is not reference and not LEVELS:
        pytest.skip("built without native kernels")
    shape = Shape(layers=3)
    executable = make(shape, "float32")
    tokens = tokens_of(shape, 6)
    of_layer = [hidden(executable, tokens, [6], layer) for layer in range(3)]
    pool = executable.layout.allocate(2)
    step = batch([(1, [9, 9]), (0, tokens)], all_logits=False)
    executable.run(tapped(step, [4, 2, 7, 3], [2, 0, 1, 0]), pool)
    want = [of_layer[2][2], of_layer[0][0], of_layer[1][5], of_layer[0][1]]
    assert np.allclose(executable.hidden(), want, atol=1e-5)
    executable.run(batch([(0, tokens)]), pool)
    assert executable.hidden().shape == (0, shape.width)
