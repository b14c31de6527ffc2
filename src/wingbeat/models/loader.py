"""From a checkpoint file to a checked RWKV-7 model: its shape, its tensors under their official names, its identity."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wingbeat.formats.checkpoint import Checkpoint, FormatError, LazyTensor, UnsupportedFormatError, open_checkpoint
from wingbeat.models.detect import UnsupportedModelError, official_name, require_rwkv7

__all__ = ["LoadedCheckpoint", "Rwkv7Shape", "UnsupportedModelError", "load_checkpoint"]

log = logging.getLogger("wingbeat.models")

DTYPES = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16)))
SAMPLES, RUN = 4, 256  # the fingerprint looks at so many runs of so many elements in each tensor
LISTED = 5  # names that a message lists before it only counts

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Rwkv7Shape:
    """The sizes of an RWKV-7 model, all read from its file.

    `width` = `heads` * `head_size`. The ranks are those of the low-rank pairs: decay (w1, w2), in-context learning
    rate (a1, a2), value residual (v1, v2; 0 in a model of one layer, which has none) and gate (g1, g2).
    `parameters` counts the values in use; `dtype` names the file's ("float32", "float16" or "bfloat16").
    """

    layers: int
    width: int
    vocab_size: int
    heads: int
    head_size: int
    ffn_width: int
    rank_decay: int
    rank_iclr: int
    rank_value: int
    rank_gate: int
    parameters: int
    dtype: str


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checked model, still in its file.

    `tensors` holds exactly the tensors that the model uses, under their official names and in their official
    orientation: matrices [out, in], low-rank factors [in, out]; a vector may be (D,), (1, D) or (1, 1, D).
    `fingerprint` is equal for equal weights, whatever the container.
    """

    version: str
    tensors: Mapping[str, LazyTensor]
    info: Rwkv7Shape
    fingerprint: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def load_checkpoint(path: str | Path) -> LoadedCheckpoint:
    """Open a model file and check it: version, names, shapes and dtypes; no weights are read but a few samples.

    Raises FormatError for a file that is damaged or whose tensors do not fit together, UnsupportedModelError for
    every model but a plain RWKV-7. Unknown tensors are ignored with a warning on the logger `wingbeat.models`.
    """
    try:
        checkpoint = open_checkpoint(path)
    except UnsupportedFormatError as error:
        raise UnsupportedModelError(str(error)) from error
    try:
        found = _official(checkpoint)
        require_rwkv7({name: tensor.shape for name, tensor in found.items()}, checkpoint.metadata)
        layers = _count_layers(found)
        _check_missing(found, layers)
        sizes = _read_sizes(found, layers)
        expected = dict(_expected(sizes, layers))
        tensors = {name: found[name] for name in expected}
        _check(tensors, expected)
        _warn_of_unknown(found, tensors, checkpoint.path)
        return _loaded(tensors, expected, sizes, layers, checkpoint.metadata)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path} is {error}") from error
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Sizes:
    """The letters of the official layout."""

    V: int
    D: int
    H: int
    N: int
    F: int
    w: int
    a: int
    v: int
    g: int


def _official(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    for name, tensor in checkpoint.items():
        official = official_name(name)
        if official in found:
            raise FormatError(f"two tensors are both called {official!r} once prefixes such as 'module.' are removed")
        found[official] = tensor
    return found


def _count_layers(found: Mapping[str, LazyTensor]) -> int:
    indices = [int(match[1]) for name in found if (match := re.match(r"blocks\.(\d{1,9})\.", name))]
    layers = 1 + max(indices)
    if layers > len(found):  # else a name alone could make us list a billion missing tensors
        raise FormatError(f"it names layer {layers - 1} but has only {len(found)} tensors: the file is incomplete")
    return layers


def _names(layers: int) -> Iterator[str]:
    return (name for name, _ in _expected(_Sizes(*[1] * 9), layers))


def _expected(s: _Sizes, layers: int) -> Iterator[tuple[str, Dims]]:
    """The official names and shapes, vectors as (D,). Layer 0 has no value residual; files may carry it unused."""
    square, vector = (s.D, s.D), (s.D,)
    yield "emb.weight", (s.V, s.D)
    for i in range(layers):
        block, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for norm in ("ln0", "ln1", "ln2") if i == 0 else ("ln1", "ln2"):
            yield f"{block}{norm}.weight", vector
            yield f"{block}{norm}.bias", vector
        for mix in "rwkvag":
            yield f"{att}x_{mix}", vector
        for low, rank in (("w", s.w), ("a", s.a), ("v", s.v), ("g", s.g)):
            if low == "v" and i == 0:
                continue
            if low != "g":
                yield f"{att}{low}0", vector
            yield f"{att}{low}1", (s.D, rank)
            yield f"{att}{low}2", (rank, s.D)
        yield f"{att}k_k", vector
        yield f"{att}k_a", vector
        yield f"{att}r_k", (s.H, s.N)
        for name in ("receptance", "key", "value", "output"):
            yield f"{att}{name}.weight", square
        yield f"{att}ln_x.weight", vector
        yield f"{att}ln_x.bias", vector
        yield f"{ffn}x_k", vector
        yield f"{ffn}key.weight", (s.F, s.D)
        yield f"{ffn}value.weight", (s.D, s.F)
    yield "ln_out.weight", vector
    yield "ln_out.bias", vector
    yield "head.weight", (s.V, s.D)


def _check_missing(found: Mapping[str, LazyTensor], layers: int) -> None:
    missing = [name for name in _names(layers) if name not in found]
    if missing:
        raise FormatError(
            f"an RWKV-7 model of {layers} layers that lacks {len(missing)} tensors: {_listed(missing)}."
            " The file is incomplete: download it again"
        )


def _read_sizes(found: Mapping[str, LazyTensor], layers: int) -> _Sizes:
    def matrix(name: str) -> tuple[int, int]:
        shape = found[name].shape
        if len(shape) != 2 or 0 in shape:
            raise FormatError(f"tensor {name!r} should be a matrix, but has shape {list(shape)}")
        return shape[0], shape[1]

    vocab, width = matrix("emb.weight")
    heads, head_size = matrix("blocks.0.att.r_k")
    if heads * head_size != width:
        raise FormatError(
            f"tensor 'blocks.0.att.r_k' of {heads} heads of {head_size} does not fit the width {width} of 'emb.weight'"
        )
    ranks = {low: matrix(f"blocks.0.att.{low}1")[1] for low in "wag"}
    value_rank = matrix("blocks.1.att.v1")[1] if layers > 1 else 0
    return _Sizes(V=vocab, D=width, H=heads, N=head_size, F=matrix("blocks.0.ffn.key.weight")[0], v=value_rank, **ranks)


def _check(tensors: Mapping[str, LazyTensor], expected: Mapping[str, Dims]) -> None:
    for name, tensor in tensors.items():
        want = expected[name]
        shapes = (want, (1, *want), (1, 1, *want)) if len(want) == 1 else (want,)
        if tensor.shape not in shapes:
            raise FormatError(f"tensor {name!r} has shape {list(tensor.shape)}, expected {list(want)}")
        if tensor.dtype not in DTYPES:
            raise FormatError(f"tensor {name!r} is {tensor.dtype}; weights must be float32, float16 or bfloat16")


def _warn_of_unknown(found: Mapping[str, LazyTensor], used: Mapping[str, LazyTensor], path: Path) -> None:
    unused = {f"blocks.0.att.v{part}" for part in "012"}
    unknown = [name for name in found if name not in used and name not in unused]
    if unknown:
        log.warning("%s: ignoring unknown tensors: %s", path, _listed(unknown))


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def _loaded(
    tensors: Mapping[str, LazyTensor],
    expected: Mapping[str, Dims],
    sizes: _Sizes,
    layers: int,
    metadata: Mapping[str, str],
) -> LoadedCheckpoint:
    info = Rwkv7Shape(
        layers=layers,
        width=sizes.D,
        vocab_size=sizes.V,
        heads=sizes.H,
        head_size=sizes.N,
        ffn_width=sizes.F,
        rank_decay=sizes.w,
        rank_iclr=sizes.a,
        rank_value=sizes.v,
        rank_gate=sizes.g,
        parameters=sum(tensor.size for tensor in tensors.values()),
        dtype=tensors["emb.weight"].dtype.name,
    )
    return LoadedCheckpoint("7", tensors, info, _fingerprint(tensors, expected), dict(metadata))


def _fingerprint(tensors: Mapping[str, LazyTensor], expected: Mapping[str, Dims]) -> str:
    """sha256 over names, shapes, dtypes and evenly spread samples, so that 14 GB need not be read."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {expected[name]} {tensor.dtype.name}\n".encode())
        array, places = tensor.read(), _sampled(tensor.size)
        flat = array.flags.c_contiguous  # else reshaping would copy all of it
        samples = array.reshape(-1)[places] if flat else array[np.unravel_index(places, array.shape)]
        digest.update(samples.tobytes())
        tensor.release()
    return digest.hexdigest()


@lru_cache
def _sampled(size: int) -> NDArray[np.int64]:
    """Which elements of a tensor of ``size`` the fingerprint looks at."""
    starts = np.linspace(0, max(size - RUN, 0), SAMPLES).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(min(RUN, size)))
