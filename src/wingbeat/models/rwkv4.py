"""RWKV-4 (Pile, World, Raven, music): its shape, its state, its weights and its forward pass over the op table.

Source: "RWKV: Reinventing RNNs for the Transformer Era" (arXiv:2305.13048) and the author's `rwkv` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np

from wingbeat.models.shapes import Dimensions, Dims, Shape
from wingbeat.models.weights import Read, embedding, flat, matrix, norm, norm_names, previous_mix, vectors
from wingbeat.ops.program import Buffer, Program, Recorder
from wingbeat.ops.table import Activation, StateLayout, Weight, WeightKind

UNUSED: Set[str] = frozenset()
NOTHING_SEEN = (0.0, 0.0, -1e30)  # numerator, denominator and their scale: finite, so that no difference of it is NaN


@dataclass(frozen=True, kw_only=True)
class Rwkv4Shape(Shape):
    """The sizes of an RWKV-4 model, all read from its file. `att_width`: channels of time mixing."""

    att_width: int
    ffn_width: int


def read_shape(dims: Dimensions, layers: int) -> Rwkv4Shape:
    """The sizes of a model of `layers` layers. Raises FormatError for tensors that do not fit together."""
    vocab_size, width = dims.matrix("emb.weight")
    return Rwkv4Shape(
        layers=layers,
        width=width,
        vocab_size=vocab_size,
        att_width=dims.matrix("blocks.0.att.key.weight")[0],
        ffn_width=dims.matrix("blocks.0.ffn.key.weight")[0],
    )


def expected(shape: Rwkv4Shape) -> Iterator[tuple[str, Dims]]:
    """The official names and dimensions, vectors as (D,)."""
    d, a, hidden = shape.width, shape.att_width, shape.ffn_width
    yield "emb.weight", (shape.vocab_size, d)
    for i in range(shape.layers):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            for part in norm_names(block + name):
                yield part, (d,)
        for name in ("time_decay", "time_first"):
            yield att + name, (a,)
        for c in "kvr":
            yield f"{att}time_mix_{c}", (d,)
        for name in ("key", "value", "receptance"):
            yield f"{att}{name}.weight", (a, d)
        yield f"{att}output.weight", (d, a)
        for c in "kr":
            yield f"{ffn}time_mix_{c}", (d,)
        yield f"{ffn}key.weight", (hidden, d)
        yield f"{ffn}receptance.weight", (d, d)
        yield f"{ffn}value.weight", (d, hidden)
    for part in norm_names("ln_out"):
        yield part, (d,)
    yield "head.weight", (shape.vocab_size, d)


def record(shape: Rwkv4Shape, gn_eps: float) -> Program:
    """The forward pass of one step: tokens in, logits of wanted rows and hidden vectors out. It has no GroupNorm."""
    p = Recorder(StateLayout(), shape.vocab_size)
    x = p.embed("emb", shape.width)
    for i in range(shape.layers):
        _time_mix(p, x, f"blocks.{i}.", shape)
        _channel_mix(p, x, f"blocks.{i}.", shape)
        p.tap(x, i, norm_names("ln_out") if i == shape.layers - 1 else ())
    return p.finish(p.linear(p.gather_norm(x, norm_names("ln_out")), "head", shape.vocab_size))


def _time_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv4Shape) -> None:
    att, width = block + "att.", shape.att_width
    shift = p.layout.add(att + "shift", shape.width)
    state = p.layout.add(att + "wkv", 3, width, initial=NOTHING_SEEN)
    xk, xv, xr = p.norm_shift_mix(x, norm_names(block + "ln1"), att + "mix", 3, shift)
    r = p.linear(xr, att + "receptance", width, activation=Activation.SIGMOID)
    k, v = p.linear(xk, att + "key", width), p.linear(xv, att + "value", width)
    y = p.wkv4((r, k, v), (att + "time_decay", att + "time_first"), state)
    p.linear_add(y, att + "output", into=x)


def _channel_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv4Shape) -> None:
    ffn = block + "ffn."
    shift = p.layout.add(ffn + "shift", shape.width)
    xk, xr = p.norm_shift_mix(x, norm_names(block + "ln2"), ffn + "mix", 2, shift)
    k = p.linear(xk, ffn + "key", shape.ffn_width, activation=Activation.RELU2)
    r = p.linear(xr, ffn + "receptance", shape.width, activation=Activation.SIGMOID)
    p.linear_add(k, ffn + "value", into=x, gate=r)


def weights(shape: Rwkv4Shape, read: Read) -> Iterator[Weight]:
    """The program's weights one by one, in file order of the layers. Nothing is read before a weight's ``read``."""
    yield embedding(read)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        yield from norm(read, f"blocks.{i}.ln1")
        yield previous_mix(read, att + "mix", *(f"{att}time_mix_{c}" for c in "kvr"))
        for name in ("key", "value", "receptance", "output"):
            yield matrix(read, att + name)
        yield _decay(read, att + "time_decay")
        yield vectors(read, att + "time_first", att + "time_first")
        yield from norm(read, f"blocks.{i}.ln2")
        yield previous_mix(read, ffn + "mix", *(f"{ffn}time_mix_{c}" for c in "kr"))
        for name in ("key", "receptance", "value"):
            yield matrix(read, ffn + name)
    yield from norm(read, "ln_out")
    yield matrix(read, "head")


def _decay(read: Read, name: str) -> Weight:
    """What the logarithmic scale gains each step: -e^(time_decay)."""
    return Weight(name, WeightKind.VECTOR, lambda: -np.exp(flat(read(name)))[None])
