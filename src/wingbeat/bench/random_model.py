"""Random models at published shapes: speed depends on the shape, so anybody can measure without a download.

Magnitudes give logits a sane spread and about half zeros after relu, as in a trained model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.safetensors import save_safetensors
from wingbeat.models.architecture import ARCHITECTURES
from wingbeat.models.rwkv4 import Rwkv4Shape
from wingbeat.models.rwkv5 import Rwkv5Shape
from wingbeat.models.rwkv6 import Rwkv6Shape
from wingbeat.models.rwkv7 import Rwkv7Shape
from wingbeat.models.shapes import Shape

HEAD_SIZE = 64
PILE_VOCABULARY, WORLD_VOCABULARY = 50277, 65536


class ModelShape(NamedTuple):
    """A shape, and the version that has it."""

    version: str
    sizes: Shape


def rwkv4(layers: int, width: int, vocab_size: int = PILE_VOCABULARY) -> ModelShape:
    sizes = Rwkv4Shape(layers=layers, width=width, vocab_size=vocab_size, att_width=width, ffn_width=4 * width)
    return ModelShape("4", sizes)


def rwkv5(layers: int, width: int, vocab_size: int = WORLD_VOCABULARY) -> ModelShape:
    """Of 5.2."""
    sizes = Rwkv5Shape(
        layers=layers,
        width=width,
        vocab_size=vocab_size,
        heads=width // HEAD_SIZE,
        head_size=HEAD_SIZE,
        ffn_width=width * 7 // 64 * 32,
        gated=True,
        by_channel=True,
        log_bonus=False,
    )
    return ModelShape("5.2", sizes)


def rwkv6(layers: int, width: int, vocab_size: int = WORLD_VOCABULARY) -> ModelShape:
    sizes = Rwkv6Shape(
        layers=layers,
        width=width,
        vocab_size=vocab_size,
        heads=width // HEAD_SIZE,
        head_size=HEAD_SIZE,
        ffn_width=width * 7 // 64 * 32,
        rank_mix=64 if width == 4096 else 32,
        rank_decay=128 if width == 4096 else 64,
    )
    return ModelShape("6", sizes)


def rwkv7(
    layers: int,
    width: int,
    ranks: tuple[int, int, int, int],
    vocab_size: int = WORLD_VOCABULARY,
    deep_side: int = 0,
) -> ModelShape:
    """``ranks`` are those of the low-rank pairs: decay, in-context learning rate, value residual, gate."""
    sizes = Rwkv7Shape(
        layers=layers,
        width=width,
        vocab_size=vocab_size,
        heads=width // HEAD_SIZE,
        head_size=HEAD_SIZE,
        ffn_width=4 * width,
        rank_decay=ranks[0],
        rank_iclr=ranks[1],
        rank_value=ranks[2],
        rank_gate=ranks[3],
        deep_side=deep_side,
    )
    return ModelShape("7a" if deep_side else "7", sizes)


SHAPES = {
    "0.1B": rwkv7(12, 768, (64, 64, 32, 128)),
    "0.4B": rwkv7(24, 1024, (64, 64, 32, 128)),
    "1.5B": rwkv7(24, 2048, (96, 96, 64, 256)),
    "v7a-0.1B": rwkv7(12, 768, (64, 64, 32, 128), deep_side=32),
    "v6-1.6B": rwkv6(24, 2048),
    "v5-0.4B": rwkv5(24, 1024),
    "v5-1.5B": rwkv5(24, 2048),
    "v4-169M": rwkv4(12, 768),
    "v4-430M": rwkv4(24, 1024),
}
"""Without a version: of RWKV-7."""


class TensorSpec(NamedTuple):
    """A tensor of the official layout and the normal distribution of its values."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float


_MAGNITUDES = (
    (r"emb\.weight", 0.0, 0.3),
    (r".*\.?ln\w*\.weight", 1.0, 0.02),
    (r".*\.?ln\w*\.bias", 0.0, 0.02),
    (r".*\.(x|time_mix|time_maa)_[a-z]", 0.5, 0.25),
    (r".*\.w0", -3.5, 1.5),
    (r".*\.a0", 0.0, 0.5),
    (r".*\.v0", 0.5, 0.5),
    (r".*\.(time_maa_w1|time_decay_w1|[wavgs]1)", 0.0, 0.02),
    (r".*\.(time_maa_w2|time_decay_w2|[wavgs]2)", 0.0, 0.1),
    (r".*\.k_k", 0.7, 0.1),
    (r".*\.k_a", 1.0, 0.02),
    (r".*\.r_k", 0.0, 0.1),
    (r".*\.time_decay", -3.0, 1.5),
    (r".*\.time_first", -1.2, 0.4),
    (r".*\.time_faaaa", 0.3, 0.5),
    (r".*\.s_emb\.weight", 0.0, 0.1),
    (r".*\.s0", 1.0, 0.1),
)
"""Mean and deviation of the tensors whose name looks so, whole; the others are matrices."""


def tensor_specs(shape: ModelShape) -> Iterator[TensorSpec]:
    """The tensors of a model in the official layout: matrices [out, in], low-rank factors [in, out]."""
    for name, dims in ARCHITECTURES[shape.version].expected(shape.sizes):
        yield TensorSpec(name, dims, *_magnitude(name, dims))


def _magnitude(name: str, dims: tuple[int, ...]) -> tuple[float, float]:
    for pattern, mean, std in _MAGNITUDES:
        if re.fullmatch(pattern, name):
            return mean, std
    return 0.0, (0.3 if name.endswith("ffn.value.weight") else 0.5) / math.sqrt(dims[1])


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
