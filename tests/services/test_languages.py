from __future__ import annotations

import pytest

from wingbeat.services.languages import NAMES, check_language, language_name, names_for, same_language


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("English", "en EN en-US en_GB eng English ENGLISH"),
        ("Chinese", "zh zh-CN ZH-cn zh_CN zh-Hans zh_Hant_TW cmn zho chi chinese"),
        ("Portuguese", "pt-BR pt_PT por"),
        ("Hebrew", "he iw"),
        ("Norwegian", "no nb nb-NO"),
        ("Filipino", "fil tl"),
        ("Cantonese", "yue zh-yue"),
        ("Haitian Creole", "ht hat Haitian~creole"),
    ],
)
def test_codes_in_all_their_forms(name: str, codes: str) -> None:
    assert {language_name(code.replace("~", " ")) for code in codes.split()} == {name}


def test_what_is_no_code_stands_for_itself() -> None:
    assert language_name(" Klingon ") == "Klingon"
    assert language_name("中文") == "中文"


def test_no_code_means_two_languages() -> None:
    assert {name for name in NAMES.values() if not name[0].isupper()} == set()
    assert (NAMES["in"], NAMES["id"], NAMES["mo"]) == ("Indonesian", "Indonesian", "Romanian")


def test_same_languages() -> None:
    assert same_language("en-US", "eng")
    assert same_language("zh", "zh-Hans")
    assert same_language("English", "en")
    assert same_language("zh-Hant", "Traditional Chinese")
    assert not same_language("zh-CN", "zh_TW")
    assert not same_language("en", "de")


def test_two_scripts_of_one_language_have_names_that_differ() -> None:
    assert names_for("en", "zh-TW") == ("English", "Chinese")
    assert names_for("zh-TW", "zh-CN") == ("Traditional Chinese", "Simplified Chinese")
    assert names_for("zh", "zh-HK") == ("Simplified Chinese", "Traditional Chinese")


@pytest.mark.parametrize(
    "name", ["", "  ", "en\n", "English: x\n\nGerman", "a\u2028b", "a\tb", "a\0", "12", "x" * 65, "a: b", "Auto"]
)
def test_what_must_not_get_into_a_prompt(name: str) -> None:
    with pytest.raises(ValueError, match="code such as"):
        check_language(name)


def test_names_of_many_kinds_are_fine() -> None:
    for name in ("Klingon", "Old Norse", "中文", "Français (Québec)", "zh-Hant-TW", "हिन्दी"):
        assert check_language(f" {name} ") == name
