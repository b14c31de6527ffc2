"""What a pickle of torch's says: tensors over storages, in dictionaries, and nothing else.

A tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`; a storage is a persistent
id, which each container resolves in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import DAMAGED, MAX_DIMENSIONS, Checkpoint, FileRange, FormatError, LazyTensor, check_shape
from wingbeat.formats.unpickle import Call

CONTAINER = "torch"
MAX_PICKLE = 4 << 20  # bytes; 2,500 tensors (the largest RWKV) need 0.4 MB, and a byte can cost 70 of memory
WRAPPERS = ("state_dict", "model", "module")  # training frameworks save {"state_dict": {...}, "epoch": 3}
MAX_WRAPPING = 4

STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}


@dataclass
class Storage:
    """`count` elements of `dtype`; `load` gives their bytes or more, which lie at `place`."""

    dtype: np.dtype
    count: int
    load: Callable[[], NDArray[np.uint8]]
    place: FileRange
    swapped: bool


@dataclass(frozen=True)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def lazy(self) -> LazyTensor:
        return LazyTensor(self.shape, self.storage.dtype, self.read, self.storage.place)

    def read(self) -> NDArray:
        dtype = self.storage.dtype
        flat = self.storage.load()[: self.storage.count * dtype.itemsize]
        if self.storage.swapped:
            flat = flat.reshape(-1, dtype.itemsize)[:, ::-1].reshape(-1)
        elif flat.ctypes.data % dtype.itemsize:
            flat = flat.copy()
        strides = tuple(step * dtype.itemsize for step in self.strides)
        array = np.ndarray(self.shape, dtype, flat.data, self.offset * dtype.itemsize, strides)
        array.flags.writeable = False
        return array


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not (isinstance(storage, Storage) and _is_size(offset) and _are_sizes(shape) and _are_sizes(strides)):
        raise FormatError(f"a tensor is not described as torch does: {DAMAGED}")
    if len(shape) != len(strides):
        raise FormatError(f"a tensor has {len(shape)} dimensions but {len(strides)} strides: {DAMAGED}")
    size = check_shape(shape, storage.dtype.itemsize)
    end = offset + (1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if size else 0)
    # A tensor that repeats elements (torch's expand) could claim any size.
    if end > storage.count or size > storage.count:
        raise FormatError(
            f"a tensor of {size:,} elements needs the first {end:,} of a storage that has {storage.count:,}: {DAMAGED}"
        )
    if not size:  # no element, so no stride matters, and NumPy need not check them
        offset, strides = 0, (0,) * len(shape)
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise FormatError(f"a parameter is not a tensor: {DAMAGED}")
    return tensor


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _are_sizes(value: Any) -> bool:
    # The length is checked first: one huge tuple could be shared by very many tensors.
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(map(_is_size, value))


def _size(value: Any) -> tuple[int, ...]:
    if not _are_sizes(value):
        raise FormatError(f"a size is not a tuple of numbers: {DAMAGED}")
    return value


def _ordered_dict() -> dict[Any, Any]:
    """Always called without arguments: the items follow as opcodes."""
    return {}


def allowed() -> dict[str, Any]:
    """The globals that such a pickle may name."""
    calls = {
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch.Size": _size,
    }
    return {**STORAGES, **{name: Call(function) for name, function in calls.items()}}


def checkpoint_of(path: Path, value: Any) -> Checkpoint:
    """The checkpoint that a saved value is. Raises FormatError if it is no dictionary of tensors."""
    tensors, metadata = _state_dict(value)
    return Checkpoint(path, {name: tensor.lazy() for name, tensor in tensors.items()}, metadata, CONTAINER)


def _state_dict(value: Any) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """The tensors and the scalars of a saved value."""
    metadata: dict[str, str] = {}
    for _ in range(MAX_WRAPPING):
        if not isinstance(value, dict):
            break
        named = {name: item for name, item in value.items() if isinstance(name, str)}
        metadata |= {name: str(item) for name, item in named.items() if isinstance(item, str | int | float)}
        tensors = {name: item for name, item in named.items() if isinstance(item, Tensor)}
        inner = [named[name] for name in WRAPPERS if isinstance(named.get(name), dict)]
        if tensors or not inner:
            return tensors, metadata
        value = inner[0]
    kind = "a bare tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise FormatError(f"it holds {kind}, not a dictionary of tensors: save model.state_dict() with torch.save")
