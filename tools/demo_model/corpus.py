"""The demo model's training text: documents drawn at random from the fetched and the written sources.

A document is a list of segments that are tokenised one by one, exactly as the server tokenises a prompt. Nothing is
expanded beforehand: every draw makes a fresh variant, and the same seed makes the same documents.
"""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import facts
import sources
import stories
import unknown

from wingbeat.text.templates import WORLD, Message
from wingbeat.text.world import WorldTokenizer

HERE = Path(__file__).parent
END = 0  # the token between documents
SHARES = {"chat": 0.48, "pairs": 0.31, "story": 0.08, "sentence": 0.06, "prose": 0.07}  # of all tokens
_TURNS = {
    "qa": 0.51,
    "fact": 0.19,
    "translation": 0.15,
    "unknown": 0.09,
    "dialogue": 0.04,
    "told": 0.02,
}  # of all chat turns
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are the wingbeat demo model.",
    "Answer briefly.",
    "你是一个有用的助手。",
)
_HELD_OUT = {"qa": 4, "translation": 1.5, "dialogue": 2, "sentence": 1.5, "prose": 1.5}  # percent

_OPENINGS = (
    "Please tell me: ",
    "And ",
    "So ",
    "Hi, ",
    "Can you tell me: ",
    "I would like to know: ",
    "Quick question: ",
    "Now ",
)

Turn = tuple[str, str]
Document = list[str]


@dataclass
class Corpus:
    """All records, already divided: a corpus holds either the training records or the held-out ones."""

    entries: list[tuple[list[str], list[str]]]
    """Questions and answers: the ways to ask, the answers."""
    phrases: list[sources.Pair]
    everyday: list[sources.Pair]
    dialogues: list[Turn]
    sentences: list[str]
    prose: list[str]
    topics: unknown.Topics

    def draw(self, kind: str, rng: random.Random) -> Document:
        """One fresh document of a kind named in SHARES, or a one-turn chat for a kind of turn ("qa", "fact", ...)."""
        makers: dict[str, Callable[[random.Random], Document]] = {
            "chat": self._chat,
            "pairs": self._pairs,
            "story": lambda rng: [(stories.english if rng.random() < 0.65 else stories.chinese)(rng)],
            "sentence": lambda rng: [rng.choice(self.sentences)],
            "prose": lambda rng: [rng.choice(self.prose)],
        }
        if kind in makers:
            return makers[kind](rng)
        return self._render([self._turn(kind, rng)])

    def _chat(self, rng: random.Random) -> Document:
        kinds, weights = zip(*_TURNS.items(), strict=True)
        count = rng.choices((1, 2, 3, 4), (50, 25, 15, 10))[0]
        turns = [self._turn(kind, rng) for kind in rng.choices(kinds, weights, k=count)]
        system = Message("system", rng.choice(_SYSTEMS)) if rng.random() < 0.08 else None
        return self._render(turns, system)

    @staticmethod
    def _render(turns: list[Turn], system: Message | None = None) -> Document:
        messages = [system] if system else []
        for question, answer in turns:
            messages += [Message("user", question), Message("assistant", answer)]
        return WORLD.render(messages)[:-1]  # without the opening of a next reply

    def _turn(self, kind: str, rng: random.Random) -> Turn:
        if kind == "fact":
            return facts.draw(rng)
        if kind == "told":
            return _told(rng)
        if kind == "unknown":
            return unknown.draw(self.topics, rng)
        if kind == "translation":
            return _asked(self._pair(rng), rng)
        if kind == "dialogue":
            question, answer = rng.choice(self.dialogues)
            return _vary(question, rng), answer
        ways, answers = rng.choices(self.entries, [len(ways) ** 0.5 for ways, _ in self.entries])[0]
        return _vary(rng.choice(ways), rng), rng.choice(answers)

    def _pair(self, rng: random.Random) -> sources.Pair:
        pair = rng.choice(self.everyday if self.everyday and rng.random() < 0.2 else self.phrases)
        return sources.Pair(pair.english.lower(), pair.chinese) if rng.random() < 0.1 else pair

    def _pairs(self, rng: random.Random) -> Document:
        document: Document = []
        to_chinese = rng.random() < 0.55
        for _ in range(rng.choices((1, 2, 3, 5), (45, 25, 20, 10))[0]):
            english, chinese = self._pair(rng)
            sides = ["English:", f" {english}", "\n\n"], ["Chinese:", f" {chinese}", "\n\n"]
            document += sides[0] + sides[1] if to_chinese else sides[1] + sides[0]
        return document


def load(cache: Path) -> tuple[Corpus, Corpus]:
    """Fetch the sources into `cache` and return the training and the held-out corpus."""
    files = sources.fetch(cache)
    written = tomllib.loads((HERE / "qa.toml").read_text("utf-8"))["entry"]
    everyday = [sources.Pair(*row) for row in facts.TABLES["phrases"]]
    fetched = {
        "translation": sources.phrases(files),
        "dialogue": sources.dialogues(files),
        "sentence": sources.sentences(files),
        "prose": sources.prose(files),
    }
    topics = _topics(files, written, fetched["translation"], fetched["sentence"])
    both = []
    for held in (False, True):
        entries = []
        for entry in written:
            answers = entry["a"] if isinstance(entry["a"], list) else [entry["a"]]
            # The first way to ask is always trained on: what is held out is another wording of a known question.
            ways = [way for i, way in enumerate(entry["q"]) if (i > 0 and _is_held_out("qa", way)) is held]
            if ways:
                entries.append((ways, answers))
        kept = {
            kind: [record for record in records if _is_held_out(kind, str(record)) is held]
            for kind, records in fetched.items()
        }
        both.append(
            Corpus(
                entries,
                kept["translation"],
                [] if held else everyday,
                kept["dialogue"],
                kept["sentence"],
                kept["prose"],
                topics,
            )
        )
    return both[0], both[1]


def kind_weights(corpus: Corpus, tokenizer: WorldTokenizer) -> dict[str, float]:
    """How often to draw each kind of document so that the tokens come out in SHARES."""
    rng = random.Random(1)
    weights = {}
    for kind, share in SHARES.items():
        total = sum(len(tokenizer.encode_segments(corpus.draw(kind, rng))) + 1 for _ in range(200))
        weights[kind] = share * 200 / total
    return weights


def documents(corpus: Corpus, weights: dict[str, float], rng: random.Random) -> Iterator[Document]:
    """Endless documents of all kinds."""
    kinds, odds = list(weights), list(weights.values())
    while True:
        yield corpus.draw(rng.choices(kinds, odds)[0], rng)


def row(source: Iterator[Document], tokenizer: WorldTokenizer, length: int) -> list[int]:
    """`length` tokens: whole documents from the first token on, END between them, the last one cut."""
    tokens: list[int] = []
    while len(tokens) < length:
        tokens += tokenizer.encode_segments(next(source))
        tokens.append(END)
    return tokens[:length]


def _topics(
    files: dict[str, Path], written: list[dict[str, Any]], phrases: list[sources.Pair], sentences: list[str]
) -> unknown.Topics:
    """Words that no written question is about."""
    known = " ".join(way for entry in written for way in entry["q"]).lower()
    known += str(facts.TABLES)
    return unknown.Topics(
        [noun for noun in sources.nouns(files, sentences) if noun not in known],
        [
            pair.chinese
            for pair in phrases
            if re.fullmatch(r"[\u4e00-\u9fff]{2,5}", pair.chinese) and pair.chinese not in known
        ],
        [tuple(pair) for pair in sources.countries(files) if pair.english not in unknown.known_countries()],
    )


def _is_held_out(kind: str, key: str) -> bool:
    return zlib.crc32(key.encode()) % 1000 < 10 * _HELD_OUT[kind]


def _vary(question: str, rng: random.Random) -> str:
    """The same question a little differently: case, closing mark, a polite word."""
    chinese = not question.isascii()
    if rng.random() < 0.2:
        question = question.rstrip("?!.？！。")
    elif rng.random() < 0.1 and question[-1] not in "?!.？！。":
        question += "？" if chinese else "?"
    question = question or "?"
    if not chinese and rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.1:
        if chinese:
            return rng.choice(("请问，", "你好，", "我想知道，", "请告诉我，", "那么，")) + question
        return rng.choice(_OPENINGS) + question[0].lower() + question[1:]
    if rng.random() < 0.03:
        question += "，谢谢" if chinese else rng.choice((" please", " Thanks!", " Thank you."))
    return question


def _told(rng: random.Random) -> Turn:
    """A story on request."""
    if rng.random() < 0.6:
        ways = (
            "Tell me a story",
            "Tell me a story.",
            "Tell me a short story",
            "Can you tell me a story?",
            "Write a story",
        )
        return rng.choice(ways), stories.english(rng)
    return rng.choice(("讲个故事", "给我讲一个故事", "讲个故事吧。", "你会讲故事吗？", "写一个故事")), stories.chinese(
        rng
    )


def _asked(pair: sources.Pair, rng: random.Random) -> Turn:
    """A translation as a question and its answer."""
    english, chinese = pair
    if rng.random() < 0.6:
        ways = (
            f"Translate to Chinese: {english}",
            f"Translate into Chinese: {english}",
            f'Translate "{english}" to Chinese',
            f'How do you say "{english}" in Chinese?',
            f"翻译成中文：{english}",
            f"把“{english}”翻译成中文",
            f"What is {english} in Chinese?",
        )
        return rng.choice(ways), chinese
    ways = (
        f"Translate to English: {chinese}",
        f"Translate into English: {chinese}",
        f"翻译成英文：{chinese}",
        f"把“{chinese}”翻译成英文",
        f"“{chinese}”用英文怎么说？",
        f'What does "{chinese}" mean?',
    )
    return rng.choice(ways), english
