"""The names of the number formats in which a model's weights can be held."""

from __future__ import annotations

DTYPES = ("float32", "bfloat16", "int8", "int4", "nf4", "sf4")

BYTES_PER_WEIGHT = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "int8": 1 + 2 / 64,
    "int4": 1 / 2 + 2 / 32,
    "nf4": 1 / 2 + 2 / 64,
    "sf4": 1 / 2 + 2 / 64,
}
"""Of a matrix: the integers and codes have a scale of two bytes for each block."""

QUANTS = ("int8", "int4", "nf4", "sf4")
"""Those that hold integers or codes, each block with a scale."""

SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16"}


def full_name(dtype: str) -> str:
    """What a short name stands for; any other name as it is."""
    return SHORT_NAMES.get(dtype, dtype)
