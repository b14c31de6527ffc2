"""Time of one sampling step, and its share of the machine's read bandwidth.

    python benchmarks/sampler.py [--vocab 65536] [--threads 1] [--level avx2] [--twin]

Each line is the median over the steps of about a second: microseconds for each row, and the bytes of the logits that
were read per second over the rate at which the same threads sum an array larger than the caches (a row that was just
computed lies in a cache, so the share may exceed 1). `peaked` logits are like a language model's (a few hundred tokens
within reach of the best one); `flat` ones are the worst case for top_p, with tens of thousands of tokens in its set.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from wingbeat.ops.cpu import thread_pool
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.samplers import Sampler

CASES = {
    "greedy": SamplingParams(temperature=0),
    "temperature": SamplingParams(),
    "top_p 0.85": SamplingParams(top_p=0.85),
    "min_p 0.05": SamplingParams(min_p=0.05),
    "top_k 50 + penalties": SamplingParams(
        top_k=50, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1
    ),
    "top_p 0.85 + 20 logprobs": SamplingParams(top_p=0.85, logprobs=20),
}


def make_logits(kind: str, rows: int, vocab: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2.0 if kind == "peaked" else 1.0, (rows, vocab))
    if kind == "peaked":
        logits[:, :: vocab // 300] += rng.exponential(3.0, logits[:, :: vocab // 300].shape) + 4
    return logits.astype(np.float32)


def read_bandwidth(threads: int) -> float:
    """Bytes per second of `threads` threads that sum 256 MB together, the best of five."""
    parts = np.ones((threads, 2**26 // threads), np.float32)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            begin = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - begin)
    return parts.nbytes / best


def time_step(sampler: Sampler, logits: np.ndarray, params: SamplingParams, seconds: float) -> float:
    """Median seconds of a step with every row of `logits`."""
    rows, vocab = logits.shape
    slots = np.arange(rows, dtype=np.int32)
    for slot in range(rows):
        prompt = np.random.default_rng(slot).integers(0, vocab, 500).astype(np.int32)
        sampler.start(slot, params, prompt, seed=slot, choice=0)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        positions = np.full(rows, len(times), np.int64)
        begin = time.perf_counter()
        sampler.sample(logits, slots, positions)
        times.append(time.perf_counter() - begin)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument("--level", default="", help="the instruction set: avx512, avx2 or portable")
    parser.add_argument("--twin", action="store_true", help="time the NumPy twin")
    args = parser.parse_args()

    pool = None if args.twin else thread_pool(args.threads)
    sampler = Sampler(32, args.vocab, native=False if args.twin else None, pool=pool, level=args.level)
    bandwidth = read_bandwidth(args.threads)
    print(f"native {sampler.native}, {args.threads} threads, read bandwidth {bandwidth / 1e9:.1f} GB/s")
    print(f"{'filters':26}{'logits':8}{'rows':>5}{'us/row':>10}{'share':>8}")
    for name, params in CASES.items():
        for kind in ("peaked", "flat"):
            for rows in (1, 32):
                logits = make_logits(kind, rows, args.vocab)
                seconds = time_step(sampler, logits, params, args.seconds)
                share = logits.nbytes / seconds / bandwidth
                print(f"{name:26}{kind:8}{rows:5}{seconds / rows * 1e6:10.1f}{share:8.2f}")


if __name__ == "__main__":
    main()
