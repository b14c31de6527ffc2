"""What the peers' scripts share: the clock, the tokens, the line of JSON. Needs NumPy only, not wingbeat."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np

MIN_STEPS = 5
VOCAB = 65529  # World ids that have text; 0 is left out below

_rng = np.random.default_rng(0)


def distinct_tokens(count: int) -> list[int]:
    return (1 + _rng.choice(VOCAB - 1, count, replace=False)).tolist()


def rate(rows: int, step: Callable[[list[int]], object], seconds: float) -> float:
    """Tokens per second: `rows` over the median of the steps of about `seconds`, after one that is not counted.

    `step` is called with new tokens each time; drawing them is not timed.
    """
    step(distinct_tokens(rows))
    times: list[float] = []
    while len(times) < MIN_STEPS or sum(times) < seconds:
        tokens = distinct_tokens(rows)
        start = time.perf_counter()
        step(tokens)
        times.append(time.perf_counter() - start)
    return rows / median(times)


def report(engine: str, model: str, what: str, tok_s: float) -> None:
    print(json.dumps({"what": what, "tok_s": round(tok_s, 1), "engine": engine, "model": model}), flush=True)
