"""RWKV-7 "Goose" (x070): its state, its weights and its forward pass over the op table.

Source: "RWKV-7 'Goose' with Expressive Dynamic State Evolution" (arXiv:2503.14456) and the author's `rwkv` package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from wingbeat.models.loader import Rwkv7Shape
from wingbeat.ops.program import Buffer, Program, Recorder
from wingbeat.ops.table import Activation, FloatArray, StateField, StateLayout, Weight, WeightKind

MIXES = "rwkvag"
GROUP_NORM_EPS = 64e-5  # 1e-5 * 8^2, head_size_divisor = 8 in training; not stored in checkpoints

Read = Callable[[str], NDArray]


def record(shape: Rwkv7Shape, gn_eps: float = GROUP_NORM_EPS) -> Program:
    """The forward pass of one step: tokens in, logits of the wanted rows out."""
    p = Recorder(StateLayout(), shape.vocab_size)
    x = p.embed("emb", shape.width)
    v_first: Buffer | None = None
    for i in range(shape.layers):
        v_first = _time_mix(p, x, f"blocks.{i}.", shape, v_first, gn_eps)
        _channel_mix(p, x, f"blocks.{i}.", shape)
    return p.finish(p.linear(p.gather_norm(x, _norm("ln_out")), "head", shape.vocab_size))


def _time_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv7Shape, v_first: Buffer | None, gn_eps: float) -> Buffer:
    att, d = block + "att.", shape.width
    shift = p.layout.add(att + "shift", d)
    state = p.layout.add(att + "wkv", shape.heads, shape.head_size, shape.head_size, matrix=True)
    xr, xw, xk, xv, xa, xg = p.norm_shift_mix(x, _norm(block + "ln1"), att + "mix", 6, shift)

    def low_rank(inp: Buffer, name: str, rank: int, inner: Activation, outer: Activation, bias: str | None) -> Buffer:
        down = p.linear(inp, f"{att}{name}1", rank, activation=inner)
        return p.linear(down, f"{att}{name}2", d, bias=bias and att + bias, activation=outer)

    r, k, v = (p.linear(inp, att + name, d) for inp, name in ((xr, "receptance"), (xk, "key"), (xv, "value")))
    w = low_rank(xw, "w", shape.rank_decay, Activation.TANH, Activation.DECAY7, "w0")
    a = low_rank(xa, "a", shape.rank_iclr, Activation.NONE, Activation.SIGMOID, "a0")
    g = low_rank(xg, "g", shape.rank_gate, Activation.SIGMOID, Activation.NONE, None)
    value_mix = None
    if v_first is not None:
        value_mix = v_first, low_rank(xv, "v", shape.rank_value, Activation.NONE, Activation.SIGMOID, "v0")
    weights = (att + "k_k", att + "k_a", att + "r_k", *_norm(att + "ln_x"))
    y = p.wkv7((r, w, k, v, a, g), value_mix, weights, state, gn_eps)
    p.linear_add(y, att + "output", into=x)
    return v if v_first is None else v_first


def _channel_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv7Shape) -> None:
    shift: StateField = p.layout.add(block + "ffn.shift", shape.width)
    (xk,) = p.norm_shift_mix(x, _norm(block + "ln2"), block + "ffn.mix", 1, shift)
    k = p.linear(xk, block + "ffn.key", shape.ffn_width, activation=Activation.RELU2)
    p.linear_add(k, block + "ffn.value", into=x)


def _norm(name: str) -> tuple[str, str]:
    return name + ".weight", name + ".bias"


def weights(shape: Rwkv7Shape, tensors: Mapping[str, NDArray] | Read) -> Iterator[Weight]:
    """The program's weights one by one, in file order of the layers. Nothing is read before a weight's ``read``.

    ``tensors`` gives the checkpoint's arrays by official name; low-rank factors are stored there as [in, out].
    """
    read: Read = tensors if callable(tensors) else tensors.__getitem__

    def vectors(name: str, *sources: str) -> Weight:
        """Each source is a row."""
        return Weight(name, WeightKind.VECTOR, lambda: np.stack([_vector(read(source)) for source in sources]))

    def norm(name: str) -> Iterator[Weight]:
        return (vectors(part, part) for part in _norm(name))

    def matrix(name: str) -> Weight:
        return Weight(name, WeightKind.MATRIX, lambda: read(name + ".weight"))

    def factor(name: str) -> Weight:
        return Weight(name, WeightKind.LOW_RANK, lambda: read(name).T)

    def ln0() -> tuple[FloatArray, FloatArray]:
        weight, bias = (_vector(read(name)) for name in _norm("blocks.0.ln0"))
        return weight, bias

    yield Weight("emb", WeightKind.TABLE, lambda: read("emb.weight"), ln0)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        yield from norm(f"blocks.{i}.ln1")
        yield vectors(att + "mix", *(f"{att}x_{c}" for c in MIXES))
        for name in ("receptance", "key", "value", "output"):
            yield matrix(att + name)
        for name in "wagv" if i else "wag":
            for part in "12":
                yield factor(f"{att}{name}{part}")
            if name != "g":
                yield vectors(f"{att}{name}0", f"{att}{name}0")
        for name in ("k_k", "k_a", "r_k"):
            yield vectors(att + name, att + name)
        yield from norm(att + "ln_x")
        yield from norm(f"blocks.{i}.ln2")
        yield vectors(ffn + "mix", ffn + "x_k")
        for name in ("key", "value"):
            yield matrix(ffn + name)
    yield from norm("ln_out")
    yield matrix("head")


def _vector(array: NDArray) -> FloatArray:
    return np.asarray(array, np.float32).reshape(-1)
