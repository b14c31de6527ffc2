"""Torch's format from before the zip archives: a real file, and damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.torch_zip import (
    call,
    dictionary,
    document,
    global_,
    integer,
    tuple_,
    unicode_,
)
from wingbeat.formats.checkpoint import Checkpoint, FormatError, open_checkpoint
from wingbeat.formats.torch_legacy import MAGIC

FIXTURE = Path(__file__).parents[1] / "fixtures" / "torch" / "legacy.pth"
COUNTING = np.arange(24, dtype=np.float32).reshape(4, 6)


def test_tensors_saved_by_torch() -> None:
    checkpoint = open_checkpoint(FIXTURE)
    expected = {
        "float32": COUNTING,
        "float16": COUNTING.astype(np.float16),
        "bfloat16": COUNTING.astype(ml_dtypes.bfloat16),
        "int64": COUNTING.astype(np.int64),
        "bool": COUNTING % 2 == 0,
        "transposed": COUNTING.T,
        "rows": COUNTING[1:3],
        "every_other_column": COUNTING[:, ::2],
        "scalar": np.array(7, np.float32),
        "empty": np.empty((0, 3), np.float32),
        "parameter": COUNTING,
    }
    assert list(checkpoint) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(checkpoint[key].read(), array, err_msg=key, strict=True)


def storage(key: str = "0", count: int = 2, kind: str = "FloatStorage", view: bytes = b"N") -> bytes:
    items = (unicode_("storage"), global_("torch", kind), unicode_(key), unicode_("cpu"), integer(count), view)
    return tuple_(*items) + b"Q"


def tensor(of: bytes, shape: int = 2) -> bytes:
    flags = (
        integer(0),
        tuple_(integer(shape)),
        tuple_(integer(1)),
        b"\x89",
        global_("collections", "OrderedDict") + b")R",
    )
    return call(global_("torch._utils", "_rebuild_tensor_v2"), of, *flags)


VERSION, SYSTEM = document(integer(1001)), document(dictionary({"little_endian": b"\x88"}))
KEYS = document(b"](" + unicode_("0") + b"e")
VALUE = document(dictionary({"x": tensor(storage())}))
DATA = struct.pack("<Qff", 2, 1.5, 2.5)


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "old.pth"
    path.write_bytes(content)
    return path


def opened(tmp_path: Path, value: bytes = VALUE, keys: bytes = KEYS, data: bytes = DATA) -> Checkpoint:
    return open_checkpoint(write(tmp_path, MAGIC + VERSION + SYSTEM + value + keys + data))


def test_big_endian(tmp_path: Path) -> None:
    system = document(dictionary({"little_endian": b"\x89"}))
    path = write(tmp_path, MAGIC + VERSION + system + VALUE + KEYS + struct.pack(">Qff", 2, 1.5, 2.5))
    np.testing.assert_array_equal(open_checkpoint(path)["x"].read(), [1.5, 2.5])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value": document(call(global_("posix", "system"), unicode_("no")))}, r"asks to load 'posix\.system'"),
        ({"value": document(dictionary({"x": tensor(storage(count=2**60))}))}, "2 elements in place of 1,152,921"),
        ({"value": document(dictionary({"x": tensor(storage(view=tuple_(integer(1))))}))}, "not described as torch"),
        ({"value": document(dictionary({"x": tensor(storage()), "y": tensor(storage(count=3))}))}, "in two ways"),
        ({"value": document(dictionary({"x": tensor(storage(), 3)}))}, "needs the first 3 of a storage that has 2"),
        ({"keys": document(b"]")}, "its storages are not those"),
        ({"keys": document(b"](" + unicode_("0") + b"]e")}, "its storages are not those"),
        ({"data": DATA[:-1]}, "ends too early, by 1 bytes"),
        ({"data": b""}, "ends too early, by 8 bytes"),
        ({"keys": b"", "data": b""}, "pickle inside ends too early"),
    ],
)
def test_damaged_and_hostile_files(tmp_path: Path, changed: dict[str, bytes], message: str) -> None:
    with pytest.raises(FormatError, match=rf"old\.pth: .*({message})"):
        opened(tmp_path, **changed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MAGIC + document(integer(1000)), "version 1000 of torch's old format"),
        (MAGIC + VERSION + document(b"N"), "does not say its byte order"),
        (MAGIC, "ends too early"),
    ],
)
def test_wrong_beginnings(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_checkpoint(write(tmp_path, content))
