"""Random programs on any backend, and ways to feed them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.random_models import random_model
from wingbeat.models.architecture import ARCHITECTURES, GROUP_NORM_EPS
from wingbeat.models.shapes import Dimensions
from wingbeat.ops.cpu import CpuExecutable
from wingbeat.ops.program import Program
from wingbeat.ops.reference import ReferenceExecutable
from wingbeat.ops.table import Executable, StepBatch, Weight

DTYPES = ("float32", "bfloat16", "int8", "int4", "nf4")
"""Of the two that are codes of levels one: they differ in a table."""


@dataclass(frozen=True)
class Shape:
    """``more``: what the version's random model takes beside."""

    layers: int = 2
    width: int = 128
    vocab: int = 97
    head_size: int = 64
    ffn: int | None = None
    ranks: tuple[int, ...] = (8, 12, 4, 20)
    version: str = "7"
    more: tuple[tuple[str, int], ...] = ()

    def arrays(self, seed: int) -> dict[str, np.ndarray]:
        arguments: dict[str, Any] = {"layers": self.layers, "width": self.width, "vocab": self.vocab, "ffn": self.ffn}
        if self.version != "4":
            arguments["head_size"] = self.head_size
        if self.version in ("6", "7", "7a"):
            arguments["ranks"] = self.ranks
        return random_model(self.version, **arguments, **dict(self.more), seed=seed)


ODD_SHAPES = {
    "published": Shape(),
    "one_layer": Shape(layers=1, width=64, vocab=50),
    "odd_everything": Shape(layers=3, width=63, vocab=37, head_size=21, ffn=131, ranks=(3, 5, 7, 2)),
    "small_heads": Shape(width=80, vocab=33, head_size=8, ffn=100),
    "wide_heads": Shape(width=256, vocab=129, head_size=128, ffn=200),
    "heads_of_48": Shape(width=144, vocab=65, head_size=48),
}

OTHER_VERSIONS = {
    "rwkv4": Shape(version="4", width=79, vocab=33, ffn=100, more=(("att", 73),)),
    "rwkv5.0": Shape(version="5.0", width=63, vocab=37, head_size=21, ffn=131),
    "rwkv5.2": Shape(version="5.2", width=64, vocab=41, head_size=16, more=(("att", 144),)),
    "rwkv6": Shape(version="6", width=96, vocab=45, head_size=8, ffn=130, ranks=(33, 5)),
    "rwkv7a": Shape(
        version="7a", width=63, vocab=37, head_size=21, ffn=131, ranks=(3, 5, 7, 2), more=(("deep_side", 7),)
    ),
}
ALL_SHAPES = ODD_SHAPES | OTHER_VERSIONS


def program_of(shape: Shape, arrays: Mapping[str, np.ndarray] | None = None) -> tuple[Program, Iterator[Weight]]:
    """The program and its weights from ``arrays``, by default those of seed 1."""
    arrays = shape.arrays(1) if arrays is None else arrays
    architecture = ARCHITECTURES[shape.version]
    described = architecture.read_shape(Dimensions({name: a.shape for name, a in arrays.items()}), shape.layers)
    return architecture.record(described, GROUP_NORM_EPS), architecture.weights(described, arrays.__getitem__)


def native(
    shape: Shape, dtype: str, *, level: str, threads: int = 2, seed: int = 1, skip_zeros: bool | None = None
) -> CpuExecutable:
    return CpuExecutable(*program_of(shape, shape.arrays(seed)), dtype, threads, level, skip_zeros=skip_zeros)


def reference(shape: Shape, dtype: str, *, seed: int = 1) -> ReferenceExecutable:
    return ReferenceExecutable(*program_of(shape, shape.arrays(seed)), dtype)


def batch(rows: Sequence[tuple[int, Sequence[int]]], all_logits: bool = True) -> StepBatch:
    """A step of (slot, tokens) sequences; logits for every row or for each sequence's last."""
    lengths = [len(tokens) for _, tokens in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    wanted = np.arange(starts[-1], dtype=np.int32) if all_logits else starts[1:] - 1
    tokens = np.concatenate([np.asarray(tokens, np.int32) for _, tokens in rows]).astype(np.int32)
    return StepBatch(tokens, np.array([slot for slot, _ in rows], np.int32), starts, wanted.astype(np.int32))


def feed(executable: Executable, tokens: Sequence[int], chunks: Iterable[int], slot: int = 0, slots: int = 1):
    """Logits [T, V] of one sequence fed in pieces, and its final state slot."""
    pool = executable.layout.allocate(slots)
    out, at = [], 0
    for size in chunks:
        out.append(np.array(executable.run(batch([(slot, tokens[at : at + size])]), pool)))
        at += size
    assert at == len(tokens)
    return np.concatenate(out), pool[slot].copy()
