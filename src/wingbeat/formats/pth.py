"""Torch's `.pth` files without torch.

Since torch 1.6 `torch.save` writes a zip archive of uncompressed entries in one folder: `data.pkl` is a pickle of the
saved value, in which a tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`;
`data/<key>` holds a storage's elements; `byteorder` is `little` or `big`. The storages are memory-mapped.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import (
    MAX_DIMENSIONS,
    Checkpoint,
    FileRange,
    FormatError,
    LazyTensor,
    MappedFile,
    check_shape,
)
from wingbeat.formats.unpickle import Call, unpickle

MAX_PICKLE = 4 << 20  # bytes; 2,500 tensors (the largest RWKV) need 0.4 MB, and a byte can cost 70 of memory
MAX_EXPANSION = 64  # of a compressed storage; weights hardly compress, so more is a trap ...
FREE_EXPANSION = 16 << 20  # ... unless the storage is this small, for a matrix of zeros
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

_DAMAGED = "the file is damaged or was not completely copied: download it again"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    NotImplementedError,  # an unknown compression
    RuntimeError,  # an encrypted entry
    ValueError,
)


def open_pth(path: Path) -> Checkpoint:
    """Open a zip checkpoint of `torch.save`: a dictionary of tensors, bare or under `state_dict`, `model` or `module`.

    Scalars beside the tensors (a step count, say) become metadata. Raises FormatError.
    """
    try:
        archive = _Archive(path)
        pickle = archive.read("data.pkl", MAX_PICKLE)
        value = unpickle(pickle, _allowed(), archive.storage)
        tensors, metadata = _state_dict(value)
        return Checkpoint(path, {name: tensor.lazy() for name, tensor in tensors.items()}, metadata)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Storage:
    """Elements of one entry; `load` gives its bytes, `count` elements of `dtype` or more."""

    dtype: np.dtype
    count: int
    load: Callable[[], NDArray[np.uint8]]
    place: FileRange
    swapped: bool


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
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


class _Archive:
    """The entries of a torch zip archive, with every size checked before it is believed."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except _ZIP_ERRORS as error:
            raise FormatError(f"the zip archive cannot be read ({error}): {_DAMAGED}") from error
        roots = [e.filename[: -len("data.pkl")] for e in entries if e.filename.endswith("/data.pkl")]
        if len(roots) != 1:
            found = ", ".join(repr(e.filename[:60]) for e in entries[:3]) or "nothing"
            raise FormatError(f"a zip archive, but not one of torch.save: it has no single data.pkl, but {found}")
        self.file = MappedFile(path)
        self.bytes = self.file.bytes
        self.entries = {e.filename[len(roots[0]) :]: e for e in entries if e.filename.startswith(roots[0])}
        self.swapped = self._byteorder() == b"big"

    def _byteorder(self) -> bytes:
        order = self.read("byteorder", 64).strip() if "byteorder" in self.entries else b"little"
        if order not in (b"little", b"big"):
            raise FormatError(f"byte order {order[:20]!r} is neither little nor big: {_DAMAGED}")
        return order

    def read(self, name: str, limit: int) -> bytes:
        """The content of a small entry, uncompressed."""
        entry = self.entries[name]
        if entry.file_size > limit:
            raise FormatError(
                f"its {name} has {entry.file_size:,} bytes; more than {limit:,} is not a model's: refused"
            )
        return self._loader(entry)().tobytes()

    def storage(self, persistent: Any) -> _Storage:
        """What the persistent id `("storage", type, key, device, element count)` names."""
        match persistent:
            case ("storage", np.dtype() as dtype, str(key), str(), int(count)) if count >= 0:
                pass
            case _:
                raise FormatError(f"a tensor's storage is not described as torch does: {_DAMAGED}")
        entry = self.entries.get(f"data/{key}")
        if entry is None:
            raise FormatError(f"storage {key[:60]!r} is missing from the archive: {_DAMAGED}")
        if count * dtype.itemsize > entry.file_size:
            raise FormatError(
                f"storage {key[:60]!r} should hold {count:,} elements of {dtype}, but has {entry.file_size:,} bytes:"
                f" {_DAMAGED}"
            )
        place = FileRange(self.file, self._data_start(entry), entry.compress_size)
        return _Storage(dtype, count, self._loader(entry), place, self.swapped and dtype.itemsize > 1)

    def _loader(self, entry: zipfile.ZipInfo) -> Callable[[], NDArray[np.uint8]]:
        """A function for the bytes of an entry, `entry.file_size` of them."""
        start = self._data_start(entry)
        if entry.compress_type == zipfile.ZIP_STORED:
            if entry.compress_size != entry.file_size:
                raise FormatError(f"{entry.filename[:60]!r} gives two different sizes: {_DAMAGED}")
            return lambda: self.bytes[start : start + entry.file_size]
        if entry.compress_type != zipfile.ZIP_DEFLATED:
            raise FormatError(f"{entry.filename[:60]!r} is compressed in an unknown way: save it again with torch.save")
        if entry.file_size > max(FREE_EXPANSION, MAX_EXPANSION * entry.compress_size):
            raise FormatError(
                f"{entry.filename[:60]!r} claims to grow from {entry.compress_size:,} to {entry.file_size:,} bytes when"
                " decompressed: refused. Save it again with torch.save, which does not compress"
            )
        return lambda: self._inflate(entry, start)

    def _data_start(self, entry: zipfile.ZipInfo) -> int:
        """Where the entry's bytes begin: behind its local header, whose extra field only the local header knows."""
        header = (
            self.bytes[entry.header_offset : entry.header_offset + 30].tobytes() if entry.header_offset >= 0 else b""
        )
        if len(header) != 30 or not header.startswith(b"PK\x03\x04"):
            raise FormatError(f"{entry.filename[:60]!r} is not where the archive says: {_DAMAGED}")
        if entry.flag_bits & 1:
            raise FormatError("the archive is encrypted: unpack it and save it again with torch.save")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = entry.header_offset + 30 + lengths
        if start + entry.compress_size > len(self.bytes):
            raise FormatError(f"{entry.filename[:60]!r} reaches beyond the end of the file: {_DAMAGED}")
        return start

    def _inflate(self, entry: zipfile.ZipInfo, start: int) -> NDArray[np.uint8]:
        packed = self.bytes[start : start + entry.compress_size].data
        try:
            data = zlib.decompressobj(-15).decompress(packed, entry.file_size) if entry.file_size else b""
        except zlib.error as error:
            raise FormatError(f"{entry.filename[:60]!r} cannot be decompressed: {_DAMAGED}") from error
        if len(data) != entry.file_size:
            raise FormatError(f"{entry.filename[:60]!r} is shorter than it says: {_DAMAGED}")
        return np.frombuffer(data, np.uint8)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not (isinstance(storage, _Storage) and _is_size(offset) and _are_sizes(shape) and _are_sizes(strides)):
        raise FormatError(f"a tensor is not described as torch does: {_DAMAGED}")
    if len(shape) != len(strides):
        raise FormatError(f"a tensor has {len(shape)} dimensions but {len(strides)} strides: {_DAMAGED}")
    size = check_shape(shape, storage.dtype.itemsize)
    end = offset + (1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if size else 0)
    # A tensor that repeats elements (torch's expand) could claim any size.
    if end > storage.count or size > storage.count:
        raise FormatError(
            f"a tensor of {size:,} elements needs the first {end:,} of a storage that has {storage.count:,}: {_DAMAGED}"
        )
    if not size:  # no element, so no stride matters, and NumPy need not check them
        offset, strides = 0, (0,) * len(shape)
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise FormatError(f"a parameter is not a tensor: {_DAMAGED}")
    return tensor


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _are_sizes(value: Any) -> bool:
    # The length is checked first: one huge tuple could be shared by very many tensors.
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(map(_is_size, value))


def _size(value: Any) -> tuple[int, ...]:
    if not _are_sizes(value):
        raise FormatError(f"a size is not a tuple of numbers: {_DAMAGED}")
    return value


def _ordered_dict() -> dict[Any, Any]:
    """Always called without arguments: the items follow as opcodes."""
    return {}


def _allowed() -> dict[str, Any]:
    calls = {
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch.Size": _size,
    }
    return {**STORAGES, **{name: Call(function) for name, function in calls.items()}}


def _state_dict(value: Any) -> tuple[Mapping[str, _Tensor], dict[str, str]]:
    """The tensors and the scalars of a saved value."""
    metadata: dict[str, str] = {}
    for _ in range(MAX_WRAPPING):
        if not isinstance(value, dict):
            break
        named = {name: item for name, item in value.items() if isinstance(name, str)}
        metadata |= {name: str(item) for name, item in named.items() if isinstance(item, str | int | float)}
        tensors = {name: item for name, item in named.items() if isinstance(item, _Tensor)}
        inner = [named[name] for name in WRAPPERS if isinstance(named.get(name), dict)]
        if tensors or not inner:
            return tensors, metadata
        value = inner[0]
    kind = "a bare tensor" if isinstance(value, _Tensor) else f"a {type(value).__name__}"
    raise FormatError(f"it holds {kind}, not a dictionary of tensors: save model.state_dict() with torch.save")
