"""Concurrent streams over HTTP against the raw rate of the engine, on the same model and machine.

    python benchmarks/server.py [MODEL] [--dtype int8] [--streams 32] [--tokens 200]

Measures the engine in this process first, then starts `wingbeat serve` and reads all streams at once through plain
sockets, which only count bytes and keep the last event. What the server and this client take from the cores that the
engine computes on is part of the figure. Without a model: the bundled demo.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import PROMPT, TEMPERATURE, TOP_P, engine_rate, make_engine
from wingbeat.llm import demo_model_path

HOST = "127.0.0.1"
DONE = b"data: [DONE]"


@contextmanager
def serving(model: Path, dtype: str, threads: int | None, streams: int) -> Iterator[int]:
    """`wingbeat serve` on a free port, which is yielded once the model is loaded."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wingbeat", "serve", str(model), "--port", str(port), "--log-level", "warning"]
    command += ["--dtype", dtype, "--max-batch", str(streams)]
    if threads is not None:
        command += ["--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while asyncio.run(_status(port)) != 200:
                if process.poll() is not None:
                    raise SystemExit("the server could not start")
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()


async def _status(port: int) -> int:
    """What /health answers; 0 while nobody listens."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return 0
    writer.write(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


async def all_streams(port: int, streams: int, tokens: int) -> float:
    """Tokens per second of all streams, from the first request to the last byte; the prompts are three tokens."""
    start = time.perf_counter()
    counts = await asyncio.gather(*(_stream(port, seed, tokens) for seed in range(streams)))
    return sum(counts) / (time.perf_counter() - start)


async def _stream(port: int, seed: int, tokens: int) -> int:
    """Read one completion to its end. Returns the completion tokens that the server counted."""
    body = json.dumps(
        {
            "prompt": PROMPT,
            "max_tokens": tokens,
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "seed": seed,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    reader, writer = await asyncio.open_connection(HOST, port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    tail = b""
    while DONE not in tail and (piece := await reader.read(1 << 16)):
        tail = (tail + piece)[-4096:]
    writer.close()
    usage = [line for line in tail.split(b"\n") if line.startswith(b"data: {") and b'"completion_tokens"' in line]
    if not usage:
        raise SystemExit(f"the server answered: {tail.decode(errors='replace')}")
    return json.loads(usage[-1].removeprefix(b"data: "))["usage"]["completion_tokens"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each stream")
    args = parser.parse_args()
    model = args.model or demo_model_path()
    raw = engine_rate(make_engine(model, args.dtype, args.threads, args.streams), args.streams, args.tokens).tok_s
    print(f"engine, {args.streams} sequences: {raw:.1f} tokens/s")
    with serving(model, args.dtype, args.threads, args.streams) as port:
        asyncio.run(all_streams(port, args.streams, 8))
        served = asyncio.run(all_streams(port, args.streams, args.tokens))
    print(f"server, {args.streams} streams: {served:.1f} tokens/s, {served / raw:.0%} of the engine's rate")


if __name__ == "__main__":
    main()
