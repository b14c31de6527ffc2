"""Stages and shared buffers: few barriers, no hazard inside a stage, no buffer overwritten while it is needed."""

from __future__ import annotations

import pytest

from tests.ops.models import ALL_SHAPES, ODD_SHAPES, program_of
from wingbeat.ops.lowering import Lowered, after_relu2, lower
from wingbeat.ops.program import Recorder
from wingbeat.ops.table import StateLayout, WeightKind, storage_dtype


def lowered(name: str, dtype: str = "int8") -> Lowered:
    program, weights = program_of(ALL_SHAPES[name])
    return lower(program, {w.name: storage_dtype(w.kind, dtype) for w in weights})


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_ops_of_a_stage_do_not_touch_each_other(name: str) -> None:
    for stage in lowered(name).stages:
        for i, a in enumerate(stage):
            for b in stage[i + 1 :]:
                touched = set(b.reads) | set(b.writes)
                assert not set(a.writes) & touched, (a.name, b.name)
                assert not set(b.writes) & set(a.reads), (a.name, b.name)


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_what_is_read_was_written_last_by_its_producer(name: str) -> None:
    """Run the shared program symbolically beside the one with a buffer for each value."""
    shape = ALL_SHAPES[name]
    program, _ = program_of(shape)
    low = lowered(name)
    by_offset = iter(op for stage in low.stages for op in stage if op.name.startswith("wkv"))
    wkvs = [op for op in program.ops if op.name.startswith("wkv")]
    assert len(wkvs) == shape.layers
    content: dict[int, tuple] = {}
    for number, stage in enumerate(low.stages):
        seen = {op.name: [content.get(b) for b in op.reads] for op in stage if op.name != "embed"}
        assert all(value is not None for values in seen.values() for value in values), number
        for op in stage:
            for b in op.writes:
                content[b] = (number, op.name)
    assert content[low.logits] == (len(low.stages) - 1, "linear")
    assert sum(1 for _ in by_offset) == shape.layers


@pytest.mark.parametrize(
    ("name", "stages"), [("published", 8), ("rwkv4", 7), ("rwkv5.0", 7), ("rwkv5.2", 7), ("rwkv6", 10), ("rwkv7a", 10)]
)
def test_stages_of_a_layer(name: str, stages: int) -> None:
    assert len(lowered(name).stages) == 1 + stages * ALL_SHAPES[name].layers + 2


def test_codes_of_levels_meet_what_int8_meets() -> None:
    assert [b.formats for b in lowered("published", "nf4").buffers] == [b.formats for b in lowered("published").buffers]


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_the_second_matrix_of_the_channel_mix_meets_zeros(name: str) -> None:
    shape = ALL_SHAPES[name]
    assert after_relu2(program_of(shape)[0]) == {f"blocks.{i}.ffn.value" for i in range(shape.layers)}


def test_buffers_are_shared_between_layers() -> None:
    assert len(lowered("odd_everything").buffers) <= len(lowered("one_layer").buffers) + 8


def test_int8_models_keep_the_low_rank_parts_unquantised() -> None:
    stored_as = {"matrix": "int8", "low_rank": "bfloat16", "table": "bfloat16", "vector": "float32"}
    for weight in program_of(ODD_SHAPES["published"])[1]:
        stored = storage_dtype(weight.kind, "int8")
        assert stored == stored_as[weight.kind]
        assert (weight.kind is WeightKind.LOW_RANK) == (weight.name[-1] in "12" and ".att." in weight.name)


def test_recording_an_op_without_its_state_is_refused() -> None:
    recorder = Recorder(StateLayout(), 10)
    x = recorder.embed("emb", 64)
    with pytest.raises(ValueError, match="state"):
        recorder.norm_shift_mix(x, ("w", "b"), "mu", 1, None)  # type: ignore[arg-type]
