"""The reference backend: the program op by op in NumPy. The readable truth that every other backend is tested on.

It also serves, slowly, where no C++ compiler was at hand. BLAS picks its order of summation by shape, so here (and
only here) a row agrees with itself in another batch to rounding, not to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from wingbeat.ops.program import Op, Program
from wingbeat.ops.quantize import QUANTIZERS, dequantize, quantize_activation, round_bfloat16
from wingbeat.ops.table import Combine, FloatArray, StepBatch, Weight, WeightKind, check_batch, storage_dtype

Floats = NDArray[np.floating]  # float32 throughout; NumPy's type stubs lose that on the way
DECAY_SCALE = np.float32(-np.exp(-0.5))


class ReferenceExecutable:
    """A program bound to float32 weights; formats other than float32 are emulated by rounding."""

    def __init__(self, program: Program, weights: Iterable[Weight], dtype: str) -> None:
        self.layout = program.layout
        self.vocab_size = program.vocab_size
        self._program = program
        self._hidden: FloatArray | None = None
        self._weights: dict[str, FloatArray] = {}
        self._formats: dict[str, str] = {}
        self._read_whole: list[str] = []
        for weight in weights:
            self._formats[weight.name] = storage_dtype(weight.kind, weight.dtype or dtype)
            if weight.kind is not WeightKind.TABLE:
                self._read_whole.append(weight.name)
            array = weight.read().astype(np.float32, order="C")  # BLAS sums in another order where rows are columns
            if weight.norm is not None:
                array = np.asarray(layer_norm(array, *weight.norm(), 1e-5), np.float32)
            self._weights[weight.name] = _round_weight(array, self._formats[weight.name])

    @property
    def weight_bytes(self) -> int:
        return sum(self._weights[name].nbytes for name in self._read_whole)

    def run(self, batch: StepBatch, pool: FloatArray) -> FloatArray:
        check_batch(batch, self.vocab_size, len(pool))
        step = _Step(batch, pool, self._weights, self._formats)
        for op in self._program.ops:
            _KERNELS[op.name](step, op)
        if self._program.hidden is not None:
            self._hidden = np.asarray(step.buffers[self._program.hidden.id], np.float32)
        return np.asarray(step.buffers[self._program.logits.id], np.float32)

    def hidden(self) -> FloatArray:
        if self._hidden is None:
            raise ValueError("no run of a program with hidden rows came before")
        return self._hidden


class _Step:
    def __init__(
        self, batch: StepBatch, pool: FloatArray, weights: dict[str, FloatArray], formats: dict[str, str]
    ) -> None:
        self.batch, self.pool, self.weights, self.formats = batch, pool, weights, formats
        self.buffers: dict[int, Floats] = {}

    def sequences(self) -> Iterable[tuple[int, slice]]:
        """Pairs of slot and its rows."""
        starts = self.batch.seq_starts
        for b, slot in enumerate(self.batch.slots):
            yield int(slot), slice(int(starts[b]), int(starts[b + 1]))


def _round_weight(w: FloatArray, storage: str) -> FloatArray:
    if storage == "bfloat16":
        return round_bfloat16(w)
    return w if storage == "float32" else dequantize(*QUANTIZERS[storage](w), k=w.shape[1])


def _round_activation(buffer: Floats, storage: str) -> FloatArray:
    x = np.asarray(buffer, np.float32)
    if storage == "bfloat16":
        return round_bfloat16(x)
    return dequantize(*quantize_activation(x), k=x.shape[1]) if storage in QUANTIZERS else x


def sigmoid(x: Floats) -> Floats:
    return np.float32(0.5) * np.tanh(np.float32(0.5) * x) + np.float32(0.5)  # never overflows


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda x: x,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "silu": lambda x: x * sigmoid(x),
    "decay6": lambda x: np.exp(-np.exp(x)),
    "decay7": lambda x: np.exp(DECAY_SCALE * sigmoid(x)),
}


def layer_norm(x: Floats, weight: FloatArray, bias: FloatArray, eps: float) -> Floats:
    """LayerNorm over the last axis, biased variance."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight + bias


def _embed(step: _Step, op: Op) -> None:
    step.buffers[op.writes[0].id] = step.weights[op.weights[0]][step.batch.tokens]


def _norm_shift_mix(step: _Step, op: Op) -> None:
    weight, bias, mu = (step.weights[name] for name in op.weights)
    assert op.state is not None
    z = layer_norm(step.buffers[op.reads[0].id], weight, bias, float(op.constants["eps"]))
    previous = np.empty_like(z)
    for slot, rows in step.sequences():
        state = op.state.view(step.pool[slot])
        previous[rows] = np.concatenate([state[None], z[rows][:-1]])
        state[...] = z[rows][-1]
    for out, mix in zip(op.writes, mu.reshape(len(op.writes), -1), strict=True):
        step.buffers[out.id] = z + (previous - z) * mix


def _linear(step: _Step, op: Op) -> None:
    name, *bias = op.weights
    x, *others = (step.buffers[b.id] for b in op.reads)
    start, columns = int(op.constants["start"]), int(op.constants["columns"])
    y = _round_activation(x[:, start : start + columns], step.formats[name]) @ step.weights[name].T
    if bias:
        y = y + step.weights[bias[0]]
    y = ACTIVATIONS[str(op.constants["activation"])](y)
    if op.constants["combine"] == Combine.GATE:
        y = others[0] * y
    elif op.constants["combine"] == Combine.LERP:
        y = others[0] + (others[1] - others[0]) * y
    out = op.writes[0].id
    step.buffers[out] = step.buffers[out] + y if op.constants["add"] else y


def _wkv4(step: _Step, op: Op) -> None:
    assert op.state is not None
    r, k, v = (step.buffers[b.id] for b in op.reads)
    decay, first = (step.weights[name].reshape(-1) for name in op.weights)
    y = np.empty_like(v)
    for slot, rows in step.sequences():
        state = op.state.view(step.pool[slot])
        a, b, p = np.array(state)
        for t in range(rows.start, rows.stop):
            q = np.maximum(p, first + k[t])
            old, new = np.exp(p - q), np.exp(first + k[t] - q)
            y[t] = (old * a + new * v[t]) / (old * b + new)
            q = np.maximum(p + decay, k[t])
            old, new = np.exp(p + decay - q), np.exp(k[t] - q)
            a, b, p = old * a + new * v[t], old * b + new, q
        state[...] = a, b, p
    step.buffers[op.writes[0].id] = r * y


def _wkv6(step: _Step, op: Op) -> None:
    assert op.state is not None
    heads, size = op.state.shape[:2]
    r, k, v, *given = (step.buffers[b.id].reshape(-1, heads, size) for b in op.reads)
    bonus, norm_weight, norm_bias, *fixed = (step.weights[name].reshape(heads, size) for name in op.weights)
    w = given[0] if op.constants["decay"] else np.broadcast_to(fixed[0], r.shape)
    y = np.empty_like(v)
    for slot, rows in step.sequences():
        state = op.state.view(step.pool[slot])
        s = np.array(state)
        for t in range(rows.start, rows.stop):
            y[t] = np.einsum("hij,hj->hi", s, r[t])
            s = s * w[t][:, None, :] + v[t][:, :, None] * k[t][:, None, :]
        state[...] = s
    y = y + (r * bonus * k).sum(axis=-1, keepdims=True) * v
    y = layer_norm(y, norm_weight, norm_bias, float(op.constants["eps"]))
    step.buffers[op.writes[0].id] = (y * given[-1] if op.constants["gate"] else y).reshape(-1, heads * size)


def _wkv7(step: _Step, op: Op) -> None:
    assert op.state is not None
    heads, size = op.state.shape[:2]
    r, w, k, v, a, g, *value_mix = (step.buffers[b.id].reshape(-1, heads, size) for b in op.reads)
    k_k, k_a, r_k, norm_weight, norm_bias = (step.weights[name].reshape(heads, size) for name in op.weights)
    kk = k * k_k
    kk = kk / np.maximum(np.sqrt((kk**2).sum(axis=-1, keepdims=True)), np.float32(1e-12))
    k = k * (1 + (a - 1) * k_a)
    if value_mix:
        v = v + (value_mix[0] - v) * value_mix[1]
    y = np.empty_like(v)
    for slot, rows in step.sequences():
        state = op.state.view(step.pool[slot])
        s = np.array(state)
        for t in range(rows.start, rows.stop):
            removed = np.einsum("hij,hj->hi", s, kk[t])[:, :, None] * (kk[t] * a[t])[:, None, :]
            s = s * w[t][:, None, :] - removed + v[t][:, :, None] * k[t][:, None, :]
            y[t] = np.einsum("hij,hj->hi", s, r[t])
        state[...] = s
    y = layer_norm(y, norm_weight, norm_bias, float(op.constants["eps"]))
    y = y + (r * k * r_k).sum(axis=-1, keepdims=True) * v
    step.buffers[op.writes[0].id] = (y * g).reshape(-1, heads * size)


def _deep_embed(step: _Step, op: Op) -> None:
    q, extra = (step.buffers[b.id] for b in op.reads)
    matrices = step.weights[op.weights[0]][step.batch.tokens] + extra
    step.buffers[op.writes[0].id] = np.einsum("mi,mij->mj", q, matrices.reshape(len(q), q.shape[1], -1))


def _gather_norm(step: _Step, op: Op) -> None:
    weight, bias = (step.weights[name] for name in op.weights)
    rows = step.buffers[op.reads[0].id][step.batch.logit_rows]
    step.buffers[op.writes[0].id] = layer_norm(rows, weight, bias, float(op.constants["eps"]))


def _tap(step: _Step, op: Op) -> None:
    out = step.buffers.setdefault(
        op.writes[0].id, np.zeros((len(step.batch.hidden_rows), op.writes[0].width), np.float32)
    )
    wanted = step.batch.hidden_layers == op.constants["layer"]
    rows = step.buffers[op.reads[0].id][step.batch.hidden_rows[wanted]]
    if op.weights:
        weight, bias = (step.weights[name] for name in op.weights)
        rows = layer_norm(rows, weight, bias, float(op.constants["eps"]))
    out[wanted] = rows


_KERNELS: dict[str, Callable[[_Step, Op], None]] = {
    "embed": _embed,
    "norm_shift_mix": _norm_shift_mix,
    "linear": _linear,
    "wkv4": _wkv4,
    "wkv6": _wkv6,
    "wkv7": _wkv7,
    "deep_embed": _deep_embed,
    "gather_norm": _gather_norm,
    "tap": _tap,
}
