"""From a recorded program to what the native runner executes: formats, stages and buffers shared over time.

- Every buffer is kept in just the formats that its readers want (an int8 weight reads int8 activations, and so do nf4
  and sf4).
- A matrix that meets the result of relu2 may be kept by K, so that one row reads no weights that meet a zero. Its input
  has a mask of what is not zero.
- Ops without a hazard between them form a stage: one barrier a stage, not one an op.
- Buffers whose lives do not overlap share memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from wingbeat.ops.program import Constant, Op, Program
from wingbeat.ops.quantize import LEVELS
from wingbeat.ops.table import Activation, Combine


@dataclass(slots=True)
class LoweredOp:
    """An op over logical buffer ids; ``norm_shift_mix`` has become two, the second stores the shift state."""

    name: str
    reads: list[int]
    writes: list[int]
    weights: list[str]
    constants: dict[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoweredBuffer:
    width: int
    rows: str  # "tokens", "logits", "hidden" or "sequences"
    formats: frozenset[str]


@dataclass(frozen=True, slots=True)
class Lowered:
    """``stages`` of ops whose buffer ids index ``buffers``; ids are physical: already shared over time."""

    stages: list[list[LoweredOp]]
    buffers: list[LoweredBuffer]
    logits: int
    hidden: int | None


def after_relu2(program: Program) -> frozenset[str]:
    """The matrices that meet activations most of which are zero in a trained model: those that relu2 made."""
    zeros: set[int] = set()
    for op in program.ops:
        gated = op.constants.get("combine") == Combine.GATE and op.reads[1].id in zeros
        if op.constants.get("activation") == Activation.RELU2 or gated:
            zeros.add(op.writes[0].id)
    return frozenset(op.weights[0] for op in program.ops if op.name == "linear" and op.reads[0].id in zeros)


def lower(program: Program, weight_formats: Mapping[str, str], by_k: frozenset[str] = frozenset()) -> Lowered:
    """``weight_formats`` says how each weight is stored: one of ``DTYPES``."""
    widths = {b.id: (b.width, str(b.rows)) for b in program.buffers}
    ops = _split_shifts(program, widths)
    formats = _formats(ops, weight_formats, by_k)
    results = [b.id for b in (program.logits, program.hidden) if b is not None]
    for result in results:
        formats[result].add("float32")
    depth = _stage_of_each(ops)
    stages: list[list[LoweredOp]] = [[] for _ in range(max(depth) + 1)]
    for op, stage in zip(ops, depth, strict=True):
        stages[stage].append(op)
    physical, buffers = _share_buffers(stages, widths, formats, results)
    for op in ops:
        op.reads = [physical[i] for i in op.reads]
        op.writes = [physical[i] for i in op.writes]
    hidden = None if program.hidden is None else physical[program.hidden.id]
    return Lowered(stages, buffers, physical[program.logits.id], hidden)


def _split_shifts(program: Program, widths: dict[int, tuple[int, str]]) -> list[LoweredOp]:
    """Units of ``norm_shift_mix`` read the old shift state while others would write it: the store comes after."""
    ops: list[LoweredOp] = []
    for op in program.ops:
        lowered = _lowered(op)
        ops.append(lowered)
        if op.name == "norm_shift_mix":
            last = max(widths) + 1
            widths[last] = (op.reads[0].width, "sequences")
            lowered.writes.insert(0, last)
            ops.append(LoweredOp("commit_shift", [last], [], [], {"state_offset": lowered.constants["state_offset"]}))
    return ops


def _lowered(op: Op) -> LoweredOp:
    constants = dict(op.constants)
    if op.state is not None:
        constants["state_offset"] = op.state.offset
    if op.name in ("wkv6", "wkv7") and op.state is not None:
        constants["size"] = op.state.shape[1]
    if op.name == "linear":
        constants["wanted"] = int(op.reads[0].rows == "logits")
    return LoweredOp(op.name, [b.id for b in op.reads], [b.id for b in op.writes], list(op.weights), constants)


def _formats(ops: list[LoweredOp], weight_formats: Mapping[str, str], by_k: frozenset[str]) -> dict[int, set[str]]:
    formats: dict[int, set[str]] = defaultdict(set)
    for op in ops:
        for place, buffer in enumerate(op.reads):
            multiplied = op.name == "linear" and place == 0
            formats[buffer].add(_met_by(weight_formats[op.weights[0]]) if multiplied else "float32")
        if op.name == "linear" and op.weights[0] in by_k:
            formats[op.reads[0]].add("mask")
        if op.constants.get("add"):
            formats[op.writes[0]].add("float32")
    return formats


def _met_by(weight_format: str) -> str:
    """The format of the activations that a weight is multiplied with."""
    return "int8" if weight_format in LEVELS else weight_format


def _stage_of_each(ops: list[LoweredOp]) -> list[int]:
    """The earliest stage of each op that respects every read after write, write after read and write after write."""
    last_write: dict[int, int] = {}
    last_read: dict[int, int] = {}
    depth: list[int] = []
    for op in ops:
        reads = op.reads + (op.writes if op.constants.get("add") else [])
        after = [last_write.get(b, -1) for b in reads]
        after += [max(last_write.get(b, -1), last_read.get(b, -1)) for b in op.writes]
        stage = 1 + max(after, default=-1)
        depth.append(stage)
        for b in reads:
            last_read[b] = max(last_read.get(b, -1), stage)
        for b in op.writes:
            last_write[b] = stage
    return depth


def _share_buffers(
    stages: list[list[LoweredOp]], widths: dict[int, tuple[int, str]], formats: dict[int, set[str]], results: list[int]
) -> tuple[dict[int, int], list[LoweredBuffer]]:
    """Gives logical buffers physical ones; a physical buffer is free again in the stage after its last use."""
    last_use: dict[int, int] = {}
    for number, stage in enumerate(stages):
        for op in stage:
            for b in op.reads + op.writes:
                last_use[b] = number
    last_use.update(dict.fromkeys(results, len(stages)))
    free: dict[LoweredBuffer, list[int]] = defaultdict(list)
    physical: dict[int, int] = {}
    buffers: list[LoweredBuffer] = []
    for number, stage in enumerate(stages):
        for op in stage:
            for b in op.writes:
                if b in physical:
                    continue
                kind = LoweredBuffer(*widths[b], frozenset(formats[b]))
                if free[kind]:
                    physical[b] = free[kind].pop()
                else:
                    physical[b] = len(buffers)
                    buffers.append(kind)
        for b, end in last_use.items():
            if end == number:
                free[buffers[physical[b]]].append(physical[b])
    return physical, buffers
