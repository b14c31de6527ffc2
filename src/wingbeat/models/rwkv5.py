"""RWKV-5 "Eagle" (5.0, 5.1 and 5.2): its shape, its state, its weights and its forward pass over the op table.

5.0 has one decay and one bonus for each head, 5.1 a gate on top, 5.2 a decay and a bonus for each channel.
Source: "Eagle and Finch" (arXiv:2404.05892) and the author's `rwkv` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np

from wingbeat.models.shapes import Dimensions, Dims, Shape
from wingbeat.models.weights import Read, embedding, flat, matrix, norm, norm_names, previous_mix
from wingbeat.ops.program import Buffer, Program, Recorder
from wingbeat.ops.table import Activation, FloatArray, StateLayout, Weight, WeightKind

UNUSED: Set[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Rwkv5Shape(Shape):
    """The sizes of an RWKV-5 model, all read from its file. Time mixing has `heads` * `head_size` channels.

    `gated`: time mixing has an output gate. `by_channel`: decay and bonus are [heads, head_size], not [heads].
    `log_bonus`: the file has the logarithm of the bonus, as `time_first`, not the bonus as `time_faaaa`.
    """

    heads: int
    head_size: int
    ffn_width: int
    gated: bool
    by_channel: bool
    log_bonus: bool

    @property
    def att_width(self) -> int:
        return self.heads * self.head_size

    @property
    def mixes(self) -> str:
        return "kvrg" if self.gated else "kvr"

    @property
    def bonus(self) -> str:
        return "time_first" if self.log_bonus else "time_faaaa"


def read_shape(dims: Dimensions, layers: int) -> Rwkv5Shape:
    """The sizes of a model of `layers` layers. Raises FormatError for tensors that do not fit together."""
    vocab_size, width = dims.matrix("emb.weight")
    att_width, decay = dims.matrix("blocks.0.att.key.weight")[0], "blocks.0.att.time_decay"
    by_channel = dims.vector(decay) == att_width
    heads, head_size = dims.matrix(decay) if by_channel else (dims.vector(decay), att_width // dims.vector(decay))
    dims.check_heads(decay, heads, head_size, att_width)
    return Rwkv5Shape(
        layers=layers,
        width=width,
        vocab_size=vocab_size,
        heads=heads,
        head_size=head_size,
        ffn_width=dims.matrix("blocks.0.ffn.key.weight")[0],
        gated=dims.has("blocks.0.att.gate.weight"),
        by_channel=by_channel,
        log_bonus=not dims.has("blocks.0.att.time_faaaa"),
    )


def expected(shape: Rwkv5Shape) -> Iterator[tuple[str, Dims]]:
    """The official names and dimensions, vectors as (D,)."""
    d, a, hidden = shape.width, shape.att_width, shape.ffn_width
    yield "emb.weight", (shape.vocab_size, d)
    for i in range(shape.layers):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            for part in norm_names(block + name):
                yield part, (d,)
        for c in shape.mixes:
            yield f"{att}time_mix_{c}", (d,)
        for name in ("time_decay", shape.bonus):
            yield att + name, (shape.heads, shape.head_size) if shape.by_channel else (shape.heads,)
        for name in ("receptance", "key", "value", "gate")[: len(shape.mixes)]:
            yield f"{att}{name}.weight", (a, d)
        yield f"{att}output.weight", (d, a)
        for part in norm_names(att + "ln_x"):
            yield part, (a,)
        for c in "kr":
            yield f"{ffn}time_mix_{c}", (d,)
        yield f"{ffn}key.weight", (hidden, d)
        yield f"{ffn}receptance.weight", (d, d)
        yield f"{ffn}value.weight", (d, hidden)
    for part in norm_names("ln_out"):
        yield part, (d,)
    yield "head.weight", (shape.vocab_size, d)


def record(shape: Rwkv5Shape, gn_eps: float) -> Program:
    """The forward pass of one step: tokens in, logits of wanted rows and hidden vectors out."""
    p = Recorder(StateLayout(), shape.vocab_size)
    x = p.embed("emb", shape.width)
    for i in range(shape.layers):
        _time_mix(p, x, f"blocks.{i}.", shape, gn_eps)
        _channel_mix(p, x, f"blocks.{i}.", shape)
        p.tap(x, i, norm_names("ln_out") if i == shape.layers - 1 else ())
    return p.finish(p.linear(p.gather_norm(x, norm_names("ln_out")), "head", shape.vocab_size))


def _time_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv5Shape, gn_eps: float) -> None:
    att, width = block + "att.", shape.att_width
    shift = p.layout.add(att + "shift", shape.width)
    state = p.layout.add(att + "wkv", shape.heads, shape.head_size, shape.head_size, matrix=True)
    xk, xv, xr, *xg = p.norm_shift_mix(x, norm_names(block + "ln1"), att + "mix", len(shape.mixes), shift)
    r, k, v = (p.linear(inp, att + name, width) for inp, name in ((xr, "receptance"), (xk, "key"), (xv, "value")))
    g = p.linear(xg[0], att + "gate", width, activation=Activation.SILU) if shape.gated else None
    weights = (att + "bonus", *norm_names(att + "ln_x"))
    y = p.wkv6((r, k, v), att + "decay", g, weights, state, gn_eps)
    p.linear_add(y, att + "output", into=x)


def _channel_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv5Shape) -> None:
    ffn = block + "ffn."
    shift = p.layout.add(ffn + "shift", shape.width)
    xk, xr = p.norm_shift_mix(x, norm_names(block + "ln2"), ffn + "mix", 2, shift)
    k = p.linear(xk, ffn + "key", shape.ffn_width, activation=Activation.RELU2)
    r = p.linear(xr, ffn + "receptance", shape.width, activation=Activation.SIGMOID)
    p.linear_add(k, ffn + "value", into=x, gate=r)


def weights(shape: Rwkv5Shape, read: Read) -> Iterator[Weight]:
    """The program's weights one by one, in file order of the layers. Nothing is read before a weight's ``read``."""
    yield embedding(read)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        yield from norm(read, f"blocks.{i}.ln1")
        yield previous_mix(read, att + "mix", *(f"{att}time_mix_{c}" for c in shape.mixes))
        for name in ("receptance", "key", "value", "gate")[: len(shape.mixes)]:
            yield matrix(read, att + name)
        yield matrix(read, att + "output")
        yield _decay(shape, read, att)
        yield _bonus(shape, read, att)
        yield from norm(read, att + "ln_x")
        yield from norm(read, f"blocks.{i}.ln2")
        yield previous_mix(read, ffn + "mix", *(f"{ffn}time_mix_{c}" for c in "kr"))
        for name in ("key", "receptance", "value"):
            yield matrix(read, ffn + name)
    yield from norm(read, "ln_out")
    yield matrix(read, "head")


def _decay(shape: Rwkv5Shape, read: Read, att: str) -> Weight:
    """What remains of the state after a step, for each channel: e^(-e^(time_decay))."""

    def decay() -> FloatArray:
        return _each_channel(shape, np.exp(-np.exp(flat(read(att + "time_decay")))))

    return Weight(att + "decay", WeightKind.VECTOR, decay)


def _bonus(shape: Rwkv5Shape, read: Read, att: str) -> Weight:
    def bonus() -> FloatArray:
        values = flat(read(att + shape.bonus))
        return _each_channel(shape, np.exp(values) if shape.log_bonus else values)

    return Weight(att + "bonus", WeightKind.VECTOR, bonus)


def _each_channel(shape: Rwkv5Shape, values: FloatArray) -> FloatArray:
    return (values if shape.by_channel else np.repeat(values, shape.head_size))[None]
