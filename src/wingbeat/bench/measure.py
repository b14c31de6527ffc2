"""Tokens per second of a model's steps, and how near they come to the machine's limits.

A decode step is bounded by reading the weights, a prompt by multiplying, so each figure comes with two shares:

- ``bandwidth_share``: (bytes of the weights + 2 x bytes of the states of the step's sequences) / time / read bandwidth.
  The weights are read once a step whatever the number of rows; a state is read and written.
- ``gemm_share``: 2 x multiply-adds of the step's matrices / time / peak in the model's dtype. Every row meets every
  matrix, but the head only rows that want logits: all of a decode step, the last of a prompt.

Bandwidth and peak are probed with the same threads just before and after each figure; the better one counts. Weights
that fit in the caches can exceed the bandwidth of the memory. Sampling and the server are not part of a figure.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from wingbeat.models import Model, Progress, load_model
from wingbeat.models.prefab import look_inside
from wingbeat.ops.cpu import CpuExecutable, multiply_add_peak, read_bandwidth
from wingbeat.ops.program import Program
from wingbeat.ops.table import Executable, FloatArray, IntArray, StepBatch

MIN_STEPS = 5
PROBES = 2  # on each side of a figure: one alone may lose its core to another program


@dataclass(frozen=True, slots=True)
class Case:
    """A step to time: ``sequences`` that are fed ``tokens`` each, with logits for the last token of each."""

    what: str
    sequences: int
    tokens: int

    @property
    def rows(self) -> int:
        return self.sequences * self.tokens


def decode(sequences: int) -> Case:
    return Case(f"decode b{sequences}", sequences, 1)


def prefill(tokens: int) -> Case:
    return Case(f"prefill {tokens}", 1, tokens)


CASES = (*map(decode, (1, 8, 32, 128)), *map(prefill, (512, 1024)))


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded model and the multiply-adds of its matrices: for a row, and for a row's logits on top."""

    model: Model
    row_multiply_adds: int
    logit_multiply_adds: int

    def multiply_adds(self, case: Case) -> int:
        return case.rows * self.row_multiply_adds + case.sequences * self.logit_multiply_adds


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure. ``seconds`` is the median step of ``steps``; what a backend cannot tell is None."""

    what: str
    tok_s: float
    bandwidth_share: float | None
    gemm_share: float | None
    seconds: float
    steps: int
    bandwidth_gb_s: float | None
    peak_gflop_s: float | None
    model: str
    dtype: str
    backend: str
    level: str | None
    threads: int | None
    version: str


def choose_cases(wanted: Iterable[str]) -> tuple[Case, ...]:
    """The cases named: "decode" or "prefill" for all of a kind, "decode b4" or "prefill 256" for any size.

    No name means all. Raises ValueError for a name of another form.
    """
    chosen: dict[str, Case] = {}
    for text in wanted:
        match = re.fullmatch(r"(decode)(?: b([1-9]\d*))?|(prefill)(?: ([1-9]\d*))?", " ".join(text.split()))
        if match is None:
            raise ValueError(f"there is no figure {text!r}: ask for decode, decode b8, prefill or prefill 512")
        kind, size = match[1] or match[3], match[2] or match[4]
        sized = ((decode if kind == "decode" else prefill)(int(size)),) if size else ()
        for case in sized or (case for case in CASES if case.what.startswith(kind)):
            chosen[case.what] = case
    return tuple(chosen.values()) or CASES


def load_subject(
    path: Path,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Subject:
    """Load a model to be timed. Raises what ``load_model`` raises."""
    model = load_model(path, dtype=dtype, threads=threads, backend=backend, progress=progress)
    return Subject(model, *count_multiply_adds(look_inside(path).record()))


def count_multiply_adds(program: Program) -> tuple[int, int]:
    """Multiply-adds of a program's matrices: (for each row, for each row that wants logits on top)."""
    counts = {"tokens": 0, "logits": 0}
    for op in program.ops:
        if op.name == "linear":
            counts[op.reads[0].rows] += int(op.constants["columns"]) * op.writes[0].width
    return counts["tokens"], counts["logits"]


def measure(subject: Subject, case: Case, seconds: float, version: str) -> Figure:
    """Time a case for about ``seconds``, at least ``MIN_STEPS`` steps, between probes of the machine."""
    executable, info = subject.model.executable, subject.model.info
    native = executable if isinstance(executable, CpuExecutable) else None
    before = probe(native, info.dtype)
    times = time_steps(subject.model, case, seconds)
    bandwidth, peak = map(max, before, probe(native, info.dtype))
    step = median(times)
    moved = (native.weight_bytes if native else 0) + 2 * case.sequences * executable.layout.slot_bytes
    return Figure(
        what=case.what,
        tok_s=rounded(case.rows / step),
        bandwidth_share=rounded(moved / step / bandwidth) if native else None,
        gemm_share=rounded(subject.multiply_adds(case) / step / peak) if native else None,
        seconds=rounded(step),
        steps=len(times),
        bandwidth_gb_s=rounded(bandwidth / 1e9) if native else None,
        peak_gflop_s=rounded(2 * peak / 1e9) if native else None,
        model=info.name,
        dtype=info.dtype,
        backend=info.backend,
        level=native.level if native else None,
        threads=native.threads if native else None,
        version=version,
    )


def time_steps(model: Model, case: Case, seconds: float) -> list[float]:
    """Seconds of each step after a first one that is not counted."""
    executable = model.executable
    steps = prepared_steps(executable, case)
    executable.run(*next(steps))
    times: list[float] = []
    while len(times) < MIN_STEPS or sum(times) < seconds:
        batch, pool = next(steps)
        start = time.perf_counter()
        executable.run(batch, pool)
        times.append(time.perf_counter() - start)
    return times


def prepared_steps(executable: Executable, case: Case) -> Iterator[tuple[StepBatch, FloatArray]]:
    """Endless steps to run, each to be run before the next is taken.

    Every step gets other tokens. Sequences that decode go on from their last state, a prompt begins anew.
    """
    pool = executable.layout.allocate(case.sequences)
    for batch in itertools.cycle(_batches(case, executable.vocab_size)):
        if case.tokens > 1:
            executable.layout.reset(pool, 0)
        yield batch, pool


def _batches(case: Case, vocab_size: int, count: int = 32) -> list[StepBatch]:
    """Steps of a case with tokens of their own, drawn beforehand so that nothing comes between two steps."""
    rng = np.random.default_rng(0)
    slots = np.arange(case.sequences, dtype=np.int32)
    starts = np.arange(0, case.rows + 1, case.tokens, dtype=np.int32)
    return [StepBatch(_tokens(rng, case.rows, vocab_size), slots, starts, starts[1:] - 1) for _ in range(count)]


def _tokens(rng: np.random.Generator, rows: int, vocab_size: int) -> IntArray:
    """Distinct token ids but 0, which ends a text; repeated ones where the vocabulary is smaller than the step."""
    tokens = 1 + rng.choice(vocab_size - 1, rows, replace=rows >= vocab_size)
    return tokens.astype(np.int32)


def probe(executable: CpuExecutable | None, dtype: str) -> tuple[float, float]:
    """Bytes and multiply-adds a second that the machine reaches now with the executable's threads and kernels."""
    if executable is None:
        return 0.0, 0.0
    threads, level = executable.threads, executable.level
    return (
        max(read_bandwidth(threads, level) for _ in range(PROBES)),
        max(multiply_add_peak(threads, dtype, level) for _ in range(PROBES)),
    )


def rounded(value: float) -> float:
    """Four digits: more would be noise."""
    return float(f"{value:.4g}")
