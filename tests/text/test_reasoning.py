from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingbeat.text.reasoning import ReasoningSplitter

CASES = [
    # last segment of the prompt, generated text, reasoning, answer
    (" <think", ">\nLet me see.\n</think>\n\nIt is 4.\n", "Let me see.", "It is 4."),
    (" <think", ">a>b</think>>c", "a>b", ">c"),
    (" <think", "> a < b </thin </think>ok", "a < b </thin", "ok"),
    (" <think", ">never closed </thi", "never closed </thi", ""),
    (" <think", " no bracket</think>x", "no bracket", "x"),
    (" <think>\n</think", ">\n\nHello\n\nthere ", "", "Hello\n\nthere"),
    (" <think>\n</think>", "\nHello", "", "Hello"),
    (" <think>\n</think>\nIt is", " 4.", "", " 4."),
    (" <think>\nLet me", " see.</think> 4", "see.", "4"),
    ("Assistant:", " Hello", "", "Hello"),
    ("Assistant:", " <think>hm</think>\nHello", "hm", "Hello"),
    ("Assistant:", " <b>bold</b>", "", "<b>bold</b>"),
    ("Assistant:", " <thi", "", "<thi"),
    ("Assistant:", " x <think>y</think>", "", "x <think>y</think>"),
    (" The answer is", " 42", "", " 42"),
    ("", "", "", ""),
]


@pytest.mark.parametrize(("opening", "text", "reasoning", "answer"), CASES)
@given(data=st.data())
def test_any_cut_gives_the_same(opening: str, text: str, reasoning: str, answer: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    splitter = ReasoningSplitter(opening)
    parts = [splitter.push(text[i:j]) for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    parts.append(splitter.flush())
    assert ("".join(p[0] for p in parts), "".join(p[1] for p in parts)) == (reasoning, answer)


@pytest.mark.parametrize(("opening", "text", "reasoning", "answer"), CASES)
def test_one_character_at_a_time(opening: str, text: str, reasoning: str, answer: str) -> None:
    splitter = ReasoningSplitter(opening)
    parts = [*map(splitter.push, text), splitter.flush()]
    assert ("".join(p[0] for p in parts), "".join(p[1] for p in parts)) == (reasoning, answer)


def test_a_model_that_cannot_think_has_answers_only() -> None:
    splitter = ReasoningSplitter("Assistant:", thinking=False)
    assert splitter.push(" <think>x</think> ") == ("", "<think>x</think>")
    assert splitter.flush() == ("", "")


def test_pieces_come_out_as_they_arrive() -> None:
    splitter = ReasoningSplitter(" <think")
    assert [splitter.push(piece) for piece in (">", "\nOne", " two", "\n</", "think>", "\n\nFour")] == [
        ("", ""),
        ("One", ""),
        (" two", ""),
        ("", ""),
        ("", ""),
        ("", "Four"),
    ]


@pytest.mark.parametrize(
    ("opening", "before", "after", "expected"),
    [
        (" <think", "", ">a b</think>c", ("a b", "c")),
        (" <think", ">a", "b</think>c", ("ab", "c")),
        (" <think", ">a b</think>c", " d", ("a b", "c d")),
        (" <think>\n</think", "", ">\n\nHello", ("", "Hello")),
        ("Assistant:", " Hello", " there", ("", "Hello there")),
        ("Assistant:", " <think>a", "b</think>c", ("ab", "c")),
    ],
)
def test_another_splitter_goes_on_where_one_was_cut_off(
    opening: str, before: str, after: str, expected: tuple[str, str]
) -> None:
    first = ReasoningSplitter(opening)
    parts = [first.push(before), first.flush()]
    rest = ReasoningSplitter(first.opening)
    parts += [rest.push(after), rest.flush()]
    assert ("".join(p[0] for p in parts), "".join(p[1] for p in parts)) == expected
