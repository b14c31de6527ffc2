"""RWKV-6 "Finch" (x060): its shape, its state, its weights and its forward pass over the op table.

Source: "Eagle and Finch" (arXiv:2404.05892) and the author's `rwkv` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wingbeat.models.shapes import Dimensions, Dims, Shape
from wingbeat.models.weights import Read, embedding, factor, flat, matrix, norm, norm_names, vectors
from wingbeat.ops.program import Buffer, Program, Recorder
from wingbeat.ops.table import Activation, FloatArray, StateField, StateLayout, Weight, WeightKind, round_up

UNUSED: Set[str] = frozenset()
MIXES = "wkvrg"  # in the order of the five low-rank mixes


@dataclass(frozen=True, kw_only=True)
class Rwkv6Shape(Shape):
    """The sizes of an RWKV-6 model, all read from its file. Time mixing has `heads` * `head_size` channels.

    `rank_mix` is that of each of the five low-rank mixes, `rank_decay` that of the decay's pair.
    """

    heads: int
    head_size: int
    ffn_width: int
    rank_mix: int
    rank_decay: int

    @property
    def att_width(self) -> int:
        return self.heads * self.head_size

    @property
    def mix_stride(self) -> int:
        """Columns from one mix to the next where `linear` can begin to read."""
        return round_up(self.rank_mix, 32)


def read_shape(dims: Dimensions, layers: int) -> Rwkv6Shape:
    """The sizes of a model of `layers` layers. Raises FormatError for tensors that do not fit together."""
    vocab_size, width = dims.matrix("emb.weight")
    heads, head_size = dims.matrix("blocks.0.att.time_faaaa")
    dims.check_heads("blocks.0.att.time_faaaa", heads, head_size, dims.matrix("blocks.0.att.key.weight")[0])
    return Rwkv6Shape(
        layers=layers,
        width=width,
        vocab_size=vocab_size,
        heads=heads,
        head_size=head_size,
        ffn_width=dims.matrix("blocks.0.ffn.key.weight")[0],
        rank_mix=dims.matrices("blocks.0.att.time_maa_w2")[1],
        rank_decay=dims.matrix("blocks.0.att.time_decay_w1")[1],
    )


def expected(shape: Rwkv6Shape) -> Iterator[tuple[str, Dims]]:
    """The official names and dimensions, vectors as (D,)."""
    d, a, hidden = shape.width, shape.att_width, shape.ffn_width
    yield "emb.weight", (shape.vocab_size, d)
    for i in range(shape.layers):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            for part in norm_names(block + name):
                yield part, (d,)
        for c in "x" + MIXES:
            yield f"{att}time_maa_{c}", (d,)
        yield f"{att}time_maa_w1", (d, 5 * shape.rank_mix)
        yield f"{att}time_maa_w2", (5, shape.rank_mix, d)
        yield f"{att}time_decay", (a,)
        yield f"{att}time_decay_w1", (d, shape.rank_decay)
        yield f"{att}time_decay_w2", (shape.rank_decay, a)
        yield f"{att}time_faaaa", (shape.heads, shape.head_size)
        for name in ("receptance", "key", "value", "gate"):
            yield f"{att}{name}.weight", (a, d)
        yield f"{att}output.weight", (d, a)
        for part in norm_names(att + "ln_x"):
            yield part, (a,)
        for c in "kr":
            yield f"{ffn}time_maa_{c}", (d,)
        yield f"{ffn}key.weight", (hidden, d)
        yield f"{ffn}receptance.weight", (d, d)
        yield f"{ffn}value.weight", (d, hidden)
    for part in norm_names("ln_out"):
        yield part, (d,)
    yield "head.weight", (shape.vocab_size, d)


def record(shape: Rwkv6Shape, gn_eps: float) -> Program:
    """The forward pass of one step: tokens in, logits of wanted rows and hidden vectors out."""
    p = Recorder(StateLayout(), shape.vocab_size)
    x = p.embed("emb", shape.width)
    for i in range(shape.layers):
        _time_mix(p, x, f"blocks.{i}.", shape, gn_eps)
        _channel_mix(p, x, f"blocks.{i}.", shape)
        p.tap(x, i, norm_names("ln_out") if i == shape.layers - 1 else ())
    return p.finish(p.linear(p.gather_norm(x, norm_names("ln_out")), "head", shape.vocab_size))


def _time_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv6Shape, gn_eps: float) -> None:
    att, width = block + "att.", shape.att_width
    shift = p.layout.add(att + "shift", shape.width)
    state = p.layout.add(att + "wkv", shape.heads, shape.head_size, shape.head_size, matrix=True)
    xw, xk, xv, xr, xg = _mixed_inputs(p, x, block, shape, shift)
    down = p.linear(xw, att + "decay_w1", shape.rank_decay, activation=Activation.TANH)
    w = p.linear(down, att + "decay_w2", width, bias=att + "decay", activation=Activation.DECAY6)
    r, k, v = (p.linear(inp, att + name, width) for inp, name in ((xr, "receptance"), (xk, "key"), (xv, "value")))
    g = p.linear(xg, att + "gate", width, activation=Activation.SILU)
    y = p.wkv6((r, k, v), w, g, (att + "bonus", *norm_names(att + "ln_x")), state, gn_eps)
    p.linear_add(y, att + "output", into=x)


def _mixed_inputs(p: Recorder, x: Buffer, block: str, shape: Rwkv6Shape, shift: StateField) -> list[Buffer]:
    """The inputs of w, k, v, r, g: between z and z' by amounts that depend on both."""
    att, stride = block + "att.", shape.mix_stride
    xx, z, previous = p.norm_shift_mix(x, norm_names(block + "ln1"), att + "mix", 3, shift)
    down = p.linear(xx, att + "maa_w1", 5 * stride, activation=Activation.TANH)
    inputs: list[Buffer] = []
    for i, c in enumerate(MIXES):
        part = i * stride, shape.rank_mix
        bias, back = f"{att}maa_{c}", f"{att}maa_{c}2"
        inputs.append(p.linear(down, back, shape.width, bias=bias, lerp=(z, previous), part=part))
    return inputs


def _channel_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv6Shape) -> None:
    ffn = block + "ffn."
    shift = p.layout.add(ffn + "shift", shape.width)
    xk, xr = p.norm_shift_mix(x, norm_names(block + "ln2"), ffn + "mix", 2, shift)
    k = p.linear(xk, ffn + "key", shape.ffn_width, activation=Activation.RELU2)
    r = p.linear(xr, ffn + "receptance", shape.width, activation=Activation.SIGMOID)
    p.linear_add(k, ffn + "value", into=x, gate=r)


def weights(shape: Rwkv6Shape, read: Read) -> Iterator[Weight]:
    """The program's weights one by one, in file order of the layers. Nothing is read before a weight's ``read``."""
    yield embedding(read)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        yield from norm(read, f"blocks.{i}.ln1")
        yield _first_mix(read, att)
        yield _mix_factor(shape, read, att)
        for number, c in enumerate(MIXES):
            yield _mix_back(read, att, number, c)
            yield vectors(read, f"{att}maa_{c}", f"{att}time_maa_{c}")
        for part in "12":
            yield factor(read, f"{att}time_decay_w{part}", f"{att}decay_w{part}")
        yield vectors(read, att + "decay", att + "time_decay")
        yield vectors(read, att + "bonus", att + "time_faaaa")
        for name in ("receptance", "key", "value", "gate", "output"):
            yield matrix(read, att + name)
        yield from norm(read, att + "ln_x")
        yield from norm(read, f"blocks.{i}.ln2")
        yield vectors(read, ffn + "mix", *(f"{ffn}time_maa_{c}" for c in "kr"))
        for name in ("key", "receptance", "value"):
            yield matrix(read, ffn + name)
    yield from norm(read, "ln_out")
    yield matrix(read, "head")


def _first_mix(read: Read, att: str) -> Weight:
    """Rows that give the input of the low-rank mixes, z itself and z'."""

    def rows() -> FloatArray:
        mix = flat(read(att + "time_maa_x"))
        return np.stack([mix, np.zeros_like(mix), np.ones_like(mix)])

    return Weight(att + "mix", WeightKind.VECTOR, rows)


def _mix_factor(shape: Rwkv6Shape, read: Read, att: str) -> Weight:
    """All five first factors [5 * stride, D]; where a rank is no multiple of 32 rows of zeros lie between them."""

    def rows() -> NDArray:
        stored = read(att + "time_maa_w1").T
        if shape.mix_stride == shape.rank_mix:
            return stored
        spread = np.zeros((5, shape.mix_stride, shape.width), stored.dtype)
        spread[:, : shape.rank_mix] = stored.reshape(5, shape.rank_mix, shape.width)
        return spread.reshape(-1, shape.width)

    return Weight(att + "maa_w1", WeightKind.LOW_RANK, rows)


def _mix_back(read: Read, att: str, number: int, mix: str) -> Weight:
    return Weight(f"{att}maa_{mix}2", WeightKind.LOW_RANK, lambda: read(att + "time_maa_w2")[number].T)
