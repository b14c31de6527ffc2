"""``load_model``: from a file to a model that is bound to a backend."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from numpy.typing import NDArray

from wingbeat.adapter import Adapter
from wingbeat.dtypes import QUANTS, full_name
from wingbeat.formats.folder import model_name
from wingbeat.formats.lazy import FormatError, LazyTensor
from wingbeat.models.loader import LoadedCheckpoint, load_checkpoint
from wingbeat.models.packed_cache import PackedCache
from wingbeat.models.precision import Precision, quantised, uniform
from wingbeat.models.prefab import Prefab, is_prefab, open_prefab, save_prefab
from wingbeat.models.strategy import map_strategy
from wingbeat.models.tuned_states import tuned_state
from wingbeat.models.weights import Read
from wingbeat.ops import cpu
from wingbeat.ops.reference import ReferenceExecutable
from wingbeat.ops.table import Executable, FloatArray, StateLayout

log = logging.getLogger("wingbeat.models")

Progress = Callable[[int, int], None]  # (bytes read, bytes in all)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is. ``fingerprint`` names the weights: token ids and states belong to no other model."""

    name: str
    version: str
    layers: int
    width: int
    vocab_size: int
    dtype: str
    backend: str
    fingerprint: str
    parameters: int
    path: str
    metadata: dict[str, str]
    kernels: str = ""  # the level that runs, such as "avx2"; empty on the reference
    state_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of the fields of a sequence's state


@dataclass(frozen=True, slots=True)
class Model:
    """``initial_state``: canonical arrays of what the file holds for sequences to begin from; None for most."""

    executable: Executable
    info: ModelInfo
    initial_state: Mapping[str, FloatArray] | None = None


def load_model(
    path: str | Path,
    *,
    dtype: str = "auto",
    quant: str | None = None,
    quant_layers: int | None = None,
    strategy: str | None = None,
    threads: int | None = None,
    backend: str = "auto",
    cache_packed: bool = False,
    gn_eps: float | None = None,
    adapters: Sequence[Adapter] = (),
    progress: Progress | None = None,
) -> Model:
    """Load a checkpoint and bind it to a backend.

    ``dtype``: one of ``DTYPES``, also by its short name, or "auto" (bfloat16 on the kernels, else float32).
    ``quant``: one of ``QUANTS``, for the matrices of the first ``quant_layers`` layers (None: of all); all else, the
    head too, in ``dtype``.
    ``strategy``: in place of these three, the `rwkv` package's words for them; what differs is logged.
    ``backend``: "cpu" (C++), "reference" (NumPy) or "auto" (cpu if it was built, else the reference with a warning).
    ``threads``: for cpu; None takes the physical cores this process may use.
    ``cache_packed``: for cpu; keep the packed weights on disk, and map them from there the next time.
    ``gn_eps``: of the GroupNorms; None: what lies beside the model's tensors tells, else that of the published ones.
    ``adapters``: LoRA and other fine-tuning to merge, one after the other.
    A prefab is mapped as it is: what is said of its dtype must be what it holds, and no adapters can be merged.
    Raises ValueError for a bad choice, FormatError for an unreadable file, UnsupportedModelError for other models.
    """
    backend = choose_backend(backend)
    if is_prefab(path):
        if backend != "cpu" or adapters:
            what = "adapters cannot be merged into it" if adapters else "the reference cannot read it"
            raise ValueError(f"{path} holds packed weights, and {what}: give the model's original file")
        prefab = open_prefab(Path(path))
        if (dtype, quant, quant_layers, strategy) != ("auto", None, None, None):
            wanted = choose_precision(prefab.checkpoint.info.layers, backend, dtype, quant, quant_layers, strategy)
            _check_same(path, prefab.precision, wanted)
        return _load_prefab(prefab, Path(path), threads, gn_eps, progress)
    checkpoint = load_checkpoint(path, adapters)
    precision = choose_precision(checkpoint.info.layers, backend, dtype, quant, quant_layers, strategy)
    if backend == "cpu":
        cache = PackedCache(Path(path), checkpoint.fingerprint, precision.label) if cache_packed else None
        executable = _native(checkpoint, precision, threads, gn_eps, cache, progress)
    else:
        weights = precision.apply(checkpoint.weights(_reader(checkpoint, progress)))
        executable = ReferenceExecutable(checkpoint.record(gn_eps), weights, precision.rest)
    kernels = executable.level if isinstance(executable, cpu.CpuExecutable) else ""
    info = _info(checkpoint, Path(path), precision.label, backend, kernels, executable.layout)
    return Model(executable, info, _initial_state(checkpoint, executable.layout))


def quantize_model(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str = "auto",
    quant: str | None = None,
    quant_layers: int | None = None,
    strategy: str | None = None,
    threads: int | None = None,
    gn_eps: float | None = None,
    adapters: Sequence[Adapter] = (),
    progress: Progress | None = None,
) -> tuple[int, str]:
    """Pack a model and write it as a prefab, which `load_model` maps. Returns the file's size and its precision.

    The arguments are those of `load_model`, whose errors it raises, and OSError when the target cannot be written.
    """
    checkpoint = load_checkpoint(source, adapters)
    precision = choose_precision(checkpoint.info.layers, choose_backend("cpu"), dtype, quant, quant_layers, strategy)
    executable = _native(checkpoint, precision, threads, gn_eps, None, progress)
    name = checkpoint.metadata.get("name", Path(target).stem)
    return save_prefab(Path(target), name, checkpoint, precision, gn_eps, executable), precision.label


def _check_same(path: str | Path, found: Precision, wanted: Precision) -> None:
    if found.label != wanted.label:
        raise ValueError(
            f"{path} holds weights in {found.label}, not in {wanted.label}: leave the dtype away, or make another from "
            "the model's original file with `wingbeat quantize`"
        )


def _load_prefab(
    prefab: Prefab, path: Path, threads: int | None, gn_eps: float | None, progress: Progress | None
) -> Model:
    checkpoint, precision = prefab.checkpoint, prefab.precision

    def read(name: str) -> NDArray:
        raise FormatError(f"{path} lacks the weight {name!r}: make it anew with `wingbeat quantize`")

    program = checkpoint.record(gn_eps)
    try:
        prefab.announce()
        weights = precision.apply(checkpoint.weights(read))
        executable = cpu.CpuExecutable(program, weights, precision.rest, threads, packed=prefab.weights)
        prefab.verify(executable.checksum)
    except ValueError as error:
        raise FormatError(f"{path} is damaged ({error}): make it anew with `wingbeat quantize`") from error
    if progress is not None:
        progress(prefab.size, prefab.size)
    info = _info(checkpoint, path, precision.label, "cpu", executable.level, executable.layout)
    return Model(executable, info, _initial_state(checkpoint, executable.layout))


def _initial_state(checkpoint: LoadedCheckpoint, layout: StateLayout) -> Mapping[str, FloatArray] | None:
    return tuned_state(checkpoint.initial_state, layout, swapped=False) if checkpoint.initial_state else None


def _native(
    checkpoint: LoadedCheckpoint,
    precision: Precision,
    threads: int | None,
    gn_eps: float | None,
    cache: PackedCache | None,
    progress: Progress | None,
) -> cpu.CpuExecutable:
    program, read = checkpoint.record(gn_eps), _reader(checkpoint, progress)

    def make(packed: Mapping[str, cpu.PackedWeight] | None = None) -> cpu.CpuExecutable:
        weights = precision.apply(checkpoint.weights(read))
        return cpu.CpuExecutable(program, weights, precision.rest, threads, packed=packed)

    if cache is None:
        return make()
    if (found := cache.load(make)) is not None:
        executable, size = found
        if progress is not None:
            progress(size, size)
        return executable
    executable = make()
    cache.save(executable)
    return executable


def choose_backend(backend: str) -> str:
    """The backend that a name stands for, with a warning where it is the slow one. Raises ValueError."""
    if backend == "auto":
        if cpu.available():
            return "cpu"
        warnings.warn(
            "wingbeat was installed without its C++ kernels: running the slow NumPy reference. "
            "Install a C++ compiler (Debian: apt install g++ python3-dev) and reinstall wingbeat to get them.",
            stacklevel=3,
        )
        return "reference"
    if backend not in ("cpu", "reference"):
        raise ValueError(f"backend must be auto, cpu or reference, not {backend!r}")
    if backend == "cpu" and not cpu.available():
        raise ValueError("backend 'cpu' needs the C++ kernels: install a C++ compiler and reinstall wingbeat")
    return backend


def choose_precision(
    layers: int,
    backend: str,
    dtype: str,
    quant: str | None,
    quant_layers: int | None,
    strategy: str | None,
) -> Precision:
    """What ``load_model`` makes of its arguments of these names, for a backend that was chosen. Raises ValueError."""
    dtype = full_name(dtype)
    if strategy is not None:
        if dtype != "auto" or quant is not None or quant_layers is not None:
            raise ValueError("strategy says what dtype, quant and quant_layers say: give one or the other")
        precision, notes = map_strategy(strategy, layers)
        log.info("strategy %r: %s", strategy, "; ".join([f"the model is {precision.label}", *notes]))
        return precision
    if dtype == "auto":
        dtype = "bfloat16" if backend == "cpu" else "float32"
    if quant is not None:
        return quantised(dtype, quant, quant_layers, layers)
    if quant_layers is not None:
        raise ValueError(f"quant_layers needs quant: {' or '.join(QUANTS)}")
    return uniform(dtype, layers)


def _reader(checkpoint: LoadedCheckpoint, progress: Progress | None) -> Read:
    """Reads tensors by name. When the next one is asked for, the pages of the one before are given back."""
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    seen: dict[str, int] = {}  # a weight may be a part of a tensor: that is read again
    last: LazyTensor | None = None

    def read(name: str) -> NDArray:
        nonlocal last
        if last is not None:
            last.release()
        last = tensor = checkpoint.tensors[name]
        seen[name] = tensor.nbytes
        if progress:
            progress(sum(seen.values()), total)
        tensor.announce()
        return tensor.read()

    return read


def _info(
    checkpoint: LoadedCheckpoint, path: Path, dtype: str, backend: str, kernels: str, layout: StateLayout
) -> ModelInfo:
    shape = checkpoint.info
    return ModelInfo(
        name=checkpoint.metadata.get("name", model_name(path)),
        version=checkpoint.version,
        layers=shape.layers,
        width=shape.width,
        vocab_size=shape.vocab_size,
        dtype=dtype,
        backend=backend,
        fingerprint=checkpoint.fingerprint,
        parameters=shape.parameters,
        path=str(path),
        metadata=dict(checkpoint.metadata),
        kernels=kernels,
        state_shapes={name: entry.shape for name, entry in layout.fields.items()},
    )
