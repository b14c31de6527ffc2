"""Random RWKV-7 models at published shapes: speed depends on the shape, so anybody can measure without a download.

Magnitudes give logits a sane spread and about half zeros after relu, as in a trained model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.safetensors import save_safetensors

HEAD_SIZE = 64


@dataclass(frozen=True, slots=True)
class ModelShape:
    """``ranks`` are those of the low-rank pairs: decay, in-context learning rate, value residual, gate."""

    layers: int
    width: int
    ranks: tuple[int, int, int, int]
    vocab_size: int = 65536


SHAPES = {
    "0.1B": ModelShape(12, 768, (64, 64, 32, 128)),
    "0.4B": ModelShape(24, 1024, (64, 64, 32, 128)),
    "1.5B": ModelShape(24, 2048, (96, 96, 64, 256)),
}


class TensorSpec(NamedTuple):
    """A tensor of the official layout and the normal distribution of its values."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float


def tensor_specs(shape: ModelShape) -> Iterator[TensorSpec]:
    """The tensors of a model in the official layout: matrices [out, in], low-rank factors [in, out]."""
    d, hidden, vocab = shape.width, 4 * shape.width, shape.vocab_size
    weight_std = 0.5 / math.sqrt(d)

    def norm(name: str) -> Iterator[TensorSpec]:
        yield TensorSpec(name + ".weight", (d,), 1.0, 0.02)
        yield TensorSpec(name + ".bias", (d,), 0.0, 0.02)

    yield TensorSpec("emb.weight", (vocab, d), 0.0, 0.3)
    yield from norm("blocks.0.ln0")
    for i in range(shape.layers):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        yield from norm(f"blocks.{i}.ln1")
        for mix in "rwkvag":
            yield TensorSpec(f"{att}x_{mix}", (1, 1, d), 0.5, 0.25)
        for low, rank, mean, std in zip("wavg", shape.ranks, (-3.5, 0.0, 0.5, 0.0), (1.5, 0.5, 0.5, 0.0), strict=True):
            if low == "v" and i == 0:
                continue
            if low != "g":
                yield TensorSpec(f"{att}{low}0", (1, 1, d), mean, std)
            yield TensorSpec(f"{att}{low}1", (d, rank), 0.0, 0.02)
            yield TensorSpec(f"{att}{low}2", (rank, d), 0.0, 0.1)
        yield TensorSpec(att + "k_k", (1, 1, d), 0.7, 0.1)
        yield TensorSpec(att + "k_a", (1, 1, d), 1.0, 0.02)
        yield TensorSpec(att + "r_k", (d // HEAD_SIZE, HEAD_SIZE), 0.0, 0.1)
        for name in ("receptance", "key", "value", "output"):
            yield TensorSpec(f"{att}{name}.weight", (d, d), 0.0, weight_std)
        yield from norm(att + "ln_x")
        yield from norm(f"blocks.{i}.ln2")
        yield TensorSpec(ffn + "x_k", (1, 1, d), 0.5, 0.25)
        yield TensorSpec(ffn + "key.weight", (hidden, d), 0.0, weight_std)
        yield TensorSpec(ffn + "value.weight", (d, hidden), 0.0, 0.3 / math.sqrt(hidden))
    yield from norm("ln_out")
    yield TensorSpec("head.weight", (vocab, d), 0.0, weight_std)


def save_random_model(
    shape: ModelShape, path: Path, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a model of ``shape`` as bfloat16 ``.safetensors``. Needs memory and disk for 2 bytes a parameter each.

    ``progress`` is told the parameters drawn and their number.
    """
    rng = np.random.default_rng(seed)
    specs = list(tensor_specs(shape))
    total, done = sum(math.prod(spec.shape) for spec in specs), 0
    arrays: dict[str, NDArray] = {}
    for name, dims, mean, std in specs:
        values = rng.standard_normal(dims, np.float32)
        values *= np.float32(std)
        values += np.float32(mean)
        arrays[name] = values.astype(ml_dtypes.bfloat16)
        done += values.size
        if progress is not None:
            progress(done, total)
    save_safetensors(path, arrays, {})
