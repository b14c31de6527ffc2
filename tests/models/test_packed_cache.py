"""Packed weights on disk: exact, mapped in place of reading, and never trusted further than they are checked."""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.model_files import write_folder
from tests.random_models import cast, random_rwkv7, write_safetensors
from wingbeat.dtypes import DTYPES
from wingbeat.formats.packed import MAGIC, PREFIX, TEMPORARY
from wingbeat.models import Model, load_model
from wingbeat.models.packed_cache import cache_folder
from wingbeat.ops import cpu
from wingbeat.ops.cpu import CpuExecutable
from wingbeat.ops.table import StepBatch

pytestmark = pytest.mark.skipif(not cpu.available(), reason="built without a C++ compiler: there are no native kernels")

TOKENS = np.array([1, 5, 3, 299, 7], np.int32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    arrays = cast(random_rwkv7(2, 128, 300, ranks=(8, 12, 4, 20)), "bfloat16")
    return write_safetensors(tmp_path / "model.safetensors", arrays)


def load(source: Path, dtype: str = "int8", *, cache: bool = True) -> Model:
    return load_model(source, dtype=dtype, threads=2, backend="cpu", cache_packed=cache)


def logits(model: Model) -> bytes:
    step = StepBatch(TOKENS, np.zeros(1, np.int32), np.array([0, 5], np.int32), np.arange(5, dtype=np.int32))
    return np.array(model.executable.run(step, model.executable.layout.allocate(1))).tobytes()


def only(folder: Path) -> Path:
    """The one file of the folder, which holds no remains of another."""
    (path,) = folder.iterdir()
    return path


def edit(path: Path, place: int, *, keep_time: bool) -> None:
    """Flip a bit of a file."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x40]))
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("dtype", DTYPES)
def test_mapped_weights_are_those_that_were_packed(source: Path, folder: Path, dtype: str) -> None:
    want = logits(load(source, dtype, cache=False))
    assert not folder.exists()
    assert logits(load(source, dtype)) == want
    assert dtype in only(folder).name
    seen: list[tuple[int, int]] = []
    model = load_model(source, dtype=dtype, backend="cpu", cache_packed=True, progress=lambda *done: seen.append(done))
    assert seen == [(only(folder).stat().st_size,) * 2]  # nothing was read of the model's tensors
    assert logits(model) == want
    assert isinstance(model.executable, CpuExecutable)
    assert not any(w.data.flags.writeable for _, w in model.executable.packed_weights())
    assert model.executable.weight_bytes == load(source, dtype, cache=False).executable.weight_bytes  # type: ignore[attr-defined]


def test_each_dtype_has_its_file_and_each_level_has_not(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(source, "int8")
    load(source, "bfloat16")
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(times) == 2
    for level in cpu.levels():
        monkeypatch.setenv("WINGBEAT_KERNELS", level)
        want = logits(load(source, "int8", cache=False))
        assert logits(load(source, "int8")) == want
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_the_second_start_does_not_read_the_models_tensors(source: Path) -> None:
    want = logits(load(source))
    edit(source, -600, keep_time=True)  # in the head's last row, between two samples of the fingerprint
    assert logits(load(source, cache=False)) != want
    assert logits(load(source)) == want


def test_a_model_that_was_edited_is_packed_anew(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    want = logits(load(source))
    edit(source, -600, keep_time=False)
    with caplog.at_level(logging.INFO, "wingbeat.models"):
        edited = logits(load(source))
    assert edited != want
    assert edited == logits(load(source, cache=False))
    assert "it is of another time of the model's file" in caplog.text


def damages() -> dict[str, object]:
    def rewritten(change):
        return lambda path: path.write_bytes(change(path.read_bytes()))

    def version(data: bytes) -> bytes:
        return data[:8] + struct.pack("<I", 99) + data[12:]

    return {
        "empty": rewritten(lambda data: b""),
        "cut in the header": rewritten(lambda data: data[:100]),
        "cut in the weights": rewritten(lambda data: data[:-4096]),
        "longer": rewritten(lambda data: data + bytes(64)),
        "another file": rewritten(lambda data: b"GGUF" + data[4:]),
        "another version": rewritten(version),
        "a bit of the header": lambda path: edit(path, PREFIX.size + 10, keep_time=True),
        "a bit of the first weight": lambda path: edit(path, path.stat().st_size // 64 * 16, keep_time=True),
        "a bit of the last scale": lambda path: edit(path, -1, keep_time=True),
        "another layout": rewritten(lambda data: forged(data, b'"3-little"', b'"0-little"')),
        "another shape": rewritten(lambda data: forged(data, b'"rows":300', b'"rows":299')),
        "bytes that are not there": rewritten(lambda data: forged(data, b'"data":[0,', b'"data":[9999999999,')),
        "a number too large": rewritten(lambda data: forged(data, b'"rows":300', b'"rows":30000000000000000000000')),
    }


def forged(data: bytes, old: bytes, new: bytes) -> bytes:
    """The file with another header that is whole in itself; the weights stay where they were, or nearly."""
    import zlib

    _, version, length, _ = PREFIX.unpack(data[: PREFIX.size])
    start = -(-(PREFIX.size + length) // 4096) * 4096
    header = data[PREFIX.size : PREFIX.size + length]
    assert old in header
    header = header.replace(old, new)
    head = PREFIX.pack(MAGIC, version, len(header), zlib.crc32(header)) + header
    return head + bytes(-len(head) % 4096) + data[start:]


@pytest.mark.parametrize("name", damages())
def test_what_is_damaged_is_packed_anew_and_replaced(
    source: Path, folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    want = logits(load(source))
    whole = (path := only(folder)).read_bytes()
    damages()[name](path)  # type: ignore[operator]
    assert path.read_bytes() != whole
    assert logits(load(source)) == want
    assert "packing the model anew, since" in caplog.text
    assert only(folder).read_bytes() == whole
    caplog.clear()
    assert logits(load(source)) == want
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_files_of_other_layouts_and_abandoned_ones_are_removed(source: Path, folder: Path) -> None:
    load(source)
    path = only(folder)
    stem = path.name.removesuffix(f"{cpu.packed_layout()}.packed")
    (folder / f"{stem}0-little.packed").touch()
    (folder / f"{path.name}.ab12{TEMPORARY}").touch()
    os.utime(folder / f"{path.name}.ab12{TEMPORARY}", (time.time() - 7200,) * 2)
    (folder / f"{path.name}.cd34{TEMPORARY}").touch()  # another process may be writing this one
    (folder / "another-int8-0-little.packed").touch()
    path.unlink()
    load(source)
    names = {entry.name for entry in folder.iterdir()}
    assert names == {path.name, f"{path.name}.cd34{TEMPORARY}", "another-int8-0-little.packed"}


def test_a_folder_that_cannot_be_made_costs_a_warning(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path / "file"))
    assert logits(load(source)) == logits(load(source, cache=False))
    assert "the packed weights are not kept in" in caplog.text
    assert "name another folder in WINGBEAT_CACHE" in caplog.text


def test_a_full_disk_costs_a_warning_and_leaves_nothing(
    source: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a write beyond fails as on a full disk
    try:
        got = logits(load(source))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert got == logits(load(source, cache=False))
    assert "the packed weights are not kept in" in caplog.text
    assert list(folder.iterdir()) == []


def test_starts_at_the_same_time(source: Path, folder: Path) -> None:
    want = logits(load(source, cache=False))
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(logits(load(source)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 4
    assert only(folder).suffix == ".packed"


def test_the_folder_is_the_systems_or_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "models" / "packed"
    monkeypatch.delenv("WINGBEAT_CACHE")
    assert cache_folder().is_absolute()
    assert cache_folder().parts[-2:] == ("wingbeat", "packed") or "Cache" in cache_folder().parts


def test_a_change_of_any_file_of_a_folder_is_seen(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = cast(random_rwkv7(2, 128, 300, ranks=(8, 12, 4, 20)), "bfloat16")
    model = write_folder(tmp_path / "model", arrays, {}, shards=2)
    load(model)
    with caplog.at_level(logging.INFO, "wingbeat.models"):
        load(model / "config.json")
        assert "packed weights are mapped" in caplog.text
        os.utime(model / "model-00001-of-00002.safetensors", (2e9, 2e9))
        load(model)
        assert "packing the model anew" in caplog.text
    assert only(folder)
