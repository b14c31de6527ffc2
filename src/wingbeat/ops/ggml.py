"""ggml's blocks, decoded by the native kernels where there are such."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

Decode = Callable[[NDArray[np.uint8], NDArray[np.float32]], None]


@cache
def native_decoder(kind: str) -> Decode | None:
    """What turns blocks [n, bytes] of a kind such as "Q4_K" into values [n, elements]; other threads run meanwhile.

    None where the kernels were not built or do not know the kind.
    """
    if find_spec("wingbeat._kernels") is None:
        return None
    kernels = import_module("wingbeat._kernels")
    if not kernels.decodes(kind):
        return None
    return lambda blocks, values: kernels.decode_blocks(kind, blocks, values)
