"""The machine: processor, memory, graphics card."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from wingbeat.doctor.finding import Finding, gigabytes
from wingbeat.engine.state_pool import available_memory
from wingbeat.ops.cores import cgroup_quota, default_threads, physical_cores

LITTLE_MEMORY = 1 << 30

# What the kernels use, and what later ones may use.
_INSTRUCTION_SETS = re.compile(
    r"avx2|fma|f16c|avx_vnni|avx512(f|bw|dq|vl|_vnni|_bf16|_fp16)|amx_\w+|asimd\w*|bf16|i8mm|sve2?"
)


def look_at_machine() -> Iterator[Finding]:
    yield _processor()
    yield _memory()
    yield _graphics()


def _processor() -> Finding:
    name, sets = _cpu_info()
    cores, quota, threads = physical_cores(), cgroup_quota(), default_threads()
    logical = os.cpu_count() or 1
    text = f"{name}, {logical} logical CPUs, {cores} physical cores for this process"
    if threads < cores:
        text += f", limited to {threads} by its container"
    details = {
        "name": name,
        "machine": platform.machine(),
        "logical": logical,
        "physical": cores,
        "quota": quota,
        "threads": threads,
        "instruction_sets": sets,
    }
    return Finding("processor", f"{text} ({' '.join(sets) or platform.machine()})", details=details)


def _cpu_info() -> tuple[str, list[str]]:
    """The processor's name and the instruction sets of interest."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # macOS
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine(), []
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    words = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine()
    return name, [word for word in words if _INSTRUCTION_SETS.fullmatch(word)]


def _sysctl(name: str) -> str | None:
    return _run(["sysctl", "-n", name])


def _memory() -> Finding:
    free = available_memory()
    total = _total_memory()
    limit = _memory_limit()
    text = f"{gigabytes(free)} free" + (f" of {gigabytes(total)}" if total else "")
    if limit is not None and (total is None or limit < total):
        text += f", limited to {gigabytes(limit)} by its container"
    details = {"free": free, "total": total, "limit": limit}
    if free < LITTLE_MEMORY:
        return Finding(
            "memory", text, "note", "close other programs, or give the container more: a model must fit", details
        )
    return Finding("memory", text, details=details)


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _memory_limit() -> int | None:
    """The container's limit (cgroup v2, else v1), None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int(Path("/sys/fs/cgroup", name).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def _graphics() -> Finding:
    listed = _run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
    if not listed:
        return Finding("graphics card", "no NVIDIA card is seen; none is needed", details={"cards": []})
    cards = [line.strip() for line in listed.splitlines()]
    return Finding(
        "graphics card", f"{'; '.join(cards)}: not used yet, models run on the CPU", details={"cards": cards}
    )


def _run(command: list[str]) -> str | None:
    """What a program prints; None when it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
