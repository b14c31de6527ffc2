"""safetensors files: those of the safetensors package, our own, and wrong ones."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from wingbeat.formats.checkpoint import FormatError, open_checkpoint
from wingbeat.formats.safetensors import DTYPES, save_safetensors

FIXTURE = Path(__file__).parents[1] / "fixtures" / "safetensors" / "tensors.safetensors"
COUNTING = np.arange(24, dtype=np.float32).reshape(4, 6)


def write_raw(tmp_path: Path, header: object, data: bytes = bytes(16), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_file_of_the_safetensors_package() -> None:
    checkpoint = open_checkpoint(FIXTURE)
    expected = {
        "float32": COUNTING,
        "float16": COUNTING.astype(np.float16),
        "bfloat16": COUNTING.astype(ml_dtypes.bfloat16),
        "int64": COUNTING.astype(np.int64),
        "bool": COUNTING % 2 == 0,
        "scalar": np.array(7, np.float32),
        "empty": np.empty((0, 3), np.float32),
    }
    assert set(checkpoint) == set(expected)
    for name, array in expected.items():
        assert (checkpoint[name].shape, checkpoint[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(checkpoint[name].read(), array, err_msg=name, strict=True)
    assert checkpoint.metadata == {"made by": "safetensors"}


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
def test_round_trip(tmp_path: Path, dtype: np.dtype) -> None:
    arrays = {
        "ü": COUNTING.astype(dtype),
        "turned": COUNTING.astype(dtype).T,
        "scalar": np.ones((), dtype),
        "none": np.zeros((0, 2), dtype),
    }
    save_safetensors(tmp_path / "a", arrays, {"key": "值"})
    checkpoint = open_checkpoint(tmp_path / "a")
    assert checkpoint.metadata == {"key": "值"}
    assert list(checkpoint) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint[name].read(), array, strict=True)


def test_big_endian_arrays_are_saved_little(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a", {"x": COUNTING.astype(">f4")}, {})
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "a")["x"].read(), COUNTING)


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "a", {"x": np.zeros((1024, 1024), np.float32)}, {})
    lazy = open_checkpoint(tmp_path / "a")["x"]
    tracemalloc.start()
    array = lazy.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes // 10
    assert not array.flags.writeable


def test_unaligned_data_is_copied(tmp_path: Path) -> None:
    header = json.dumps({"x": entry()}).encode()
    header += b" " * (-len(header) % 4 + 1)
    array = open_checkpoint(write_raw(tmp_path, header, np.arange(4, dtype=np.float32).tobytes()))["x"].read()
    np.testing.assert_array_equal(array, np.arange(4, dtype=np.float32), strict=True)
    assert array.flags.aligned
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "not JSON"),
        (b"{\xff}", "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not JSON"),
        ({"x": []}, "'x' lacks dtype, shape or data_offsets"),
        ({"x": {"dtype": "F32"}}, "lacks"),
        ({"x": entry(offsets=[0])}, "lacks"),
        ({"x": entry(offsets=[0, "16"])}, "lacks"),
        ({"x": entry(shape="4")}, "lacks"),
        ({"x": entry(shape=[4.0])}, "not a list of whole numbers"),
        ({"x": entry(shape=[True])}, "not a list of whole numbers"),
        ({"x": entry(dtype="F4")}, "dtype 'F4'; known are F64"),
        ({"x": entry(shape=[-4])}, "impossible"),
        ({"x": entry(shape=[1] * 40)}, "impossible"),
        ({"x": entry(shape=[2**40, 2**40])}, "absurdly large"),
        ({"x": entry(shape=[0, 2**40, 2**40], offsets=[0, 0])}, "absurdly large"),
        ({"x": entry(shape=[5])}, "cannot lie in bytes 0 to 16 of 16"),
        ({"x": entry(shape=[5], offsets=[0, 20])}, "cannot lie"),
        ({"x": entry(offsets=[16, 0])}, "cannot lie"),
        ({"x": entry(offsets=[-16, 0])}, "cannot lie"),
        ({"x": entry(), "y": entry(shape=[1], offsets=[8, 12])}, "two tensors share bytes 8 to 16"),
        ({"__metadata__": {"a": 1}}, "not a map of strings"),
        ({"__metadata__": "a"}, "not a map of strings"),
    ],
)
def test_wrong_headers(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(FormatError, match=rf"model\.safetensors: .*{message}"):
        open_checkpoint(write_raw(tmp_path, header))


@pytest.mark.parametrize("length", [10**6, 2**40, 2**64 - 1])
def test_wrong_header_lengths(tmp_path: Path, length: int) -> None:
    with pytest.raises(FormatError, match=f"header should have {length:,} bytes"):
        open_checkpoint(write_raw(tmp_path, {"x": entry()}, length=length))


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_safetensors(path, {"x": COUNTING}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="cannot lie in bytes 0 to 96 of 95"):
        open_checkpoint(path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    save_safetensors(path, {"x": COUNTING}, {})

    def no_space(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        save_safetensors(path, {"x": COUNTING + 1}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    np.testing.assert_array_equal(open_checkpoint(path)["x"].read(), COUNTING)


def test_dtypes_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'x' is complex64"):
        save_safetensors(tmp_path / "a", {"x": np.zeros(2, np.complex64)}, {})
    assert not list(tmp_path.iterdir())
