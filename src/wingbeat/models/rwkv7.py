"""RWKV-7 "Goose" (x070): its shape, its state, its weights and its forward pass over the op table.

7a adds DeepEmbed: in each layer a square matrix for each token scales the channel mix.
Source: "RWKV-7 'Goose' with Expressive Dynamic State Evolution" (arXiv:2503.14456) and the author's `rwkv` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import partial

import numpy as np

from wingbeat.models.shapes import Dimensions, Dims, Shape
from wingbeat.models.weights import Read, embedding, factor, flat, matrix, norm, norm_names, vectors
from wingbeat.ops.program import Buffer, Program, Recorder
from wingbeat.ops.table import Activation, FloatArray, StateLayout, Weight, WeightKind

MIXES = "rwkvag"
UNUSED: Set[str] = frozenset(
    f"blocks.0.att.v{part}" for part in "012"
)  # layer 0 has no value residual; some files carry one


@dataclass(frozen=True, kw_only=True)
class Rwkv7Shape(Shape):
    """The sizes of an RWKV-7 model, all read from its file.

    `width` = `heads` * `head_size`. The ranks are those of the low-rank pairs: decay (w1, w2), in-context learning
    rate (a1, a2), value residual (v1, v2; 0 in a model of one layer, which has none) and gate (g1, g2).
    `deep_side` is that of DeepEmbed's square matrices, 0 in a model without (7).
    """

    heads: int
    head_size: int
    ffn_width: int
    rank_decay: int
    rank_iclr: int
    rank_value: int
    rank_gate: int
    deep_side: int = 0


def read_shape(dims: Dimensions, layers: int) -> Rwkv7Shape:
    """The sizes of a model of `layers` layers. Raises FormatError for tensors that do not fit together."""
    vocab_size, width = dims.matrix("emb.weight")
    heads, head_size = dims.matrix("blocks.0.att.r_k")
    dims.check_heads("blocks.0.att.r_k", heads, head_size, width)
    return Rwkv7Shape(
        layers=layers,
        width=width,
        vocab_size=vocab_size,
        heads=heads,
        head_size=head_size,
        ffn_width=dims.matrix("blocks.0.ffn.key.weight")[0],
        rank_decay=dims.matrix("blocks.0.att.w1")[1],
        rank_iclr=dims.matrix("blocks.0.att.a1")[1],
        rank_value=dims.matrix("blocks.1.att.v1")[1] if layers > 1 else 0,
        rank_gate=dims.matrix("blocks.0.att.g1")[1],
        deep_side=dims.matrix("blocks.0.ffn.s1")[1] if dims.has("blocks.0.ffn.s_emb.weight") else 0,
    )


def expected(shape: Rwkv7Shape) -> Iterator[tuple[str, Dims]]:
    """The official names and dimensions, vectors as (D,)."""
    square, vector = (shape.width, shape.width), (shape.width,)
    yield "emb.weight", (shape.vocab_size, shape.width)
    for i in range(shape.layers):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            for part in norm_names(block + name):
                yield part, vector
        for mix in MIXES:
            yield f"{att}x_{mix}", vector
        for low, rank in (
            ("w", shape.rank_decay),
            ("a", shape.rank_iclr),
            ("v", shape.rank_value),
            ("g", shape.rank_gate),
        ):
            if low == "v" and i == 0:
                continue
            if low != "g":
                yield f"{att}{low}0", vector
            yield f"{att}{low}1", (shape.width, rank)
            yield f"{att}{low}2", (rank, shape.width)
        yield f"{att}k_k", vector
        yield f"{att}k_a", vector
        yield f"{att}r_k", (shape.heads, shape.head_size)
        for name in ("receptance", "key", "value", "output"):
            yield f"{att}{name}.weight", square
        for part in norm_names(f"{att}ln_x"):
            yield part, vector
        yield f"{ffn}x_k", vector
        yield f"{ffn}key.weight", (shape.ffn_width, shape.width)
        yield f"{ffn}value.weight", (shape.width, shape.ffn_width)
        if n := shape.deep_side:
            yield f"{ffn}s_emb.weight", (shape.vocab_size, n * n)
            yield f"{ffn}s_emb_x.weight", (n * n, shape.width)
            yield f"{ffn}s1", (shape.width, n)
            yield f"{ffn}s2", (n, shape.ffn_width)
            yield f"{ffn}s0", (shape.ffn_width,)
    for part in norm_names("ln_out"):
        yield part, vector
    yield "head.weight", (shape.vocab_size, shape.width)


def record(shape: Rwkv7Shape, gn_eps: float) -> Program:
    """The forward pass of one step: tokens in, logits of wanted rows and hidden vectors out."""
    p = Recorder(StateLayout(), shape.vocab_size)
    x = p.embed("emb", shape.width)
    embedded = p.embed("emb", shape.width) if shape.deep_side else None
    v_first: Buffer | None = None
    for i in range(shape.layers):
        v_first = _time_mix(p, x, f"blocks.{i}.", shape, v_first, gn_eps)
        _channel_mix(p, x, f"blocks.{i}.", shape, embedded)
        p.tap(x, i, norm_names("ln_out") if i == shape.layers - 1 else ())
    return p.finish(p.linear(p.gather_norm(x, norm_names("ln_out")), "head", shape.vocab_size))


def _time_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv7Shape, v_first: Buffer | None, gn_eps: float) -> Buffer:
    att, d = block + "att.", shape.width
    shift = p.layout.add(att + "shift", d)
    state = p.layout.add(att + "wkv", shape.heads, shape.head_size, shape.head_size, matrix=True)
    xr, xw, xk, xv, xa, xg = p.norm_shift_mix(x, norm_names(block + "ln1"), att + "mix", 6, shift)

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
    weights = (att + "k_k", att + "k_a", att + "r_k", *norm_names(att + "ln_x"))
    y = p.wkv7((r, w, k, v, a, g), value_mix, weights, state, gn_eps)
    p.linear_add(y, att + "output", into=x)
    return v if v_first is None else v_first


def _channel_mix(p: Recorder, x: Buffer, block: str, shape: Rwkv7Shape, embedded: Buffer | None) -> None:
    ffn = block + "ffn."
    shift = p.layout.add(ffn + "shift", shape.width)
    xk, *z = p.norm_shift_mix(x, norm_names(block + "ln2"), ffn + "mix", 1 if embedded is None else 2, shift)
    k = p.linear(xk, ffn + "key", shape.ffn_width, activation=Activation.RELU2)
    if embedded is not None:
        k = _deep_embed(p, z[0], k, embedded, ffn, shape)
    p.linear_add(k, ffn + "value", into=x)


def _deep_embed(p: Recorder, z: Buffer, k: Buffer, embedded: Buffer, ffn: str, shape: Rwkv7Shape) -> Buffer:
    """``k`` times what the token's matrix makes of ``z``, the input before its mix with the previous token's."""
    extra = p.linear(embedded, ffn + "s_emb_x", shape.deep_side**2)
    q = p.deep_embed(p.linear(z, ffn + "s1", shape.deep_side), extra, ffn + "s_emb")
    return p.linear(q, ffn + "s2", shape.ffn_width, bias=ffn + "s0", gate=k)


def weights(shape: Rwkv7Shape, read: Read) -> Iterator[Weight]:
    """The program's weights one by one, in file order of the layers. Nothing is read before a weight's ``read``."""
    yield embedding(read)
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        yield from norm(read, f"blocks.{i}.ln1")
        yield vectors(read, att + "mix", *(f"{att}x_{c}" for c in MIXES))
        for name in ("receptance", "key", "value", "output"):
            yield matrix(read, att + name)
        for name in "wavg" if i else "wag":
            for part in "12":
                yield factor(read, f"{att}{name}{part}")
            if name != "g":
                yield vectors(read, f"{att}{name}0", f"{att}{name}0")
        for name in ("k_k", "k_a", "r_k"):
            yield vectors(read, att + name, att + name)
        yield from norm(read, att + "ln_x")
        yield from norm(read, f"blocks.{i}.ln2")
        yield _channel_shift(shape, read, ffn)
        for name in ("key", "value"):
            yield matrix(read, ffn + name)
        if shape.deep_side:
            yield Weight(ffn + "s_emb", WeightKind.TABLE, partial(read, ffn + "s_emb.weight"))
            yield matrix(read, ffn + "s_emb_x")
            for part in "12":
                yield factor(read, f"{ffn}s{part}")
            yield vectors(read, ffn + "s0", ffn + "s0")
    yield from norm(read, "ln_out")
    yield matrix(read, "head")


def _channel_shift(shape: Rwkv7Shape, read: Read, ffn: str) -> Weight:
    """The mix of the channel mix; DeepEmbed wants the input itself, too: a row of zeros."""

    def rows() -> FloatArray:
        mix = flat(read(ffn + "x_k"))
        return np.stack([mix, np.zeros_like(mix)][: 2 if shape.deep_side else 1])

    return Weight(ffn + "mix", WeightKind.VECTOR, rows)
