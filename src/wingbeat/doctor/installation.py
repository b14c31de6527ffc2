"""What is installed: versions, the native modules, the kernels and how fast they run here."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from wingbeat.config import version
from wingbeat.doctor.finding import Finding
from wingbeat.dtypes import DTYPES
from wingbeat.engine.memory import available_memory
from wingbeat.ops import cpu
from wingbeat.ops.cores import default_threads

NATIVE = {"_kernels": "kernels", "_sampler": "sampler", "_text": "tokenizer"}
"""The C++ modules and what they are for."""

PROBED_MEGABYTES = 512
_MEMORY_SHARE = 4  # the probe may take one part in this many of the free memory

_REBUILD = (
    "install a C++ compiler and Python's headers (Debian: apt install g++ python3-dev), then reinstall: "
    "`make serve` in a checkout, else `pip install --force-reinstall --no-cache-dir wingbeat`"
)


def look_at_installation() -> Iterator[Finding]:
    yield Finding(
        "version",
        f"wingbeat {version()}, Python {platform.python_version()}, {platform.system()} {platform.release()}",
        details={
            "wingbeat": version(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "machine": platform.machine(),
        },
    )
    native = _native_modules()
    yield native
    if native.details["_kernels"] == "ok":
        level = _kernel_level()
        yield level
        if level.status != "problem":
            yield _speed(level.details["level"])


def _native_modules() -> Finding:
    states = {name: _state(name) for name in NATIVE}
    missing = [NATIVE[name] for name, state in states.items() if state == "missing"]
    broken = [f"{NATIVE[name]} ({state})" for name, state in states.items() if state not in ("ok", "missing")]
    if broken:
        text = f"cannot be loaded: {', '.join(broken)}"
        return Finding("native modules", text, "problem", _REBUILD, details=states)
    if missing:
        text = f"not built: {', '.join(missing)}; their slow Python twins run instead"
        return Finding("native modules", text, "note", _REBUILD, details=states)
    return Finding("native modules", f"{', '.join(NATIVE.values())} are built", details=states)


def _state(name: str) -> str:
    """ "ok", "missing", or why the module cannot be loaded."""
    if find_spec(f"wingbeat.{name}") is None:
        return "missing"
    try:
        import_module(f"wingbeat.{name}")
    except ImportError as error:
        return str(error)
    return "ok"


def _kernel_level() -> Finding:
    runnable, built = cpu.levels(), cpu.built_levels()
    wanted = os.environ.get("WINGBEAT_KERNELS", "")
    details = {"level": wanted or runnable[0], "runnable": runnable, "built": built}
    text = f"{details['level']} runs; built in: {', '.join(built)}; this processor can run: {', '.join(runnable)}"
    if wanted and wanted not in runnable:
        fix = f"unset WINGBEAT_KERNELS, or set it to one of {', '.join(runnable)}"
        return Finding("kernels", f"WINGBEAT_KERNELS={wanted} does not run here", "problem", fix, details)
    if wanted:
        fix = "unset WINGBEAT_KERNELS to run the best"
        return Finding("kernels", f"{text} (WINGBEAT_KERNELS chose it)", "note", fix, details)
    if details["level"] == "portable" and len(built) > 1:
        return Finding("kernels", text, "note", "a processor with AVX2 would be several times as fast", details)
    return Finding("kernels", text, details=details)


def _speed(level: str) -> Finding:
    """Reading bounds how fast tokens come, multiplying how fast prompts are read."""
    threads = default_threads()
    megabytes = max(1, min(PROBED_MEGABYTES, available_memory() // _MEMORY_SHARE >> 20))
    bandwidth = cpu.read_bandwidth(threads, level, megabytes)
    peaks = {dtype: 2 * cpu.multiply_add_peak(threads, dtype, level) for dtype in DTYPES}
    shown = ", ".join(f"{peak / 1e9:,.0f} in {dtype}" for dtype, peak in peaks.items())
    return Finding(
        "speed",
        f"{threads} threads read {bandwidth / 1e9:,.1f} GB/s and multiply, in GFLOP/s: {shown}",
        details={"threads": threads, "read_bytes_per_second": bandwidth, "flops": peaks},
    )
