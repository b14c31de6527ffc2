"""How much memory a model takes, told from its shapes before anything of it is read."""

from __future__ import annotations

from pathlib import Path

from numpy.typing import NDArray

from wingbeat.dtypes import BYTES_PER_WEIGHT, DTYPES
from wingbeat.models.loader import LoadedCheckpoint, load_checkpoint
from wingbeat.models.precision import Precision, uniform
from wingbeat.models.prefab import is_prefab, open_prefab
from wingbeat.ops.quantize import BLOCK
from wingbeat.ops.table import round_up, storage_dtype


def weight_bytes(checkpoint: LoadedCheckpoint, precision: Precision) -> int:
    """About how many bytes the weights of a model take once it is loaded in ``precision``."""
    program, parameters = checkpoint.record(), checkpoint.info.parameters
    weights = precision.apply(checkpoint.weights(_unread))
    dtypes = {weight.name: storage_dtype(weight.kind, weight.dtype or precision.rest) for weight in weights}
    stored = counted = 0
    seen: set[str] = set()
    for op in program.ops:
        if not op.weights or op.weights[0] in seen:
            continue
        seen.add(op.weights[0])
        if op.name in ("embed", "deep_embed"):
            count, padding = program.vocab_size * (op.writes if op.name == "embed" else op.reads)[-1].width, 0
        elif op.name == "linear":
            columns, rows = int(op.constants["columns"]), op.writes[0].width
            count = columns * rows
            padding = round_up(columns, BLOCK) * round_up(rows, BLOCK) - count
        else:
            continue
        stored += (count + padding) * BYTES_PER_WEIGHT[dtypes[op.weights[0]]]
        counted += count
    return round(stored + (parameters - counted) * BYTES_PER_WEIGHT["float32"])


def memory_needed(path: Path) -> dict[str, int]:
    """Bytes of the weights of a model's file in each dtype; of a prefab in the one in which it is packed."""
    if is_prefab(path):
        prefab = open_prefab(path)
        return {prefab.precision.label: prefab.weight_bytes}
    checkpoint = load_checkpoint(path)
    return {dtype: weight_bytes(checkpoint, uniform(dtype, checkpoint.info.layers)) for dtype in DTYPES}


def _unread(name: str) -> NDArray:
    raise AssertionError(f"{name} is read, but only the kinds of weights were asked for")
