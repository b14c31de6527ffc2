"""rwkv.cpp's files: good and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.model_files import q8_0, write_rwkv_cpp
from wingbeat.formats.checkpoint import FormatError, UnsupportedFormatError, open_checkpoint

COUNTING = np.arange(24, dtype=np.float32).reshape(4, 6)
RAMP = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
HEAD = b"fmgg" + struct.pack("<5I", 101, 0, 0, 0, 0)


def test_what_it_holds(tmp_path: Path) -> None:
    _, shape, raw = q8_0(RAMP)
    tensors = {"a": COUNTING, "b": COUNTING.astype(np.float16), "odd": COUNTING[0], "q": (9, shape, raw)}
    checkpoint = open_checkpoint(write_rwkv_cpp(tmp_path / "model.bin", tensors))
    assert checkpoint.container == "rwkv.cpp"
    assert list(checkpoint) == list(tensors)
    for name in ("a", "b", "odd"):
        np.testing.assert_array_equal(checkpoint[name].read(), tensors[name], strict=True)
    np.testing.assert_allclose(checkpoint["q"].read(), RAMP, atol=1 / 127)


def tensor(dimensions: int, length: int, code: int, *rest: int, name: bytes = b"") -> bytes:
    return HEAD + struct.pack(f"<{3 + len(rest)}I", dimensions, length, code, *rest) + name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fmgg", "its header needs"),
        (HEAD + b"abc", "needs 4 bytes where it has 3"),
        (tensor(2**31, 1, 0), "2,147,483,648 dimensions"),
        (tensor(1, 2**31, 0), "a name of 2,147,483,648 bytes"),
        (tensor(1, 1, 0, 2**32 - 1, name=b"x"), "'x' needs 17,179,869,180 bytes where 0 are left"),
        (tensor(4, 1, 0, *[2**32 - 1] * 4, name=b"x"), "'x': shape .* is absurdly large"),
        (tensor(1, 1, 2, 33, name=b"x"), "multiples of 32"),
        (tensor(1, 1, 0, 0, name=b"x") + struct.pack("<4I", 1, 1, 0, 0) + b"x", "tensor 'x' twice"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"model\.bin: .*{message}"):
        open_checkpoint(path)


def test_old_quantised_files(tmp_path: Path) -> None:
    path = write_rwkv_cpp(tmp_path / "model.bin", {"x": (9, (1, 32), bytes(34))}, version=100)
    with pytest.raises(UnsupportedFormatError, match=r"quantised by an old rwkv.cpp"):
        open_checkpoint(path)
    path = write_rwkv_cpp(tmp_path / "model.bin", {"x": (6, (1, 32), bytes(34))})
    with pytest.raises(UnsupportedFormatError, match="tensor 'x' is of type 6"):
        open_checkpoint(path)
