"""The state as a value: exported, restored, reset."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from wingbeat.ops.table import StateLayout


def layout() -> StateLayout:
    made = StateLayout()
    made.add("shift", 21)
    made.add("wkv", 3, 7, 7, matrix=True)
    made.add("peak", 5, initial=-1e30)
    return made


def test_fields_are_aligned_and_apart() -> None:
    fields = list(layout().fields.values())
    pool = layout().allocate(2)
    assert pool.ctypes.data % 64 == 0
    assert layout().slot_floats % 16 == 0
    for before, after in pairwise(fields):
        assert after.offset % 16 == 0
        assert after.offset >= before.offset + before.floats


def test_restore_puts_back_what_export_took() -> None:
    made = layout()
    pool = made.allocate(3)
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(field.shape).astype(np.float32) for name, field in made.fields.items()}
    made.restore(pool, 1, arrays)
    taken = made.export(pool, 1)
    assert all(np.array_equal(taken[name], arrays[name]) for name in arrays)
    assert not pool[0, :21].any()
    fresh = made.export(pool, 2)
    assert np.all(fresh["peak"] == np.float32(-1e30))


def test_an_export_is_a_copy() -> None:
    made = layout()
    pool = made.allocate(1)
    taken = made.export(pool, 0)
    pool[:] = 7
    assert not taken["shift"].any()
    assert not taken["wkv"].any()


def test_a_state_of_another_model_is_refused_and_nothing_is_written() -> None:
    made = layout()
    pool = made.allocate(1)
    before = pool.copy()
    arrays = made.export(pool, 0)
    with pytest.raises(ValueError, match="lacks 'peak'"):
        made.restore(pool, 0, {k: v + 1 for k, v in arrays.items() if k != "peak"})
    with pytest.raises(ValueError, match=r"'wkv' is \(3, 7, 8\)"):
        made.restore(pool, 0, {**arrays, "wkv": np.ones((3, 7, 8), np.float32)})
    assert np.array_equal(pool, before)


def test_reset_gives_a_fresh_state() -> None:
    made = layout()
    pool = made.allocate(2)
    fresh = pool[1].copy()
    pool[:] = 3
    made.reset(pool, 1)
    assert np.array_equal(pool[1], fresh)
    assert np.all(pool[0] == 3)
