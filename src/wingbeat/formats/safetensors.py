"""The safetensors format: a length, a JSON header, then the tensors' bytes.

Layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length N, N bytes of JSON
`{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}`, then the data; offsets count
from its start. Values are little-endian and row-major.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.lazy import (
    DAMAGED,
    Checkpoint,
    FileRange,
    FormatError,
    LazyTensor,
    MappedFile,
    check_overlap,
    check_shape,
)

MAX_HEADER = 16 << 20  # bytes; 100,000 tensors need less, and parsed JSON takes twenty times the memory

PIECE = 16 << 20  # bytes written at a time
Progress = Callable[[int, int], None]

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def open_safetensors(path: Path) -> Checkpoint:
    """Open a `.safetensors` file; raises FormatError if it is damaged or holds an unknown dtype."""
    file = MappedFile(path)
    data = file.bytes
    try:
        length = int.from_bytes(data[:8].tobytes(), "little")
        if length > min(MAX_HEADER, len(data) - 8):
            raise FormatError(f"its header should have {length:,} bytes, the file has {len(data):,}: {DAMAGED}")
        header = _parse(data[8 : 8 + length].tobytes())
        metadata = _metadata(header.pop("__metadata__", {}))
        ranges: list[tuple[int, int]] = []
        tensors = {name: _tensor(name, entry, file, 8 + length, ranges) for name, entry in header.items()}
        check_overlap(ranges)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    return Checkpoint(path, tensors, metadata, "safetensors")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"its header is not JSON ({error}): {DAMAGED}") from error
    if not isinstance(header, dict):
        raise FormatError(f"its header is not a JSON object: {DAMAGED}")
    return header


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError("its __metadata__ is not a map of strings: write the file again with another tool")
    return value


def _tensor(name: str, entry: Any, file: MappedFile, start: int, ranges: list[tuple[int, int]]) -> LazyTensor:
    """One tensor of the header, of data that begins at `start`; its place goes to `ranges`."""
    available = len(file.bytes) - start
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise FormatError(f"the header's entry of {name[:100]!r} lacks dtype, shape or data_offsets: {DAMAGED}")
    if not all(type(n) is int for n in shape):
        raise FormatError(f"the shape of {name[:100]!r} is not a list of whole numbers: {DAMAGED}")
    dtype = DTYPES.get(code)
    if dtype is None:
        raise FormatError(f"tensor {name[:100]!r} has dtype {code[:20]!r}; known are {', '.join(DTYPES)}")
    size = check_shape(tuple(shape), dtype.itemsize)
    if not 0 <= begin <= end <= available or end - begin != size * dtype.itemsize:
        raise FormatError(
            f"tensor {name[:100]!r} of {size:,} {code} cannot lie in bytes {begin:,} to {end:,} of {available:,}:"
            f" {DAMAGED}"
        )
    if end > begin:
        ranges.append((begin, end))
    return FileRange(file, start + begin, end - begin).tensor(dtype, tuple(shape))


def save_safetensors(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write `arrays` to `path`; the file appears complete or not at all.

    Raises ValueError for a dtype that the format lacks.
    """

    def lazy(array: np.ndarray) -> LazyTensor:
        return LazyTensor(array.shape, array.dtype, lambda: array)

    write_safetensors(path, {name: lazy(array) for name, array in arrays.items()}, metadata)


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str],
    *,
    dtype: np.dtype | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `tensors` to `path`, as `dtype` or as they are; the file appears complete or not at all.

    They are written one after the other: at most one tensor is in memory at a time; of one that is mapped and not
    computed, a piece. `progress` gets the bytes written and those in all. Raises ValueError for a dtype that the
    format lacks, and for a number that is too large for `dtype`.
    """
    path = Path(path)
    stored = {name: (dtype or tensor.dtype).newbyteorder("<") for name, tensor in tensors.items()}
    header, total = _header(tensors, stored, metadata)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    done = 0
    try:
        with temporary.open("xb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for name, tensor in tensors.items():
                tensor.announce()
                for piece in _pieces(tensor.read()):
                    plain = _as_stored(piece, stored[name], name)
                    file.write(plain.reshape(-1).view(np.uint8).data)
                    done += plain.nbytes
                    if progress is not None:
                        progress(done, total)
                tensor.release()
            file.flush()
            os.fsync(file.fileno())  # else a power failure after the rename could leave an empty file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _header(
    tensors: Mapping[str, LazyTensor], stored: Mapping[str, np.dtype], metadata: Mapping[str, str]
) -> tuple[bytes, int]:
    """The header, padded so that the data begins at a multiple of 8, and the bytes of the data."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        code = _NAMES.get(stored[name])
        if code is None:
            raise ValueError(f"tensor {name!r} is {tensor.dtype}, which safetensors cannot hold")
        end = position + tensor.size * stored[name].itemsize
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % 8), position


def _pieces(array: NDArray) -> Iterator[NDArray]:
    """The array in blocks of rows."""
    if array.ndim == 0 or array.nbytes <= PIECE:
        yield array
        return
    rows = max(1, PIECE * len(array) // array.nbytes)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _as_stored(piece: NDArray, dtype: np.dtype, name: str) -> NDArray:
    if piece.dtype == dtype:
        return np.ascontiguousarray(piece)
    with np.errstate(over="ignore"):
        plain = np.ascontiguousarray(piece, dtype)
    if dtype == np.float16 and not np.array_equal(np.isfinite(plain), np.isfinite(piece)):
        raise ValueError(f"tensor {name!r} has numbers above 65504, which float16 cannot hold")
    return plain
