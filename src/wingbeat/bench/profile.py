"""Where the time of a model's steps goes: each kind of op, its share of the step and of the machine's limits.

The threads' time in a step is what they spend inside the units of ops, what they wait at the end of stages, and the
rest around the stages. A row is a part of that, over the number of threads: the rows add up to the step.

- ``gb_s``: bytes of the weights and states that the ops must move / time; ``bandwidth_share`` is that over the read
  bandwidth. A state counts twice, read and written. Activations do not count.
- ``gflop_s``: 2 x multiply-adds of the matrices / time; ``gemm_share`` is that over the peak in the format that those
  matrices are stored in (for int8 these are operations on integers).

Rows are means over profiled steps, without the slowest and the fastest quarter. Every other step is not profiled:
``plain_seconds`` beside ``step_seconds`` shows what profiling costs. The limits are probed before and after.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median

import msgspec

from wingbeat.bench.measure import MIN_STEPS, Case, Subject, prepared_steps, probe, rounded
from wingbeat.ops.cpu import CpuExecutable
from wingbeat.ops.profile import OpProfile, StepProfile

WKV, WAITING, REST = "state and WKV", "waiting at barriers", "rest: Python and call"

GROUPS = {
    "r, k, v projections": r"linear .*\.att\.(receptance|key|value)",
    "gate": r"linear .*\.att\.gate",
    "low-rank pairs": r"linear .*\.att\.(\w|maa_\w|decay_w)[12]",
    WKV: r"wkv\d .*",
    "output": r"linear .*\.att\.output",
    "ffn.key": r"linear .*\.ffn\.key",
    "ffn.receptance": r"linear .*\.ffn\.receptance",
    "ffn.value": r"linear .*\.ffn\.value",
    "DeepEmbed": r"linear .*\.ffn\.(s_emb_x|s[12])|deep_embed .*",
    "head": r"linear head",
    "norms and token shift": r"(norm_shift_mix|commit_shift|gather_norm|tap) .*",
    "embedding": r"embed .*",
}
"""Rows by what an op's name and first weight look like. Ops like none of these get a row by their own name."""


class ProfileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a step: ``seconds`` of its ``step_seconds``. What does not apply is None."""

    what: str
    op: str
    share: float
    seconds: float
    gb_s: float | None
    bandwidth_share: float | None
    gflop_s: float | None
    gemm_share: float | None
    step_seconds: float
    plain_seconds: float
    steps: int
    bandwidth_gb_s: float
    model: str
    dtype: str
    level: str
    threads: int
    version: str


def native_executable(subject: Subject) -> CpuExecutable:
    """The kernels to profile. Raises ValueError on another backend."""
    executable = subject.model.executable
    if not isinstance(executable, CpuExecutable):
        raise ValueError(
            "only the C++ kernels can be profiled, and this is the NumPy reference: leave --profile out, or take "
            "--backend cpu (without kernels: install a C++ compiler and reinstall wingbeat)"
        )
    return executable


def profile(subject: Subject, case: Case, seconds: float, version: str) -> list[ProfileRow]:
    """Profile a case for about ``seconds``, at least ``MIN_STEPS`` steps. Raises ValueError on another backend."""
    native, info = native_executable(subject), subject.model.info
    before = _probe_formats(native)
    plain, steps = _run(native, case, seconds)
    after = _probe_formats(native)
    bandwidth = max(read for read, _ in (*before.values(), *after.values()))
    peaks = {name: max(before[name][1], after[name][1]) for name in before}
    kept = sorted(steps, key=lambda step: step.seconds)[len(steps) // 4 : len(steps) - len(steps) // 4]
    step = mean(step.seconds for step in kept)
    return [
        ProfileRow(
            what=case.what,
            op=label,
            share=rounded(part / step),
            seconds=rounded(part),
            **_rates(ops, part, bandwidth, peaks),
            step_seconds=rounded(step),
            plain_seconds=rounded(median(plain)),
            steps=len(kept),
            bandwidth_gb_s=rounded(bandwidth / 1e9),
            model=info.name,
            dtype=info.dtype,
            level=native.level,
            threads=native.threads,
            version=version,
        )
        for label, part, ops in parts(kept)
    ]


def parts(steps: Sequence[StepProfile]) -> Iterator[tuple[str, float, list[OpProfile]]]:
    """The rows of steps of one case: label, mean seconds over the number of threads, and the ops of one step."""
    first, scale = steps[0], 1 / (len(steps) * steps[0].threads)
    labels = [_label(op) for op in first.ops]
    seconds: dict[str, float] = defaultdict(float)
    for step in steps:
        for label, op in zip(labels, step.ops, strict=True):
            seconds[label] += op.seconds * scale
    for label in dict.fromkeys((*GROUPS, *labels)):
        if label in seconds:
            yield label, seconds[label], [op for op, of in zip(first.ops, labels, strict=True) if of == label]
    yield WAITING, sum(step.waiting for step in steps) * scale, []
    yield REST, mean(step.rest for step in steps), []


def _label(op: OpProfile) -> str:
    text = f"{op.name} {op.weights[0] if op.weights else ''}"
    return next((label for label, pattern in GROUPS.items() if re.fullmatch(pattern, text)), op.name)


def _rates(
    ops: Sequence[OpProfile], seconds: float, bandwidth: float, peaks: Mapping[str, float]
) -> dict[str, float | None]:
    """What the ops moved and multiplied a second, and the shares that this is of the limits."""
    moved, multiplied = sum(op.bytes for op in ops), sum(op.multiply_adds for op in ops)
    at_peak = sum(op.multiply_adds / peaks[op.format] for op in ops if op.format)
    return {
        "gb_s": rounded(moved / seconds / 1e9) if moved else None,
        "bandwidth_share": rounded(moved / seconds / bandwidth) if moved else None,
        "gflop_s": rounded(2 * multiplied / seconds / 1e9) if multiplied else None,
        "gemm_share": rounded(at_peak / seconds) if multiplied else None,
    }


def _run(native: CpuExecutable, case: Case, seconds: float) -> tuple[list[float], list[StepProfile]]:
    """Seconds of plain steps, and profiled ones between them, after a first step that is not counted."""
    batches = prepared_steps(native, case)
    native.run(*next(batches))
    plain: list[float] = []
    profiled: list[StepProfile] = []
    while len(plain) < MIN_STEPS or 2 * sum(plain) < seconds:
        batch, pool = next(batches)
        start = time.perf_counter()
        native.run(batch, pool)
        plain.append(time.perf_counter() - start)
        profiled.append(native.run_profiled(*next(batches))[1])
    return plain, profiled


def _probe_formats(native: CpuExecutable) -> dict[str, tuple[float, float]]:
    """Bytes and multiply-adds a second that the machine reaches now, by the format of matrices."""
    return {name: probe(native, name) for name in native.matrix_formats}
