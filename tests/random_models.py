"""Random models for tests, the same on every machine and NumPy version.

Values come from integer arithmetic on Philox's raw output (NumPy promises that stream, but not those of its
distributions), and each tensor has a stream of its own, so that adding one leaves the others as they were.
Magnitudes give logits a sane spread and about half zeros after relu.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

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


def random_model(version: str = "7", **arguments: Any) -> dict[str, np.ndarray]:
    """A random model of a version in the official layout, `arguments` as the version's own function takes them."""
    if version.startswith("5"):
        return random_rwkv5(version, **arguments)
    make = {"4": random_rwkv4, "6": random_rwkv6, "7": random_rwkv7, "7a": partial(random_rwkv7, deep_side=32)}
    return make[version](**arguments)


class Draws:
    """Collects a model's tensors by name."""

    def __init__(self, seed: int, width: int) -> None:
        self.tensors: dict[str, np.ndarray] = {}
        self._seed, self._width = seed, width

    def normal(self, name: str, *shape: int, std: float = 0.02, mean: float = 0.0) -> None:
        self.tensors[name] = np.float32(mean) + np.float32(std) * normal(self._seed, name, *shape)

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> None:
        self.tensors[name] = uniform(self._seed, name, *shape) * np.float32(high - low) + np.float32(low)

    def norm(self, name: str, width: int | None = None) -> None:
        self.normal(name + ".weight", width or self._width, mean=1.0)
        self.normal(name + ".bias", width or self._width)

    def norms(self, layer: int) -> None:
        for norm in ("ln0", "ln1", "ln2") if layer == 0 else ("ln1", "ln2"):
            self.norm(f"blocks.{layer}.{norm}")

    def matrix(self, name: str, rows: int, columns: int, size: float = 0.5) -> None:
        self.normal(name + ".weight", rows, columns, std=size / math.sqrt(columns))


def random_rwkv4(
    layers: int = 2,
    width: int = 64,
    vocab: int = 50,
    *,
    att: int | None = None,
    ffn: int | None = None,
    key_size: float = 2.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """`key_size` is the deviation of the keys: e^key spans many decades when it is large."""
    z, a, hidden = Draws(seed, width), att or width, ffn or 4 * width
    z.normal("emb.weight", vocab, width, std=0.3)
    for i in range(layers):
        z.norms(i)
        prefix = f"blocks.{i}.att."
        z.uniform(prefix + "time_decay", a, low=-5.0, high=3.0)
        z.normal(prefix + "time_first", a, std=0.4, mean=-1.2)
        for c in "kvr":
            z.uniform(f"{prefix}time_mix_{c}", 1, 1, width)
        z.matrix(prefix + "key", a, width, key_size)
        z.matrix(prefix + "value", a, width, 1.0)
        z.matrix(prefix + "receptance", a, width, 1.0)
        z.matrix(prefix + "output", width, a)
        _gated_ffn(z, f"blocks.{i}.ffn.", "time_mix", width, hidden)
    z.norm("ln_out")
    z.matrix("head", vocab, width, 1.0)
    return z.tensors


def random_rwkv5(
    version: str,
    layers: int = 2,
    width: int = 64,
    vocab: int = 50,
    *,
    att: int | None = None,
    head_size: int = 64,
    ffn: int | None = None,
    log_bonus: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """`log_bonus`: as some 5.0 files, with `time_first` in place of `time_faaaa`."""
    z, a, hidden = Draws(seed, width), att or width, ffn or 4 * width
    heads = (a // head_size, head_size) if version == "5.2" else (a // head_size,)
    z.normal("emb.weight", vocab, width, std=0.3)
    for i in range(layers):
        z.norms(i)
        prefix = f"blocks.{i}.att."
        z.norm(prefix + "ln_x", a)  # before the decay: the official package goes by the order
        for name in ("receptance", "key", "value") if version == "5.0" else ("gate", "receptance", "key", "value"):
            z.matrix(prefix + name, a, width, 1.0)
        z.matrix(prefix + "output", width, a)
        z.uniform(prefix + "time_decay", *heads, low=-6.0, high=-0.5)
        if log_bonus:
            z.normal(prefix + "time_first", *heads, std=0.4, mean=-1.2)
        else:
            z.normal(prefix + "time_faaaa", *heads, std=0.5, mean=0.3)
        for c in "kvr" if version == "5.0" else "kvrg":
            z.uniform(f"{prefix}time_mix_{c}", 1, 1, width)
        _gated_ffn(z, f"blocks.{i}.ffn.", "time_mix", width, hidden)
    z.norm("ln_out")
    z.matrix("head", vocab, width, 1.0)
    return z.tensors


def random_rwkv6(
    layers: int = 2,
    width: int = 64,
    vocab: int = 50,
    *,
    att: int | None = None,
    head_size: int = 64,
    ffn: int | None = None,
    ranks: tuple[int, int] = (32, 16),
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """`ranks` are those of the five mixes and of the decay."""
    z, a, hidden = Draws(seed, width), att or width, ffn or 4 * width
    z.normal("emb.weight", vocab, width, std=0.3)
    for i in range(layers):
        z.norms(i)
        prefix = f"blocks.{i}.att."
        z.norm(prefix + "ln_x", a)
        for c in "xwkvrg":
            z.uniform(f"{prefix}time_maa_{c}", 1, 1, width)
        z.normal(prefix + "time_maa_w1", width, 5 * ranks[0], std=0.1)
        z.normal(prefix + "time_maa_w2", 5, ranks[0], width, std=0.1)
        z.uniform(prefix + "time_decay", 1, 1, a, low=-6.0, high=-0.5)
        z.normal(prefix + "time_decay_w1", width, ranks[1], std=0.1)
        z.normal(prefix + "time_decay_w2", ranks[1], a, std=0.3)
        z.normal(prefix + "time_faaaa", a // head_size, head_size, std=0.5, mean=0.3)
        for name in ("receptance", "key", "value", "gate"):
            z.matrix(prefix + name, a, width, 1.0)
        z.matrix(prefix + "output", width, a)
        _gated_ffn(z, f"blocks.{i}.ffn.", "time_maa", width, hidden)
    z.norm("ln_out")
    z.matrix("head", vocab, width, 1.0)
    return z.tensors


def _gated_ffn(z: Draws, prefix: str, mix: str, width: int, hidden: int) -> None:
    for c in "kr":
        z.uniform(f"{prefix}{mix}_{c}", 1, 1, width)
    z.matrix(prefix + "key", hidden, width)
    z.matrix(prefix + "receptance", width, width)
    z.matrix(prefix + "value", width, hidden)


def random_rwkv7(
    layers: int = 2,
    width: int = 64,
    vocab: int = 50,
    *,
    head_size: int = 64,
    ffn: int | None = None,
    ranks: Ranks = (8, 8, 8, 16),
    layer0_value: bool = False,
    deep_side: int = 0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """A random model in the official layout: official names, float32, (1, 1, D) mix vectors, (in, out) low ranks.

    `layer0_value` adds the v0, v1, v2 of layer 0, which some published files carry and no one uses. `deep_side`: that
    of 7a's matrices; without it the model is a plain 7.
    """
    hidden = 4 * width if ffn is None else ffn
    z = Draws(seed, width)

    def low_rank(prefix: str, rank: int) -> None:
        z.normal(prefix + "1", width, rank, std=0.1)
        z.normal(prefix + "2", rank, width, std=0.1)

    z.normal("emb.weight", vocab, width, std=0.3)
    for i in range(layers):
        att, ffn_ = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        z.norms(i)
        for c in "rwkvag":
            z.uniform(att + "x_" + c, 1, 1, width)
        z.uniform(att + "w0", 1, 1, width, low=-6.5, high=-0.5)
        low_rank(att + "w", ranks[0])
        z.normal(att + "a0", 1, 1, width, std=0.5)
        low_rank(att + "a", ranks[1])
        if i > 0 or layer0_value:
            z.normal(att + "v0", 1, 1, width, std=0.5, mean=0.5)
            low_rank(att + "v", ranks[2])
        low_rank(att + "g", ranks[3])
        z.normal(att + "k_k", 1, 1, width, std=0.1, mean=0.7)
        z.normal(att + "k_a", 1, 1, width, mean=1.0)
        z.normal(att + "r_k", width // head_size, head_size, std=0.1)
        for name in ("receptance", "key", "value", "output"):
            z.matrix(att + name, width, width)
        z.norm(att + "ln_x")
        z.uniform(ffn_ + "x_k", 1, 1, width)
        z.matrix(ffn_ + "key", hidden, width)
        z.matrix(ffn_ + "value", width, hidden, 0.3)
        if deep_side:
            _deep_embed(z, ffn_, vocab, width, hidden, deep_side)
    z.norm("ln_out")
    z.matrix("head", vocab, width, 1.0)
    return z.tensors


def _deep_embed(z: Draws, prefix: str, vocab: int, width: int, hidden: int, side: int) -> None:
    z.normal(prefix + "s_emb.weight", vocab, side**2, std=0.1)
    z.matrix(prefix + "s_emb_x", side**2, width, 0.1)
    z.normal(prefix + "s1", width, side, std=0.1)
    z.normal(prefix + "s2", side, hidden, std=0.3)
    z.normal(prefix + "s0", 1, 1, hidden, std=0.2, mean=1.0)


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
