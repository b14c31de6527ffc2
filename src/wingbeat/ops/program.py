"""The recorder: a model's forward pass as a list of ops over buffer handles, recorded once and run every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wingbeat.ops.table import OPS, Activation, Combine, StateField, StateLayout

Constant = float | int | str


@dataclass(frozen=True, slots=True)
class Buffer:
    """A handle on float32 [rows, width]; ``rows``: one for each token, wanted row of logits, or hidden row."""

    id: int
    width: int
    rows: Literal["tokens", "logits", "hidden"]


@dataclass(frozen=True, slots=True)
class Op:
    """One recorded op: buffers by handle, weights by name, constants by value."""

    name: str
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    weights: tuple[str, ...]
    constants: dict[str, Constant] = field(default_factory=dict)
    state: StateField | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A recorded forward pass: inputs are a StepBatch and a state pool, outputs the ``logits`` and ``hidden`` buffers.

    ``hidden`` is None where no layer was tapped.
    """

    ops: tuple[Op, ...]
    buffers: tuple[Buffer, ...]
    logits: Buffer
    layout: StateLayout
    vocab_size: int
    hidden: Buffer | None = None


class Recorder:
    """Records ops for one program. Each method returns handles; nothing is computed."""

    def __init__(self, layout: StateLayout, vocab_size: int) -> None:
        self.layout = layout
        self._vocab_size = vocab_size
        self._ops: list[Op] = []
        self._buffers: list[Buffer] = []
        self._hidden: Buffer | None = None

    def embed(self, table: str, width: int) -> Buffer:
        out = self._buffer(width)
        self._emit(Op("embed", (), (out,), (table,)))
        return out

    def norm_shift_mix(
        self, x: Buffer, norm: tuple[str, str], mu: str, mixes: int, state: StateField, eps: float = 1e-5
    ) -> list[Buffer]:
        outs = [self._buffer(x.width) for _ in range(mixes)]
        self._emit(Op("norm_shift_mix", (x,), tuple(outs), (*norm, mu), {"eps": eps}, state))
        return outs

    def linear(
        self,
        x: Buffer,
        weight: str,
        width: int,
        *,
        bias: str | None = None,
        activation: Activation = Activation.NONE,
        gate: Buffer | None = None,
        lerp: tuple[Buffer, Buffer] | None = None,
        part: tuple[int, int] | None = None,
    ) -> Buffer:
        """``gate`` or ``lerp`` (z and z') combine with the result; ``part``: first column of x, and how many."""
        out = self._buffer(width, x.rows)
        weights = (weight,) if bias is None else (weight, bias)
        start, columns = part or (0, x.width)
        constants: dict[str, Constant] = {"activation": activation.value, "start": start, "columns": columns, "add": 0}
        self._emit(Op("linear", (x, *_others(gate, lerp)), (out,), weights, constants | _combine(gate, lerp)))
        return out

    def linear_add(self, x: Buffer, weight: str, into: Buffer, gate: Buffer | None = None) -> None:
        """``into += x @ W^T``, times ``gate`` where given, in place."""
        constants: dict[str, Constant] = {"activation": Activation.NONE.value, "start": 0, "columns": x.width, "add": 1}
        self._emit(Op("linear", (x, *_others(gate, None)), (into,), (weight,), constants | _combine(gate, None)))

    def wkv4(self, inputs: tuple[Buffer, Buffer, Buffer], weights: tuple[str, str], state: StateField) -> Buffer:
        """``inputs`` are r, k, v; ``weights`` are decay and first."""
        out = self._buffer(inputs[0].width)
        self._emit(Op("wkv4", inputs, (out,), weights, {}, state))
        return out

    def wkv6(
        self,
        inputs: tuple[Buffer, Buffer, Buffer],
        decay: Buffer | str,
        gate: Buffer | None,
        weights: tuple[str, str, str],
        state: StateField,
        eps: float,
    ) -> Buffer:
        """``inputs`` are r, k, v; ``decay`` is a buffer or the name of a weight; ``weights`` are bonus and norm."""
        out = self._buffer(inputs[0].width)
        buffers = inputs + ((decay,) if isinstance(decay, Buffer) else ()) + ((gate,) if gate else ())
        names = weights + ((decay,) if isinstance(decay, str) else ())
        constants: dict[str, Constant] = {"heads": state.shape[0], "eps": eps}
        given = {"decay": int(isinstance(decay, Buffer)), "gate": int(gate is not None)}
        self._emit(Op("wkv6", buffers, (out,), names, constants | given, state))
        return out

    def wkv7(
        self,
        inputs: tuple[Buffer, Buffer, Buffer, Buffer, Buffer, Buffer],
        value_mix: tuple[Buffer, Buffer] | None,
        weights: tuple[str, str, str, str, str],
        state: StateField,
        eps: float,
    ) -> Buffer:
        """``inputs`` are r, w, k, v, a, g; ``value_mix`` is (v_first, mix); ``weights`` are k_k, k_a, r_k, norm."""
        out = self._buffer(inputs[0].width)
        constants: dict[str, Constant] = {"heads": state.shape[0], "eps": eps}
        self._emit(Op("wkv7", inputs + (value_mix or ()), (out,), weights, constants, state))
        return out

    def deep_embed(self, q: Buffer, extra: Buffer, table: str) -> Buffer:
        """``q`` times a square matrix for each token: its row of ``table`` plus its row of ``extra``."""
        out = self._buffer(q.width)
        self._emit(Op("deep_embed", (q, extra), (out,), (table,)))
        return out

    def gather_norm(self, x: Buffer, norm: tuple[str, str], eps: float = 1e-5) -> Buffer:
        out = self._buffer(x.width, "logits")
        self._emit(Op("gather_norm", (x,), (out,), norm, {"eps": eps}))
        return out

    def tap(self, x: Buffer, layer: int, norm: tuple[str, str] | tuple[()] = (), eps: float = 1e-5) -> None:
        """Let ``x`` be the hidden vectors of ``layer``."""
        if self._hidden is None:
            self._hidden = self._buffer(x.width, "hidden")
        self._emit(Op("tap", (x,), (self._hidden,), norm, {"eps": eps, "layer": layer}))

    def finish(self, logits: Buffer) -> Program:
        return Program(tuple(self._ops), tuple(self._buffers), logits, self.layout, self._vocab_size, self._hidden)

    def _buffer(self, width: int, rows: Literal["tokens", "logits", "hidden"] = "tokens") -> Buffer:
        buffer = Buffer(len(self._buffers), width, rows)
        self._buffers.append(buffer)
        return buffer

    def _emit(self, op: Op) -> None:
        spec = OPS[op.name]
        if spec.state != (op.state is not None):
            raise ValueError(f"{op.name}: state given is {op.state}, the table says {spec.state}")
        self._ops.append(op)


def _combine(gate: Buffer | None, lerp: tuple[Buffer, Buffer] | None) -> dict[str, Constant]:
    combine = Combine.GATE if gate is not None else Combine.NONE if lerp is None else Combine.LERP
    return {"combine": combine.value}


def _others(gate: Buffer | None, lerp: tuple[Buffer, Buffer] | None) -> tuple[Buffer, ...]:
    if gate is not None and lerp is not None:
        raise ValueError("linear combines its result with a gate or by a lerp, not both")
    return (gate,) if gate is not None else lerp or ()
