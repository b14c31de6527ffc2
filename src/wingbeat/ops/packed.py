"""What a packed weight is, for those who only store it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PackedWeight(NamedTuple):
    """A weight as the kernels read it: bytes that mean something together with ``cpu.packed_layout()`` only."""

    kind: str  # "matrix", "matrix by K", "table" or "vectors"
    format: str
    rows: int
    columns: int
    data: NDArray[np.uint8]  # 64-byte aligned, as the scales
    scales: NDArray[np.uint8]  # empty where the format has none
