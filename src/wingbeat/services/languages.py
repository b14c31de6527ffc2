"""Languages by their codes and names: what models call them, and which are the same."""

from __future__ import annotations

_TABLE = """
af afr Afrikaans
am amh Amharic
ar ara arb Arabic
as asm Assamese
az aze azj Azerbaijani
be bel Belarusian
bg bul Bulgarian
bn ben Bengali
bo bod tib Tibetan
bs bos Bosnian
ca cat Catalan
ceb Cebuano
ckb Central Kurdish
co cos Corsican
cs ces cze Czech
cy cym wel Welsh
da dan Danish
de deu ger German
dv div Dhivehi
el ell gre Greek
en eng English
eo epo Esperanto
es spa Spanish
et est ekk Estonian
eu eus baq Basque
fa fas per pes prs Persian
fi fin Finnish
fil tl tgl Filipino
fj fij Fijian
fo fao Faroese
fr fra fre French
fy fry West Frisian
ga gle Irish
gd gla Scottish Gaelic
gl glg Galician
gu guj Gujarati
ha hau Hausa
haw Hawaiian
he heb iw Hebrew
hi hin Hindi
hmn Hmong
hr hrv Croatian
ht hat Haitian Creole
hu hun Hungarian
hy hye arm Armenian
id ind in Indonesian
ig ibo Igbo
is isl ice Icelandic
it ita Italian
ja jpn jp Japanese
jv jav jw Javanese
ka kat geo Georgian
kk kaz Kazakh
km khm Khmer
kn kan Kannada
ko kor kr Korean
ku kur kmr Kurdish
ky kir Kyrgyz
la lat Latin
lb ltz Luxembourgish
ln lin Lingala
lo lao Lao
lt lit Lithuanian
lv lav lvs Latvian
lzh wyw Classical Chinese
mg mlg plt Malagasy
mi mri mao Maori
mk mkd mac Macedonian
ml mal Malayalam
mn mon khk Mongolian
mr mar Marathi
ms msa may zsm Malay
mt mlt Maltese
my mya bur Burmese
ne nep npi Nepali
nl nld dut Dutch
nn nno Norwegian Nynorsk
no nor nb nob Norwegian
ny nya Chichewa
or ori ory Odia
pa pan Punjabi
pl pol Polish
ps pus pbt Pashto
pt por Portuguese
ro ron rum mo Romanian
ru rus Russian
rw kin Kinyarwanda
sd snd Sindhi
si sin Sinhala
sk slk slo Slovak
sl slv Slovenian
sm smo Samoan
sn sna Shona
so som Somali
sq sqi alb als Albanian
sr srp Serbian
st sot Sesotho
su sun Sundanese
sv swe Swedish
sw swa swh Swahili
ta tam Tamil
te tel Telugu
tg tgk Tajik
th tha Thai
ti tir Tigrinya
tk tuk Turkmen
tr tur Turkish
tt tat Tatar
ug uig Uyghur
uk ukr ua Ukrainian
ur urd Urdu
uz uzb uzn Uzbek
vi vie vn Vietnamese
xh xho Xhosa
yi yid ji ydd Yiddish
yo yor Yoruba
yue zh-yue Cantonese
zh zho chi cmn cn Chinese
zu zul Zulu
"""
"""Codes of each (ISO 639-1, ISO 639-3 and 639-2, older and usual ones) and its English name."""

AUTO = "auto"
MAX_NAME = 64
"""Characters of a language's name."""

_CHINESE = "Chinese"
_SIMPLIFIED, _TRADITIONAL = "Simplified Chinese", "Traditional Chinese"
_OF_TRADITIONAL = frozenset({"hant", "tw", "hk", "mo", "cht"})
_FULL_NAMES = {
    "simplified chinese": "zh-hans",
    "chinese (simplified)": "zh-hans",
    "traditional chinese": "zh-hant",
    "chinese (traditional)": "zh-hant",
}


def _read(table: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for words in map(str.split, table.strip().split("\n")):
        codes = [word for word in words if word.islower()]
        name = " ".join(words[len(codes) :])
        names |= dict.fromkeys((*codes, name.lower()), name)
    return names


NAMES = _read(_TABLE)
"""Of each code, and of each name in small letters."""


def check_language(code: str) -> str:
    """A code or name as it is to be used. Raises ValueError for what is neither: it would become part of a prompt."""
    code = code.strip(" ")
    if len(code) > MAX_NAME:
        raise ValueError(f"a language is a code such as en or zh-CN, or a name of {MAX_NAME} characters at most")
    if not code.isprintable() or ":" in code or code.lower() == AUTO or not any(map(str.isalpha, code)):
        raise ValueError("a code such as en or zh-CN is wanted, or a language's name on one line, without a colon")
    return code


def language_name(code: str) -> str:
    """What a model calls a language; what is no known code stands for itself."""
    tag = _tag(code)
    return NAMES.get(tag) or NAMES.get(tag.partition("-")[0], code.strip())


def names_for(source: str, target: str) -> tuple[str, str]:
    """What a model is to call them: more than `language_name` where they differ in their script only."""
    pair = language_name(source), language_name(target)
    if pair != (_CHINESE, _CHINESE):
        return pair
    return (_TRADITIONAL, _SIMPLIFIED) if _is_traditional(source) else (_SIMPLIFIED, _TRADITIONAL)


def same_language(code: str, other: str) -> bool:
    """Whether they are written alike, too: zh-CN and zh-TW are not."""
    name = language_name(code)
    same = name.lower() == language_name(other).lower()
    return same and (name != _CHINESE or _is_traditional(code) == _is_traditional(other))


def _tag(code: str) -> str:
    """In small letters with hyphens: zh_CN is zh-cn."""
    tag = " ".join(code.lower().replace("_", "-").split())
    return _FULL_NAMES.get(tag, tag)


def _is_traditional(code: str) -> bool:
    return not _OF_TRADITIONAL.isdisjoint(_tag(code).split("-"))
