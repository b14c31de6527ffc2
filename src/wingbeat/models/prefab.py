"""A model that is packed already, in one file (`.prefab`): it is mapped, and needs neither reading nor quantising.

The file is one of packed weights (see ``formats/packed.py``) whose identity says what the model is. It belongs to the
layout of packed weights of the wingbeat that wrote it, and serves every kernel level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.dtypes import DTYPES
from wingbeat.formats.lazy import FormatError, LazyTensor
from wingbeat.formats.packed import TOKENS, Identity, PackedFile, is_packed, open_packed, packed_texts, save_packed
from wingbeat.models.architecture import ARCHITECTURES
from wingbeat.models.loader import LoadedCheckpoint, load_checkpoint
from wingbeat.models.precision import Precision
from wingbeat.models.shapes import Dimensions
from wingbeat.ops.cpu import CpuExecutable, packed_layout
from wingbeat.ops.packed import PackedWeight

SUFFIX = ".prefab"
KIND = "prefab"
STATE = "state"
"""The kind of the entries that hold the model's initial state."""

NOTHING = np.empty(0, np.uint8)


class _About(msgspec.Struct, frozen=True):
    """What the model is. ``dims``: of its tensors in the original."""

    name: str
    version: str
    layers: int
    dims: dict[str, tuple[int, ...]]
    parameters: int
    source_dtype: str
    fingerprint: str
    metadata: dict[str, str]
    layer_dtypes: tuple[str, ...]
    rest_dtype: str
    gn_eps: float | None


@dataclass(frozen=True)
class Prefab:
    """An open file. ``checkpoint`` has no tensors; ``weights`` are unchecked until ``verify`` has read the file, which
    ``announce`` asks the system for."""

    checkpoint: LoadedCheckpoint
    precision: Precision
    weights: Mapping[str, PackedWeight]
    size: int
    announce: Callable[[], None]
    verify: Callable[[Callable[[NDArray[np.uint8]], int]], None]

    @property
    def weight_bytes(self) -> int:
        """That the weights take in memory."""
        return sum(weight.data.nbytes + weight.scales.nbytes for weight in self.weights.values())


def save_prefab(
    path: Path,
    name: str,
    checkpoint: LoadedCheckpoint,
    precision: Precision,
    gn_eps: float | None,
    executable: CpuExecutable,
) -> int:
    """Write a model as it is packed in ``executable``; the file appears complete or not at all. Returns its size.

    Raises OSError when it cannot be written.
    """
    about = _About(
        name=name,
        version=checkpoint.version,
        layers=checkpoint.info.layers,
        dims={name: tensor.shape for name, tensor in checkpoint.tensors.items()},
        parameters=checkpoint.info.parameters,
        source_dtype=checkpoint.info.dtype,
        fingerprint=checkpoint.fingerprint,
        metadata=dict(checkpoint.metadata),
        layer_dtypes=precision.layers,
        rest_dtype=precision.rest,
        gn_eps=checkpoint.gn_eps if gn_eps is None else gn_eps,
    )
    identity: Identity = {"kind": KIND, "layout": packed_layout(), "model": msgspec.json.encode(about).decode()}
    weights = dict(executable.packed_weights())
    for state, tensor in checkpoint.initial_state.items():
        values = np.ascontiguousarray(tensor.read(), np.float32)
        flat = values.reshape(-1).view(np.uint8)
        weights[state] = PackedWeight(
            STATE, "float32", values.shape[0] * values.shape[1], values.shape[2], flat, NOTHING
        )
    if checkpoint.tokens is not None:
        weights[TOKENS] = packed_texts(checkpoint.tokens())
    return save_packed(path, identity, weights, executable.checksum)


def is_prefab(path: str | Path) -> bool:
    """Whether the file, if there is one, is of packed weights."""
    try:
        return is_packed(Path(path))
    except OSError:
        return False


def look_inside(path: Path) -> LoadedCheckpoint:
    """What any model file holds, a prefab too, which has no tensors. Raises what `load_checkpoint` raises."""
    return open_prefab(path).checkpoint if is_prefab(path) else load_checkpoint(path)


def open_prefab(path: Path) -> Prefab:
    """Map a prefab. Raises FormatError, saying what to do, if it is damaged or of another wingbeat."""
    file = open_packed(path, None)
    about = _about(path, file)
    try:
        architecture = ARCHITECTURES[about.version]
        shape = architecture.read_shape(Dimensions(about.dims), about.layers)
        if len(about.layer_dtypes) != shape.layers or not {*about.layer_dtypes, about.rest_dtype} <= set(DTYPES):
            raise FormatError("there is a dtype for each layer")
    except (KeyError, FormatError) as error:
        raise FormatError(f"{path}: what it says of its model does not fit together: make it anew") from error
    shape = replace(shape, parameters=about.parameters, dtype=about.source_dtype)
    states = {name: weight for name, weight in file.weights.items() if weight.kind == STATE}
    return Prefab(
        checkpoint=LoadedCheckpoint(
            about.version,
            {},
            shape,
            about.fingerprint,
            {"name": about.name, **about.metadata},
            {name: _state(weight) for name, weight in states.items()},
            gn_eps=about.gn_eps,
        ),
        precision=Precision(about.layer_dtypes, about.rest_dtype),
        weights={name: weight for name, weight in file.weights.items() if weight.kind not in (STATE, TOKENS)},
        size=file.size,
        announce=file.announce,
        verify=file.verify,
    )


def _about(path: Path, file: PackedFile) -> _About:
    if file.identity.get("kind") != KIND:
        raise FormatError(f"{path} belongs to the cache of packed weights and is no model: give the model's own file")
    layout = packed_layout()
    if file.identity.get("layout") != layout:
        raise FormatError(
            f"{path} was made for packed weights in layout {file.identity.get('layout')!r}, and this wingbeat reads "
            f"{layout!r}: make it anew from the model's own file with `wingbeat quantize`"
        )
    try:
        return msgspec.json.decode(str(file.identity.get("model")), type=_About)
    except msgspec.DecodeError as error:
        raise FormatError(f"{path}: what it says of its model cannot be read: make it anew") from error


def _state(weight: PackedWeight) -> LazyTensor:
    """[heads, value, key]; matrices are square."""
    shape = (weight.rows // max(weight.columns, 1), weight.columns, weight.columns)
    if weight.data.size != 4 * weight.rows * weight.columns:
        raise FormatError("the initial state is not as large as it says: make the file anew")
    return LazyTensor(shape, np.dtype(np.float32), lambda: weight.data.view(np.float32).reshape(shape))
