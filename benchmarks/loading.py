"""How long a model takes to load and how much memory at most: packed anew, and mapped from the cache.

    python benchmarks/loading.py model.safetensors --dtype int8

Each start is a process of its own, on a file that the system has in memory. "Moved" is what must be read and written:
of a start that packs the file and the packed weights, of one that maps the packed weights; its share is that of what
reading memory alone would take. "Above" is how far the memory of the process rose, file mappings included, beyond the
packed weights: at most the largest tensor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CODE = """
import json, sys, time
from wingbeat.models import load_model
from wingbeat.ops.cpu import read_bandwidth

def highest():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

before, start = highest(), time.perf_counter()
native = load_model(sys.argv[1], dtype=sys.argv[2], backend="cpu", cache_packed=bool(sys.argv[3])).executable
seconds, grown = time.perf_counter() - start, highest() - before
packed = sum(weight.data.nbytes + weight.scales.nbytes for _, weight in native.packed_weights())
bandwidth = max(read_bandwidth(native.threads, native.level) for _ in range(2))
print(json.dumps({"seconds": seconds, "grown": grown, "packed": packed, "bandwidth": bandwidth}))
"""


def start(model: Path, dtype: str, cache: str) -> dict[str, float]:
    """One start in a new process. ``cache``: where packed weights are kept; empty for nowhere."""
    environment = {**os.environ, "WINGBEAT_CACHE": cache}
    command = [sys.executable, "-c", CODE, model, dtype, cache]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def show(what: str, starts: list[dict[str, float]], read: int) -> None:
    """The medians of starts that read so many bytes beside the packed weights."""
    middle = {key: statistics.median(one[key] for one in starts) for key in starts[0]}
    moved = read + middle["packed"]
    rate = moved / middle["seconds"]
    print(
        f"{what:18} {middle['seconds']:7.3f} s {moved / 1e6:8,.0f} MB moved {rate / 1e9:6.1f} GB/s"
        f" {rate / middle['bandwidth']:5.0%} {middle['packed'] / 1e6:8,.0f} MB packed"
        f" {(middle['grown'] - middle['packed']) / 1e6:+7,.0f} MB above"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        start(args.model, args.dtype, cache)  # writes the cache; and the system has read the model's file
        rounds = [[start(args.model, args.dtype, kept) for kept in ("", cache)] for _ in range(args.rounds)]
    show("packed anew", [packed for packed, _ in rounds], args.model.stat().st_size)
    show("from the cache", [mapped for _, mapped in rounds], 0)


if __name__ == "__main__":
    main()
