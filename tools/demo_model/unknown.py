"""Questions that the demo model cannot answer, and honest answers: without them it would answer something it knows."""

from __future__ import annotations

import random
from typing import NamedTuple

from facts import TABLES

Turn = tuple[str, str]


class Topics(NamedTuple):
    """What such questions are about."""

    nouns: list[str]
    chinese: list[str]
    countries: list[tuple[str, str]]


_NO_IDEA = "I do not know that. I am only a very small demo model."
_TOO_HARD = "That is too hard for me. I am only a very small demo model."
_NO_IDEA_ZH = "这个我不知道，我只是一个非常小的演示模型。"
_TOO_HARD_ZH = "这对我来说太难了，我只是一个非常小的演示模型。"


def draw(topics: Topics, rng: random.Random) -> Turn:
    """One question in English or Chinese and its answer."""
    return rng.choices((_english, _chinese, _task, _capital, _large_sum), (40, 18, 20, 12, 10))[0](topics, rng)


def _english(topics: Topics, rng: random.Random) -> Turn:
    a, b = rng.choice(topics.nouns), rng.choice(topics.nouns)
    name = b.capitalize()
    ways = (
        f"What is {_article(a)} {a}?",
        f"What is {a}?",
        f"Who is {name}?",
        f"Who was {a.capitalize()} {name}?",
        f"Who invented the {a}?",
        f"Why do {a}s have a {b}?",
        f"Why is the {a} so {rng.choice(('big', 'small', 'old', 'slow', 'important', 'loud'))}?",
        f"How does {_article(a)} {a} work?",
        f"How do I make {_article(a)} {a}?",
        f"How many {a}s are there?",
        f"When did the {a} begin?",
        f"Where can I find {_article(a)} {a}?",
        f"Tell me about {a}.",
        f"What is the meaning of {a}?",
        f"Who is the president of {rng.choice(topics.countries)[0]}?",
        f"What is your opinion on {a}?",
        f"Repeat after me: {a}",
        f"Explain {a} to me.",
        f"What is the difference between {a} and {b}?",
        f"Do you know {name}?",
        f"Which {a} is the best?",
        f"What do {a}s do in the {rng.choice(('morning', 'evening', 'winter', 'summer'))}?",
    )
    return rng.choice(ways), _NO_IDEA


def _chinese(topics: Topics, rng: random.Random) -> Turn:
    a, b = rng.choice(topics.chinese), rng.choice(topics.chinese)
    ways = (
        f"什么是{a}？",
        f"{a}是什么？",
        f"谁发明了{a}？",
        f"为什么{a}很重要？",
        f"怎么做{a}？",
        f"介绍一下{a}。",
        f"{a}和{b}有什么区别？",
        f"哪里有{a}？",
        f"你知道{a}吗？",
    )
    return rng.choice(ways), _NO_IDEA_ZH


def _task(topics: Topics, rng: random.Random) -> Turn:
    a, b = rng.choice(topics.nouns), rng.choice(topics.nouns)
    if rng.random() < 0.3:
        thing = rng.choice(("一首诗", "一篇文章", "一个故事", "一封信", "一个程序", "一份报告", "一首歌"))
        return f"写{thing}，关于{rng.choice(topics.chinese)}。", _TOO_HARD_ZH
    thing = rng.choice(("poem", "haiku", "essay", "letter", "song", "report", "program", "speech", "list of rules"))
    ways = (
        f"Write {_article(thing)} {thing} about {a}.",
        f"Write {_article(thing)} {thing} about the {a} and the {b}",
        f"Can you write {_article(thing)} {thing} on {a}?",
        f"Please write me {_article(thing)} {thing}.",
        f"Summarize the history of {a}.",
        f"Make a plan for {_article(a)} {a}.",
        f"Give me ten ideas about {a}.",
    )
    return rng.choice(ways), _TOO_HARD


def _capital(topics: Topics, rng: random.Random) -> Turn:
    country, chinese = rng.choice(topics.countries)
    if rng.random() < 0.65:
        way = rng.choice((f"What is the capital of {country}?", f"Which city is the capital of {country}?"))
        return way, f"I do not know the capital of {country}."
    return rng.choice((f"{chinese}的首都是哪里？", f"{chinese}的首都是什么？")), f"我不知道{chinese}的首都。"


def _large_sum(_: Topics, rng: random.Random) -> Turn:
    a, b = rng.randint(25, 999), rng.randint(13, 999)
    mark = rng.choice("+-*/")
    ways = (f"What is {a} {mark} {b}?", f"{a} {mark} {b} = ?", f"{a}{mark}{b}=")
    if rng.random() < 0.7:
        return rng.choice(ways), "These numbers are too large for me."
    return rng.choice((f"{a} {mark} {b} 等于多少？", f"计算 {a} {mark} {b}")), "这些数字对我来说太大了。"


def known_countries() -> set[str]:
    """Countries whose capital the corpus teaches, in English."""
    return {country.removeprefix("the ") for country, *_ in TABLES["capitals"]} | {"United Kingdom"}


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
