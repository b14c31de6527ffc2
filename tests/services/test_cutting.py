from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingbeat.services.cutting import (
    MAX_PIECE,
    CutText,
    cut_at_marks,
    cut_shorter,
    cut_text,
    has_letters,
    keeps_marks,
    marks_in,
    one_line,
)

TEXT = st.text(st.sampled_from("aé世 \n\r\t.!。,<>b/{}0&;\u2028\u200b\u0301"), max_size=60)


def cuts(text: str) -> list[CutText]:
    return [cut_text(text), cut_shorter(text, 7), cut_at_marks(text)]


@given(TEXT)
def test_a_text_is_the_sum_of_its_pieces(text: str) -> None:
    for cut in cuts(text):
        assert cut.joined(cut.pieces) == text
        around = cut.joined(["\0"] * len(cut.pieces)).split("\0")
        assert not any(map(has_letters, around)), "nothing that has letters is left out"


@given(TEXT)
def test_pieces_have_no_breaks_and_no_white_space_around(text: str) -> None:
    for piece in cut_text(text).pieces:
        assert piece == piece.strip() != ""
        assert not re.search(r"[\n\r\t\u2028]", piece)
        assert not piece.startswith("\u200b")


@given(TEXT)
def test_marks_are_never_translated_alone(text: str) -> None:
    assert not any(map(marks_in, cut_at_marks(text).pieces))
    assert cut_text("<b0></b0>\n{0} &nbsp;").pieces == []


def test_a_long_line_is_parted_at_the_best_places() -> None:
    sentences = " ".join(f"Sentence {number}, it says a little." for number in range(100))
    clauses = " ".join(f"clause number {number}," for number in range(200))
    lines = {
        sentences: r"\.",
        "这是一个句子，很短。" * 300: "。",
        "他说：「好。」" * 300: "」",
        clauses: ",",
        "很长，" * 800: "，",
        "word " * 800: "d",
        "x" * 3000: "x",
    }
    for line, end in lines.items():
        pieces = cut_text(line).pieces
        assert len(pieces) > 2
        assert all(MAX_PIECE // 4 < len(piece) <= MAX_PIECE for piece in pieces[:-1])
        assert all(re.search(f"{end}$", piece) for piece in pieces)
        assert cut_text(line).joined(pieces) == line
        assert "".join(pieces).replace(" ", "") == line.replace(" ", "")


@pytest.mark.parametrize("whole", ["<a title='one, two. three'>", "é\u0301", "षि", "{{1234567890}}", "&nbsp;"])
def test_what_belongs_together_is_never_parted(whole: str) -> None:
    for before in range(MAX_PIECE - len(whole), MAX_PIECE + 1):
        line = "x" * before + whole + "x" * MAX_PIECE
        assert any(whole in piece for piece in cut_text(line).pieces)
    longest = f"<img src='{'x' * 2000}'> and words"
    assert cut_text(longest).joined(["und Wörter"]) == longest.replace("and words", "und Wörter")


def test_parts_end_also_where_no_place_is_good() -> None:
    assert cut_shorter("x" + "\u0301" * 100, 60).pieces == ["x" + "\u0301" * 100]


def test_parts_of_a_line_are_joined_as_the_script_has_it() -> None:
    chinese = cut_shorter("这是第一句。这是第二句。", 8)
    assert chinese.pieces == ["这是第一句。", "这是第二句。"]
    assert chinese.joined(["One.", "Two."]) == "One. Two."
    assert chinese.joined(["一。", "二。"]) == "一。二。"
    english = cut_shorter("First one. Second one.", 12)
    assert english.joined(["一。", "二。"]) == "一。二。"
    assert english.joined(["Eins.", "Zwei."]) == "Eins. Zwei."
    assert cut_at_marks("One <b>two</b> three").joined(["一", "二", "三"]) == "一 <b>二</b> 三"


def test_numbers_and_signs_stay_as_they_are() -> None:
    assert cut_text("1,024\n42 %\n２０２６ 🦊👩‍🚀\n--- ???").pieces == []


def test_no_more_pieces_than_are_wanted_are_kept() -> None:
    cut = cut_text("a\nb\n\n-\nc\nd", most=2)
    assert (cut.pieces, cut.more) == (["a", "b"], 2)


def test_marks() -> None:
    text = 'An <a href="x">anchor</a>, {0}, {{name}}, 1 < 2 > 0, &nbsp;, &#39; and &#x27;.'
    assert marks_in(text) == ['<a href="x">', "</a>", "{0}", "{{name}}", "&nbsp;", "&#39;", "&#x27;"]
    assert keeps_marks("<b>a</b> {0}", "{0} <b>x</b>")
    assert not keeps_marks("<b>a</b>", "<b>x")
    assert not keeps_marks("a", "<b>x</b>")
    assert not keeps_marks("<b0>a</b0> <a1>b</a1>", "</b0>a <b0><a1>b</a1>")
    assert not keeps_marks("<b><i>a</i></b>", "<b><i>a</b></i>")
    assert keeps_marks("a</b> <i>x<br/>", "x</b> <i>a<br/>")
    assert one_line(" a\n b ") == "a  b"
