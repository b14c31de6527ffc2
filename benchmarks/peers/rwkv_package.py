"""Time the author's `rwkv` package on the CPU: one line of JSON for each figure. It runs one sequence at a time.

python benchmarks/peers/rwkv_package.py 0.1B.safetensors [--dtype bf16] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}  # read when rwkv is imported

import torch
from checkpoint import read
from common import rate, report
from rwkv.model import RWKV


def load(path: str, dtype: str) -> RWKV:
    """The package reads .pth only, and wants the name without its ending."""
    if path.endswith(".pth"):
        return RWKV(path.removesuffix(".pth"), f"cpu {dtype}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.pth"
        torch.save(read(path), copy)
        return RWKV(str(copy.with_suffix("")), f"cpu {dtype}")


class Decoding:
    """A sequence that goes on from its last state."""

    def __init__(self, model: RWKV) -> None:
        self.model = model
        self.state = None

    def step(self, tokens: list[int]) -> None:
        _, self.state = self.model.forward(tokens, self.state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=".safetensors or .pth")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each figure")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # The package prints while it loads; standard output is for the figures.
    stdout = os.dup(1)
    os.dup2(2, 1)
    model = load(args.model, args.dtype)
    os.dup2(stdout, 1)
    engine = f"rwkv {args.dtype}"
    report(engine, args.model, "decode b1", rate(1, Decoding(model).step, args.seconds))
    for tokens in (512, 1024):
        prefill = rate(tokens, lambda prompt: model.forward(prompt, None), args.seconds)
        report(engine, args.model, f"prefill {tokens}", prefill)


if __name__ == "__main__":
    main()
