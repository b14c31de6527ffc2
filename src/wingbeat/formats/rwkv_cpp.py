"""rwkv.cpp's `.bin` files.

Layout (its docs/FILE_FORMAT.md), little-endian 32-bit numbers: magic, version, vocabulary size, width, layers, type;
then for each tensor the number of dimensions, the length of its name, type, dimensions (innermost first), the name
and its data, up to the end of the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wingbeat.formats import blocks
from wingbeat.formats.blocks import BlockKind
from wingbeat.formats.fields import Fields
from wingbeat.formats.gguf import tensor_size
from wingbeat.formats.lazy import (
    DAMAGED,
    Checkpoint,
    FileRange,
    FormatError,
    LazyTensor,
    MappedFile,
    UnsupportedFormatError,
)

CONTAINER = "rwkv.cpp"
MAGIC = b"fmgg"
VERSIONS = (100, 101)
MAX_TENSORS = 1 << 17
MAX_NAME = 1 << 10
MAX_DIMS = 4

PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
QUANTISED = {2: blocks.Q4_0, 3: blocks.Q4_1, 7: blocks.Q5_0, 8: blocks.Q5_1, 9: blocks.Q8_0}


def open_rwkv_cpp(path: Path) -> Checkpoint:
    """Open a file of rwkv.cpp. Quantised tensors come as float32, decoded when read.

    Raises FormatError if it is damaged, UnsupportedFormatError for old versions.
    """
    file = MappedFile(path)
    try:
        return Checkpoint(path, _tensors(file), {}, CONTAINER)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from error


def _tensors(file: MappedFile) -> dict[str, LazyTensor]:
    fields = Fields(file.bytes, len(MAGIC), len(file.bytes))
    version = fields.integer("I")
    if version not in VERSIONS:
        raise UnsupportedFormatError(
            f"not yet supported: found version {version} of rwkv.cpp's format; 100 and 101 are read"
        )
    fields.skip(4 * 4)  # sizes, which the tensors tell, too
    tensors: dict[str, LazyTensor] = {}
    while fields.left:
        name, tensor = _tensor(fields, file, version)
        if name in tensors or len(tensors) >= MAX_TENSORS:
            raise FormatError(
                f"it has the tensor {name[:100]!r} twice, or more than {MAX_TENSORS:,} of them: {DAMAGED}"
            )
        tensors[name] = tensor
    return tensors


def _tensor(fields: Fields, file: MappedFile, version: int) -> tuple[str, LazyTensor]:
    dimensions, length, code = (fields.integer("I") for _ in range(3))
    if dimensions > MAX_DIMS or length > MAX_NAME:
        raise FormatError(f"a tensor has {dimensions:,} dimensions and a name of {length:,} bytes: {DAMAGED}")
    shape = tuple(fields.integer("I") for _ in range(dimensions))[::-1]
    name = fields.take(length).decode(errors="replace")
    kind, size = tensor_size(name, shape, code, PLAIN, QUANTISED)
    if isinstance(kind, BlockKind) and version == VERSIONS[0]:
        raise UnsupportedFormatError(
            "not yet supported: found a file quantised by an old rwkv.cpp (version 100). Quantise the model again"
        )
    if size > fields.left:
        raise FormatError(f"tensor {name[:100]!r} needs {size:,} bytes where {fields.left:,} are left: {DAMAGED}")
    place = FileRange(file, fields.skip(size), size)
    return name, kind.tensor(place, shape) if isinstance(kind, BlockKind) else place.tensor(kind, shape)
