"""Simple facts as questions and answers, made from the tables of facts.toml: capitals, opposites, colours, sums."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

TABLES: dict[str, Any] = tomllib.loads((Path(__file__).parent / "facts.toml").read_text("utf-8"))
Turn = tuple[str, str]


def draw(rng: random.Random) -> Turn:
    """One question in English or Chinese and its answer."""
    makers: tuple[Callable[[random.Random], Turn], ...] = (_sum, _capital, _opposite, _colour, _day, _word)
    return rng.choices(makers, (46, 22, 11, 9, 8, 4))[0](rng)


def _sum(rng: random.Random) -> Turn:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    mark, word, result = rng.choice((("+", "plus", a + b), ("-", "minus", a), ("*", "times", a * b)))
    if mark == "-":
        a, b, result = a + b, b, a
    ways = (
        f"What is {a} {mark} {b}?",
        f"{a} {mark} {b} = ?",
        f"{a}{mark}{b}=",
        f"How much is {a} {mark} {b}?",
        f"What is {a} {word} {b}?",
        f"{a} {mark} {b} 等于多少？",
        f"{a}{mark}{b}等于几？",
        f"计算 {a} {mark} {b}",
    )
    return rng.choice(ways), f"{a} {mark} {b} = {result}"


def _capital(rng: random.Random) -> Turn:
    country, capital, country_zh, capital_zh = rng.choice(TABLES["capitals"])
    english = (
        f"What is the capital of {country}?",
        f"What's the capital of {country}?",
        f"Which city is the capital of {country}?",
        f"capital of {country}",
        f"Tell me the capital of {country}.",
    )
    chinese = (f"{country_zh}的首都是哪里？", f"{country_zh}的首都是什么？", f"{country_zh}首都是哪座城市？")
    if rng.random() < 0.12:
        return f"Which country has the capital {capital}?", f"{capital} is the capital of {country}."
    if rng.random() < 0.6:
        return rng.choice(english), f"The capital of {country} is {capital}."
    if rng.random() < 0.1:
        return f"{capital_zh}是哪个国家的首都？", f"{capital_zh}是{country_zh}的首都。"
    return rng.choice(chinese), f"{country_zh}的首都是{capital_zh}。"


def _opposite(rng: random.Random) -> Turn:
    row = rng.choice(TABLES["opposites"])
    a, b, a_zh, b_zh = row if rng.random() < 0.5 else (row[1], row[0], row[3], row[2])
    if rng.random() < 0.55:
        ways = (f"What is the opposite of {a}?", f'What is the opposite of "{a}"?', f"opposite of {a}")
        return rng.choice(ways), f"The opposite of {a} is {b}."
    return rng.choice((f"{a_zh}的反义词是什么？", f"“{a_zh}”的反义词是什么？")), f"{a_zh}的反义词是{b_zh}。"


def _colour(rng: random.Random) -> Turn:
    thing, colour, thing_zh, colour_zh = rng.choice(TABLES["colours"])
    if rng.random() < 0.55:
        ways = (f"What color is {thing}?", f"What colour is {thing}?", f"Which colour does {thing} have?")
        return rng.choice(ways), f"{thing[0].upper()}{thing[1:]} is {colour}."
    return rng.choice((f"{thing_zh}是什么颜色的？", f"{thing_zh}是什么颜色？")), f"{thing_zh}是{colour_zh}的。"


def _day(rng: random.Random) -> Turn:
    names = TABLES[rng.choice(("days", "months"))]
    here = rng.randrange(len(names))
    (day, day_zh), (after, after_zh), (before, _) = names[here], names[(here + 1) % len(names)], names[here - 1]
    if rng.random() < 0.35:
        return f"{day_zh}之后是什么？", f"{day_zh}之后是{after_zh}。"
    if rng.random() < 0.5:
        return rng.choice((f"What comes after {day}?", f"Which one comes after {day}?")), f"After {day} comes {after}."
    return rng.choice((f"What comes before {day}?", f"Which one comes before {day}?")), f"Before {day} comes {before}."


def _word(rng: random.Random) -> Turn:
    animal, chinese = rng.choice(TABLES["animals"])
    if rng.random() < 0.5:
        return rng.choice((f"What is the Chinese word for {animal}?", f"{animal} in Chinese")), chinese
    return rng.choice(
        (f"What is {animal}?", f"Is {animal} an animal?")
    ), f"{animal[0].upper()}{animal[1:]} is an animal."
