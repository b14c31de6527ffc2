"""Which language a text is in: by its script, its letters and its words, by its neighbours, and by what is likely.

A short text tells little: the rarer a language is, the more must speak for it.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wingbeat.services.common_words import LANGUAGES_OF
from wingbeat.services.cutting import without_marks
from wingbeat.services.languages import same_language

SAMPLE = 2_000
"""Characters of a text that are looked at."""
SHORT = 40
"""Characters of a text whose language its neighbours may decide."""

_SCRIPTS = {
    "Latin": r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "Cyrillic": r"\u0400-\u052f",
    "Arabic": r"\u0620-\u064a\u066e-\u06d3\u0750-\u077f",
    "Devanagari": r"\u0900-\u0963",
    "Han": r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "ja": r"\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\uff66-\uff9d",
    "ko": r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "am": r"\u1200-\u137f",
    "bn": r"\u0980-\u09ff",
    "el": r"\u0370-\u03ff\u1f00-\u1fff",
    "gu": r"\u0a80-\u0aff",
    "he": r"\u0590-\u05ff",
    "hy": r"\u0530-\u058f",
    "ka": r"\u10a0-\u10ff",
    "km": r"\u1780-\u17ff",
    "kn": r"\u0c80-\u0cff",
    "lo": r"\u0e80-\u0eff",
    "ml": r"\u0d00-\u0d7f",
    "my": r"\u1000-\u109f",
    "or": r"\u0b00-\u0b7f",
    "pa": r"\u0a00-\u0a7f",
    "si": r"\u0d80-\u0dff",
    "ta": r"\u0b80-\u0bff",
    "te": r"\u0c00-\u0c7f",
    "th": r"\u0e00-\u0e7f",
}
"""Scripts of several languages by their names; one of a single language by its code."""
_LETTERS = {script: re.compile(f"[{letters}]") for script, letters in _SCRIPTS.items()}
_LONG = {"Han": 4, "ja": 4, "ko": 3}
"""How many letters of an alphabet one sign is worth, where it is not one."""
_JOINED = {"ja": "Han"}
"""Japanese and Chinese are told apart later."""

_SHARED = {
    "Latin": """
        en 0
        de 1 äöüß
        es 1 áéíóúñü
        fr 1 àâæçéèêëîïôœùûüÿ
        it 2 àèéìíîòóù
        pt 2 áâãàçéêíóôõúü
        nl 2 áéëïíóöü
        pl 2 ąćęłńóśźż
        tr 2 çğıöşüâîû
        vi 2 àáâãèéêìíòóôõùúýăđĩũơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ
        id 2 é
        cs 3 áčďéěíňóřšťúůýž
        sv 3 åäöé
        ro 3 ăâîșțşţ
        hu 3 áéíóöőúüű
        da 3 æøåé
        no 3 æøåéòô
        fi 3 åäöšž
        ca 4 àçéèíïóòúü
        hr 4 čćđšž
        sk 4 äáčďéíĺľňóôŕšťúýž
        sl 4 čšž
        lt 4 ąčęėįšųūž
        lv 4 āčēģīķļņšūž
        et 4 äõöüšž
        ms 4
        tl 4 ñ
        sw 4
        af 5 áèéêëíîïóôöúû
        az 5 çəğıöşü
        sq 5 çë
        is 5 áðéíóúýþæö
        ga 5 áéíóú
        cy 5 âêîôûŵŷ
        gl 5 áéíóúñü
        eu 5 ñçü
    """,
    "Cyrillic": """
        ru 0 абвгдеёжзийклмнопрстуфхцчшщъыьэюя
        uk 1 абвгґдеєжзиіїйклмнопрстуфхцчшщьюя
        bg 3 абвгдежзийклмнопрстуфхцчшщъьюя
        sr 4 абвгдђежзијклљмнњопрстћуфхцчџш
        be 5 абвгдеёжзійклмнопрстуўфхцчшыьэюя
        mk 6 абвгдѓежзѕијклљмнњопрстќуфхцчџш
        kk 4 аәбвгғдеёжзийкқлмнңоөпрстуұүфхһцчшщъыіьэюя
        ky 5 абвгдеёжзийклмнңоөпрстуүфхцчшщъыьэюя
        mn 5 абвгдеёжзийклмноөпрстуүфхцчшщъыьэюя
    """,
    "Arabic": """
        ar 0 ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىي
        fa 1 ءآأؤئابپتثجچحخدذرزژسشصضطظعغفقکگلمنهوی
        ur 2 ءآأؤئابپتٹثجچحخدڈذرڑزژسشصضطظعغفقکگلمنںوہھۂۃیےۓ
    """,
    "Devanagari": "hi 0\nmr 4\nne 5",
}
"""Languages of a script: code, how rare in texts to translate, and letters (in Latin: those beside a to z)."""

_RARE, _FOREIGN, _WORD, _COMPANY, _TARGET = 1.0, 5.0, 3.0, 6.0, 1.0
"""In natural logarithms of a likelihood: a step of rarity, a letter that a language lacks, a common word that it has,
what neighbours are in, what the text is to be translated into."""
_WORDS = 40
"""How many words are looked up: of longer texts the letters tell enough."""


class _Language(NamedTuple):
    code: str
    rarity: int
    letters: frozenset[str]


def _languages(table: str) -> list[_Language]:
    rows = [line.split() for line in table.strip().split("\n")]
    return [_Language(code, int(rarity), frozenset("".join(letters))) for code, rarity, *letters in rows]


_LANGUAGES = {script: _languages(table) for script, table in _SHARED.items()}
_ADDRESS = re.compile(r"https?://[!-~]+|[!-?A-~]{1,64}@[!-~]+")
_CHINESE_ONLY = frozenset("你您她它吗嗎呢吧啊哪怎么麼很這哦")
"""Characters that Japanese knows, and hardly ever writes."""


class _Company(NamedTuple):
    """What the texts of one script are in, and how much of them agrees: from 0, for half of it or less, to 1."""

    code: str = ""
    weight: float = 0.0


_NOBODY = _Company()


def detect_all(texts: Sequence[str], target: str = "") -> list[str]:
    """The code of each text's language. What tells little is in that of the others in its script, if these agree, and
    less likely in `target` than in another one."""
    samples = [_ADDRESS.sub(" ", without_marks(text[:SAMPLE])) for text in texts]
    scripts = [_script(sample) for sample in samples]
    alone = [_in_script(sample, script, target) for sample, script in zip(samples, scripts, strict=True)]
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for code, script, sample in zip(alone, scripts, samples, strict=True):
        sizes[script][code] += len(sample)
    company = {script: _company(codes) for script, codes in sizes.items()}
    most = max(sizes, key=lambda script: sizes[script].total() if script else 0, default="")
    found = []
    for code, script, sample in zip(alone, scripts, samples, strict=True):
        if not script:
            found.append(company[most].code)
        elif len(sample) < SHORT:
            found.append(_in_script(sample, script, target, company[script]))
        else:
            found.append(code)
    return found


def _company(sizes: Counter[str]) -> _Company:
    ((code, size),) = sizes.most_common(1)
    return _Company(code, max(0.0, 2 * size / max(1, sizes.total()) - 1))


def _script(text: str) -> str:
    """The script that most of a text is in, so that words of other languages do not count; empty without letters."""
    weights: Counter[str] = Counter()
    for character, count in Counter(text).items():
        script = _script_of(character)
        weights[_JOINED.get(script, script)] += count * _LONG.get(script, 1)
    del weights[""]
    if not weights:
        return ""
    return max(weights, key=lambda script: weights[script])


@functools.lru_cache(10_000)
def _script_of(character: str) -> str:
    """Empty for what is no letter."""
    return next((script for script, letters in _LETTERS.items() if letters.match(character)), "")


def _in_script(text: str, script: str, target: str, company: _Company = _NOBODY) -> str:
    if not script:
        return "en"
    if script == "Han":
        return _by_han(text, target, company.code if company.weight else "")
    if script not in _LANGUAGES:
        return script
    likelihoods = _likelihoods(text)
    words = Counter(code for word in _words(text) for code in LANGUAGES_OF.get(word, ()))
    letters = {letter for letter in set(text.lower()) if _script_of(letter) == script and not letter.isascii()}

    def score(language: _Language) -> float:
        found = likelihoods[language.code] - _FOREIGN * len(letters - language.letters)
        found += _WORD * words[language.code]
        found -= _RARE * language.rarity
        if language.code == company.code:
            found += company.weight * (_COMPANY + _RARE * language.rarity)
        return found - _TARGET * same_language(language.code, target)

    if script == "Devanagari":
        letters.clear()  # they share them all
    return max(_LANGUAGES[script], key=score).code


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())[:_WORDS]


def _by_han(text: str, target: str, company: str) -> str:
    """Of a text in Chinese characters, Japanese syllables, or both."""
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        scripts[_script_of(character)] += count
    kana, han = scripts["ja"], scripts["Han"]
    kinds = {kind for character in set(text) if _script_of(character) == "Han" for kind in _kinds(character)}
    if 3 * kana > han or (kinds.isdisjoint({"chinese"}) and (kana or "japanese" in kinds or company == "ja")):
        return "ja"
    if "traditional" in kinds or "simplified" in kinds:
        return "zh-TW" if "traditional" in kinds else "zh-CN"
    return next((code for code in (company, target) if same_language(code, "zh-TW")), "zh-CN")


@functools.lru_cache(10_000)
def _kinds(character: str) -> tuple[str, ...]:
    """What a Chinese character speaks for: the standards of each country know their own forms only."""
    simplified, traditional = _has("gb2312", character), _has("big5", character)
    japanese = _has("shift_jis", character)
    kinds = {
        "simplified": simplified and not traditional,
        "traditional": traditional and not simplified,
        "japanese": japanese and not simplified and not traditional,
        "chinese": not japanese or character in _CHINESE_ONLY,
    }
    return tuple(kind for kind, speaks in kinds.items() if speaks)


def _has(standard: str, character: str) -> bool:
    try:
        return bool(character.encode(standard))
    except UnicodeEncodeError:
        return False


def _likelihoods(text: str) -> Mapping[str, float]:
    """Natural logarithms, beside that of the likeliest."""
    ranked = dict(_identifier().rank(text))
    most = max(ranked.values())
    return {code: likelihood - most for code, likelihood in ranked.items()}


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads its tables: not for those who never ask

    made = LanguageIdentifier.from_model_file(MODEL_FILE)
    made.set_languages([language.code for languages in _LANGUAGES.values() for language in languages])
    return made
