"""Copies of states."""

from __future__ import annotations

import numpy as np
import pytest

from wingbeat.ops.copying import copy_state


@pytest.mark.parametrize("floats", [0, 1, 15, 16, 17, 1000, 4096])
@pytest.mark.parametrize("shift", [0, 1, 7, 15])
def test_exactly_the_target_is_overwritten(floats: int, shift: int) -> None:
    source = np.random.default_rng(floats).normal(size=floats + 40).astype(np.float32)
    target = np.full(floats + 40, 7, np.float32)
    copy_state(target[shift : shift + floats], source[3 : 3 + floats])
    assert np.array_equal(target[shift : shift + floats], source[3 : 3 + floats])
    assert (np.delete(target, np.arange(shift, shift + floats)) == 7).all()


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes differ|broadcast"):
        copy_state(np.zeros(4, np.float32), np.zeros(5, np.float32))
