"""Concurrent streams over HTTP: rate, smoothness, what the API's process costs, and short prompts beside long ones.

    python benchmarks/server.py [MODEL] [--dtype int8] [--streams 32] [--tokens 500]

Measures the engine in this process first, then starts `wingbeat serve` and reads all streams at once through plain
sockets. What the server and this client take from the cores that the engine computes on is part of the figures. Without
a model: the bundled demo, which makes enough events to see what each costs the API's process.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from light_client import HOST, get, open_stream, read_all

from engine import PROMPT, SAMPLING, engine_rate, make_engine
from wingbeat.llm import demo_model_path

LONG_PROMPT = 4000
SHORT_PROMPT = 16
TOKEN_BUDGET = 512
REFERENCE_RATE = 10_000
"""Events a second at which the share of a core is told."""


@dataclass(frozen=True)
class Served:
    """What one run of many streams gave. Seconds, and tokens or events per second."""

    tokens: int
    events: int
    seconds: float
    gaps: list[float]  # rising
    api_cpu: float

    @property
    def tok_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def median_gap(self) -> float:
        return statistics.median(self.gaps)

    def gap(self, share: float) -> float:
        """The gap that this share of all gaps does not exceed."""
        return self.gaps[min(len(self.gaps) - 1, int(share * len(self.gaps)))]

    @property
    def api_per_event(self) -> float:
        return self.api_cpu / self.events


@contextmanager
def serving(model: Path, dtype: str, threads: int | None, streams: int, *flags: str) -> Iterator[tuple[int, int]]:
    """`wingbeat serve` on a free port, with `flags`: gives the port and the API's process id once the model is
    loaded."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wingbeat", "serve", str(model), "--port", str(port), "--log-level", "warning"]
    command += ["--dtype", dtype, "--max-batch", str(streams), "--token-budget", str(TOKEN_BUDGET), *flags]
    if threads is not None:
        command += ["--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while get(port, "/health")[0] != 200:
                if process.poll() is not None:
                    raise SystemExit("the server could not start")
                time.sleep(0.2)
            yield port, process.pid
        finally:
            process.terminate()


def run_streams(port: int, pid: int, streams: int, tokens: int) -> Served:
    """All streams at once, from the first request to the last byte; the prompts are three tokens."""
    cpu, start = cpu_seconds(pid), time.perf_counter()
    opened = [open_stream(port, _body(PROMPT, tokens, seed)) for seed in range(streams)]
    read_all(opened)
    seconds = time.perf_counter() - start
    return Served(
        tokens=sum(stream.tokens() for stream in opened),
        events=sum(stream.events for stream in opened),
        seconds=seconds,
        gaps=sorted(gap for stream in opened for gap in stream.gaps),
        api_cpu=cpu_seconds(pid) - cpu,
    )


def beside_long_prompt(port: int, seed: int) -> tuple[float, float]:
    """Seconds to the first token of a short prompt that comes while a long one is read, and of one step meanwhile."""
    long = open_stream(port, _body([1 + (seed + i) % 255 for i in range(LONG_PROMPT)], 1, seed))
    reader = threading.Thread(target=read_all, args=([long],))
    reader.start()
    steps = -(-LONG_PROMPT // TOKEN_BUDGET)
    time.sleep(alone_seconds(port) * (0.2 + 0.05 * (seed % 5)))  # somewhere in the middle of it, and of a step
    short = open_stream(port, _body([1 + (seed + i) % 255 for i in range(SHORT_PROMPT)], 1, seed))
    read_all([short])
    reader.join()
    if short.times[0] > long.times[0]:
        raise SystemExit("the short prompt was answered after the long one")
    return short.first_token, long.first_token / steps


_alone: dict[int, float] = {}


def alone_seconds(port: int) -> float:
    """How long the long prompt takes alone, measured once."""
    if port not in _alone:
        stream = open_stream(port, _body([1 + i % 255 for i in range(LONG_PROMPT)], 1, 0))
        read_all([stream])
        _alone[port] = stream.first_token
    return _alone[port]


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, its kernel part included. Linux only: 0 elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _body(prompt: list[int], tokens: int, seed: int) -> dict[str, object]:
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "seed": seed,
        "ignore_eos": True,
        **SAMPLING,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=500, help="tokens of each stream")
    parser.add_argument("--rounds", type=int, default=3, help="each is printed: the machine may be shared")
    args = parser.parse_args()
    model = args.model or demo_model_path()
    engine = make_engine(model, args.dtype, args.threads, args.streams)
    with serving(model, args.dtype, args.threads, args.streams) as (port, pid):
        run_streams(port, pid, args.streams, 8)
        alone_seconds(port)
        for _ in range(args.rounds):
            raw = engine_rate(engine, args.streams, args.tokens).tok_s
            report(raw, run_streams(port, pid, args.streams, args.tokens), args.streams)
        waits = [beside_long_prompt(port, seed) for seed in range(10)]
    in_steps = sorted(wait / step for wait, step in waits)
    print(
        f"first token of a {SHORT_PROMPT}-token prompt beside one of {LONG_PROMPT}: median "
        f"{1e3 * statistics.median(wait for wait, _ in waits):.0f} ms, "
        f"{statistics.median(in_steps):.1f} steps of {TOKEN_BUDGET} rows, at most {in_steps[-1]:.1f}"
    )


def report(raw: float, served: Served, streams: int) -> None:
    """Print what a round gave."""
    print(f"engine, {streams} sequences: {raw:.0f} tokens/s; server, {streams} streams: {served.tok_s:.0f} tokens/s,")
    print(f"  {served.tok_s / raw:.0%} of the engine's rate")
    print(
        f"  between tokens: median {1e3 * served.median_gap:.1f} ms, p99 {1e3 * served.gap(0.99):.1f} ms = "
        f"{served.gap(0.99) / served.median_gap:.2f}x, longest {1e3 * served.gaps[-1]:.1f} ms"
    )
    rate = served.events / served.seconds
    print(
        f"  the API's process: {served.api_cpu / served.seconds:.0%} of a core at {rate:.0f} events/s, "
        f"{1e6 * served.api_per_event:.1f} us an event: {served.api_per_event * REFERENCE_RATE:.0%} of a core at "
        f"{REFERENCE_RATE} events/s"
    )


if __name__ == "__main__":
    main()
