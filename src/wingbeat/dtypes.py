"""The names of the number formats in which a model's weights can be held."""

from __future__ import annotations

DTYPES = ("float32", "bfloat16", "int8", "int4")

SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16"}


def full_name(dtype: str) -> str:
    """What a short name stands for; any other name as it is."""
    return SHORT_NAMES.get(dtype, dtype)
