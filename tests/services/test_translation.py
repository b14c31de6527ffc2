from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingbeat.services.languages import detect_all, language_name, same_language
from wingbeat.services.translation import (
    MAX_PIECE,
    CutText,
    cut_at_marks,
    keeps_marks,
    marks_in,
    one_line,
    prompt,
    stops,
)

TEXT = st.text(st.sampled_from("aé世 \n\r\t.!。<>b/{}0&;\u2028"), max_size=60)


@given(TEXT)
def test_a_text_is_the_sum_of_its_pieces(text: str) -> None:
    for cut in (CutText(text), cut_at_marks(text)):
        assert cut.joined([piece.text for piece in cut.wanted]) == text


@given(TEXT)
def test_what_is_translated_has_no_line_ends_nor_white_space_around_it(text: str) -> None:
    for piece in CutText(text).wanted:
        assert piece.text == piece.text.strip() != ""
        assert "\n" not in piece.text
        assert "\r" not in piece.text


@given(TEXT)
def test_marks_are_never_translated_alone(text: str) -> None:
    for piece in cut_at_marks(text).wanted:
        assert not marks_in(piece.text)


def test_a_long_line_is_parted_after_sentences() -> None:
    line = " ".join(f"Sentence number {number} says a little." for number in range(100))
    parts = [piece.text for piece in CutText(line).wanted]
    assert len(parts) > 3
    assert all(len(part) <= MAX_PIECE and part.endswith(".") for part in parts)
    chinese = "这是一个句子。" * 300
    assert all(piece.text.endswith("。") for piece in CutText(chinese).wanted)
    assert [piece.text for piece in CutText("x" * 3000).wanted] == ["x" * 3000]
    for long in ("很" * (MAX_PIECE + 1) + "。", "word " * MAX_PIECE + "end. "):
        assert [piece.text for piece in CutText(long).wanted] == [long.strip()]


def test_numbers_stay_as_they_are() -> None:
    assert CutText("1,024\n42 %\n２０２６").wanted == []


def test_marks() -> None:
    text = 'An <a href="x">anchor</a>, {0}, {{name}}, 1 < 2 > 0, &nbsp; and &#39;.'
    assert marks_in(text) == ['<a href="x">', "</a>", "{0}", "{{name}}", "&nbsp;", "&#39;"]
    assert keeps_marks("<b>a</b> {0}", "{0} <b>x</b>")
    assert not keeps_marks("<b>a</b>", "<b>x")
    assert not keeps_marks("a", "<b>x</b>")


def test_prompts_and_stops() -> None:
    assert prompt("Hello", "en", "zh-CN") == "English: Hello\n\nChinese:"
    assert stops(["en", "zh-TW", "en"]) == ("\n\n", "\nChinese:", "\nEnglish:")
    assert one_line(" a\n b ") == "a  b"


@pytest.mark.parametrize(
    ("code", "name"),
    [("en", "English"), ("zh-CN", "Chinese"), ("ZH_tw", "Chinese"), ("pt-BR", "Portuguese"), ("Klingon", "Klingon")],
)
def test_names(code: str, name: str) -> None:
    assert language_name(code) == name


def test_same_languages() -> None:
    assert same_language("en-US", "en-GB")
    assert same_language("zh", "zh-Hans")
    assert same_language("English", "en")
    assert not same_language("zh-CN", "zh-TW")
    assert not same_language("en", "de")


def test_detection() -> None:
    texts = {
        "Hello world!": "en",
        "Bonjour le monde": "fr",
        "Ich bin müde und gehe nach Hause.": "de",
        "Buenos días": "es",
        "Доброе утро": "ru",
        "Привіт, світ": "uk",
        "你好世界": "zh-CN",
        "這個國家": "zh-TW",
        "おはよう": "ja",
        "안녕하세요": "ko",
        "สวัสดี": "th",
        "مرحبا": "ar",
        "123": "en",
        "": "en",
    }
    assert {text: detect_all([text])[0] for text in texts} == texts


def test_short_texts_are_in_the_language_of_their_company() -> None:
    page = ["Accueil", "Bonjour tout le monde, bienvenue sur notre site", "Contact", "OK"]
    assert detect_all(page) == ["fr"] * 4
    assert detect_all(["東京", "おはようございます、世界"]) == ["ja", "ja"]


def test_words_of_another_script_do_not_decide() -> None:
    texts = {
        "The α particle is heavier than an electron by far.": "en",
        "The Chinese character 好 means good, and this sentence is English.": "en",
        "The word 안녕 means hello in Korean, of course.": "en",
        "约翰・史密斯是一位医生": "zh-CN",
        "这里的「の」是日文假名": "zh-CN",
        "使用TensorFlow训练模型": "zh-CN",
        "東京都知事選挙の結果発表": "ja",
        "Pythonで書く": "ja",
        "파이썬 Python 사용법": "ko",
    }
    assert {text: detect_all([text])[0] for text in texts} == texts


def test_the_company_decides_only_within_a_script() -> None:
    assert detect_all(["Hello", "你好世界", "こんにちは、元気ですか"]) == ["en", "zh-CN", "ja"]
