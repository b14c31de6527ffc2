"""What one more row of a step costs in each weight format: a model of the CPU kernels, in place of a measurement."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

ROWS = (1, 4, 5, 8, 9, 16, 17, 32)
"""Where the tables have an entry: kernels take rows by fours, eights and sixteens."""

TILES = {
    "bfloat16": (1.0, 1.05, 1.05, 1.1, 1.1, 1.2, 1.3, 1.5),
    "int8": (1.0, 1.05, 1.2, 1.3, 1.45, 1.65, 1.95, 2.65),
    "int4": (1.0, 1.05, 1.95, 2.05, 2.4, 2.75, 3.55, 4.7),
}
"""Seconds of a step over those of a step of one row, with AMX. Four bits are unpacked from the fifth row on. Measured
with two cores at the shape of 0.1B."""

VECTORS = (1.0, 1.1, 1.35, 2.0, 2.3, 3.8, 4.0, 7.0)
"""The same with vectors alone (AVX-512, AVX2), where rows of all formats but float32 cost much the same."""

FLOAT32 = (1.0, 1.05, 1.05, 1.1, 1.1, 1.4, 1.5, 2.25)


def row_costs(formats: Iterable[str], level: str, most: int) -> list[float]:
    """Of steps of 0, 1, ... ``most`` rows, over one of one row. ``formats``: those of the matrices; ``level``: of the
    kernels, "" where it is not known. The dearest format counts."""
    tables = np.array([_table(name, level) for name in formats] or [VECTORS])
    return np.interp(np.arange(most + 1), ROWS, tables.max(axis=0)).tolist()


def _table(name: str, level: str) -> tuple[float, ...]:
    if name == "float32":
        return FLOAT32
    return TILES.get(name, TILES["int4"]) if level == "amx" else VECTORS
