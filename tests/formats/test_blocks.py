"""Quantised blocks against llama.cpp's own package."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from wingbeat.formats import blocks
from wingbeat.formats.blocks import BlockKind
from wingbeat.formats.lazy import FileRange, FormatError, LazyTensor, MappedFile
from wingbeat.ops import cpu
from wingbeat.ops.ggml import native_decoder

FIXTURE = Path(__file__).parents[1] / "fixtures" / "gguf" / "blocks.npz"
KINDS = [
    *(blocks.Q4_0, blocks.Q4_1, blocks.Q5_0, blocks.Q5_1, blocks.Q8_0),
    *(blocks.Q2_K, blocks.Q3_K, blocks.Q4_K, blocks.Q5_K, blocks.Q6_K),
]


def tensor_of(tmp_path: Path, kind: BlockKind, raw: np.ndarray, shape: tuple[int, ...]) -> LazyTensor:
    (tmp_path / "blocks").write_bytes(b"odd" + raw.tobytes())
    return kind.tensor(FileRange(MappedFile(tmp_path / "blocks"), 3, raw.size), shape)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_values_of_the_gguf_package(tmp_path: Path, kind: BlockKind) -> None:
    fixture = np.load(FIXTURE)
    expected = fixture[kind.name].reshape(2, -1)
    tensor = tensor_of(tmp_path, kind, fixture[kind.name + "_bytes"], expected.shape)
    assert kind.size(expected.shape, expected.size) == fixture[kind.name + "_bytes"].size
    np.testing.assert_array_equal(tensor.read(), expected, strict=True)
    places = np.random.default_rng(2).integers(0, expected.size, 50)
    np.testing.assert_array_equal(tensor.take(places), expected.reshape(-1)[places], strict=True)
    assert not tensor.read().flags.writeable


def test_the_kernels_decode_what_is_commonest() -> None:
    if not cpu.available():
        pytest.skip("installed without the C++ kernels")
    assert {kind.name for kind in KINDS if native_decoder(kind.name)} == {"Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_kernels_decode_as_the_reference(kind: BlockKind) -> None:
    native = native_decoder(kind.name)
    if native is None:
        pytest.skip("decoded by NumPy alone")
    raw = np.random.default_rng(3).integers(0, 256, (5000, kind.nbytes), np.uint8)  # infinite and broken scales, too
    expected, found = np.empty((2, 5000, kind.elements), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        kind.decode(raw, expected)
    native(raw, found)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="not of the shapes"):
        native(raw[:-1], found)


def test_rows_of_whole_blocks() -> None:
    with pytest.raises(FormatError, match=r"must be multiples of 32, not \[2, 48\]"):
        blocks.Q8_0.size((2, 48), 96)


def test_decoding_takes_little_more_than_the_result(tmp_path: Path) -> None:
    raw = np.zeros((1 << 16, 18), np.uint8)
    tensor = tensor_of(tmp_path, blocks.Q4_0, raw, (1 << 10, 1 << 11))
    tracemalloc.start()
    array = tensor.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.6 * array.nbytes
