"""Rate of the whole engine (scheduler, kernels, sampling, stops, detokenizer) against its kernels alone.

    python benchmarks/engine.py [MODEL] [--dtype int8] [--threads 2] [--tokens 200]

One line for each number of sequences that decode together: tokens per second, the milliseconds of a step, and the parts
of its time. `kernels` is the model's recorded program, head included, in one call: its part is also the engine's share
of the kernels' bare rate. What comes beside it is `sampling` (bias, penalties, temperature, top-p and the draw),
`messages` (a frame for each step, encoded and handed to a socket) and `python` (all else: scheduling, stops, text,
outputs); `beside` is the sum of these three. `bandwidth` is the bytes that the steps had to move a second as a share of
what the memory can read (beyond 100 %: from the caches). States are not kept when sequences end: where a machine gives
new memory slowly, that would be most of `python`. Without a model: the bundled demo.

Random models have flat logits: at top_p 0.9 tens of thousands of tokens are left to draw from, the slowest case. With
--temperature 0.1 it is tens of tokens, as with a trained model. --plain asks for nothing: temperature 1, no penalties,
no top_p and no stop.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import zmq

from wingbeat.engine.bootstrap import Bootstrap
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, Row
from wingbeat.engine.worker import Channel
from wingbeat.llm import demo_model_path
from wingbeat.models import load_model
from wingbeat.ops.cpu import CpuExecutable, read_bandwidth
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.choose import tokenizer_for

PROMPT = [10, 20, 30]  # a byte each
SAMPLING = {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 0.3, "frequency_penalty": 0.3, "stop": ["\n\n\n☃"]}
"""As a chat asks for it, but with a stop that no model writes."""

PLAIN = {"temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": []}


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
    """Of `tokens` sampled in `steps`; `kernels`, `sampling` and `messages` are the parts of `seconds` spent there."""

    tokens: int
    steps: int
    seconds: float
    kernels: float
    sampling: float
    messages: float
    bytes_moved: int

    @property
    def tok_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def python(self) -> float:
        return self.seconds - self.kernels - self.sampling - self.messages


def make_engine(model: Path, dtype: str, threads: int | None, max_batch: int, **more: Any) -> Engine:
    """An engine in this process; ``more`` are fields of ``EngineConfig``."""
    config = EngineConfig(model=str(model), dtype=dtype, threads=threads, max_batch=max_batch, **more)
    loaded = load_model(model, dtype=dtype, threads=threads)
    return Engine(loaded, tokenizer_for(model, loaded.executable.vocab_size), config)


def engine_rate(engine: Engine, sequences: int, tokens: int, **sampling: Any) -> EngineRate:
    """Decode `sequences` together for `tokens` steps; reading the prompts is not timed.

    `sampling` changes what `SAMPLING` says.
    """
    params = SamplingParams(**{**SAMPLING, **sampling}, ignore_eos=True, max_tokens=tokens)
    rows = [Row(0, choice) for choice in range(sequences)]
    fingerprint = engine.model.info.fingerprint
    engine.submit(GenerationRequest(fingerprint=fingerprint, prompts=[PROMPT], rows=rows, sampling=params))
    while engine.stats().running < sequences or engine.stats().waiting:
        engine.step()
    before = engine.stats()
    with (
        open_channel() as channel,
        Stopwatch(engine.model.executable, "run") as kernels,
        Stopwatch(engine._sampler, "sample") as sampling_time,
    ):
        messages, start = 0.0, time.perf_counter()
        while engine.has_work:
            output = engine.step()
            ready = time.perf_counter()
            channel.send(output)
            messages += time.perf_counter() - ready
        seconds = time.perf_counter() - start
    after = engine.stats()
    return EngineRate(
        after.generated_tokens - before.generated_tokens,
        after.steps - before.steps,
        seconds,
        kernels.seconds,
        sampling_time.seconds,
        messages,
        after.bytes_moved - before.bytes_moved,
    )


@contextmanager
def open_channel() -> Iterator[Channel]:
    """What a worker sends its frames through, to a socket that keeps them."""
    with TemporaryDirectory() as folder, zmq.Context() as context, context.socket(zmq.ROUTER) as api:
        api.set_hwm(0)
        api.bind(address := f"ipc://{folder}/socket")
        channel = Channel(Bootstrap(address, b"engine", EngineConfig(model=""), 0))
        try:
            yield channel
        finally:
            channel.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tokens", type=int, default=200, help="steps for each line")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--temperature", type=float, default=SAMPLING["temperature"])
    parser.add_argument("--top-p", type=float, default=SAMPLING["top_p"])
    parser.add_argument("--plain", action="store_true", help="sample as for a request that says nothing of it")
    args = parser.parse_args()
    sampling = PLAIN if args.plain else {"temperature": args.temperature, "top_p": args.top_p}
    engine = make_engine(args.model or demo_model_path(), args.dtype, args.threads, max(args.sequences), cache_memory=0)
    executable = engine.model.executable
    bandwidth = read_bandwidth(executable.threads) if isinstance(executable, CpuExecutable) else float("inf")
    print(f"{engine.model.info.name}, {engine.model.info.dtype}, memory reads {bandwidth / 1e9:.1f} GB/s")
    headings = ("tokens/s", "ms/step", "kernels", "sampling", "messages", "python", "beside", "bandwidth")
    print(f"{'sequences':>9}" + "".join(f"{heading:>10}" for heading in headings))
    for sequences in args.sequences:
        rate = engine_rate(engine, sequences, args.tokens, **sampling)
        beside = rate.sampling + rate.messages + rate.python
        parts = (rate.kernels, rate.sampling, rate.messages, rate.python, beside)
        used = rate.bytes_moved / rate.seconds / bandwidth
        shares = "".join(f"{part:10.1%}" for part in (*(part / rate.seconds for part in parts), used))
        print(f"{sequences:9}{rate.tok_s:10.1f}{1e3 * rate.seconds / rate.steps:10.3f}{shares}")


if __name__ == "__main__":
    main()
