"""From a checkpoint file to a checked model: its version, its shape, its tensors by official name, its identity."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wingbeat.adapter import Adapter
from wingbeat.formats.checkpoint import Checkpoint, FormatError, LazyTensor, UnsupportedFormatError, open_checkpoint
from wingbeat.formats.gguf import world_texts
from wingbeat.models.adapters import merge_adapters, read_adapter
from wingbeat.models.architecture import ARCHITECTURES, GROUP_NORM_EPS
from wingbeat.models.detect import UnsupportedModelError, detect_version
from wingbeat.models.layouts import to_official
from wingbeat.models.layouts.norms import group_norm_eps
from wingbeat.models.shapes import Dimensions, Dims, Shape
from wingbeat.models.tuned_states import TIME_STATE
from wingbeat.models.weights import Read
from wingbeat.ops.program import Program
from wingbeat.ops.table import Weight

__all__ = ["LoadedCheckpoint", "UnsupportedModelError", "load_checkpoint"]

log = logging.getLogger("wingbeat.models")

DTYPES = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16)))
SAMPLES, RUN = 4, 256  # the fingerprint looks at so many runs of so many elements in each tensor
LISTED = 5  # names that a message lists before it only counts


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checked model, still in its file.

    `tensors` holds exactly the tensors that the model uses, under their official names and in their official
    orientation: matrices [out, in], low-rank factors [in, out]; a vector may be (D,), (1, D) or (1, 1, D).
    `fingerprint` is equal for equal weights, whatever the container. `initial_state` is that which the file itself
    holds, `blocks.N.att.time_state` [head, value, key] for each layer; empty for most. `gn_eps` is the epsilon of the
    GroupNorms, where what lies beside the tensors tells it. `tokens` reads the texts of the World tokens, by id, that
    the file carries (see `text/carried.py`).
    """

    version: str
    tensors: Mapping[str, LazyTensor]
    info: Shape
    fingerprint: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    initial_state: Mapping[str, LazyTensor] = field(default_factory=dict)
    gn_eps: float | None = None
    tokens: Callable[[], list[bytes]] | None = None

    def record(self, gn_eps: float | None = None) -> Program:
        """The model's program. `gn_eps`: of its GroupNorms; None takes its own, else that of every published model."""
        eps = next(each for each in (gn_eps, self.gn_eps, GROUP_NORM_EPS) if each is not None)
        return ARCHITECTURES[self.version].record(self.info, eps)

    def weights(self, read: Read) -> Iterator[Weight]:
        """The program's weights, read by official name when each is asked for its array."""
        return ARCHITECTURES[self.version].weights(self.info, read)


def load_checkpoint(path: str | Path, adapters: Sequence[Adapter] = ()) -> LoadedCheckpoint:
    """Open a model file and check it: version, names, shapes and dtypes; no weights are read but a few samples.

    `adapters` are merged one after the other, each tensor when it is read.

    Raises FormatError for a file that is damaged or whose tensors do not fit together, UnsupportedModelError for
    a model that Wingbeat does not run. Unknown tensors are ignored with a warning on the logger `wingbeat.models`.
    """
    try:
        checkpoint = open_checkpoint(path)
    except UnsupportedFormatError as error:
        raise UnsupportedModelError(str(error)) from error
    try:
        loaded = _checked(checkpoint)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path} is {error}") from error
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    return _with_adapters(loaded, adapters) if adapters else loaded


def _with_adapters(loaded: LoadedCheckpoint, adapters: Sequence[Adapter]) -> LoadedCheckpoint:
    identity = hashlib.sha256(loaded.fingerprint.encode())
    for adapter in adapters:
        tensors = read_adapter(adapter)
        dims = {name: tensor.shape for name, tensor in tensors.items()}
        identity.update(f"{adapter.alpha} {_fingerprint(tensors, dims)}".encode())
    return replace(loaded, tensors=merge_adapters(loaded.tensors, adapters), fingerprint=identity.hexdigest())


def _checked(checkpoint: Checkpoint) -> LoadedCheckpoint:
    found = to_official(checkpoint)
    dims = {name: tensor.shape for name, tensor in found.items()}
    version = detect_version(dims, checkpoint.metadata)
    architecture, layers = ARCHITECTURES[version], _count_layers(found)
    names = architecture.expected(architecture.read_shape(Dimensions(dims, blank=True), layers))
    _check_missing(found, [name for name, _ in names], f"an RWKV-{version} model of {layers} layers")
    shape = architecture.read_shape(Dimensions(dims), layers)
    expected = dict(architecture.expected(shape))
    tensors = {name: found[name] for name in expected}
    _check(tensors, expected)
    initial_state = {name: tensor for name, tensor in found.items() if name.endswith("." + TIME_STATE)}
    _warn_of_unknown(found, expected.keys() | initial_state.keys() | architecture.UNUSED, checkpoint.path)
    parameters, dtype = sum(tensor.size for tensor in tensors.values()), tensors["emb.weight"].dtype.name
    shape = replace(shape, parameters=parameters, dtype=dtype)
    fingerprint, metadata = _fingerprint(tensors, expected), dict(checkpoint.metadata)
    gn_eps, tokens = group_norm_eps(checkpoint), world_texts(checkpoint)
    return LoadedCheckpoint(version, tensors, shape, fingerprint, metadata, initial_state, gn_eps, tokens)


def _count_layers(found: Mapping[str, LazyTensor]) -> int:
    indices = [int(match[1]) for name in found if (match := re.match(r"blocks\.(\d{1,9})\.", name))]
    layers = 1 + max(indices)
    if layers > len(found):  # else a name alone could make us list a billion missing tensors
        raise FormatError(f"it names layer {layers - 1} but has only {len(found)} tensors: the file is incomplete")
    return layers


def _check_missing(found: Mapping[str, LazyTensor], names: Iterable[str], model: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise FormatError(
            f"{model} that lacks {len(missing)} tensors: {_listed(missing)}. The file is incomplete: download it again"
        )


def _check(tensors: Mapping[str, LazyTensor], expected: Mapping[str, Dims]) -> None:
    for name, tensor in tensors.items():
        want = expected[name]
        shapes = (want, (1, *want), (1, 1, *want)) if len(want) == 1 else (want,)
        if tensor.shape not in shapes:
            raise FormatError(f"tensor {name!r} has shape {list(tensor.shape)}, expected {list(want)}")
        if tensor.dtype not in DTYPES:
            raise FormatError(f"tensor {name!r} is {tensor.dtype}; weights must be float32, float16 or bfloat16")


def _warn_of_unknown(found: Mapping[str, LazyTensor], known: Set[str], path: Path) -> None:
    unknown = [name for name in found if name not in known]
    if unknown:
        log.warning("%s: ignoring unknown tensors: %s", path, _listed(unknown))


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def _fingerprint(tensors: Mapping[str, LazyTensor], expected: Mapping[str, Dims]) -> str:
    """sha256 over names, shapes and evenly spread samples, so that 14 GB need not be read.

    The samples count as float32: a converter that widens some tensors leaves the model the same.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {expected[name]}\n".encode())
        digest.update(tensor.take(_sampled(tensor.size)).astype(np.float32).tobytes())
        tensor.release()
    return digest.hexdigest()


@lru_cache
def _sampled(size: int) -> NDArray[np.int64]:
    """Which elements of a tensor of ``size`` the fingerprint looks at."""
    starts = np.linspace(0, max(size - RUN, 0), SAMPLES).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(min(RUN, size)))
