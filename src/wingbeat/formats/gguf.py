"""GGUF, llama.cpp's format: typed metadata, a table of tensors, then their bytes, some of them quantised.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: the magic, a version, the numbers of
tensors and of metadata; the metadata (key, type, value); for each tensor its name, dimensions (innermost first), type
and offset; padding to `general.alignment`; the data, from which offsets count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from wingbeat.formats import blocks
from wingbeat.formats.blocks import BlockKind
from wingbeat.formats.fields import Fields
from wingbeat.formats.lazy import (
    DAMAGED,
    Checkpoint,
    FileRange,
    FormatError,
    LazyTensor,
    MappedFile,
    UnsupportedFormatError,
    check_overlap,
    check_shape,
)

CONTAINER = "GGUF"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER = 128 << 20  # bytes; a vocabulary of 256,000 tokens with its merges takes 15 MB
MAX_TENSORS = 1 << 17
MAX_KEYS = 1 << 16
MAX_KEY = 1 << 16  # bytes, as the format says
MAX_TEXT = 1 << 20  # bytes; a chat template or a licence
MAX_TEXTS = 1 << 21  # in all lists, since each is walked over
MAX_DIMS = 4  # as in ggml
MAX_ALIGNMENT = 1 << 16
TENSOR_BYTES, KEY_BYTES = 32, 13  # the least that the entry of a tensor and of a key takes

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
PLAIN = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    24: np.dtype("i1"),
    25: np.dtype("<i2"),
    26: np.dtype("<i4"),
    27: np.dtype("<i8"),
    28: np.dtype("<f8"),
    30: np.dtype(ml_dtypes.bfloat16),
}
QUANTISED = {
    2: blocks.Q4_0,
    3: blocks.Q4_1,
    6: blocks.Q5_0,
    7: blocks.Q5_1,
    8: blocks.Q8_0,
    10: blocks.Q2_K,
    11: blocks.Q3_K,
    12: blocks.Q4_K,
    13: blocks.Q5_K,
    14: blocks.Q6_K,
}
TOKENIZER, TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.tokens"
WORLD = "rwkv"
"""What the former says of a file whose latter lists World tokens."""

OTHERS = {15: "Q8_K", 20: "IQ4_NL", 23: "IQ4_XS", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file. Quantised tensors come as float32, decoded when read.

    The metadata's numbers come as texts; its lists of texts, as bytes, are in `lists`; other lists are left out.
    Raises FormatError if it is damaged, UnsupportedFormatError for a part of it that is not read.
    """
    file = MappedFile(path)
    try:
        return _Reader(file).checkpoint(path)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from error


def world_texts(checkpoint: Checkpoint) -> Callable[[], list[bytes]] | None:
    """Reads the texts of the World tokens that a file carries, by id; None where it carries none."""
    return checkpoint.lists.get(TOKENS) if checkpoint.metadata.get(TOKENIZER) == WORLD else None


class _Reader:
    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.fields = Fields(file.bytes, len(MAGIC), MAX_HEADER)
        self.metadata: dict[str, str] = {}
        self.lists: dict[str, Callable[[], list[bytes]]] = {}
        self.texts = 0

    def checkpoint(self, path: Path) -> Checkpoint:
        tensors, keys = self.counts()
        for _ in range(keys):
            self.read_key()
        if self.metadata.get("split.count", "0") not in ("0", "1"):
            raise UnsupportedFormatError(
                "not yet supported: found one part of a split GGUF file. Join its parts with llama.cpp's"
                " `llama-gguf-split --merge`"
            )
        entries = [self.read_entry() for _ in range(tensors)]
        return Checkpoint(path, self.place(entries), self.metadata, CONTAINER, self.lists)

    def counts(self) -> tuple[int, int]:
        version = self.fields.integer("I")
        if version.to_bytes(4, "little")[::-1] in (n.to_bytes(4, "little") for n in VERSIONS):
            raise UnsupportedFormatError("not yet supported: found a big-endian GGUF file. Use the little-endian one")
        if version not in VERSIONS:
            raise UnsupportedFormatError(
                f"not yet supported: found version {version} of GGUF; 2 and 3 are read. Convert the model again"
            )
        tensors, keys = self.fields.integer("Q"), self.fields.integer("Q")
        if tensors > MAX_TENSORS or keys > MAX_KEYS or tensors * TENSOR_BYTES + keys * KEY_BYTES > self.fields.left:
            raise FormatError(f"it claims to have {tensors:,} tensors and {keys:,} remarks, which cannot be: {DAMAGED}")
        return tensors, keys

    def read_key(self) -> None:
        key, kind = self.text(MAX_KEY), self.fields.integer("I")
        if key in self.metadata or key in self.lists:
            raise FormatError(f"it has the remark {key[:60]!r} twice: {DAMAGED}")
        if kind == TEXT:
            self.metadata[key] = self.text(MAX_TEXT)
        elif kind == ARRAY:
            self.read_list(key)
        else:
            self.metadata[key] = str(self.fields.number(self.code(kind)))

    def read_list(self, key: str) -> None:
        kind, count = self.fields.integer("I"), self.fields.integer("Q")
        if kind == ARRAY:
            raise FormatError(f"its remark {key[:60]!r} is a list of lists, which no model needs: refused")
        if kind != TEXT:
            self.fields.skip(count * np.dtype(self.code(kind)).itemsize)
            return
        self.texts += count
        if self.texts > MAX_TEXTS or count * 8 > self.fields.left:
            raise FormatError(f"its remark {key[:60]!r} claims to have {count:,} texts, which cannot be: {DAMAGED}")
        start = self.fields.position
        self.fields.skip_texts(count)
        self.lists[key] = partial(_texts, self.file, start, self.fields.position, count)

    def code(self, kind: int) -> str:
        if kind not in NUMBERS:
            raise FormatError(f"its metadata has a value of the unknown type {kind}: {DAMAGED}")
        return NUMBERS[kind]

    def text(self, limit: int) -> str:
        length = self.fields.integer("Q")
        if length > limit:
            raise FormatError(f"a text in its header claims to have {length:,} bytes: {DAMAGED}")
        return self.fields.take(length).decode(errors="replace")

    def read_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape (outermost first), type and offset of a tensor."""
        name, count = self.text(MAX_KEY), self.fields.integer("I")
        if count > MAX_DIMS:
            raise FormatError(f"tensor {name[:100]!r} has {count:,} dimensions; {MAX_DIMS} are the most: {DAMAGED}")
        dims = tuple(self.fields.integer("Q") for _ in range(count))
        return name, dims[::-1], self.fields.integer("I"), self.fields.integer("Q")

    def place(self, entries: list[tuple[str, tuple[int, ...], int, int]]) -> dict[str, LazyTensor]:
        """The tensors, each of which must lie in the file and share no byte with another."""
        alignment = self.alignment()
        start = -(-self.fields.position // alignment) * alignment
        ranges: list[tuple[int, int]] = []
        tensors: dict[str, LazyTensor] = {}
        for name, shape, code, offset in entries:
            if name in tensors:
                raise FormatError(f"it has two tensors {name[:100]!r}: {DAMAGED}")
            kind, size = tensor_size(name, shape, code, PLAIN, QUANTISED)
            if offset % alignment or start + offset + size > len(self.file.bytes):
                raise FormatError(
                    f"tensor {name[:100]!r} cannot lie at {offset:,} with {size:,} bytes in a file of"
                    f" {len(self.file.bytes):,}: {DAMAGED}"
                )
            if size:
                ranges.append((start + offset, start + offset + size))
            place = FileRange(self.file, start + offset, size)
            tensors[name] = kind.tensor(place, shape) if isinstance(kind, BlockKind) else place.tensor(kind, shape)
        check_overlap(ranges)
        return tensors

    def alignment(self) -> int:
        text = self.metadata.get("general.alignment", "32")
        if not text.isdecimal() or len(text) > 6 or not 8 <= int(text) <= MAX_ALIGNMENT or int(text) % 8:
            raise FormatError(f"its general.alignment is {text[:20]!r}, not a multiple of 8: {DAMAGED}")
        return int(text)


def tensor_size(
    name: str, shape: tuple[int, ...], code: int, plain: dict[int, np.dtype], quantised: dict[int, BlockKind]
) -> tuple[np.dtype | BlockKind, int]:
    """The dtype or kind of block that a type number means, and a tensor's size in bytes. Raises FormatError."""
    kind = plain[code] if code in plain else quantised.get(code)
    if kind is None:
        known = ", ".join(["F32, F16", *(kind.name for kind in quantised.values())])
        raise UnsupportedFormatError(
            f"not yet supported: tensor {name[:100]!r} is of type {OTHERS.get(code, code)}; read are {known}."
            " Use the model in one of these"
        )
    try:
        if isinstance(kind, BlockKind):
            return kind, kind.size(shape, check_shape(shape, 8))
        return kind, check_shape(shape, kind.itemsize) * kind.itemsize
    except FormatError as error:
        raise FormatError(f"tensor {name[:100]!r}: {error}") from error


def _texts(file: MappedFile, start: int, end: int, count: int) -> list[bytes]:
    fields = Fields(file.bytes, start, end)
    return [fields.take(fields.integer("Q")) for _ in range(count)]
