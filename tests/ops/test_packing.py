"""Packed weights hold the checkpoint's numbers, where the kernels look for them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.ops.models import DTYPES, Shape, native
from tests.random_models import normal
from wingbeat.ops import cpu
from wingbeat.ops.quantize import LEVELS, QUANTIZERS, round_bfloat16
from wingbeat.ops.reference import layer_norm
from wingbeat.ops.table import BFLOAT16

pytestmark = pytest.mark.skipif(not cpu.available(), reason="built without a C++ compiler: there are no native kernels")

LANES = 16
LAYOUT = "3-little"
DIGESTS = {
    "float32": "113c7da712d8470a",
    "bfloat16": "05a451a3a09012b6",
    "int8": "c9825bae253af375",
    "int4": "54c7185e8001198e",
    "nf4": "7bfbfcf892de2d9b",
    "sf4": "76b8831d2ae52bb4",
}
"""Of a matrix packed in each format, also by K (but codes of levels), under that layout."""

PLACES = {
    "float32": (np.float32, 1, 0),
    "bfloat16": (BFLOAT16, 2, 0),
    "int8": (np.uint8, 4, 128),
    "int4": (np.uint8, 8, 8),
    "nf4": (np.uint8, 8, 0),
    "sf4": (np.uint8, 8, 0),
}
"""The type of a value, how many of a row lie together, and what zero is."""


def program(threads: int = 2):
    from wingbeat import _kernels

    return _kernels.Program("", threads, 100, 16)


def pack(kind: str, storage: str, array: np.ndarray, norm: tuple[np.ndarray, np.ndarray] | None = None):
    """Both blobs of an array: float32, or 16 bits as they lie."""
    p = program()
    given = array.view(np.uint16) if array.dtype.itemsize == 2 else array
    return p.packed(p.add_weight(kind, storage, given, array.dtype.name, norm))


def unpacked(storage: str, data: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The numbers of a packed matrix: float32, or the integers of its blocks."""
    number, together, zero = PLACES[storage]
    if together == 8:
        data = np.concatenate([data.reshape(-1, 4) & 15, data.reshape(-1, 4) >> 4], axis=1).reshape(-1)
    k = -(-columns // 64) * 64
    values = data.view(number).reshape(-1, k // together, LANES, together).transpose(0, 2, 1, 3).reshape(-1, k)
    numbers = values[:rows, :columns]
    return np.array(LEVELS[storage], np.float32)[numbers] if storage in LEVELS else numbers.astype(np.float32) - zero


@pytest.mark.parametrize("shape", [(16, 64), (37, 131), (70, 48), (1, 1)])
@pytest.mark.parametrize("source", [np.float32, np.float16, BFLOAT16])
def test_a_matrix_is_what_the_reference_makes_of_it(source: type, shape: tuple[int, int]) -> None:
    w = normal(1, "w", *shape).astype(source)
    w.reshape(-1)[:: max(1, w.size // 5)] *= np.float32(1e-3).astype(source)
    wide = w.astype(np.float32)
    for storage, want in (("float32", wide), ("bfloat16", round_bfloat16(wide))):
        data, scales = pack("matrix", storage, w)
        assert (unpacked(storage, data, *shape) == want).all()
        assert scales.size == 0
    for storage, quantize in QUANTIZERS.items():
        data, scales = pack("matrix", storage, w)
        values, scale = quantize(wide)
        assert (unpacked(storage, data, *shape) == values.reshape(len(w), -1)[:, : shape[1]]).all()
        blocks = scales.size // 2 // (-(-len(w) // 64) * 64)
        lanes = scales.view(BFLOAT16).reshape(-1, blocks, LANES).transpose(0, 2, 1).reshape(-1, blocks)
        assert (lanes[: len(w), : scale.shape[1]].astype(np.float32) == scale).all()


def test_every_float16_is_widened_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    data, _ = pack("matrix", "float32", halves)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(unpacked("float32", data, 256, 256), halves.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("storage", DTYPES)
def test_the_order_in_which_an_array_lies_does_not_matter(storage: str) -> None:
    w = normal(2, "w", 40, 100)
    want = pack("matrix", storage, w)
    for other in (np.asfortranarray(w), np.repeat(np.repeat(w, 2, 0), 3, 1)[::2, ::3]):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(pack("matrix", storage, other), want, strict=True))


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("columns", [1, 63, 130])
def test_the_rows_of_a_table_are_normalised(columns: int, storage: str) -> None:
    table, weight, bias = normal(3, "t", 300, columns), normal(3, "w", columns), normal(3, "b", columns)
    data, _ = pack("table", storage, table, (weight, bias))
    rows = data.view(np.float32 if storage == "float32" else BFLOAT16).reshape(300, -1).astype(np.float32)
    want = layer_norm(table, weight, bias, 1e-5)
    assert np.abs(rows[:, :columns] - want).max() <= (1e-5 if storage == "float32" else 2e-2) * np.abs(want).max()
    assert not rows[:, columns:].any()


@pytest.mark.parametrize("storage", DIGESTS)
def test_the_layout_has_another_number_when_it_changes(storage: str) -> None:
    w = normal(4, "w", 70, 200)
    kinds = ("matrix",) if storage in LEVELS else ("matrix", "matrix by K")
    blobs = [blob for kind in kinds for blob in pack(kind, storage, w)]
    digest = hashlib.sha256(b"".join(blob.tobytes() for blob in blobs)).hexdigest()
    found = cpu.packed_layout(), digest[:16]
    assert found == (LAYOUT, DIGESTS[storage]), (
        "packed weights of earlier versions lie in users' caches: raise kPackedLayout in native/packing.hpp, "
        "then put the new layout and digests here"
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_weights_serve_every_kernel_level(dtype: str) -> None:
    packed = [dict(native(Shape(), dtype, level=level).packed_weights()) for level in cpu.levels()]
    for other in packed[1:]:
        assert other.keys() == packed[0].keys()
        for name, weight in other.items():
            assert weight[:4] == packed[0][name][:4]
            assert weight.data.tobytes() == packed[0][name].data.tobytes(), name
            assert weight.scales.tobytes() == packed[0][name].scales.tobytes(), name


def test_packed_bytes_that_do_not_fit_are_refused() -> None:
    good = dict(native(Shape(), "int8", level="").packed_weights())["head"]
    p = program()
    p.add_packed(*good)
    for bad in (
        good._replace(rows=good.rows + 64),
        good._replace(columns=good.columns + 64),
        good._replace(format="bfloat16"),
        good._replace(scales=good.scales[:0]),
        good._replace(data=np.append(good.data, np.uint8(0))[1:]),  # not aligned
    ):
        with pytest.raises(ValueError, match="packed bytes"):
            p.add_packed(*bad)
    with pytest.raises(ValueError, match="kind"):
        p.add_packed(*good._replace(kind="cube"))


def test_a_checksum_sees_every_byte_and_no_thread() -> None:
    data = np.frombuffer(normal(5, "c", 700_001).tobytes(), np.uint8)[:-1].copy()  # more than one piece, and ragged
    one, many = program(1), program(3)
    want = one.checksum(data)
    assert many.checksum(data) == want
    seen = {want, one.checksum(data[:-1]), one.checksum(data[:0])}
    for place in (0, 1, 63, 64, 1 << 20, len(data) - 1):
        data[place] ^= 1
        seen.add(one.checksum(data))
        data[place] ^= 1
    assert len(seen) == 9
