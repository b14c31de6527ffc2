"""Tuned initial states: what state tuning left of RWKV-5, 6 and 7 models, in place of the zeros a sequence begins with.

A file holds `blocks.N.att.time_state` [head, value, key] for each layer. The converters for web-rwkv (`.st`, `.state`)
swap the last two axes. Token shifts begin at zero as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wingbeat.formats.checkpoint import FormatError, LazyTensor, open_checkpoint
from wingbeat.models.detect import official_name
from wingbeat.ops.table import FloatArray, StateLayout

SWAPPED = (".st", ".state")
TIME_STATE = "time_state"


def read_tuned_state(path: Path, layout: StateLayout) -> dict[str, FloatArray]:
    """The state in a file, as canonical arrays by the names of the layout's fields.

    Raises FormatError, naming the tensor, for a file that holds something else or the state of another model.
    """
    tensors = {official_name(name): tensor for name, tensor in open_checkpoint(path).items()}
    try:
        return tuned_state(tensors, layout, swapped=path.suffix.lower() in SWAPPED)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def tuned_state(tensors: Mapping[str, LazyTensor], layout: StateLayout, *, swapped: bool) -> dict[str, FloatArray]:
    """As `read_tuned_state`, from the tensors of a file that holds nothing else."""
    wanted = {_tensor_of(name): field for name, field in layout.fields.items() if field.matrix}
    if not wanted:
        raise FormatError("a tuned initial state cannot be used: this model's state has no matrices (RWKV-4)")
    for name in tensors:
        if not name.endswith("." + TIME_STATE):
            raise FormatError(f"{name!r} does not belong to a tuned initial state, which holds only .{TIME_STATE}")
        if name not in wanted:
            raise FormatError(f"{name!r} has no place in this model: the state was tuned for another one")
    slot = layout.allocate(1)
    for name, field in wanted.items():
        if name not in tensors:
            raise FormatError(f"{name!r} is missing: the file is incomplete or of a model with fewer layers")
        if tensors[name].shape != field.shape:
            raise FormatError(
                f"{name!r} has shape {list(tensors[name].shape)}, and this model needs {list(field.shape)}: "
                "the state was tuned for another one"
            )
        values = np.asarray(tensors[name].read(), np.float32)
        if not np.isfinite(values).all():
            raise FormatError(f"{name!r} holds values that are not finite: the file is damaged")
        field.view(slot[0])[...] = values.swapaxes(1, 2) if swapped else values
    return layout.export(slot, 0)


def _tensor_of(field: str) -> str:
    """The tensor that gives a field `blocks.N.att.wkv` its values."""
    return f"{field.rpartition('.')[0]}.{TIME_STATE}"
