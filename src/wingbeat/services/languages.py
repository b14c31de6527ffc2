"""Languages by their codes: what models call them, and which one a text is in."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

NAMES = {
    "af": "Afrikaans",
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "ca": "Catalan",
    "cs": "Czech",
    "cy": "Welsh",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "eu": "Basque",
    "fa": "Persian",
    "fi": "Finnish",
    "fil": "Filipino",
    "fr": "French",
    "ga": "Irish",
    "gl": "Galician",
    "gu": "Gujarati",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "hy": "Armenian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "ka": "Georgian",
    "kk": "Kazakh",
    "km": "Khmer",
    "kn": "Kannada",
    "ko": "Korean",
    "la": "Latin",
    "lo": "Lao",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mk": "Macedonian",
    "ml": "Malayalam",
    "mn": "Mongolian",
    "mr": "Marathi",
    "ms": "Malay",
    "my": "Burmese",
    "nb": "Norwegian",
    "ne": "Nepali",
    "nl": "Dutch",
    "no": "Norwegian",
    "pa": "Punjabi",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "si": "Sinhala",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sq": "Albanian",
    "sr": "Serbian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "tl": "Filipino",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    "yue": "Cantonese",
    "zh": "Chinese",
}
"""Of the code before its first hyphen: `zh-CN` and `zh-Hant` are Chinese."""

AUTO = "auto"

_SCRIPTS = {
    "ja": "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\uff66-\uff9d",
    "ko": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "th": "\u0e00-\u0e7f",
    "he": "\u0590-\u05ff",
    "el": "\u0370-\u03ff",
    "hy": "\u0530-\u058f",
    "ka": "\u10a0-\u10ff",
    "bn": "\u0980-\u09ff",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "km": "\u1780-\u17ff",
    "my": "\u1000-\u109f",
    "lo": "\u0e80-\u0eff",
}
"""Scripts of one language."""
_BY_SCRIPT = [(code, re.compile(f"[{letters}]")) for code, letters in _SCRIPTS.items()]
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
_TRADITIONAL = frozenset(
    "們個這來說時國會對開關門問間長東車馬鳥魚龍風飛頭題話語請讓讀書寫學習覺見觀電腦網頁與為無過還進遠運動種樣機業產廠發經濟實現際應該當點燈爾"
    "親愛愛歡樂萬億買賣價錢銀行體驗號碼標準備註冊選擇條項總統計劃圖畫質優點擊錄視頻聽聲顯類歷歲報紙聞團員師資訊傳輸線約級組織結構終給統維護"
)
_NOT_JAPANESE = frozenset(
    "你您她它吗嗎呢吧啊哪怎么麼很這哦"
    "这们说时对关门问间长东车马鸟鱼龙风飞头题话语请让读习觉见观电脑网页为无过还进远运动种样业产厂发经济实现应该亲欢乐亿买卖价钱银验码标备"
    "选择项总统计划图质优击录视频听显类历岁报纸闻团员师资讯传输线约级组织结构终给维护气热"
)
"""Characters of Chinese that Japanese texts do not have, most of them simplified."""

_LONG = {"ja": 4, "ko": 3}
"""How many letters of an alphabet one sign is worth, where it is not one."""
_HAN_LONG = 4

_CLEAR = 6.0
"""Natural logarithm of how much likelier than English a text must be in another language."""

_SHARED = "en fr de es it pt nl pl cs sk hu ro bg ru uk tr ar fa hi vi id ms sv da no fi et lv lt"
"""Languages that share a script with others."""
_SHORT = 40
"""Characters of a text whose language the others' may decide."""


def language_name(code: str) -> str:
    """What a model calls a language; what is no known code stands for itself."""
    return NAMES.get(code.replace("_", "-").partition("-")[0].lower(), code)


def same_language(code: str, other: str) -> bool:
    """Whether they are written alike, too: zh-CN and zh-TW are not."""
    return _written(code) == _written(other)


def _written(code: str) -> str:
    lower = code.replace("_", "-").lower()
    if lower.partition("-")[0] != "zh":
        return language_name(code).lower()
    return "zh-tw" if lower in ("zh-tw", "zh-hk", "zh-mo") or "hant" in lower else "zh-cn"


def detect_all(texts: Sequence[str]) -> list[str]:
    """The code of each text's language. A short text that tells little is in that of all of them together."""
    common = _detect(" ".join(texts)[:20_000], "en")
    return [_detect(text, common if len(text) < _SHORT else "en") for text in texts]


def _detect(text: str, otherwise: str) -> str:
    """By the script that most of the text is in: words of other languages in it do not count."""
    letters = len(_LETTER.findall(text))
    if not letters:
        return otherwise
    if text.isascii():
        return _by_letters(text, otherwise)
    signs = {code: len(found.findall(text)) for code, found in _BY_SCRIPT}
    han = _HAN.findall(text)
    shared = letters - sum(signs.values()) - len(han)
    weights = {code: count * _LONG.get(code, 1) for code, count in signs.items()}
    weights["ja"] += len(han) * _HAN_LONG  # or Chinese, see below
    most = max(weights, key=lambda code: weights[code])
    if weights[most] <= shared:
        return _by_letters(text, otherwise)
    return _by_han(han, signs["ja"], otherwise) if most == "ja" else most


def _by_han(han: Sequence[str], kana: int, otherwise: str) -> str:
    """Of a text in Chinese characters, with or without Japanese syllables between them."""
    japanese = _NOT_JAPANESE.isdisjoint(han)
    if 3 * kana > len(han) or (japanese and (kana or otherwise == "ja")):
        return "ja"
    return "zh-CN" if _TRADITIONAL.isdisjoint(han) else "zh-TW"


def _by_letters(text: str, otherwise: str) -> str:
    """Of a text whose script many languages share."""
    ranked = dict(_identifier().rank(text))
    if otherwise not in ranked:
        otherwise = "en"
    best = max(ranked, key=lambda code: ranked[code])
    return otherwise if ranked[best] - ranked[otherwise] < _CLEAR else best


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads its tables: not for those who never ask

    made = LanguageIdentifier.from_model_file(MODEL_FILE)
    made.set_languages(_SHARED.split())
    return made
