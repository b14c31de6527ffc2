"""open_checkpoint tells files apart by content and has an answer for everything that is not one."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.torch_zip import document, write_archive, write_torch_zip
from wingbeat.formats.checkpoint import FormatError, UnsupportedFormatError, open_checkpoint
from wingbeat.formats.safetensors import save_safetensors

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int32)}


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "one.safetensors", ARRAYS)
    save_safetensors(tmp_path / "two.pth", ARRAYS, {})
    for name in ("one.safetensors", "two.pth"):
        checkpoint = open_checkpoint(tmp_path / name)
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(checkpoint[key].read(), array, strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a Web page"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "begins with 00 01 02 03 04 05 06 07"),
        (b"\n<html><body>", "a Web page"),
        (b"<?xml version='1.0'?><Error>", "a Web page"),
        (b"\x1f\x8b\x08", "a compressed archive"),
        (b"PK\x05\x06" + bytes(18), "begins with 50 4b 05 06"),
        (b"tjgg\x03\0\0\0", "an old format of llama.cpp"),
        (b"1 '\\x00' 1\n2 '\\x01' 1\n", "a tokenizer's vocabulary"),
        (b'{"version": "1.0", "model": {}}', "a JSON file"),
        (b"\x80\x04\x95\0\0", "a Python pickle, but not one of torch's"),
        (b"wbpacked\1", "packed weights"),
        (b"GGUF\x04\x00\x00\x00", "not yet supported: found version 4 of GGUF"),
        (b"GGUF\x00\x00\x00\x03", "not yet supported: found a big-endian GGUF file"),
        (b"fmgg\x66\x00\x00\x00", "not yet supported: found version 102 of rwkv.cpp"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=re.escape(message)) as error:
        open_checkpoint(path)
    assert isinstance(error.value, UnsupportedFormatError) == ("not yet" in message)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"model\.pth does not exist"):
        open_checkpoint(tmp_path / "model.pth")


def test_path_that_no_system_has() -> None:
    with pytest.raises(FormatError, match=r"cannot be read|does not exist"):
        open_checkpoint("a\0b")


def read_all(path: Path) -> None:
    """Whatever the file holds, only FormatError may come out."""
    with contextlib.suppress(FormatError):
        for lazy in open_checkpoint(path).values():
            assert lazy.read().shape == lazy.shape


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    write_torch_zip(folder / "good.pth", ARRAYS)
    save_safetensors(folder / "good.safetensors", ARRAYS, {"k": "v"})
    return folder


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), head=st.sampled_from([b"", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{"]))
def test_random_bytes(folder: Path, data: bytes, head: bytes) -> None:
    path = folder / "random"
    path.write_bytes(head + data)
    read_all(path)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["good.pth", "good.safetensors"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=4),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_files(folder: Path, name: str, edits: list[tuple[float, bytes]], kept: float) -> None:
    data = bytearray((folder / name).read_bytes())
    for place, patch in edits:
        at = int(place * len(data))
        data[at : at + len(patch)] = patch
    path = folder / "damaged"
    path.write_bytes(data[: int(kept * len(data))])
    read_all(path)


PIECES = st.sampled_from(
    [bytes([code]) for code in b"(N\x88\x89]})t\x85\x86\x87aesub.QR\x93\x94"]
    + [
        b"K\x03",
        b"M\x01\x02",
        b"J\xff\xff\xff\xff",
        b"\x8a\x02\x00\x01",
        b"G" + bytes(8),
        b"X\x01\0\0\0a",
        b"\x8c\x010",
    ]
    + [b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"X\x07\0\0\0storage", b"\x8c\x03cpu", b"\x8c\x05model"]
    + [b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"]
    + [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"]
)


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(PIECES, max_size=30))
def test_random_pickles(folder: Path, pieces: list[bytes]) -> None:
    path = folder / "pickle"
    write_archive(path, document(b"".join(pieces)), {"0": bytes(16)})
    read_all(path)
