"""What one constrained row costs the free ones beside it: steps with and without it, in turn.

    python benchmarks/constraints.py MODEL [--dtype int8] [--rows 32] [--steps 40] [--rounds 10]

Both runs decode ``rows`` rows; in one of them one row is constrained. Runs with and without take turns, and what is
printed is the median of the differences between neighbours, so that a machine that gets slower does not count.
A row alone is timed too, where all that its constraint costs must show.
"""

from __future__ import annotations

import argparse
import statistics
import time

from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, Row
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.models import load_model
from wingbeat.sampling.constraint import Constraint
from wingbeat.sampling.params import SamplingParams

SCHEMA = """{"type": "array", "minItems": 1000, "items": {"type": "object", "required": ["name", "tags", "size"],
 "properties": {"name": {"type": "string", "maxLength": 40}, "size": {"type": "number"},
                "tags": {"type": "array", "maxItems": 4, "items": {"enum": ["red", "green", "blue"]}}}}}"""
KINDS = {
    "schema": Constraint("json_schema", SCHEMA),
    "object": Constraint("json_object"),
    "kbnf": Constraint("kbnf", 'start ::= item start | "!"; item ::= #"[a-z]{3,20}" ", " | #"[0-9]+" "; ";'),
}
WARM_UP = 8  # steps before the clock starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    model = load_model(args.model, dtype=args.dtype)
    tokenizer = load_tokenizer(args.model, model.info.vocab_size, None, model.info.metadata)
    engine = Engine(model, tokenizer, EngineConfig(model=args.model, max_batch=args.rows))
    for rows in (args.rows, 1):
        for name, constraint in KINDS.items():
            pairs = []
            for turn in range(args.rounds):
                order = (None, constraint) if turn % 2 else (constraint, None)
                timed = {c is None: seconds(engine, rows, args.steps, c) for c in order}
                pairs.append((timed[True], timed[False]))
            free = statistics.median(pair[0] for pair in pairs)
            extra = statistics.median(pair[1] - pair[0] for pair in pairs)
            print(
                f"{rows:3} rows, one under {name:8} {1e3 * free:8.3f} ms a step, {100 * extra / free:+6.2f} % with it"
            )
    engine.close()


def seconds(engine: Engine, rows: int, steps: int, constraint: Constraint | None) -> float:
    """Of a step, the median."""
    for row in range(rows):
        own = constraint if row == 0 else None
        sampling = SamplingParams(seed=row, max_tokens=10_000, ignore_eos=True, constraint=own)
        fingerprint = engine.model.info.fingerprint
        prompt = [[100 + row, 7, 9]]
        engine.submit(
            GenerationRequest(
                id=row + 1, fingerprint=fingerprint, prompts=prompt, rows=[Row(0)], sampling=sampling, cache=False
            )
        )
    tokens = 0
    while tokens < WARM_UP * rows:
        tokens += sum(len(output.token_ids) for output in engine.step().rows)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    for row in range(rows):
        engine.cancel(row + 1)
    engine.step()
    return statistics.median(times)


if __name__ == "__main__":
    main()
