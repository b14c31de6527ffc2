"""Profiled steps: the same results, and for each op what it moved, multiplied and took."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.models import Shape, batch, native, program_of
from wingbeat.bench.measure import count_multiply_adds
from wingbeat.ops import cpu
from wingbeat.ops.lowering import lower
from wingbeat.ops.table import StepBatch

pytestmark = pytest.mark.skipif(not cpu.available(), reason="built without a C++ compiler: there are no native kernels")

SHAPE = Shape(layers=2, width=144, vocab=65, head_size=48, ffn=100)
STEPS = (batch([(0, [1, 2, 3]), (2, [4])]), batch([(1, list(range(60))), (2, [7])], all_logits=False))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_profiling_never_changes_a_bit(dtype: str, threads: int) -> None:
    executable = native(SHAPE, dtype, level="", threads=threads)
    plain, profiled = (executable.layout.allocate(3) for _ in range(2))
    for step in STEPS:
        want = executable.run(step, plain).tobytes()
        got, _ = executable.run_profiled(step, profiled)
        assert got.tobytes() == want
    assert profiled.tobytes() == plain.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_every_unit_is_counted_and_the_times_add_up(step: StepBatch, threads: int) -> None:
    executable = native(SHAPE, "float32", level="", threads=threads)
    _, profile = executable.run_profiled(step, executable.layout.allocate(3))
    program = program_of(SHAPE)[0]
    stages = lower(program, dict.fromkeys((name for op in program.ops for name in op.weights), "float32")).stages
    assert [(op.stage, op.name) for op in profile.ops] == [(i, op.name) for i, ops in enumerate(stages) for op in ops]
    assert len(profile.stage_seconds) == len(stages)
    assert all((op.seconds > 0) == (op.name != "tap") for op in profile.ops)  # nobody asked for hidden rows
    units = {op.weights[0]: op.units for op in profile.ops if op.weights}
    assert units["blocks.0.att.key"] == 3  # of 64 columns each, for these few rows
    assert (units["blocks.1.ffn.key"], units["head"]) == (2, 2)
    assert profile.threads == threads
    assert profile.rest > 0
    assert profile.waiting > 0
    busy = sum(op.seconds for op in profile.ops)
    assert busy + profile.waiting + threads * profile.rest == pytest.approx(threads * profile.seconds)


def test_what_ops_move_and_multiply() -> None:
    executable = native(SHAPE, "int8", level="")
    step = STEPS[1]  # 61 rows of 2 sequences, 2 rows of logits
    _, profile = executable.run_profiled(step, executable.layout.allocate(3))
    row, logits = count_multiply_adds(program_of(SHAPE)[0])
    assert sum(op.multiply_adds for op in profile.ops) == 61 * row + 2 * logits

    def moved(*names: str) -> int:
        return sum(op.bytes for op in profile.ops if op.name in names)

    assert moved("linear") == executable.weight_bytes
    assert moved("embed") == 61 * 144 * 2
    states = moved("wkv7", "norm_shift_mix", "commit_shift")
    assert states == 2 * 2 * sum(4 * field.floats for field in executable.layout.fields.values())
    formats = {op.weights[0].rpartition(".")[2]: op.format for op in profile.ops if op.name == "linear"}
    assert formats["head"] == formats["value"] == "int8"
    assert formats["w1"] == formats["g2"] == "bfloat16"
    assert executable.matrix_formats == {"int8", "bfloat16"}


def test_a_head_without_rows_moves_nothing() -> None:
    none = STEPS[0]._replace(logit_rows=np.zeros(0, np.int32))
    executable = native(SHAPE, "float32", level="")
    _, profile = executable.run_profiled(none, executable.layout.allocate(3))
    head = profile.ops[-1]
    assert head.weights == ("head",)
    assert (head.units, head.seconds, head.bytes, head.multiply_adds) == (0, 0, 0, 0)
    assert profile.stage_seconds[-1] == 0
