"""Writes torch's zip checkpoints in pure Python, so that tests need no torch and can also write wrong ones.

A checkpoint is a zip archive of uncompressed entries under one folder: `data.pkl` (a protocol-2 pickle in which each
tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage named by a persistent id), `byteorder`, `version`,
and one entry `data/<key>` per storage, whose bytes begin at a multiple of 64.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

ALIGNMENT = 64
LOCAL_HEADER = 30  # bytes of a zip entry's local header before its name

STORAGE_TYPES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}


def global_(module: str, name: str) -> bytes:
    """The opcode that pushes a global."""
    return b"c" + f"{module}\n{name}\n".encode()


def unicode_(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_(*arguments) + b"R"


def storage(kind: str, key: str, count: int) -> bytes:
    """The persistent id of a storage of `count` elements."""
    items = (unicode_("storage"), global_("torch", kind), unicode_(key), unicode_("cpu"), integer(count))
    return tuple_(*items) + b"Q"


def tensor(kind: str, key: str, count: int, offset: int, shape: Sequence[int], strides: Sequence[int]) -> bytes:
    """A tensor over a storage; offset and strides are in elements."""
    return call(
        global_("torch._utils", "_rebuild_tensor_v2"),
        storage(kind, key, count),
        integer(offset),
        tuple_(*map(integer, shape)),
        tuple_(*map(integer, strides)),
        b"\x89",
        global_("collections", "OrderedDict") + b")R",
    )


def dictionary(items: Mapping[str, bytes]) -> bytes:
    body = b"".join(unicode_(name) + value for name, value in items.items())
    return b"}(" + body + b"u"


def document(value: bytes) -> bytes:
    """A whole pickle whose value is `value`."""
    return b"\x80\x02" + value + b"."


def write_archive(
    path: Path,
    pickle: bytes,
    storages: Mapping[str, bytes],
    *,
    byteorder: bytes | None = b"little",
    folder: str = "archive",
    compression: int = zipfile.ZIP_STORED,
    aligned: bool = True,
) -> None:
    """Write the archive as torch does; the keywords make the unusual ones."""
    entries = {"data.pkl": pickle}
    if byteorder is not None:
        entries["byteorder"] = byteorder
    entries |= {f"data/{key}": data for key, data in storages.items()}
    entries["version"] = b"3\n"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(f"{folder}/{name}")
            info.compress_type = compression
            if aligned:
                info.extra = _padding(archive.start_dir, len(info.filename))
            archive.writestr(info, data)


def _padding(position: int, name_length: int) -> bytes:
    """A zip extra field that makes the data after it begin at a multiple of 64."""
    fill = -(position + LOCAL_HEADER + name_length + 4) % ALIGNMENT
    return b"FB" + struct.pack("<H", fill) + b"Z" * fill


def write_torch_zip(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Save arrays as `torch.save(dict of tensors)` would; Fortran-ordered ones keep their strides."""
    items, storages = {}, {}
    for index, (name, array) in enumerate(arrays.items()):
        key = str(index)
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            storages[key] = array.T.tobytes()
        else:
            array = np.ascontiguousarray(array).reshape(array.shape)
            storages[key] = array.tobytes()
        strides = [step // array.itemsize for step in array.strides]
        items[name] = tensor(STORAGE_TYPES[array.dtype], key, array.size, 0, array.shape, strides)
    write_archive(path, document(dictionary(items)), storages)
