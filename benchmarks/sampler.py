"""Time of one sampling step, and its share of the machine's read bandwidth.

    python benchmarks/sampler.py [--vocab 65536] [--threads 1] [--level avx2] [--twin]
    python benchmarks/sampler.py --model model.safetensors --dtype int8 [--rows 128]

Each line is the median over the steps of about a second: microseconds for each row, and the bytes of the logits that
were read per second over the rate at which the same threads sum an array larger than the caches (a row that was just
computed lies in a cache, so the share may exceed 1). `peaked` logits are like a language model's (a few hundred tokens
within reach of the best one); `flat` ones are the worst case for top_p, with tens of thousands of tokens in its set.

With a model: `mixed` rows, each sampler in turn with a decaying penalty after 1,000 tokens and one row in four behind a
mask, on the logits that the model's own steps have just made, with its threads, and its share of such a step. Logits of
random weights are flat; eight times as large they leave fewer tokens likely.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import msgspec
import numpy as np

from wingbeat.bench.measure import decode, prepared_steps
from wingbeat.models import Model, load_model
from wingbeat.ops.cpu import CpuExecutable, thread_pool
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.samplers import Masks, Sampler

NOTHING = np.array([], np.int32)

CASES = {
    "greedy": SamplingParams(temperature=0),
    "temperature": SamplingParams(),
    "top_p 0.85": SamplingParams(top_p=0.85),
    "min_p 0.05": SamplingParams(min_p=0.05),
    "top_k 50 + penalties": SamplingParams(
        top_k=50, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1
    ),
    "top_p 0.85 + 20 logprobs": SamplingParams(top_p=0.85, logprobs=20),
    "rwkv, top_p 0.5, T 1.2": SamplingParams(order="rwkv", top_p=0.5, temperature=1.2),
    "ai00, top_p 0.5, top_k 128": SamplingParams(order="ai00", top_p=0.5, top_k=128, temperature=1.2),
    "joint, top_p 0.85": SamplingParams(order="joint", top_p=0.85),
    "typical 0.5, top_k 128": SamplingParams(sampler="typical", top_k=128),
    "typical 0.5": SamplingParams(sampler="typical"),
    "mirostat": SamplingParams(sampler="mirostat"),
    "mirostat_full, T 1.2": SamplingParams(sampler="mirostat_full", min_p=0.05, temperature=1.2),
    "noise 1.5": SamplingParams(sampler="noise", noise=1.5),
}
DECAYING = {"presence_penalty": 0.3, "frequency_penalty": 0.3, "penalty_decay": 0.996}


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


def mixed(rows: int) -> list[SamplingParams]:
    kinds = [params for params in CASES.values() if params.logprobs is None]
    return [msgspec.structs.replace(kinds[row % len(kinds)], **DECAYING) for row in range(rows)]


def time_mixed(model: Model, rows: int, seconds: float, sharpness: float) -> tuple[float, float]:
    """Median seconds of a model's decode step, and of sampling `sharpness` times the logits that it gave."""
    executable = model.executable
    assert isinstance(executable, CpuExecutable)
    rng, vocab = np.random.default_rng(0), executable.vocab_size
    sampler = Sampler(rows, vocab, pool=executable.pool)
    slots = np.arange(rows, dtype=np.int32)
    for slot, params in enumerate(mixed(rows)):
        sampler.start(slot, params, NOTHING, seed=slot, choice=0, generated=rng.integers(0, vocab, 1000).tolist())
    bits = rng.integers(0, 2**32, (rows // 4 + 1, (vocab + 31) // 32), np.uint32, endpoint=False)
    masks = Masks(bits, np.where(slots % 4 == 0, slots // 4, -1).astype(np.int32))
    steps: list[float] = []
    draws: list[float] = []
    batches = prepared_steps(executable, decode(rows))
    while sum(steps) < seconds or len(steps) < 5:
        batch, states = next(batches)
        begin = time.perf_counter()
        logits = executable.run(batch, states)
        steps.append(time.perf_counter() - begin)
        logits *= np.float32(sharpness)
        begin = time.perf_counter()
        sampler.sample(logits, slots, np.full(rows, len(steps), np.int64), masks)
        draws.append(time.perf_counter() - begin)
    return median(steps), median(draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure")
    parser.add_argument("--level", default="", help="the instruction set: avx512, avx2 or portable")
    parser.add_argument("--twin", action="store_true", help="time the NumPy twin")
    parser.add_argument("--model", help="sample what this model's steps give")
    parser.add_argument("--dtype", default="int8", help="of that model's weights")
    parser.add_argument("--rows", type=int, default=128, help="of its steps")
    args = parser.parse_args()
    if args.model:
        model = load_model(args.model, dtype=args.dtype)
        for sharpness in (1.0, 8.0):
            step, draw = time_mixed(model, args.rows, 10 * args.seconds, sharpness)
            print(f"{args.rows} rows, {args.dtype}: a step {step * 1e3:.2f} ms, mixed sampling {draw * 1e3:.2f} ms")
            print(f"logits x {sharpness:g}: {draw / args.rows * 1e6:.1f} us a row, {draw / step:.1%} of the step")
        return

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
