"""Rate of the whole engine (scheduler, kernels, sampling, stops, detokenizer) against its kernels alone.

    python benchmarks/engine.py [MODEL] [--dtype int8] [--threads 2] [--tokens 200]

One line for each number of sequences that decode together: tokens per second, how much of the time goes to the
kernels (which is also the engine's share of their bare rate), to sampling, and to everything else, which is Python, and
the bytes that the steps had to move a second as a share of what the memory can read (beyond 100 %: from the caches).
Without a model: the bundled demo.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, Row
from wingbeat.llm import demo_model_path
from wingbeat.models import load_model
from wingbeat.ops.cpu import CpuExecutable, read_bandwidth
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import tokenizer_for

PROMPT = [10, 20, 30]  # a byte each
TEMPERATURE, TOP_P = 1.0, 0.9


class Stopwatch:
    """The seconds spent in one method of an object, while the block runs."""

    def __init__(self, owner: object, method: str) -> None:
        self.owner, self.method = owner, method
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        call = getattr(self.owner, self.method)

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(self.owner, self.method, timed)  # on the object: hides the method of the class
        return self

    def __exit__(self, *error: object) -> None:
        delattr(self.owner, self.method)


@dataclass(frozen=True)
class EngineRate:
    """Of `tokens` sampled in `seconds`; `kernels` and `sampling` are the parts of these seconds spent there."""

    tokens: int
    seconds: float
    kernels: float
    sampling: float
    bytes_moved: int

    @property
    def tok_s(self) -> float:
        return self.tokens / self.seconds


def make_engine(model: Path, dtype: str, threads: int | None, max_batch: int) -> Engine:
    config = EngineConfig(model=str(model), dtype=dtype, threads=threads, max_batch=max_batch)
    loaded = load_model(model, dtype=dtype, threads=threads)
    return Engine(loaded, tokenizer_for(model, loaded.executable.vocab_size), config)


def engine_rate(engine: Engine, sequences: int, tokens: int) -> EngineRate:
    """Decode `sequences` together for `tokens` steps; reading the prompts is not timed."""
    sampling = SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, ignore_eos=True, max_tokens=tokens)
    rows = [Row(0, choice) for choice in range(sequences)]
    fingerprint = engine.model.info.fingerprint
    engine.submit(GenerationRequest(fingerprint=fingerprint, prompts=[PROMPT], rows=rows, sampling=sampling))
    while engine.stats().running < sequences or engine.stats().waiting:
        engine.step()
    before = engine.stats()
    start = time.perf_counter()
    with Stopwatch(engine.model.executable, "run") as kernels, Stopwatch(engine._sampler, "sample") as sampling_time:
        while engine.has_work:
            engine.step()
    seconds = time.perf_counter() - start
    after = engine.stats()
    return EngineRate(
        after.generated_tokens - before.generated_tokens,
        seconds,
        kernels.seconds,
        sampling_time.seconds,
        after.bytes_moved - before.bytes_moved,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=200, help="steps for each line")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    engine = make_engine(args.model or demo_model_path(), args.dtype, args.threads, max(args.sequences))
    executable = engine.model.executable
    bandwidth = read_bandwidth(executable.threads) if isinstance(executable, CpuExecutable) else float("inf")
    print(f"{engine.model.info.name}, {engine.model.info.dtype}, memory reads {bandwidth / 1e9:.1f} GB/s")
    print(f"{'sequences':>9}{'tokens/s':>12}{'kernels':>10}{'sampling':>10}{'python':>10}{'bandwidth':>11}")
    for sequences in args.sequences:
        rate = engine_rate(engine, sequences, args.tokens)
        kernels, sampling = rate.kernels / rate.seconds, rate.sampling / rate.seconds
        python, used = 1 - kernels - sampling, rate.bytes_moved / rate.seconds / bandwidth
        print(f"{sequences:9}{rate.tok_s:12.1f}{kernels:10.1%}{sampling:10.1%}{python:10.1%}{used:11.1%}")


if __name__ == "__main__":
    main()
