"""Copies of states at the speed of memory."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from wingbeat.ops.table import FloatArray


def _copier() -> Callable[[FloatArray, FloatArray], None]:
    if find_spec("wingbeat._kernels") is None:
        return np.copyto
    return import_module("wingbeat._kernels").copy


_copy = _copier()


def copy_state(target: FloatArray, source: FloatArray) -> None:
    """Make ``target`` equal to ``source``, both float32 [slot_floats], contiguous and apart from each other.

    Raises ValueError when their sizes differ.
    """
    _copy(target, source)
