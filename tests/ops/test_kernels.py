"""Every kernel level this machine can run: equal to the reference, and bitwise equal to itself however it is fed."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.ops.models import (
    ALL_SHAPES,
    DTYPES,
    ODD_SHAPES,
    OTHER_VERSIONS,
    Shape,
    batch,
    feed,
    native,
    program_of,
    reference,
)
from wingbeat.ops import cpu
from wingbeat.ops.quantize import LEVELS as LEVELS_OF
from wingbeat.ops.reference import ReferenceExecutable
from wingbeat.ops.table import BFLOAT16, Executable

LEVELS = cpu.levels() if cpu.available() else []
BREAKABLE = ("blocks.0.att.key.weight", "blocks.1.ffn.key.weight", "blocks.1.att.g2", "head.weight")
# Sums in another order; and a value on the border of two int8 or bfloat16 steps may fall to the other side of it.
TOLERANCE = {"float32": 2e-5, "bfloat16": 1e-2, "int8": 3e-2, "int4": 3e-2, "nf4": 3e-2, "sf4": 3e-2}
KEPT_BY_K = tuple(dtype for dtype in DTYPES if dtype not in LEVELS_OF)

pytestmark = pytest.mark.skipif(not LEVELS, reason="built without a C++ compiler: there are no native kernels")
rng = np.random.default_rng(7)


def tokens_of(shape: Shape, count: int) -> list[int]:
    return np.random.default_rng(count).integers(0, shape.vocab, count).tolist()


@pytest.mark.parametrize("dtype", [*DTYPES, "sf4"])
@pytest.mark.parametrize("name", ALL_SHAPES)
@pytest.mark.parametrize("level", LEVELS)
def test_logits_and_state_equal_the_reference(level: str, name: str, dtype: str) -> None:
    shape = ALL_SHAPES[name]
    tokens = tokens_of(shape, 37)
    got, got_state = feed(native(shape, dtype, level=level), tokens, [37])
    want, want_state = feed(reference(shape, dtype), tokens, [37])
    assert np.abs(got - want).max() <= TOLERANCE[dtype] * np.ptp(want)
    assert np.abs(got_state - want_state).max() <= TOLERANCE[dtype] * (1 + np.abs(want_state).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL_SHAPES)
@pytest.mark.parametrize("level", LEVELS)
def test_chunking_never_changes_a_bit(level: str, name: str, dtype: str) -> None:
    shape = ALL_SHAPES[name]
    tokens = tokens_of(shape, 300)
    executable = native(shape, dtype, level=level)
    whole, whole_state = feed(executable, tokens, [300])
    for chunks in ([1] * 300, [7] * 42 + [6], [1, 2, 3, 4, 5, 6, 8, 11, 13, 247], [256, 44]):
        pieces, state = feed(executable, tokens, chunks)
        assert pieces.tobytes() == whole.tobytes()
        assert state.tobytes() == whole_state.tobytes()


@pytest.mark.parametrize("dtype", KEPT_BY_K)
@pytest.mark.parametrize("name", ALL_SHAPES)
@pytest.mark.parametrize("level", LEVELS)
def test_skipping_zeros_never_changes_a_bit(level: str, name: str, dtype: str) -> None:
    shape = ALL_SHAPES[name]
    tokens = tokens_of(shape, 60)
    every, every_state = feed(native(shape, dtype, level=level, skip_zeros=False), tokens, [60])
    skipping = native(shape, dtype, level=level, skip_zeros=True)
    for chunks in ([1] * 60, [60], [1, 50, 9]):
        logits, state = feed(skipping, tokens, chunks)
        assert logits.tobytes() == every.tobytes()
        assert state.tobytes() == every_state.tobytes()


@pytest.mark.parametrize("active", [0.0, 0.1, 0.25, 0.35, 0.9, 1.0])
@pytest.mark.parametrize("dtype", KEPT_BY_K)
@pytest.mark.parametrize("level", LEVELS)
def test_skipping_is_exact_whatever_is_zero(level: str, dtype: str, active: float) -> None:
    """With a constant input the signs of ffn.key's rows decide which activations are zero: none, few, most, all."""
    shape = ODD_SHAPES["published"]
    arrays = shape.arrays(1)
    for i in range(shape.layers):
        block = f"blocks.{i}."
        arrays[block + "ln2.weight"] = np.zeros_like(arrays[block + "ln2.weight"])
        arrays[block + "ln2.bias"] = np.ones_like(arrays[block + "ln2.bias"])
        key = np.abs(arrays[block + "ffn.key.weight"].astype(np.float32))
        signs = np.where(np.random.default_rng(i).random(len(key)) < active, 1, -1)
        arrays[block + "ffn.key.weight"] = (key * signs[:, None]).astype(np.float32)
    tokens = tokens_of(shape, 12)

    def fed(skip_zeros: bool, chunks: list[int]) -> tuple[bytes, bytes]:
        executable = cpu.CpuExecutable(*program_of(shape, arrays), dtype, 2, level, skip_zeros=skip_zeros)
        logits, state = feed(executable, tokens, chunks)
        assert np.isfinite(logits).all()
        return logits.tobytes(), state.tobytes()

    every = fed(False, [12])
    assert fed(True, [1] * 12) == every
    assert fed(True, [12]) == every


def test_codes_of_levels_are_not_kept_by_k() -> None:
    executable = native(Shape(), "nf4", level="", skip_zeros=True)
    assert {weight.kind for _, weight in executable.packed_weights() if weight.format == "nf4"} == {"matrix"}


@pytest.mark.parametrize(
    ("name", "dtype"), [("published", d) for d in (*DTYPES, "sf4")] + [(n, "int8") for n in OTHER_VERSIONS]
)
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_never_depends_on_its_neighbours(level: str, name: str, dtype: str) -> None:
    shape = ALL_SHAPES[name]
    executable = native(shape, dtype, level=level)
    alone, alone_state = feed(executable, tokens := tokens_of(shape, 20), [5] + [1] * 15)
    for neighbours in (1, 2, 3, 4, 5, 6, 12, 31):
        slots = neighbours + 1
        pool = executable.layout.allocate(slots)
        mine = int(rng.integers(slots))
        got, at = [], 0
        for size in [5] + [1] * 15:
            rows = [(s, rng.integers(0, shape.vocab, int(rng.integers(1, 9))).tolist()) for s in range(slots)]
            rows[mine] = (mine, tokens[at : at + size])
            order = rng.permutation(slots)
            rows = [rows[i] for i in order]
            step = batch(rows)
            place = int(np.flatnonzero(step.slots == mine)[0])
            logits = executable.run(step, pool)
            got.append(np.array(logits[step.seq_starts[place] : step.seq_starts[place + 1]]))
            at += size
        assert np.concatenate(got).tobytes() == alone.tobytes()
        assert pool[mine].tobytes() == alone_state.tobytes()


@pytest.mark.parametrize(
    ("name", "dtype"), [("heads_of_48", d) for d in DTYPES] + [(n, "int8") for n in OTHER_VERSIONS]
)
@pytest.mark.parametrize("level", LEVELS)
def test_threads_never_change_a_bit(level: str, name: str, dtype: str) -> None:
    shape = ALL_SHAPES[name]
    tokens = tokens_of(shape, 70)
    results = [feed(native(shape, dtype, level=level, threads=n), tokens, [64, 1, 5]) for n in (1, 2, 3, 7)]
    for logits, state in results[1:]:
        assert logits.tobytes() == results[0][0].tobytes()
        assert state.tobytes() == results[0][1].tobytes()


@pytest.mark.parametrize("level", LEVELS)
def test_only_wanted_rows_get_logits(level: str) -> None:
    shape = ODD_SHAPES["published"]
    executable = native(shape, "int8", level=level)
    every, _ = feed(executable, tokens := tokens_of(shape, 30), [30])
    pool = executable.layout.allocate(1)
    step = batch([(0, tokens)])._replace(logit_rows=np.array([3, 4, 29], np.int32))
    assert np.array(executable.run(step, pool)).tobytes() == every[[3, 4, 29]].tobytes()
    none = executable.run(step._replace(logit_rows=np.zeros(0, np.int32)), pool)
    assert none.shape == (0, shape.vocab)


def test_logits_stay_readable_when_a_later_step_needs_larger_buffers() -> None:
    shape = ODD_SHAPES["published"]
    executable = native(shape, "float32", level="")
    pool = executable.layout.allocate(1)
    kept = executable.run(batch([(0, [1, 2, 3])]), pool)
    executable.run(batch([(0, tokens_of(shape, 400))]), pool)
    assert np.isfinite(kept).all()


def test_steps_of_two_threads_take_turns() -> None:
    shape = ODD_SHAPES["published"]
    executable = native(shape, "bfloat16", level="")
    tokens = tokens_of(shape, 40)
    want = feed(executable, tokens, [40])[1].tobytes()
    states: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: states.append(feed(executable, tokens, [1] * 40)[1].tobytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == [want] * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bfloat16_file_gives_what_its_float32_copy_gives(dtype: str) -> None:
    shape = ODD_SHAPES["odd_everything"]
    arrays = {k: v.astype(BFLOAT16) for k, v in shape.arrays(3).items()}
    widened = {k: v.astype(np.float32) for k, v in arrays.items()}
    tokens = tokens_of(shape, 12)
    got, want = (feed(cpu.CpuExecutable(*program_of(shape, a), dtype, 1), tokens, [12])[0] for a in (arrays, widened))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", BREAKABLE)
@pytest.mark.parametrize("level", [*LEVELS, "reference"])
def test_a_broken_weight_shows_in_the_logits(level: str, name: str, value: float, dtype: str) -> None:
    shape = ODD_SHAPES["published"]
    arrays = shape.arrays(5)
    arrays[name].reshape(-1)[3] = value
    program, weights = program_of(shape, arrays)
    with np.errstate(all="ignore"):
        if level == "reference":
            executable: Executable = ReferenceExecutable(program, weights, dtype)
        else:
            executable = cpu.CpuExecutable(program, weights, dtype, 2, level)
        logits, _ = feed(executable, [1, 2, 3], [3])
    assert not np.isfinite(logits).all()


@pytest.mark.parametrize(
    "pool",
    [
        lambda pool: pool.astype(np.float64),
        lambda pool: np.asfortranarray(pool),
        lambda pool: np.concatenate([pool, pool], axis=1)[:, : pool.shape[1]],
    ],
    ids=["float64", "fortran", "slice"],
)
def test_a_pool_that_would_be_copied_is_refused(pool) -> None:
    executable = native(Shape(), "float32", level="")
    with pytest.raises(TypeError):
        executable.run(batch([(0, [1]), (1, [2])]), pool(executable.layout.allocate(2)))


def test_running_out_of_memory_fails_the_step_and_no_other() -> None:
    code = """
import resource, numpy as np
from tests.ops.models import Shape, batch, feed, native
executable = native(Shape(), "float32", level="")
want = feed(executable, [1, 2, 3], [3])[0]
pool = executable.layout.allocate(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), used + (256 << 20)))
try:
    executable.run(batch([(0, [1] * 200_000)], all_logits=False), pool)
    print("enough memory")
except MemoryError:
    print("MemoryError", feed(executable, [1, 2, 3], [3])[0].tobytes() == want.tobytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "MemoryError True\n", done.stderr


def bad_steps(shape: Shape):
    good = batch([(0, [1, 2]), (1, [3])])
    i32 = lambda *values: np.array(values, np.int32)  # noqa: E731
    return {
        "token too large": (good._replace(tokens=i32(1, shape.vocab, 3)), "vocabulary"),
        "token negative": (good._replace(tokens=i32(1, -1, 3)), "vocabulary"),
        "slot outside": (good._replace(slots=i32(0, 2)), "pool"),
        "slot twice": (good._replace(slots=i32(1, 1)), "twice"),
        "empty sequence": (good._replace(seq_starts=i32(0, 0, 3)), "seq_starts"),
        "rows left over": (good._replace(seq_starts=i32(0, 1, 2)), "seq_starts"),
        "logit row outside": (good._replace(logit_rows=i32(0, 3)), "logit_rows"),
        "logit rows unsorted": (good._replace(logit_rows=i32(1, 0)), "logit_rows"),
        "hidden row outside": (good._replace(hidden_rows=i32(3), hidden_layers=i32(0)), "hidden_rows"),
        "hidden row negative": (good._replace(hidden_rows=i32(-1), hidden_layers=i32(0)), "hidden_rows"),
        "a hidden row without its layer": (good._replace(hidden_rows=i32(0)), "hidden_layers"),
    }


@pytest.mark.parametrize("name", bad_steps(Shape()))
@pytest.mark.parametrize("make", [reference, lambda s, d: native(s, d, level="")], ids=["reference", "cpu"])
def test_a_bad_step_is_refused_before_anything_is_written(make, name: str) -> None:
    shape = Shape()
    executable = make(shape, "float32")
    pool = executable.layout.allocate(2)
    before = pool.copy()
    step, message = bad_steps(shape)[name]
    with pytest.raises(ValueError, match=message):
        executable.run(step, pool)
    assert pool.tobytes() == before.tobytes()


def test_a_pool_of_another_model_is_refused() -> None:
    executable = native(Shape(), "float32", level="")
    other = native(Shape(layers=3), "float32", level="")
    with pytest.raises(ValueError, match="another size"):
        executable.run(batch([(0, [1])]), other.layout.allocate(1))


def test_an_unknown_level_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"it can run: .*portable"):
        native(Shape(), "float32", level="mmx")
