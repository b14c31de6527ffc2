"""Torch's zip checkpoints: real ones, unusual ones and hostile ones."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.torch_zip import (
    STORAGE_TYPES,
    call,
    dictionary,
    document,
    global_,
    integer,
    storage,
    tensor,
    tuple_,
    unicode_,
    write_archive,
    write_torch_zip,
)
from wingbeat.formats.checkpoint import Checkpoint, FormatError, open_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "torch"
COUNTING = np.arange(24, dtype=np.float32).reshape(4, 6)


def open_pickle(tmp_path: Path, pickle: bytes, data: bytes = bytes(64), **options: object) -> Checkpoint:
    path = tmp_path / "model.pth"
    write_archive(path, pickle, {"0": data}, **options)  # type: ignore[arg-type]
    return open_checkpoint(path)


def open_tensor(tmp_path: Path, value: bytes, data: bytes = bytes(64)) -> Checkpoint:
    return open_pickle(tmp_path, document(dictionary({"t": value})), data)


# --- what torch.save really writes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensors.pth", "protocol4.pth"])
def test_tensors_saved_by_torch(name: str) -> None:
    checkpoint = open_checkpoint(FIXTURES / name)
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
        lazy = checkpoint[key]
        assert (lazy.shape, lazy.dtype) == (array.shape, array.dtype), key
        assert (lazy.size, lazy.nbytes) == (array.size, array.nbytes), key
        np.testing.assert_array_equal(lazy.read(), array, err_msg=key, strict=True)


def test_a_training_checkpoint_saved_by_torch() -> None:
    checkpoint = open_checkpoint(FIXTURES / "training.pth")
    np.testing.assert_array_equal(checkpoint["weight"].read(), np.arange(6).reshape(2, 3))
    assert checkpoint.metadata == {"epoch": "3"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("whole_module.pth", r"'torch\.nn\.modules\.linear\.Linear'.*save\(model\.state_dict\(\)"),
        ("bare_tensor.pth", "holds a bare tensor, not a dictionary"),
        ("expanded.pth", "1,000 elements needs the first 1 of a storage that has 1"),
    ],
)
def test_other_things_saved_by_torch(name: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_checkpoint(FIXTURES / name)


# --- variations of the format -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(STORAGE_TYPES), ids=str)
def test_round_trip(tmp_path: Path, dtype: np.dtype) -> None:
    arrays = {"a": COUNTING.astype(dtype), "b": np.asfortranarray(COUNTING.astype(dtype)), "c": np.zeros((), dtype)}
    write_torch_zip(tmp_path / "model.pth", arrays)
    checkpoint = open_checkpoint(str(tmp_path / "model.pth"))
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint[name].read(), array, strict=True)


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "model.pth", {"a": np.zeros((1024, 1024), np.float32)})
    checkpoint = open_checkpoint(tmp_path / "model.pth")
    tracemalloc.start()
    array = checkpoint["a"].read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes // 10
    assert array.flags.aligned
    assert not array.flags.writeable


def test_offset_and_strides(tmp_path: Path) -> None:
    data = np.arange(30, dtype=np.float32)
    checkpoint = open_tensor(tmp_path, tensor("FloatStorage", "0", 30, 5, (3, 2), (1, 10)), data.tobytes())
    np.testing.assert_array_equal(checkpoint["t"].read(), [[5, 15], [6, 16], [7, 17]])


def test_big_endian(tmp_path: Path) -> None:
    value = tensor("FloatStorage", "0", 3, 1, (2,), (1,))
    data = np.array([1, 2, 3], ">f4").tobytes()
    checkpoint = open_pickle(tmp_path, document(dictionary({"t": value})), data, byteorder=b"big")
    np.testing.assert_array_equal(checkpoint["t"].read(), np.array([2, 3], np.float32), strict=True)


def test_no_byte_order_means_little(tmp_path: Path) -> None:
    value = tensor("HalfStorage", "0", 1, 0, (1,), (1,))
    checkpoint = open_pickle(tmp_path, document(dictionary({"t": value})), b"\x00\x3c", byteorder=None)
    assert checkpoint["t"].read() == 1


@pytest.mark.parametrize("options", [{"aligned": False}, {"compression": zipfile.ZIP_DEFLATED}, {"folder": "other"}])
def test_repacked_archives(tmp_path: Path, options: dict[str, object]) -> None:
    value = tensor("FloatStorage", "0", 24, 0, (4, 6), (6, 1))
    checkpoint = open_pickle(tmp_path, document(dictionary({"t": value})), COUNTING.tobytes(), **options)
    array = checkpoint["t"].read()
    np.testing.assert_array_equal(array, COUNTING)
    assert array.flags.aligned
    assert not array.flags.writeable


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module"])
def test_wrapped_dictionaries(tmp_path: Path, wrapper: str) -> None:
    inner = dictionary({"t": tensor("FloatStorage", "0", 16, 0, (16,), (1,))})
    checkpoint = open_pickle(tmp_path, document(dictionary({wrapper: dictionary({"model": inner})})))
    assert list(checkpoint) == ["t"]


# --- what is refused --------------------------------------------------------------------------------------------------

REDUCE_SYSTEM = call(global_("posix", "system"), unicode_("echo no"))


@pytest.mark.parametrize(
    ("pickle", "message"),
    [
        (document(REDUCE_SYSTEM), r"asks to load 'posix\.system'"),
        (document(dictionary({"a": dictionary({"b": REDUCE_SYSTEM})})), r"'posix\.system'"),
        (document(b"\x8c\x02os\x8c\x06system\x93\x8c\x02no\x85R"), r"'os\.system'"),
        (document(call(global_("builtins", "eval"), unicode_("1"))), r"'builtins\.eval'"),
        (document(global_("torch", "FloatStorage") + b")R"), "not a tensor constructor"),
        (document(call(global_("collections", "OrderedDict"), b"]")), "damaged"),
        (document(b"(S'os'\ni"), "opcode b'S'"),
        (document(global_("torch", "FloatStorage") + b")\x81"), r"opcode b'\\x81'"),
        (document(b"(" * 100_000 + b"t" * 99_999), "damaged"),
        (document(b"}" + b")" + b"\x85" * 100_000 + b"Ns"), "key of type tuple"),
        (document(b"}q\x00X\x05\x00\x00\x00modelh\x00s"), "holds a dict"),
        (document(b"N"), "a NoneType, not a dictionary"),
        (document(b"h\x07"), "damaged"),
        (b"\x80\x02}", "ends too early"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "ends too early"),
        (b"\x80\x02ctorch", "ends too early"),
        (b"\x80\x09}.", "protocol 9"),
        (b"", "ends too early"),
        (document(b"t"), "damaged"),
        (document(b"R"), "damaged"),
        (document(b"}(Ks"), "damaged"),
        (document(b"X\x02\x00\x00\x00\xff\xfe"), "damaged"),
    ],
)
def test_hostile_and_damaged_pickles(tmp_path: Path, pickle: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_pickle(tmp_path, pickle)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor("FloatStorage", "0", 10**12, 0, (10**12,), (1,)), "should hold 1,000,000,000,000 elements"),
        (tensor("FloatStorage", "0", 17, 0, (17,), (1,)), "should hold 17 elements of float32, but has 64 bytes"),
        (tensor("FloatStorage", "0", 16, 1, (16,), (1,)), "needs the first 17 of a storage that has 16"),
        (tensor("FloatStorage", "0", 16, 0, (4, 4), (8, 1)), "needs the first 28"),
        (tensor("FloatStorage", "0", 16, 0, (10**9,), (0,)), "1,000,000,000 elements"),
        (tensor("FloatStorage", "0", 16, 0, (2**40, 2**40), (0, 0)), "absurdly large"),
        (tensor("FloatStorage", "0", 16, 0, (0, 2**40, 2**40), (0, 0, 0)), "absurdly large"),
        (tensor("FloatStorage", "0", 16, 0, (1,) * 40, (1,) * 40), "not described as torch does"),
        (tensor("FloatStorage", "0", 16, 0, (-1,), (1,)), "not described as torch does"),
        (tensor("FloatStorage", "0", 16, 4, (2,), (-1,)), "not described as torch does"),
        (tensor("FloatStorage", "0", 16, -4, (2,), (1,)), "not described as torch does"),
        (tensor("FloatStorage", "0", -1, 0, (0,), (1,)), "not described as torch does"),
        (tensor("FloatStorage", "0", 16, 0, (2, 2), (1,)), "2 dimensions but 1 strides"),
        (tensor("FloatStorage", "7", 16, 0, (2,), (1,)), "storage '7' is missing"),
        (tensor("FloatStorage", "../data.pkl", 1, 0, (1,), (1,)), "is missing"),
        (tensor("ComplexFloatStorage", "0", 1, 0, (1,), (1,)), r"'torch\.ComplexFloatStorage'"),
        (call(global_("torch._utils", "_rebuild_tensor_v2")), "damaged"),
        (call(global_("torch._utils", "_rebuild_parameter"), integer(1)), "parameter is not a tensor"),
        (call(global_("torch", "Size"), unicode_("a")), "not a tuple of numbers"),
        (tuple_(unicode_("storage"), integer(1)) + b"Q", "not described as torch does"),
        (storage("FloatStorage", "0", 2**70), "should hold"),
    ],
)
def test_impossible_tensors(tmp_path: Path, value: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_tensor(tmp_path, value)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    value = tensor("ByteStorage", "0", 100 << 20, 0, (100 << 20,), (1,))
    with pytest.raises(FormatError, match="claims to grow"):
        open_pickle(tmp_path, document(dictionary({"t": value})), bytes(100 << 20), compression=zipfile.ZIP_DEFLATED)


def test_huge_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"data\.pkl has 5,000,000 bytes"):
        open_pickle(tmp_path, bytes(5_000_000), compression=zipfile.ZIP_DEFLATED)


def test_an_entry_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    value = tensor("FloatStorage", "0", 1024, 0, (1024,), (1,))
    write_archive(path, document(dictionary({"t": value})), {"0": bytes(64)}, compression=zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    at = data.rindex(b"archive/data/0") - 46  # the entry in the central directory
    path.write_bytes(data[: at + 24] + struct.pack("<I", 4096) + data[at + 28 :])
    checkpoint = open_checkpoint(path)
    with pytest.raises(FormatError, match="shorter than it says"):
        checkpoint["t"].read()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "model.pth"
    write_torch_zip(path, {"a": COUNTING, "b": COUNTING})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(FormatError, match=r"model\.pth: the zip archive cannot be read.*download it again"):
        open_checkpoint(path)


def test_other_zip_archives(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"")
    with pytest.raises(FormatError, match=r"not one of torch\.save.*'photo\.jpg'"):
        open_checkpoint(path)


@pytest.mark.parametrize("byteorder", [b"middle", b"\xff"])
def test_unknown_byte_order(tmp_path: Path, byteorder: bytes) -> None:
    with pytest.raises(FormatError, match="neither little nor big"):
        open_pickle(tmp_path, document(b"}"), byteorder=byteorder)
