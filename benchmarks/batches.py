"""Many rows in one request, and in many: rwkv_lightning's batch route beside the bare engine.

    python benchmarks/batches.py 0.1B.safetensors --dtype int8 [--rows 256] [--requests 16] [--tokens 64]

In each round: the engine in this process, then over HTTP all rows in one request, then the same rows in several
requests at once, all streamed. The rates are tokens over seconds from the first request to the last byte, prompts
included. What the server and this client take from the cores that the engine computes on is part of the figures. No
states are cached, in neither: where a machine gives new memory slowly, keeping them for the first time would be all
that one sees.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from light_client import open_stream, read_all

from engine import SAMPLING, engine_rate, make_engine
from server import serving
from wingbeat.llm import demo_model_path

PATH = "/v2/chat/completions"


def run(port: int, rows: int, requests: int, tokens: int, chunk_size: int) -> float:
    """Tokens a second of so many rows, evenly spread over so many requests."""
    start = time.perf_counter()
    each = rows // requests
    opened = [open_stream(port, _body(each, tokens, seed, chunk_size), path=PATH) for seed in range(requests)]
    read_all(opened)
    return each * requests * tokens / (time.perf_counter() - start)


def _body(rows: int, tokens: int, seed: int, chunk_size: int) -> dict[str, object]:
    return {
        "contents": ["\t"] * rows,
        "max_tokens": tokens,
        "seed": seed,
        "stop_tokens": SAMPLING["stop"],
        "ignore_eos": True,
        "top_k": 0,
        "top_p": SAMPLING["top_p"],
        "alpha_presence": SAMPLING["presence_penalty"],
        "alpha_frequency": SAMPLING["frequency_penalty"],
        "alpha_decay": 1,
        "chunk_size": chunk_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--chunk-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = args.model or demo_model_path()
    engine = make_engine(model, args.dtype, args.threads, args.rows, cache_memory=0)
    shares: list[tuple[float, float]] = []
    with serving(model, args.dtype, args.threads, args.rows, "--cache-memory-mb", "0") as (port, _):
        run(port, args.rows, 1, 4, args.chunk_size)
        for _ in range(args.rounds):
            raw = engine_rate(engine, args.rows, args.tokens).tok_s
            one, many = (run(port, args.rows, n, args.tokens, args.chunk_size) for n in (1, args.requests))
            shares.append((one / raw, many / one))
            print(
                f"engine, {args.rows} rows: {raw:.0f} tokens/s; one request: {one:.0f} ({one / raw:.1%} of it);",
                end=" ",
            )
            print(f"{args.requests} requests: {many:.0f} ({many / one:.1%} of one request's)")
    first, second = (statistics.median(column) for column in zip(*shares, strict=True))
    print(f"medians: one request {first:.1%} of the engine, {args.requests} requests {second:.1%} of one")


if __name__ == "__main__":
    main()
