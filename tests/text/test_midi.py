from __future__ import annotations

import pytest

from wingbeat.text.midi import MidiTokenizer


@pytest.fixture(scope="module")
def midi() -> MidiTokenizer:
    return MidiTokenizer("midi")


def test_published_vector(midi: MidiTokenizer) -> None:
    assert midi.encode("<pad> v:5b:3 t125 pi:43:5") == [0, 10439, 127, 13225]


@pytest.mark.parametrize(
    ("kind", "rows", "last", "ids"),
    [
        ("midi", 20096, "pa:7f:b", {"<start>": 1, "<end>": 2, "t1": 3, "p:0:0": 128, "d:0:0": 1664, "t:30:7": 3783}),
        ("piano", 2176, "p:7f:f", {"<start>": 1, "<end>": 2, "t125": 127, "p:0:0": 128, "p:3c:a": 1098}),
    ],
)
def test_the_vocabularies(kind: str, rows: int, last: str, ids: dict[str, int]) -> None:
    tokenizer = MidiTokenizer(kind)  # pyright: ignore[reportArgumentType]
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.size) == (kind, rows, rows - 1)
    assert tokenizer.encode(f"{' '.join(ids)} {last}") == [*ids.values(), rows - 1]
    words = [tokenizer.decode([token]).strip() for token in range(1, rows)]
    assert tokenizer.encode(" ".join(words)) == list(range(1, rows))


def test_words_in_any_case_between_any_white_space(midi: MidiTokenizer) -> None:
    assert midi.encode(" <START>\n\tPI:43:5  \r\n") == [1, 13225]
    assert midi.encode_segments(["<pad> p:", "24:a"]) == [0, 0, 0]
    assert midi.encode("violin:0:0 t126 t0 p:80:1 p:01:1 p:1:c") == [0] * 6
    assert midi.encode("") == []


def test_tokens_are_joined_by_spaces_and_the_end_says_nothing(midi: MidiTokenizer) -> None:
    assert midi.decode([0, 1, 10439, 127, 2, 0]) == " <start> v:5b:3 t125 <end>"
    assert [midi.token_bytes(token) for token in (0, -1, 20096)] == [b""] * 3
    assert midi.start == midi.end_of_text == 0
