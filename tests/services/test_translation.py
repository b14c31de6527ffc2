from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from wingbeat.services.translation import (
    LIMITS,
    SHORTEST,
    Job,
    Outcome,
    TooManyPieces,
    Translator,
    Written,
    form_of,
)


class Model:
    """Writes what `answer` makes of a piece, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str], str | Written] = str.upper) -> None:
        self._answer = answer
        self.asked: list[list[str]] = []

    async def __call__(self, prompts: Sequence[str], stops: tuple[str, ...], most_tokens: int) -> list[Written]:
        pieces = [text.partition(": ")[2].rpartition("\n\n")[0] for text in prompts]
        self.asked.append(pieces)
        answers = [self._answer(piece) for piece in pieces]
        return [answer if isinstance(answer, Written) else Written(f" {answer}\n") for answer in answers]

    async def translate(self, *texts: str, source: str = "en", target: str = "de", most: int = 100) -> list[Outcome]:
        return await Translator(self, most).translate([Job(text, source, target) for text in texts])


def test_the_form_of_a_piece_is_its_own() -> None:
    form = form_of(Job("Hello", "en", "zh-CN"))
    assert form.prompt("Hello") == "English: Hello\n\nChinese:"
    assert form.stops == ("\n\n", "\nEnglish:", "\nChinese:")
    limits = [form_of(Job(text, "en", "de")).most_tokens for text in ("x" * 64, "世" * 22, "x" * 800, "世" * 800)]
    assert limits == [LIMITS[0], LIMITS[1], LIMITS[2], LIMITS[2]]


async def test_pieces_of_several_forms_come_back_in_their_places() -> None:
    model = Model()
    jobs = [Job("one", "en", "de"), Job("x" * 100, "en", "de"), Job("two", "fr", "de"), Job("three", "en", "de")]
    found = await Translator(model, 100).translate(jobs)
    assert [outcome.text for outcome in found] == [job.text.upper() for job in jobs]
    assert sorted(model.asked) == sorted([["one", "three"], ["x" * 100], ["two"]])


async def test_all_pieces_are_asked_for_at_once_and_come_back_in_their_places() -> None:
    model = Model()
    found = await model.translate("one\n\n  two\ttoo \r\n3", "", "-", "last")
    assert found == [Outcome("ONE\n\n  TWO\tTOO \r\n3"), Outcome(""), Outcome("-"), Outcome("LAST")]
    assert model.asked == [["one", "two", "too", "last"]]


async def test_what_is_in_the_language_already_stays_as_it_is() -> None:
    model = Model()
    assert await model.translate("one", source="en-GB", target="English") == [Outcome("one")]
    assert model.asked == []


async def test_a_piece_without_its_marks_is_translated_between_them() -> None:
    model = Model(lambda piece: piece.upper().replace("<B>", ""))
    assert await model.translate("one <b>two</b> three") == [Outcome("ONE <b>TWO</b> THREE")]
    assert model.asked[1] == ["one", "two", "three"]


async def test_what_has_no_end_is_translated_in_shorter_parts() -> None:
    line = "Words of a line, " * 20
    model = Model(lambda piece: Written(piece.upper(), ended=len(piece) <= 100))
    assert await model.translate(line, "short") == [Outcome(line.upper()), Outcome("SHORT")]
    assert [len(asked) for asked in model.asked] == [1, 1, 5], "line and text have forms of their own"


@pytest.mark.parametrize("piece", ["Words of a line, " * 60, "x" + "\u0301" * 100])
async def test_what_never_has_an_end_is_told(piece: str) -> None:
    model = Model(lambda piece: Written("la la", ended=False))
    (found,) = await model.translate(piece)
    assert found.text.startswith("la la")
    assert found.error is not None
    assert "no end for the translation of" in found.error
    assert not found.failed
    assert len(model.asked) < 6
    assert min(map(len, model.asked[-1])) <= max(SHORTEST, len(piece))


async def test_what_fails_is_told_and_the_others_are_there() -> None:
    model = Model(lambda piece: Written("", error="broken") if piece == "two" else piece.upper())
    found = await model.translate("one\ntwo", "three")
    assert found == [Outcome("", "broken", failed=True), Outcome("THREE")]


async def test_a_text_without_a_translation_is_told() -> None:
    model = Model(lambda piece: "" if piece in ("two", "of") else piece.upper().replace("<B>", ""))
    found = await model.translate(" two ", "three", " ", "one <b>of</b> a")
    assert found == [
        Outcome("  ", "The model wrote nothing for 'two'."),
        Outcome("THREE"),
        Outcome(" "),
        Outcome("ONE <b></b> A"),
    ]


async def test_too_many_pieces_are_refused_and_counted() -> None:
    with pytest.raises(TooManyPieces) as refused:
        await Model().translate("a\nb\nc", "d\n-\ne", most=4)
    assert refused.value.pieces == 5


async def test_no_more_rows_than_may_be_are_asked_for_at_once() -> None:
    model = Model(lambda piece: piece.upper().replace("<B>", ""))
    line = "a <b>b</b> c"
    assert await model.translate(line, line, most=4) == [Outcome("A <b>B</b> C")] * 2
    assert [len(asked) for asked in model.asked] == [2, 4, 2]


async def test_a_text_that_looks_like_a_prompt_is_a_text() -> None:
    model = Model()
    await model.translate("English: foo\n\nChinese:", target="zh")
    assert model.asked == [["English: foo", "Chinese:"]]
