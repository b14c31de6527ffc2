"""The op table: the contract between model files, which record these ops, and backends, which execute them.

Notation: ``M`` packed rows of a step, ``B`` sequences in it, ``R`` rows that want logits, ``D`` model width,
``E`` that want hidden vectors, ``H`` heads of ``N`` channels (``D = H * N``), ``P`` slots of the state pool. Buffers
are float32 ``[M, width]`` (or ``[R, width]`` after ``gather_norm``, ``[E, width]`` after ``tap``); all arithmetic is
float32 but for the products of ``linear``.

A backend must keep the numeric contract: a row's result depends on that row and its own sequence's state only,
never on ``M``, on the chunking of its prompt, on its neighbours or on the number of threads, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import NamedTuple, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


class WeightKind(StrEnum):
    """What a weight is for; decides how a backend may store it."""

    MATRIX = "matrix"  # [out, in], stored in the model's dtype
    LOW_RANK = "low_rank"  # [out, in], never quantised: float32 in a float32 model, else bfloat16
    TABLE = "table"  # [vocabulary, width], rows are looked up: float32 in a float32 model, else bfloat16
    VECTOR = "vector"  # any shape, always float32


class Weight(NamedTuple):
    """A named weight as a model file hands it to a backend, which reads it when it gets there.

    ``read`` gives a float32, bfloat16 or float16 array, which need not be contiguous. ``norm`` (of a table) gives the
    weight and the bias, float32 [width], of a LayerNorm with eps 1e-5 that is applied to its rows once, at load.
    ``dtype``: one of ``DTYPES``, in place of the model's.
    """

    name: str
    kind: WeightKind
    read: Callable[[], NDArray]
    norm: Callable[[], tuple[FloatArray, FloatArray]] | None = None
    dtype: str | None = None


class Activation(StrEnum):
    """The function ``linear`` applies to its result; ``x`` includes the bias."""

    NONE = "none"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    RELU2 = "relu2"  # max(x, 0)^2
    SILU = "silu"  # x * sigmoid(x)
    DECAY6 = "decay6"  # exp(-e^x): RWKV-6's decay, in (0, 1)
    DECAY7 = "decay7"  # exp(-e^(-1/2) * sigmoid(x)): RWKV-7's decay, in (0.545, 1)


class Combine(StrEnum):
    """What ``linear`` makes of its result ``y`` and other buffers, element by element."""

    NONE = "none"  # y
    GATE = "gate"  # gate * y
    LERP = "lerp"  # z + (z' - z) * y


@dataclass(frozen=True, slots=True)
class OpSpec:
    """What an op reads and writes. ``in_place`` names a buffer that it both reads and writes."""

    name: str
    doc: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    weights: tuple[str, ...]
    constants: tuple[str, ...] = ()
    in_place: str | None = None
    state: bool = False


_SPECS = (
    OpSpec(
        "embed",
        "out[m] = table[tokens[m]]",
        reads=(),
        writes=("out [M, D]",),
        weights=("table [V, D]",),
    ),
    OpSpec(
        "norm_shift_mix",
        "z = LayerNorm(x); z' = z of the previous row of the same sequence (from the state for its first row); "
        "out_c = z + (z' - z) * mu[c]. The state keeps z of the sequence's last row.",
        reads=("x [M, D]",),
        writes=("out_c [M, D], one for each row of mu",),
        weights=("norm_weight [D]", "norm_bias [D]", "mu [n, D]"),
        constants=("eps",),
        state=True,
    ),
    OpSpec(
        "linear",
        "out = combine(activation(x[:, start : start + columns] @ W^T + bias)), with add=1 out += that. The factors "
        "are rounded to the weight's activation format first (see ops/quantize.py): float32 as it is, bfloat16, or "
        "int8 in blocks of 64 (which weights of 4 bits meet too). A part of the columns needs a weight "
        "in float32 or bfloat16, a start that 32 divides, and x to have round_up(columns, 64) columns from there, "
        "the padding of its width to 64 included.",
        reads=("x [M, >= start + columns]", "gate, or z and z' [M, O] (if combine says so)"),
        writes=("out [M, O]",),
        weights=("W [O, columns]", "bias [O] (optional)"),
        constants=("activation", "combine", "start", "columns", "add"),
        in_place="out, if add",
    ),
    OpSpec(
        "wkv4",
        "RWKV-4 time mixing of every sequence, channel by channel, in token order; S is (numerator a, denominator b, "
        "their common logarithmic scale p), float32. "
        "q = max(p, first + k); y = (e^(p - q) a + e^(first + k - q) v) / (e^(p - q) b + e^(first + k - q)); then "
        "q = max(p + decay, k); a = e^(p + decay - q) a + e^(k - q) v; b alike with 1 for v; p = q; out = r * y",
        reads=("r [M, D]", "k [M, D]", "v [M, D]"),
        writes=("out [M, D]",),
        weights=("decay [D], negative", "first [D]"),
        state=True,
    ),
    OpSpec(
        "wkv6",
        "RWKV-5 and RWKV-6 time mixing of every sequence, head by head, in token order; S is [value, key], float32. "
        "y = S r + (sum r * bonus * k) v; S = S diag(w) + v k^T; out = GroupNorm(y), times g where given. The decay w "
        "is a weight (RWKV-5) or a buffer.",
        reads=("r [M, D]", "k [M, D]", "v [M, D]", "w [M, D] (if decay)", "g [M, D] (if gate)"),
        writes=("out [M, D]",),
        weights=("bonus [D]", "norm_weight [D]", "norm_bias [D]", "w [D] (unless decay)"),
        constants=("heads", "eps", "decay", "gate"),
        state=True,
    ),
    OpSpec(
        "wkv7",
        "RWKV-7 time mixing of every sequence, head by head, in token order; S is [value, key], float32. "
        "kk = normalise(k * k_k); k = k * (1 + (a - 1) * k_a); v = v + (v_first - v) * mix (where given); "
        "S = S diag(w) - (S kk)(kk * a)^T + v k^T; y = S r; "
        "out = (GroupNorm(y) + (sum r * k * r_k) v) * g",
        reads=(
            "r [M, D]",
            "w [M, D]",
            "k [M, D]",
            "v [M, D]",
            "a [M, D]",
            "g [M, D]",
            "v_first, mix [M, D] (optional)",
        ),
        writes=("out [M, D]",),
        weights=("k_k [D]", "k_a [D]", "r_k [D]", "norm_weight [D]", "norm_bias [D]"),
        constants=("heads", "eps"),
        state=True,
    ),
    OpSpec(
        "deep_embed",
        "out[m] = q[m] @ M, where M is table[tokens[m]] + extra[m], viewed as [n, n]",
        reads=("q [M, n]", "extra [M, n * n]"),
        writes=("out [M, n]",),
        weights=("table [V, n * n]",),
    ),
    OpSpec(
        "gather_norm",
        "out[i] = LayerNorm(x[logit_rows[i]])",
        reads=("x [M, D]",),
        writes=("out [R, D]",),
        weights=("norm_weight [D]", "norm_bias [D]"),
        constants=("eps",),
    ),
    OpSpec(
        "tap",
        "out[i] = x[hidden_rows[i]], through a LayerNorm where one is given, for each i with hidden_layers[i] = layer",
        reads=("x [M, D]",),
        writes=("out [E, D]",),
        weights=("norm_weight [D]", "norm_bias [D] (both optional)"),
        constants=("eps", "layer"),
        in_place="out",
    ),
)

OPS: Mapping[str, OpSpec] = {spec.name: spec for spec in _SPECS}


@dataclass(frozen=True, slots=True)
class StateField:
    """One array of a sequence's state.

    ``shape`` is the canonical shape that snapshots use. Matrix states ``[H, value, key]`` are kept in the slot as
    ``[H, key, value]`` with rows padded to a multiple of 16, so that a kernel's lanes are value rows. The rows of
    other states of two dimensions are padded alike. ``initial`` is the value of all elements, or one for each row.
    """

    name: str
    shape: tuple[int, ...]
    offset: int  # in floats, from the start of the slot
    matrix: bool = False
    initial: float | tuple[float, ...] = 0.0

    @property
    def stored_shape(self) -> tuple[int, ...]:
        if self.matrix:
            heads, value, key = self.shape
            return heads, key, round_up(value, 16)
        return (self.shape[0], round_up(self.shape[1], 16)) if len(self.shape) == 2 else self.shape

    @property
    def floats(self) -> int:
        return prod(self.stored_shape)

    def view(self, slot: FloatArray) -> FloatArray:
        """The field inside one slot (float32 [slot_floats]) in its canonical shape, as a writable view."""
        stored = slot[self.offset : self.offset + self.floats].reshape(self.stored_shape)
        if self.matrix:
            return stored[:, :, : self.shape[1]].swapaxes(1, 2)
        return stored[..., : self.shape[-1]]

    def reset(self, slot: FloatArray) -> None:
        """Write the initial value into a slot."""
        initial = np.array(self.initial, np.float32)
        self.view(slot)[...] = initial[:, None] if initial.ndim else initial


class StateLayout:
    """The fields of a sequence's state inside one contiguous slot of float32, 64-byte aligned."""

    def __init__(self) -> None:
        self.fields: dict[str, StateField] = {}
        self.slot_floats = 0

    def add(self, name: str, *shape: int, matrix: bool = False, initial: float | tuple[float, ...] = 0.0) -> StateField:
        field = StateField(name, shape, self.slot_floats, matrix, initial)
        self.fields[name] = field
        self.slot_floats += round_up(field.floats, 16)
        return field

    @property
    def slot_bytes(self) -> int:
        return 4 * self.slot_floats

    def allocate(self, slots: int) -> FloatArray:
        """A pool float32 [slots, slot_floats], 64-byte aligned, every slot in its initial state."""
        raw = np.zeros(slots * self.slot_floats + 16, np.float32)
        start = (-raw.ctypes.data % 64) // 4
        pool = raw[start : start + slots * self.slot_floats].reshape(slots, self.slot_floats)
        if any(field.initial for field in self.fields.values()):
            for slot in range(slots):
                self.reset(pool, slot)
        return pool

    def reset(self, pool: FloatArray, slot: int) -> None:
        """Put ``slot`` into the state of a sequence that has seen nothing."""
        pool[slot] = 0.0
        for field in self.fields.values():
            if field.initial:
                field.reset(pool[slot])

    def views(self, pool: FloatArray, slot: int) -> dict[str, FloatArray]:
        """The state in ``slot`` as canonical arrays, by field name: views, which need not be contiguous."""
        return {name: field.view(pool[slot]) for name, field in self.fields.items()}

    def export(self, pool: FloatArray, slot: int) -> dict[str, FloatArray]:
        """Copy the state in ``slot`` out as canonical arrays, by field name."""
        return {name: np.array(view, order="C") for name, view in self.views(pool, slot).items()}

    def restore(self, pool: FloatArray, slot: int, arrays: Mapping[str, FloatArray]) -> None:
        """Copy canonical arrays into ``slot``. Raises ValueError when a field is missing or has another shape."""
        for name, field in self.fields.items():
            if name not in arrays:
                raise ValueError(f"the state lacks {name!r}: it was made by another model or version")
            if arrays[name].shape != field.shape:
                raise ValueError(f"state field {name!r} is {arrays[name].shape}, this model has {field.shape}")
        if self.slot_floats > sum(prod(field.shape) for field in self.fields.values()):
            pool[slot] = 0.0  # what lies between the fields' values
        for name, field in self.fields.items():
            field.view(pool[slot])[...] = arrays[name]


NO_ROWS: IntArray = np.zeros(0, np.int32)


class StepBatch(NamedTuple):
    """One step's rows, packed: sequence ``b`` owns rows ``seq_starts[b]:seq_starts[b + 1]``, in token order.

    ``hidden_rows`` want the hidden vector after layer ``hidden_layers`` (from 0): the residual stream there, after the
    last layer through the final norm.
    """

    tokens: IntArray  # [M]
    slots: IntArray  # [B], each slot at most once
    seq_starts: IntArray  # [B + 1], from 0 to M, strictly increasing
    logit_rows: IntArray  # [R], rows that want logits, strictly increasing; R may be 0
    hidden_rows: IntArray = NO_ROWS  # [E]
    hidden_layers: IntArray = NO_ROWS  # [E]


class Executable(Protocol):
    """A recorded program bound to weights: what a backend returns."""

    layout: StateLayout
    vocab_size: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a decode step must read (all but the embedding table)."""
        ...

    def run(self, batch: StepBatch, pool: FloatArray) -> FloatArray:
        """Advance the states in ``pool`` by the rows of ``batch``.

        Returns logits float32 [R, V], valid until the next run. Raises ValueError for a token id or a slot out of
        range, before anything is written.
        """
        ...

    def hidden(self) -> FloatArray:
        """The hidden vectors float32 [E, D] that the last ``run`` was asked for, valid until the next one."""
        ...


def check_batch(batch: StepBatch, vocab_size: int, slots: int) -> None:
    """Raise ValueError unless ``batch`` is well formed for a model of ``vocab_size`` and a pool of ``slots``."""
    rows, starts = len(batch.tokens), batch.seq_starts
    if len(starts) != len(batch.slots) + 1 or starts[0] != 0 or starts[-1] != rows or np.any(np.diff(starts) < 1):
        raise ValueError("seq_starts must rise from 0 to the number of rows, one range for each slot")
    if rows and not (batch.tokens.min() >= 0 and batch.tokens.max() < vocab_size):
        bad = next(int(t) for t in batch.tokens if not 0 <= t < vocab_size)
        raise ValueError(f"token id {bad} is outside the model's vocabulary of {vocab_size}")
    if len(batch.slots) and not (batch.slots.min() >= 0 and batch.slots.max() < slots):
        raise ValueError(f"a slot is outside the pool of {slots}")
    if len(set(batch.slots.tolist())) != len(batch.slots):
        raise ValueError("a slot occurs twice in one step")
    wanted = batch.logit_rows
    if len(wanted) and (wanted[0] < 0 or wanted[-1] >= rows or np.any(np.diff(wanted) < 1)):
        raise ValueError("logit_rows must be rising row indices of this step")
    if len(batch.hidden_rows) != len(batch.hidden_layers):
        raise ValueError("hidden_rows and hidden_layers differ in length")
    if len(batch.hidden_rows) and not (batch.hidden_rows.min() >= 0 and batch.hidden_rows.max() < rows):
        raise ValueError("hidden_rows must be row indices of this step")


def storage_dtype(kind: WeightKind, dtype: str) -> str:
    """How a weight of ``kind`` is stored in a model of ``dtype``: one of ``DTYPES``."""
    if kind is WeightKind.VECTOR or dtype == "float32":
        return "float32"
    return dtype if kind is WeightKind.MATRIX else "bfloat16"


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
