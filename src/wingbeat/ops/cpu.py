"""The native CPU backend: one C++ call a step, on kernels chosen for this machine at load."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wingbeat.ops.cores import default_threads
from wingbeat.ops.lowering import Lowered, after_relu2, lower
from wingbeat.ops.packed import PackedWeight
from wingbeat.ops.profile import Costs, StepProfile
from wingbeat.ops.program import Program
from wingbeat.ops.quantize import LEVELS
from wingbeat.ops.table import FloatArray, StepBatch, Weight, WeightKind, storage_dtype

_PACKED_AS = {
    WeightKind.MATRIX: "matrix",
    WeightKind.LOW_RANK: "matrix",
    WeightKind.TABLE: "table",
    WeightKind.VECTOR: "vectors",
}
"""The kinds that the kernels tell apart."""

BY_K = "matrix by K"


def packed_layout() -> str:
    """Names what the bytes of packed weights mean. It is the same for all kernel levels."""
    return f"{_kernels().packed_layout}-{sys.byteorder}"


def available() -> bool:
    """Whether the native kernels were built."""
    return find_spec("wingbeat._kernels") is not None


def levels() -> list[str]:
    """The kernel levels this machine can run, best first, such as ["avx2", "portable"]."""
    return _kernels().levels()


def built_levels() -> list[str]:
    """The kernel levels that were compiled, best first, whether this machine can run them or not."""
    return _kernels().built_levels()


class CpuExecutable:
    """A program bound to packed weights.

    ``threads``: None takes ``default_threads()``. ``level``: a kernel level; None takes ``WINGBEAT_KERNELS`` from the
    environment, else the best. ``packed``: what ``packed_weights`` of another executable of the same program and dtype
    gave; the weights are then used where they lie, and none of ``weights`` is read.
    ``skip_zeros``: whether one row skips the weights of the channel mix that meet a zero; None takes
    ``WINGBEAT_SKIP_ZEROS`` (0 or 1) from the environment, else does so in int8, where it pays. nf4 and sf4 never do.
    Raises ValueError for a level this machine cannot run, and for packed weights that do not fit.
    ``matrix_formats``: those in which the matrices of the program are stored.
    """

    def __init__(
        self,
        program: Program,
        weights: Iterable[Weight],
        dtype: str,
        threads: int | None = None,
        level: str | None = None,
        packed: Mapping[str, PackedWeight] | None = None,
        skip_zeros: bool | None = None,
    ) -> None:
        self.layout = program.layout
        self.vocab_size = program.vocab_size
        self._native = _kernels()
        level = level if level is not None else os.environ.get("WINGBEAT_KERNELS", "")
        self._program = self._native.Program(
            level, threads or default_threads(), self.vocab_size, self.layout.slot_floats
        )
        self._ids: dict[str, int] = {}
        self._shapes: dict[str, tuple[str, str, int, int]] = {}
        formats: dict[str, str] = {}
        mostly_zero, by_k = after_relu2(program), set[str]()
        for weight in weights:
            formats[weight.name] = storage_dtype(weight.kind, weight.dtype or dtype)
            kind = _PACKED_AS[weight.kind]
            if weight.name in mostly_zero and _by_k(weight.name, packed, skip_zeros, formats[weight.name]):
                kind = BY_K
                by_k.add(weight.name)
            if packed is None:
                self._pack(weight, kind, formats[weight.name])
            else:
                self._adopt(weight.name, kind, formats[weight.name], packed)
        lowered = lower(program, formats, frozenset(by_k))
        self.matrix_formats = frozenset(formats[op.weights[0]] for op in program.ops if op.name == "linear")
        self._add_ops(lowered)
        sizes = {name: self._program.matrix_bytes(number) for name, number in self._ids.items()}
        self._costs = Costs(lowered, formats, sizes)

    @property
    def level(self) -> str:
        """The kernel level in use."""
        return self._program.level

    @property
    def threads(self) -> int:
        return self._program.threads

    @property
    def pool(self) -> object:
        """The threads, for work between runs: a ``wingbeat._kernels.ThreadPool``."""
        return self._program.pool

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a decode step must read (all but the embedding table)."""
        return self._program.weight_bytes

    def run(self, batch: StepBatch, pool: FloatArray) -> FloatArray:
        return self._program.run(*batch, pool)

    def hidden(self) -> FloatArray:
        return self._program.hidden()

    def run_profiled(self, batch: StepBatch, pool: FloatArray) -> tuple[FloatArray, StepProfile]:
        """What ``run`` does, to the last bit, and where its time went; two looks at the clock make a unit slower."""
        start = time.perf_counter()
        logits = self._program.run_profiled(*batch, pool)
        seconds = time.perf_counter() - start
        return logits, self._costs.profile(batch, self.threads, seconds, self._program.profile())

    def packed_weights(self) -> Iterator[tuple[str, PackedWeight]]:
        """All weights by name, as views of this executable's memory."""
        for name, number in self._ids.items():
            yield name, PackedWeight(*self._shapes[name], *self._program.packed(number))

    def checksum(self, data: NDArray[np.uint8]) -> int:
        """64 bits that depend on every byte of ``data``, at the speed at which memory is read."""
        return self._program.checksum(data)

    def _pack(self, weight: Weight, kind: str, storage: str) -> None:
        norm = weight.norm() if weight.norm is not None else None
        array, source = _native_array(weight.read())
        self._shapes[weight.name] = kind, storage, *array.shape
        self._ids[weight.name] = self._program.add_weight(kind, storage, array, source, norm)

    def _adopt(self, name: str, kind: str, storage: str, packed: Mapping[str, PackedWeight]) -> None:
        found = packed.get(name)
        if found is None or found[:2] != (kind, storage):
            raise ValueError(f"{name} is not among the packed weights as a {kind} in {storage}")
        self._ids[name] = self._program.add_packed(*found)
        self._shapes[name] = found[:4]

    def _add_ops(self, lowered: Lowered) -> None:
        for buffer in lowered.buffers:
            self._program.add_buffer(buffer.width, buffer.rows, sorted(buffer.formats))
        for stage in lowered.stages:
            self._program.add_stage(
                [
                    {
                        "name": op.name,
                        "reads": op.reads,
                        "writes": op.writes,
                        "weights": [self._ids[name] for name in op.weights],
                        **op.constants,
                    }
                    for op in stage
                ]
            )
        self._program.set_logits(lowered.logits)
        if lowered.hidden is not None:
            self._program.set_hidden(lowered.hidden)


def _by_k(name: str, packed: Mapping[str, PackedWeight] | None, wanted: bool | None, dtype: str) -> bool:
    """Whether a matrix that meets many zeros is kept by K; one that is packed already stays as it is."""
    if packed is not None and name in packed:
        return packed[name].kind == BY_K
    return _skips_zeros(wanted, dtype)


def _skips_zeros(wanted: bool | None, dtype: str) -> bool:
    """int8 alone loses nothing on one row with only half of the activations zero; with AMX batches do not, either."""
    if dtype in LEVELS:
        return False
    if wanted is not None:
        return wanted
    said = os.environ.get("WINGBEAT_SKIP_ZEROS", "")
    return said == "1" if said in ("0", "1") else dtype == "int8"


def read_bandwidth(threads: int, level: str = "", megabytes: int = 512) -> float:
    """Bytes a second that ``threads`` threads read from memory right now, as a decode step reads weights."""
    return _kernels().probe_read(level, threads, megabytes << 20)


def multiply_add_peak(threads: int, dtype: str, level: str = "") -> float:
    """Multiply-adds a second of ``threads`` threads in ``dtype`` when the data stays in the first-level cache."""
    return _kernels().probe_peak(level, threads, dtype)


def thread_pool(threads: int) -> object:
    """Threads as ``CpuExecutable.pool`` has them."""
    return _kernels().ThreadPool(threads)


def _native_array(array: np.ndarray) -> tuple[np.ndarray, str]:
    """What the kernels take, in any order of elements: float32, or 16 bits as uint16; and the dtype's name."""
    array = np.atleast_2d(array)
    source = array.dtype.name
    return (array.view(np.uint16) if array.dtype.itemsize == 2 else array), source


def _kernels() -> Any:
    return import_module("wingbeat._kernels")
