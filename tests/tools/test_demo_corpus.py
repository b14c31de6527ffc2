"""The demo model's written corpus and the vocabulary that it ships with."""

from __future__ import annotations

import random
import sys
import tomllib
from pathlib import Path

import pytest

from wingbeat.formats.checkpoint import open_checkpoint
from wingbeat.llm import demo_model_path
from wingbeat.text.templates import WORLD, Message
from wingbeat.text.vocab import default_vocab_path, read_vocab
from wingbeat.text.world import WorldTokenizer

TOOLS = Path(__file__).parents[2] / "tools" / "demo_model"
VOCAB = demo_model_path().with_name("wingbeat-demo.vocab.txt")


@pytest.fixture(scope="module")
def tokenizer() -> WorldTokenizer:
    return WorldTokenizer(VOCAB)


def test_vocabulary_keeps_worlds_first_ids_and_adds_only_worlds_tokens() -> None:
    world, demo = read_vocab(default_vocab_path()), read_vocab(VOCAB)
    for token_id in [*range(1, 257), 261]:
        assert demo[token_id] == world[token_id]
    assert set(demo.values()) <= set(world.values())
    assert sorted(demo) == list(range(1, max(demo) + 1))


def test_vocabulary_fits_the_models_rows() -> None:
    rows = open_checkpoint(demo_model_path())["emb.weight"].shape[0]
    assert max(read_vocab(VOCAB)) < rows <= max(read_vocab(VOCAB)) + 16


def test_no_token_joins_a_label_or_a_blank_line_to_its_neighbours(tokenizer: WorldTokenizer) -> None:
    # So a prompt given as one text has the same ids as one made by the chat template.
    messages = [Message("user", "What is RWKV?"), Message("assistant", "A network."), Message("user", '"你好"')]
    segments = WORLD.render(messages)
    assert tokenizer.encode("".join(segments)) == tokenizer.encode_segments(segments)


def test_labels_fall_into_worlds_pieces(tokenizer: WorldTokenizer) -> None:
    world = WorldTokenizer(default_vocab_path())
    for label in ("User:", "Assistant:", "System:", "English:", "Chinese:"):
        assert [tokenizer.token_bytes(i) for i in tokenizer.encode(label)] == [
            world.token_bytes(i) for i in world.encode(label)
        ]


def test_written_questions_are_unique_and_clean() -> None:
    entries = tomllib.loads((TOOLS / "qa.toml").read_text("utf-8"))["entry"]
    questions = [way for entry in entries for way in entry["q"]]
    assert len(questions) == len(set(questions)) > 800
    for entry in entries:
        answers = entry["a"] if isinstance(entry["a"], list) else [entry["a"]]
        for text in [*entry["q"], *answers]:
            assert text == text.strip()
            assert "\n\n" not in text
        assert entry["q"][0].isascii() == answers[0].isascii(), f"question and answer differ in language: {entry}"


def test_facts_and_stories_are_well_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(TOOLS), *sys.path])
    import facts  # pyright: ignore[reportMissingImports]
    import stories  # pyright: ignore[reportMissingImports]
    import unknown  # pyright: ignore[reportMissingImports]

    rng = random.Random(5)
    for _ in range(300):
        question, answer = facts.draw(rng)
        assert question
        assert answer
        if " = " in answer:
            left, right = answer.split(" = ")
            assert eval(left, {"__builtins__": {}}) == int(right)
    topics = unknown.Topics(["lamp", "anchor"], ["书签"], [("Iraq", "伊拉克")])
    for _ in range(100):
        question, answer = unknown.draw(topics, rng)
        assert question.isascii() == answer.isascii()
    for write in (stories.english, stories.chinese):
        story = write(rng)
        assert story == story.strip()
        assert len(story) > 60
    assert stories.english(random.Random(1)) == stories.english(random.Random(1))
