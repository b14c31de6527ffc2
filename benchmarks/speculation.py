"""What checking guesses gains: tokens per second with `speculative_tokens` as it is by default, over those without.

    python benchmarks/speculation.py [MODEL] [--dtype int8] [--threads 2] [--rounds 7] [--only prose]

Without a model: the bundled demo, which writes by itself, prose that it was trained on and prose that it was not.
With a model (its weights may be random) the answers are given, so that they are those of a good model: what the sampler
draws is replaced by the next token of a text, after it was drawn. All else is as it always is, and so is the time.

| task | the prompt | the answer |
|---|---|---|
| edit | a page of a novel | the same page with a word in 25 changed |
| edit, predicted | a request for it | the same; the unchanged page is sent as the `prediction` |
| translation memory | twelve sentences with translations | three of them again, three changed a little, two new |
| JSON | a table of orders | the orders as JSON |
| prose | a page of a novel | the next page |

Runs with and without take turns, and the ratio is the median over the rounds; `drafted` are the guesses for each token
of the answer, `accepted` those of them that came true.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, GenerationRequest, Row
from wingbeat.llm import demo_model_path
from wingbeat.models import load_model
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.choose import tokenizer_for

NOVEL = (Path(__file__).parent / "texts" / "moby-dick.txt").read_text()
TOKENS = 400
DEFAULT = EngineConfig(model="").speculative_tokens


class Task(NamedTuple):
    """Texts; without an `answer` the model writes what it wants to. `sampling` is beside the limit of tokens."""

    name: str
    prompt: str
    answer: str | None = None
    expected: str = ""
    sampling: dict[str, Any] = {}  # noqa: RUF012


class Run(NamedTuple):
    tok_s: float
    drafted: float
    accepted: float


def given_tasks() -> Iterator[Task]:
    draw = random.Random(7)
    page, following = NOVEL[2000:3300], NOVEL[3300:4600]
    words = page.split(" ")
    edited = " ".join(draw.choice(("vessel", "sailor", "the", "grey")) if draw.random() < 0.04 else w for w in words)
    yield Task("edit", f"{page}\n\nThe same, edited:\n\n", edited)
    yield Task("edit, predicted", "The page, edited:\n\n", edited, page)
    sentences = [s.strip() for s in NOVEL[5000:12000].replace("\n", " ").split(". ")][:30]
    known = "".join(f"{s}.\n=> {_changed(s, draw, 1.0)}.\n" for s in sentences[:12])
    again = [*sentences[:3], *(_changed(s, draw, 0.1) for s in sentences[3:6]), *sentences[12:14]]
    yield Task("translation memory", known, "".join(f"{s}.\n=> {s}.\n" for s in again))
    orders = [
        {"order": 1000 + i, "customer": draw.choice(words), "items": draw.randrange(9), "paid": draw.random() < 0.5}
        for i in range(30)
    ]
    table = "\n".join(" | ".join(map(str, order.values())) for order in orders)
    yield Task("JSON", f"{table}\n\nAs JSON:\n\n", json.dumps(orders, indent=1))
    yield Task("prose", page, following)


def _changed(sentence: str, draw: random.Random, share: float) -> str:
    return " ".join(word[::-1] if draw.random() < share else word for word in sentence.split(" "))


def free_tasks() -> Iterator[Task]:
    chat = "User: Tell me something about birds.\n\nAssistant:"
    for temperature in (0.0, 1.0):
        sampling = {"temperature": temperature, "top_p": 0.9}
        yield Task(f"chat, temperature {temperature:g}", chat, None, "", sampling)
        yield Task(f"prose, temperature {temperature:g}", NOVEL[2000:3300], None, "", sampling)


class Bench:
    """One engine for each choice of `speculative_tokens`, over the same weights."""

    def __init__(self, path: Path, dtype: str, threads: int | None, most: int) -> None:
        model = load_model(path, dtype=dtype, threads=threads)
        tokenizer = tokenizer_for(path, model.executable.vocab_size)
        assert tokenizer is not None
        self.tokenizer = tokenizer
        self.name = f"{model.info.name}, {model.info.dtype}"
        self.engines = [
            Engine(model, tokenizer, EngineConfig(model="", max_batch=32, cache_memory=0, speculative_tokens=n))
            for n in (0, most)
        ]

    def ratio(self, task: Task, sequences: int, rounds: int) -> tuple[float, Run]:
        """The median of the rounds' ratios, and the last run with guesses."""
        ratios: list[float] = []
        runs = {which: self.run(self.engines[which], task, sequences, 0) for which in (0, 1)}  # warms up
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                runs[which] = self.run(self.engines[which], task, sequences, number)
            ratios.append(runs[1].tok_s / runs[0].tok_s)
        return median(ratios), runs[1]

    def run(self, engine: Engine, task: Task, sequences: int, seed: int) -> Run:
        """The rate from the first token on; sequences of one task start together and are choices of one prompt."""
        prompt = self.tokenizer.encode(task.prompt)
        answer = [] if task.answer is None else self.tokenizer.encode(task.answer)[:TOKENS]
        params = SamplingParams(max_tokens=len(answer) or TOKENS, ignore_eos=True, seed=seed, **task.sampling)
        request = GenerationRequest(
            fingerprint=engine.model.info.fingerprint,
            prompts=[prompt],
            rows=[Row(0, choice) for choice in range(sequences)],
            sampling=params,
            draft=self.tokenizer.encode(task.expected),
        )
        with given(engine, answer, len(prompt)):
            engine.submit(request)
            before = engine.stats()
            while engine.stats().generated_tokens == before.generated_tokens:
                engine.step()
            before, start = engine.stats(), time.perf_counter()
            while engine.has_work:
                engine.step()
            seconds = time.perf_counter() - start
        after = engine.stats()
        tokens = after.generated_tokens - before.generated_tokens
        drafted, accepted = (
            getattr(after, name) - getattr(before, name) for name in ("drafted_tokens", "accepted_tokens")
        )
        return Run(tokens / seconds, drafted / tokens, accepted / max(1, drafted))


@contextmanager
def given(engine: Engine, answer: list[int], prompt: int) -> Iterator[None]:
    """Have the engine's sampler draw `answer` after so many tokens of a prompt; an empty one: what it draws."""
    if not answer:
        yield
        return
    sampler, tokens = engine._sampler, np.array(answer, np.int32)
    draw = sampler.sample

    def sample(logits: Any, slots: Any, positions: Any, *more: Any) -> Any:
        return draw(logits, slots, positions, *more)._replace(tokens=tokens[positions - prompt])

    setattr(sampler, "sample", sample)  # noqa: B010  on the object: hides the method of the class
    try:
        yield
    finally:
        delattr(sampler, "sample")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--speculative-tokens", type=int, default=DEFAULT)
    parser.add_argument("--only", default="", help="only tasks with this in their name")
    args = parser.parse_args()
    bench = Bench(args.model or demo_model_path(), args.dtype, args.threads, args.speculative_tokens)
    print(f"{bench.name}, speculative_tokens {args.speculative_tokens}")
    print(f"{'task':24}{'sequences':>10}{'ratio':>8}{'tokens/s':>10}{'drafted':>9}{'accepted':>10}")
    for task in free_tasks() if args.model is None else given_tasks():
        if args.only not in task.name:
            continue
        for sequences in args.sequences:
            ratio, run = bench.ratio(task, sequences, args.rounds)
            print(
                f"{task.name:24}{sequences:10}{ratio:8.3f}{run.tok_s:10.0f}{run.drafted:9.2f}{run.accepted:10.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
