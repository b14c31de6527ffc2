"""Random RWKV-7 models for tests, the same on every machine and NumPy version.

Values come from integer arithmetic on Philox's raw output (NumPy promises that stream, but not those of its
distributions), and each tensor has a stream of its own, so that adding one leaves the others as they were.
Magnitudes give logits a sane spread and about half zeros after relu.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from tests.torch_zip import write_torch_zip
from wingbeat.formats.safetensors import save_safetensors

Ranks = tuple[int, int, int, int]  # decay, in-context learning rate, value residual, gate


def uniform(seed: int, name: str, *shape: int) -> np.ndarray:
    """float32 values in [0, 1)."""
    raw = _raw(seed, name, math.prod(shape))
    return ((raw >> np.uint64(40)).astype(np.float32) / np.float32(2**24)).reshape(shape)


def normal(seed: int, name: str, *shape: int) -> np.ndarray:
    """float32 values of mean 0 and variance 1: the sum of four 16-bit uniforms, which is nearly normal."""
    quarters = _raw(seed, name, math.prod(shape)).view(np.uint16).reshape(-1, 4).astype(np.int64)
    centred = quarters.sum(axis=1) - 2 * 65535
    return (centred * (math.sqrt(3) / 65536)).astype(np.float32).reshape(shape)


def _raw(seed: int, name: str, count: int) -> np.ndarray:
    key = np.array([seed, zlib.crc32(name.encode())], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count).astype("<u8")


def random_rwkv7(
    layers: int = 2,
    width: int = 64,
    vocab: int = 50,
    *,
    head_size: int = 64,
    ffn: int | None = None,
    ranks: Ranks = (8, 8, 8, 16),
    layer0_value: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """A random model in the official layout: official names, float32, (1, 1, D) mix vectors, (in, out) low ranks.

    `layer0_value` adds the v0, v1, v2 of layer 0, which some published files carry and no one uses.
    """
    hidden = 4 * width if ffn is None else ffn
    weight_std = 0.5 / math.sqrt(width)
    z: dict[str, np.ndarray] = {}

    def put(name: str, *shape: int, std: float = 0.02, mean: float = 0.0) -> None:
        z[name] = np.float32(mean) + np.float32(std) * normal(seed, name, *shape)

    def put_norm(name: str) -> None:
        put(name + ".weight", width, mean=1.0)
        put(name + ".bias", width)

    def put_low_rank(prefix: str, rank: int) -> None:
        put(prefix + "1", width, rank, std=0.1)
        put(prefix + "2", rank, width, std=0.1)

    put("emb.weight", vocab, width, std=0.3)
    for i in range(layers):
        block, att, ffn_ = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for norm in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            put_norm(block + norm)
        for c in "rwkvag":
            z[att + "x_" + c] = uniform(seed, att + "x_" + c, 1, 1, width)
        z[att + "w0"] = uniform(seed, att + "w0", 1, 1, width) * np.float32(6) - np.float32(6.5)
        put_low_rank(att + "w", ranks[0])
        put(att + "a0", 1, 1, width, std=0.5)
        put_low_rank(att + "a", ranks[1])
        if i > 0 or layer0_value:
            put(att + "v0", 1, 1, width, std=0.5, mean=0.5)
            put_low_rank(att + "v", ranks[2])
        put_low_rank(att + "g", ranks[3])
        put(att + "k_k", 1, 1, width, std=0.1, mean=0.7)
        put(att + "k_a", 1, 1, width, mean=1.0)
        put(att + "r_k", width // head_size, head_size, std=0.1)
        for matrix in ("receptance", "key", "value", "output"):
            put(f"{att}{matrix}.weight", width, width, std=weight_std)
        put_norm(att + "ln_x")
        z[ffn_ + "x_k"] = uniform(seed, ffn_ + "x_k", 1, 1, width)
        put(ffn_ + "key.weight", hidden, width, std=weight_std)
        put(ffn_ + "value.weight", width, hidden, std=0.3 / math.sqrt(hidden))
    put_norm("ln_out")
    put("head.weight", vocab, width, std=2 * weight_std)
    return z


def cast(arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """The same arrays as `float32`, `float16` or `bfloat16`."""
    target = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    return {name: array.astype(target) for name, array in arrays.items()}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """Save as `.safetensors`; returns the path."""
    save_safetensors(path, arrays, metadata or {})
    return path


def write_pth(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Save as torch does; returns the path."""
    write_torch_zip(path, arrays)
    return path
