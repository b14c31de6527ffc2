"""What states cost: copying them, keeping them beside decoding, one system prompt for many, turns of a conversation.

    python benchmarks/state.py [MODEL] [--dtype int8] [--what copy overhead shared turns] [--json]

One table for each report, or with --json a line for each of its rows.

`copy`: a state into and out of a slot. GB/s counts a state's bytes once; `of a copy` is the share of what a plain copy
of 256 MB reaches, with all threads or with one. States come from and go to memory that no cache of a core holds.
`overhead`: tokens per second of the engine with the prefix cache off, in memory, and in memory and on disk, in rounds
that begin with another one each time. `loss` is the median over the rounds of what is lost in comparison with off.
`shared`: requests that come at once, with one system prompt and a question each. `fed` are the tokens that were read.
`turns`: conversations over HTTP that send their whole history each turn. The time to the first token is the server's
own, from its log. Without a model: the bundled demo.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from conversations import turns
from rich.console import Console
from rich.table import Table

from engine import PLAIN, Stopwatch, engine_rate, make_engine
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import GenerationRequest, Row
from wingbeat.engine.prefix_cache import PrefixCache
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.engine.state_pool import StatePool
from wingbeat.llm import demo_model_path
from wingbeat.ops.table import StateLayout
from wingbeat.sampling.params import SamplingParams

LARGE = 256 << 20
CACHE = 512 << 20
KEPT = 8
SEQUENCES = 32
SHORT_PROMPT, SHORT_ANSWER, SHORT_REQUESTS = 16, 32, 128
SYSTEM_PROMPT, QUESTION, QUESTIONERS = 4096, 16, 64
FIRST_TOKENS = 255
"""Of every vocabulary, the tokens from 1 to here are bytes."""


class Setting(NamedTuple):
    """What is measured, and how."""

    model: Path
    dtype: str
    threads: int | None
    rounds: int
    tokens: int

    def engine(self, max_batch: int, **config: Any) -> Engine:
        return make_engine(self.model, self.dtype, self.threads, max_batch, **config)


FigureRow = dict[str, str | float | int]


def copy(setting: Setting) -> Iterator[FigureRow]:
    """How fast states come into and out of slots."""
    engine = setting.engine(1, cache_memory=0)
    layout, threads = engine.model.executable.layout, engine.model.executable.threads
    large = {1: median(large_copy(1) for _ in range(5)), threads: median(large_copy(threads) for _ in range(5))}
    for threads, rate in large.items():
        yield {"what": f"256 MB, {threads} threads" if threads > 1 else "256 MB, one thread", "GB/s": rate / 1e9}
    fastest = max(large.values())
    for what, seconds in copies(layout, max(8, LARGE // layout.slot_bytes)):
        rate = layout.slot_bytes / seconds
        yield {
            "what": what,
            "GB/s": rate / 1e9,
            "of a copy": rate / fastest,
            "of one thread's": rate / large[1],
            "us": seconds * 1e6,
        }


def large_copy(threads: int) -> float:
    """Bytes per second of a copy that `threads` share."""
    sources = np.ones((threads, LARGE // 4 // threads), np.float32)
    targets = np.ones_like(sources)
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(np.copyto, targets, sources))
        return sources.nbytes / (time.perf_counter() - start)


def copies(layout: StateLayout, states: int) -> Iterator[tuple[str, float]]:
    """Median seconds for one state, of each way that it can go."""
    pool, cache = StatePool(layout, states), PrefixCache(layout, states)
    pool.states[:] = np.random.default_rng(0).normal(size=pool.states.shape).astype(np.float32)
    paths = [np.array([1 + number // 250, 1 + number % 250] * 16, np.int32).tobytes() for number in range(2 * states)]
    taken: dict[int, StateSnapshot] = {}

    def use(slot: int) -> None:
        state = cache.match("fresh", paths[states + slot] + b"more").state
        assert state is not None
        cache.use(state, pool.states[slot])

    def take(slot: int) -> None:
        taken[slot % KEPT] = StateSnapshot.from_arrays("", 1, pool.views(slot))

    ways: dict[str, Callable[[int], object]] = {
        "slot to cache, memory that is new": lambda slot: cache.store("fresh", paths[slot], pool.states[slot]),
        "slot to cache": lambda slot: cache.store("fresh", paths[states + slot], pool.states[slot]),
        "cache to slot": use,
        "slot to slot": lambda slot: pool.copy(slot, (slot + states // 2) % states),
        "slot to snapshot": take,
        "snapshot to slot": lambda slot: pool.reset(slot, taken[slot % KEPT].to_arrays()),
    }
    for what, way in ways.items():
        yield what, median(seconds(lambda slot=slot, way=way: way(slot)) for slot in range(states))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def overhead(setting: Setting) -> Iterator[FigureRow]:
    """What the cache takes from decoding, and from short requests, which make most states."""
    with TemporaryDirectory() as folder:
        engines = {
            "off": setting.engine(SEQUENCES, cache_memory=0),
            "memory": setting.engine(SEQUENCES, cache_memory=CACHE),
            "memory and disk": setting.engine(SEQUENCES, cache_memory=CACHE, cache_dir=folder),
        }
        for engine in engines.values():
            engine._cache._arena[:] = 0.0  # as of a server that has run for a while: `copy` tells what new memory costs
        loads: dict[str, Callable[[Engine, int], Rate]] = {
            f"{SEQUENCES} sequences, {setting.tokens} tokens each": lambda engine, part: decode(
                engine, setting.tokens // part
            ),
            f"{SHORT_REQUESTS} short requests, {SEQUENCES} at once": lambda engine, part: short_requests(
                engine, SHORT_REQUESTS // part
            ),
        }
        for load, rate in loads.items():
            rates = interleaved(engines, rate, setting.rounds)
            for kind, found in rates.items():
                losses = [1 - mine.tok_s / off.tok_s for mine, off in zip(found, rates["off"], strict=True)]
                yield {
                    "load": load,
                    "cache": kind,
                    "tokens/s": median(one.tok_s for one in found),
                    "loss": median(losses),
                    "in the cache": median(one.in_cache for one in found),
                    "at most": max(one.in_cache for one in found),
                }
        for engine in engines.values():
            engine.close()


class Rate(NamedTuple):
    """Tokens per second, and the part of the time that the engine's thread spent in the cache."""

    tok_s: float
    in_cache: float


def interleaved(engines: dict[str, Engine], rate: Callable[[Engine, int], Rate], rounds: int) -> dict[str, list[Rate]]:
    """What each engine reached in each round. A part of the same comes just before, so that its states are written."""
    names = list(engines)
    rates: dict[str, list[Rate]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rate(engines[name], 4)
            rates[name].append(rate(engines[name], 1))
            wait_for_disk(engines[name])
    return rates


def wait_for_disk(engine: Engine) -> None:
    """Until nothing is written any more."""
    before = -1
    while engine.stats().disk_states != before:
        before = engine.stats().disk_states
        time.sleep(0.2)


def decode(engine: Engine, tokens: int) -> Rate:
    """Sequences that began together; at the end the state of each is kept."""
    with in_cache(engine) as watches:
        found = engine_rate(engine, SEQUENCES, tokens, **PLAIN)
    return Rate(found.tok_s, sum(watch.seconds for watch in watches) / found.seconds)


def short_requests(engine: Engine, requests: int) -> Rate:
    """Prompts that are all different, a new one for each that is answered."""
    sampling = SamplingParams(**PLAIN, ignore_eos=True, max_tokens=SHORT_ANSWER)
    prompts = np.random.default_rng(time.perf_counter_ns()).integers(1, FIRST_TOKENS, (requests, SHORT_PROMPT))
    before, left = engine.stats().generated_tokens, list(enumerate(prompts.tolist()))
    start = time.perf_counter()
    with in_cache(engine) as watches:
        while left or engine.has_work:
            while left and len(engine._groups) < SEQUENCES:
                submit(engine, *left.pop(), sampling)
            engine.step()
    seconds = time.perf_counter() - start
    tokens = engine.stats().generated_tokens - before
    return Rate(tokens / seconds, sum(watch.seconds for watch in watches) / seconds)


@contextmanager
def in_cache(engine: Engine) -> Iterator[list[Stopwatch]]:
    """Clocks of all that the engine's thread asks of the cache."""
    with ExitStack() as stack:
        yield [stack.enter_context(Stopwatch(engine._cache, name)) for name in ("match", "use", "store", "tidy")]


def submit(engine: Engine, number: int, prompt: list[int], sampling: SamplingParams) -> None:
    fingerprint = engine.model.info.fingerprint
    engine.submit(
        GenerationRequest(id=number, fingerprint=fingerprint, prompts=[prompt], rows=[Row(0)], sampling=sampling)
    )


def shared(setting: Setting) -> Iterator[FigureRow]:
    """What a system prompt costs that many requests begin with at once."""
    for kind, config in {"on": {}, "off": {"cache_memory": 0}}.items():
        engine = setting.engine(QUESTIONERS, **config)
        for questioners in (1, QUESTIONERS):
            if kind == "off" and questioners > 1:  # minutes, and known: so many times as long
                continue
            runs = [first_tokens(engine, questioners) for _ in range(setting.rounds)]
            yield {
                "cache": kind,
                "requests": questioners,
                "tokens sent": questioners * (SYSTEM_PROMPT + QUESTION),
                "fed": round(median(fed for fed, _ in runs)),
                "last first token, s": median(duration for _, duration in runs),
            }


def first_tokens(engine: Engine, questioners: int) -> tuple[int, float]:
    """Prompt tokens that were read for them, and seconds until the last one has its first token."""
    random = np.random.default_rng(time.perf_counter_ns())
    system = random.integers(1, FIRST_TOKENS, SYSTEM_PROMPT).tolist()
    questions = random.integers(1, FIRST_TOKENS, (questioners, QUESTION)).tolist()
    sampling = SamplingParams(ignore_eos=True, max_tokens=1)
    before, start = engine.stats().prompt_tokens, time.perf_counter()
    for number, question in enumerate(questions):
        submit(engine, number, system + question, sampling)
    while engine.has_work:
        engine.step()
    return engine.stats().prompt_tokens - before, time.perf_counter() - start


def conversation_turns(setting: Setting) -> Iterator[FigureRow]:
    """What the last turns of conversations wait for, beside the first ones."""
    yield from turns(setting.model, setting.dtype, setting.threads)


REPORTS: dict[str, Callable[[Setting], Iterator[FigureRow]]] = {
    "copy": copy,
    "overhead": overhead,
    "shared": shared,
    "turns": conversation_turns,
}


def show(what: str, rows: list[FigureRow]) -> None:
    """Print a report as a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, title=what)
    for row in rows:
        table.add_row(*(formatted(name, row.get(name, "")) for name in columns))
    Console().print(table)


def formatted(name: str, value: str | float | int) -> str:
    if isinstance(value, (str, int)):
        return f"{value:,}" if isinstance(value, int) else value
    if name.startswith("of ") or name in ("loss", "in the cache", "at most"):
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--what", nargs="+", choices=REPORTS, default=list(REPORTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200, help="steps of decoding in `overhead`")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    setting = Setting(args.model or demo_model_path(), args.dtype, args.threads, args.rounds, args.tokens)
    for what in args.what:
        rows = list(REPORTS[what](setting))
        if args.json:
            print("\n".join(json.dumps({"report": what, **row}) for row in rows), flush=True)
        else:
            show(what, rows)


if __name__ == "__main__":
    main()
