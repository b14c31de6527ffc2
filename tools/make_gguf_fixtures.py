"""Make the committed test oracles of GGUF from llama.cpp's own package: `python tools/make_gguf_fixtures.py [folder]`.

Needs the `gguf` package and numpy. Writes to tests/fixtures/gguf:

    blocks.npz       for each kind of quantised block some bytes and what the package decodes them to
    small.gguf       a file of the package's writer: metadata of every type, a list of texts, tensors of some types
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
}
BLOCKS = 6


def make_blocks(path: Path) -> None:
    """Random bytes with sane scales."""
    random = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {}
    for kind in KINDS:
        _, size = gguf.GGML_QUANT_SIZES[Type[kind]]
        blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in HALVES.get(kind, [size - 2]):
            scale = random.standard_normal((BLOCKS, 1)).astype(np.float16)
            blocks[:, at : at + 2] = scale.view(np.uint8)
        arrays[kind + "_bytes"] = blocks
        arrays[kind] = dequantize(blocks, Type[kind])
    np.savez_compressed(path, **arrays)


def make_file(path: Path) -> None:
    counting = np.arange(24, dtype=np.float32).reshape(4, 6)
    ramp = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
    writer = gguf.GGUFWriter(path, "small")
    writer.add_uint32("a.number", 7)
    writer.add_float32("a.fraction", 0.5)
    writer.add_bool("a.truth", True)
    writer.add_string("a.text", "ü")
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_token_list([b"<s>", b"\\x00", "ü".encode()])
    writer.add_tensor("float32", counting)
    writer.add_tensor("float16", counting.astype(np.float16))
    writer.add_tensor("vector", counting[0])
    for kind in ("BF16", "Q8_0", "Q4_0"):
        writer.add_tensor(kind, quantize(ramp, Type[kind]), raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "fixtures" / "gguf"
    target.mkdir(parents=True, exist_ok=True)
    make_blocks(target / "blocks.npz")
    make_file(target / "small.gguf")
