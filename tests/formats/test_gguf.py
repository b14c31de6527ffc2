"""GGUF files: those of llama.cpp's package, and hostile ones."""

from __future__ import annotations

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.model_files import gguf_entry, gguf_header, gguf_text, gguf_value, write_gguf
from wingbeat.formats.checkpoint import FormatError, UnsupportedFormatError, open_checkpoint

FIXTURE = Path(__file__).parents[1] / "fixtures" / "gguf" / "small.gguf"
COUNTING = np.arange(24, dtype=np.float32).reshape(4, 6)
F32, Q8_0 = 0, 8


def test_a_file_of_the_gguf_package() -> None:
    checkpoint = open_checkpoint(FIXTURE)
    ramp = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    assert checkpoint.container == "GGUF"
    np.testing.assert_array_equal(checkpoint["float32"].read(), COUNTING, strict=True)
    np.testing.assert_array_equal(checkpoint["float16"].read(), COUNTING.astype(np.float16), strict=True)
    np.testing.assert_array_equal(checkpoint["vector"].read(), COUNTING[0], strict=True)
    np.testing.assert_array_equal(checkpoint["BF16"].read(), ramp.astype(ml_dtypes.bfloat16), strict=True)
    np.testing.assert_allclose(checkpoint["Q8_0"].read(), ramp, atol=1 / 127)
    np.testing.assert_allclose(checkpoint["Q4_0"].read(), ramp, atol=1 / 8)
    wanted = {
        "general.architecture": "small",
        "a.number": "7",
        "a.fraction": "0.5",
        "a.truth": "True",
        "a.text": "ü",
    }
    assert checkpoint.metadata.items() >= wanted.items()
    assert "some.numbers" not in checkpoint.metadata
    assert checkpoint.lists["tokenizer.ggml.tokens"]() == [b"<s>", b"\\x00", "ü".encode()]


def test_many_tokens(tmp_path: Path) -> None:
    tokens = [str(i).encode() for i in range(20_000)]
    path = write_gguf(tmp_path / "a.gguf", {"x": COUNTING}, {"tokenizer.ggml.tokens": tokens, "last": 1})
    checkpoint = open_checkpoint(path)
    assert checkpoint.lists["tokenizer.ggml.tokens"]() == tokens
    assert checkpoint.metadata == {"last": "1"}


def number(code: str, kind: int, value: float) -> bytes:
    return struct.pack("<I" + code, kind, value)


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + data


def one(shape: tuple[int, ...] = (4, 6), code: int = F32, offset: int = 0) -> bytes:
    return gguf_header({}, [gguf_entry("x", shape, code, offset)])


ENTRY = gguf_entry("x", (4,), F32, 0)
HUGE = 1 << 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF", "its header needs 4 bytes where it has 0 left"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "1,152,921,504,606,846,976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "1,152,921,504,606,846,976 remarks"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1000, 0), "1,000 tensors"),
        (gguf_header({"k": struct.pack("<IQ", 8, HUGE)}, []), "claims to have 1,152,921,504,606,846,976 bytes"),
        (gguf_header({"k": gguf_value("x" * 2_000_000)}, []), "claims to have 2,000,000 bytes"),
        (gguf_header({"k": struct.pack("<IQ", 8, 9) + b"short"}, []), "needs 9 bytes where it has 5"),
        (gguf_header({"k" * 70_000: number("I", 4, 1)}, []), "claims to have 70,000 bytes"),
        (gguf_header({"k": array(0, HUGE)}, []), "needs 1,152,921,504,606,846,976 bytes"),
        (gguf_header({"k": array(8, HUGE)}, []), "'k' claims to have 1,152,921,504,606,846,976 texts"),
        (gguf_header({"k": array(8, 3, gguf_text("a") + gguf_text("b" * 30))}, []), "does not end"),
        (gguf_header({"k": array(8, 2, gguf_text("") + struct.pack("<Q", HUGE))}, []), "header needs"),
        (gguf_header({"k": array(9, 1, array(9, 1))}, []), "a list of lists"),
        (gguf_header({"k": array(77, 1)}, []), "unknown type 77"),
        (gguf_header({"k": number("I", 13, 1)}, []), "unknown type 13"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (gguf_text("k") + gguf_value(1)), "the remark 'k' twice"),
        (gguf_header({"general.alignment": gguf_value(7)}, [ENTRY]) + bytes(99), "general.alignment is '7'"),
        (gguf_header({"general.alignment": gguf_value(0)}, [ENTRY]) + bytes(99), "general.alignment is '0'"),
        (gguf_header({"general.alignment": gguf_value("many")}, [ENTRY]) + bytes(99), "general.alignment is 'many'"),
        (one((2, 2, 2, 2, 2)), "has 5 dimensions"),
        (gguf_header({}, [gguf_text("x") + struct.pack("<I", HUGE >> 30)]) + bytes(99), "1,073,741,824 dimensions"),
        (one((1 << 62, 1 << 62)), "absurdly large"),
        (one((1 << 63,)), "absurdly large"),
        (one((4, 6)), "cannot lie at 0 with 96 bytes"),
        (one((4,), offset=HUGE), "cannot lie at 1,152,921,504,606,846,976"),
        (one((4,), offset=8) + bytes(200), "cannot lie at 8"),
        (one((4, 48), Q8_0) + bytes(999), "'x': rows of a Q8_0 tensor must be multiples of 32"),
        (one((), Q8_0) + bytes(999), "'x': rows of a Q8_0 tensor"),
        (gguf_header({}, [ENTRY, ENTRY]) + bytes(99), "two tensors 'x'"),
        (gguf_header({}, [ENTRY, gguf_entry("y", (9,), F32, 0)]) + bytes(200), "two tensors share bytes"),
    ],
)
def test_hostile_headers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"model\.gguf: .*{message}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one((4, 256), 23) + bytes(999), "tensor 'x' is of type IQ4_XS; read are F32, F16, Q4_0"),
        (one((4, 256), 99) + bytes(999), "tensor 'x' is of type 99"),
        (gguf_header({"split.count": struct.pack("<IH", 2, 3)}, [ENTRY]) + bytes(99), "one part of a split GGUF"),
    ],
)
def test_parts_of_the_format_that_are_not_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match=message):
        open_checkpoint(path)


def test_truncated_at_any_byte(tmp_path: Path) -> None:
    content = FIXTURE.read_bytes()
    path = tmp_path / "model.gguf"
    for length in range(4, len(content) - 32, 3):
        path.write_bytes(content[:length])
        with pytest.raises(FormatError):
            open_checkpoint(path)
