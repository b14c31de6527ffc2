"""Where the time of one step went: op by op, as the native runner took it down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wingbeat.ops.lowering import Lowered, LoweredOp
from wingbeat.ops.table import StepBatch, round_up

StageTimes = tuple[float, list[tuple[float, int]]]
"""Seconds that a stage took; for each of its ops the seconds inside units, over all threads, and the units."""


@dataclass(frozen=True, slots=True)
class OpProfile:
    """One op of a profiled step.

    ``seconds`` are those inside its units, summed over the threads. ``bytes`` are those of weights and states that it
    must move: a matrix once whatever the number of rows, a state in and out, of the embedding table the rows looked
    up. Activations, norms and other vectors are not counted. ``multiply_adds`` are those of a ``linear``'s matrix,
    which is stored as ``format``; other ops have 0 and "".
    """

    stage: int
    name: str
    weights: tuple[str, ...]
    format: str
    units: int
    seconds: float
    bytes: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One profiled step of ``seconds``, the call from Python included. ``stage_seconds``: how long each stage took."""

    threads: int
    seconds: float
    stage_seconds: tuple[float, ...]
    ops: tuple[OpProfile, ...]

    @property
    def waiting(self) -> float:
        """Seconds, summed over the threads, that stages lasted but no unit ran: waking up, and waiting for others."""
        return self.threads * sum(self.stage_seconds) - sum(op.seconds for op in self.ops)

    @property
    def rest(self) -> float:
        """Seconds before the first stage and after the last: checks, arguments, the call itself."""
        return self.seconds - sum(self.stage_seconds)


class Costs:
    """What the ops of a lowered program move and multiply, for steps of any size."""

    def __init__(self, lowered: Lowered, formats: Mapping[str, str], matrix_bytes: Mapping[str, int]) -> None:
        """``formats``: how each weight is stored; ``matrix_bytes``: of each packed matrix."""
        self._stages = lowered.stages
        self._widths = [buffer.width for buffer in lowered.buffers]
        self._formats, self._matrix_bytes = formats, matrix_bytes

    def profile(self, batch: StepBatch, threads: int, seconds: float, stages: Iterable[StageTimes]) -> StepProfile:
        """Join what the native runner measured in a step of ``seconds`` with what each op had to do in it."""
        stage_seconds, ops = [], []
        for number, (lowered, (lasted, times)) in enumerate(zip(self._stages, stages, strict=True)):
            stage_seconds.append(lasted)
            for op, (busy, units) in zip(lowered, times, strict=True):
                ops.append(self._op(number, op, batch, busy, units))
        return StepProfile(threads, seconds, tuple(stage_seconds), tuple(ops))

    def _op(self, stage: int, op: LoweredOp, batch: StepBatch, seconds: float, units: int) -> OpProfile:
        weights = tuple(op.weights)
        if op.name != "linear":
            return OpProfile(stage, op.name, weights, "", units, seconds, self._bytes(op, batch), 0)
        rows = len(batch.logit_rows if op.constants["wanted"] else batch.tokens)
        multiply_adds = rows * int(op.constants["columns"]) * self._widths[op.writes[0]]
        moved = self._matrix_bytes[weights[0]] if rows else 0
        return OpProfile(stage, op.name, weights, self._formats[weights[0]], units, seconds, moved, multiply_adds)

    def _bytes(self, op: LoweredOp, batch: StepBatch) -> int:
        """Of the states that an op other than ``linear`` reads and writes, or of the rows that it looks up."""
        sequences = len(batch.slots)
        if op.name == "wkv4":
            return 2 * 4 * sequences * 3 * round_up(self._widths[op.writes[0]], 16)
        if op.name in ("wkv6", "wkv7"):
            heads, size = int(op.constants["heads"]), int(op.constants["size"])
            return 2 * 4 * sequences * heads * size * round_up(size, 16)
        if op.name in ("norm_shift_mix", "commit_shift"):  # the one reads what the other writes
            return 4 * sequences * self._widths[op.reads[0]]
        if op.name in ("embed", "deep_embed"):
            item = 4 if self._formats[op.weights[0]] == "float32" else 2
            return item * len(batch.tokens) * self._widths[op.writes[0] if op.name == "embed" else op.reads[1]]
        return 0
