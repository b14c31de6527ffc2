"""The number formats: what rounding to them may cost, and what it may not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wingbeat.ops.quantize import BLOCK, dequantize, quantize_activation, quantize_weight, round_bfloat16

finite = st.floats(-(2.0**99), 2.0**99, width=32)
matrices = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 150)), elements=finite)


@given(matrices)
@settings(max_examples=60, deadline=None)
def test_int8_is_within_half_a_step_of_the_block(x: np.ndarray) -> None:
    for quantize, slack in ((quantize_activation, 0.502), (quantize_weight, 0.502)):
        q, scale = quantize(x)
        back = dequantize(q, scale, x.shape[1])
        step = np.repeat(scale, BLOCK, axis=1)[:, : x.shape[1]]
        assert np.all(np.abs(back - x) <= slack * step + 1e-33)


@given(matrices)
@settings(max_examples=30, deadline=None)
def test_a_block_knows_nothing_of_the_others(x: np.ndarray) -> None:
    q, scale = quantize_activation(x)
    for b in range(scale.shape[1]):
        part = x[:, b * BLOCK : (b + 1) * BLOCK]
        alone_q, alone_scale = quantize_activation(np.ascontiguousarray(part))
        assert np.array_equal(alone_q[:, 0], q[:, b])
        assert np.array_equal(alone_scale[:, 0], scale[:, b])


def test_weight_scales_are_bfloat16_and_never_clip() -> None:
    x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    q, scale = quantize_weight(x)
    assert np.array_equal(round_bfloat16(scale), scale)
    assert np.all(scale >= np.abs(x.reshape(64, -1, BLOCK)).max(axis=2) / np.float32(127))
    assert np.abs(q.astype(int)).max() <= 127


def test_zero_stays_zero() -> None:
    q, scale = quantize_weight(np.zeros((2, 70), np.float32))
    assert not q.any()
    assert not dequantize(q, scale, 70).any()
