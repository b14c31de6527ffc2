"""Time llama.cpp, through llama-cpp-python, on a GGUF file: one line of JSON for each figure.

python benchmarks/peers/llamacpp.py 0.1B-q8_0.gguf [--threads 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp
from common import rate, report

Context = Any


class Batch:
    """A llama_batch of `sequences` with `tokens` each, that wants logits for the last token of each."""

    def __init__(self, sequences: int, tokens: int) -> None:
        self.rows = sequences * tokens
        self.native = llama_cpp.llama_batch_init(self.rows, 0, 1)
        self.native.n_tokens = self.rows
        for row in range(self.rows):
            sequence, position = divmod(row, tokens)
            self.native.pos[row] = position
            self.native.n_seq_id[row] = 1
            self.native.seq_id[row][0] = sequence
            self.native.logits[row] = position == tokens - 1

    def run(self, context: Context, tokens: list[int]) -> None:
        for row, token in enumerate(tokens):
            self.native.token[row] = token
        if llama_cpp.llama_decode(context, self.native) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_get_logits_ith(context, self.rows - 1)  # waits for the result

    def advance(self) -> None:
        """Move every row to the next position, for sequences that go on."""
        for row in range(self.rows):
            self.native.pos[row] += 1


@contextmanager
def context_for(model: Any, sequences: int, threads: int) -> Iterator[Context]:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 8192, 2048, 512
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp could not make a context")
    yield context
    llama_cpp.llama_free(context)


def decode_rate(model: Any, sequences: int, threads: int, seconds: float) -> float:
    batch = Batch(sequences, 1)
    with context_for(model, sequences, threads) as context:

        def step(tokens: list[int]) -> None:
            batch.run(context, tokens)
            batch.advance()

        return rate(sequences, step, seconds)


def prefill_rate(model: Any, tokens: int, threads: int, seconds: float) -> float:
    batch = Batch(1, tokens)
    with context_for(model, 1, threads) as context:

        def step(prompt: list[int]) -> None:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            batch.run(context, prompt)

        return rate(tokens, step, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each figure")
    parser.add_argument(
        "--plain-buffers",
        action="store_true",
        help="without repacked weights, with which 0.3.36 crashes on processors with AMX",
    )
    args = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, None)
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = not args.plain_buffers
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {args.model}")
    for sequences in (1, 8, 32, 128):
        tok_s = decode_rate(model, sequences, args.threads, args.seconds)
        report("llama.cpp", args.model, f"decode b{sequences}", tok_s)
    for tokens in (512, 1024):
        report("llama.cpp", args.model, f"prefill {tokens}", prefill_rate(model, tokens, args.threads, args.seconds))


if __name__ == "__main__":
    main()
