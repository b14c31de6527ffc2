from __future__ import annotations

from wingbeat.services.detection import detect_all


def wrong(texts: dict[str, str], target: str = "") -> dict[str, str]:
    """What was found for those where it is not what was wanted."""
    found = {text: detect_all([text], target)[0] for text in texts}
    return {text: found[text] for text, code in texts.items() if found[text] != code}


def test_texts_by_themselves() -> None:
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
    assert wrong(texts) == {}


def test_short_texts_are_in_the_language_of_their_company() -> None:
    page = ["Accueil", "Bonjour tout le monde, bienvenue sur notre site", "Contact", "OK"]
    assert detect_all(page) == ["fr"] * 4
    assert detect_all(["東京", "おはようございます、世界"]) == ["ja", "ja"]
    assert detect_all(["Доброго ранку", "Налаштування облікового запису користувача", "Так", "1"]) == ["uk"] * 4


def test_words_of_another_script_do_not_decide() -> None:
    texts = {
        "The α particle is heavier than an electron by far.": "en",
        "The Chinese character 好 means good, and this sentence is English.": "en",
        "The word 안녕 means hello in Korean, of course.": "en",
        "约翰・史密斯是一位医生": "zh-CN",
        "这里的「の」是日文假名": "zh-CN",
        "使用TensorFlow训练模型": "zh-CN",
        "東京都知事選挙の結果発表": "ja",
        "東京駅": "ja",
        "Pythonで書く": "ja",
        "파이썬 Python 사용법": "ko",
    }
    assert wrong(texts) == {}


def test_the_company_decides_only_within_a_script() -> None:
    assert detect_all(["Hello", "你好世界", "こんにちは、元気ですか"]) == ["en", "zh-CN", "ja"]


def test_marks_and_addresses_are_in_no_language() -> None:
    texts = {
        "<strong class='the big one'>Привет</strong> https://example.com/the/english/page": "ru",
        "{username}, 你好&nbsp;&nbsp;&nbsp;": "zh-CN",
        "<b0>Guten</b0> <b1>Morgen</b1>": "de",
    }
    assert wrong(texts) == {}


def test_what_is_written_alike_in_both_scripts_is_in_that_of_the_target() -> None:
    assert detect_all(["你好"], "zh-TW") == ["zh-TW"]
    assert detect_all(["你好"], "en") == detect_all(["你好"], "zh-CN") == ["zh-CN"]
    assert detect_all(["你好", "這個國家很大"], "en") == ["zh-TW", "zh-TW"]
