"""Count how often the shipped demo model is right, word for word: known questions, held-out ones, sums, phrases.

python tools/demo_model/score.py --run build/demo
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from pathlib import Path

import corpus as corpora
import facts
import unknown

from wingbeat import LLM, SamplingParams
from wingbeat.text.templates import WORLD, Message

GREEDY = SamplingParams(temperature=0, max_tokens=90, stop=("\n\n",), stop_token_ids=(0,))
SMALL = [(a, b) for a in range(11) for b in range(11)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run, for its fetched texts")
    train, held_out = corpora.load(parser.parse_args().run / "cache")
    rng = random.Random(11)
    with LLM() as llm:
        _report(llm, "questions, trained wording", ((ways[0], answers) for ways, answers in train.entries))
        _report(llm, "questions, new wording", ((way, a) for ways, a in held_out.entries for way in ways))
        declined = (unknown.draw(train.topics, rng) for _ in range(200))
        _report(llm, "questions to decline", ((question, [answer]) for question, answer in declined))
        capitals = ((f"What is the capital of {c}?", [f"The capital of {c} is {city}."]) for c, city, *_ in _capitals())
        _report(llm, "capitals", capitals)
        _report(llm, "a + b up to 10", ((f"What is {a} + {b}?", [f"{a} + {b} = {a + b}"]) for a, b in SMALL))
        _report(llm, "a - b up to 20", ((f"What is {a + b} - {b}?", [f"{a + b} - {b} = {a}"]) for a, b in SMALL))
        _report(llm, "a * b up to 10", ((f"What is {a} * {b}?", [f"{a} * {b} = {a * b}"]) for a, b in SMALL))
        phrases = {
            "everyday phrases": train.everyday,
            "phrases, trained": rng.sample(train.phrases, 250),
            "phrases, new": held_out.phrases,
        }
        for name, pairs in phrases.items():
            prompts = [f"English: {pair.english}\n\nChinese:" for pair in pairs]
            answers = [completion.text.strip() for completion in llm.generate(prompts, GREEDY)]
            _print(name, [answer == pair.chinese for answer, pair in zip(answers, pairs, strict=True)])


def _report(llm: LLM, name: str, asked: Iterable[tuple[str, list[str]]]) -> None:
    questions, answers = zip(*asked, strict=True)
    prompts = [llm.tokenizer.encode_segments(WORLD.render([Message("user", question)])) for question in questions]
    given = [completion.text.strip() for completion in llm.generate(prompts, GREEDY)]
    _print(name, [text in right for text, right in zip(given, answers, strict=True)])


def _print(name: str, right: list[bool]) -> None:
    print(f"| {name} | {sum(right)} of {len(right)} |")


def _capitals() -> list[list[str]]:
    return facts.TABLES["capitals"]


if __name__ == "__main__":
    main()
