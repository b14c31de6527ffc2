from __future__ import annotations

import pytest

from wingbeat.services.detection import detect_all

SHORT = """
en: Hello world! | Read more | Thanks a lot! | See all offers
de: Guten Morgen | Wie geht es dir? | Suche | Alle anzeigen
fr: Bonjour | Accueil | Lire la suite | Je t'aime
es: Hola | Añadir al carrito | Leer más | Te quiero
pt: Olá | Entrar | Como você está? | Esqueceu a senha?
it: Ciao | Accedi | Come stai? | Hai dimenticato la password?
nl: Goedemorgen | Inloggen | Dank je wel | Wachtwoord vergeten?
pl: Dzień dobry | Zaloguj się | Strona główna | Nie pamiętasz hasła?
tr: Merhaba | Giriş yap | Nasılsın? | İptal
vi: Xin chào | Đăng nhập | Trang chủ | Anh yêu em
id: Selamat pagi | Terima kasih | Masuk | Aku cinta kamu
cs: Dobrý den | Přihlásit se | Úvodní stránka | Miluji tě
sv: God morgon | Logga in | Hur mår du? | Jag älskar dig
ro: Bună ziua | Setări | Mulțumesc | Autentificare
hu: Jó reggelt | Beállítások | Köszönöm szépen | Hogy vagy?
da: Hvordan har du det? | Indstillinger
no: Innstillinger | Hvordan har du det i dag?
fi: Hyvää huomenta | Asetukset | Kirjaudu sisään | Kiitos paljon
ru: Привет | Главная | О нас | Я тебя люблю
uk: Привіт | Доброго ранку | Налаштування | Дякую
bg: Настройки на профила | Добър ден
el: Καλημέρα | Ρυθμίσεις
he: שלום | הגדרות
ar: مرحبا | شكرا جزيلا | كيف حالك؟ | أحبك
fa: سلام | خیلی ممنون | چطوری؟ | دوستت دارم
ur: شکریہ | پاس ورڈ بھول گئے؟
hi: नमस्ते | धन्यवाद | पासवर्ड भूल गए? | रद्द करें
bn: নমস্কার
ta: வணக்கம்
te: నమస్కారం
th: สวัสดี | ตั้งค่า
ko: 안녕하세요 | 로그인
ja: おはよう | ログイン | お問い合わせ | 愛してる
zh-CN: 你好 | 登录 | 早上好 | 新闻
zh-TW: 設定 | 忘記密碼？
hr: Dobro jutro | Postavke
sk: Ďakujem | Nastavenia
sl: Hvala lepa
ca: Bon dia
lt: Labas rytas | Ačiū
lv: Paldies | Labrīt
et: Tere hommikust
sr: Здраво
mk: Добро утро, како си?
kk: Сәлеметсіз бе
be: Добрай раніцы
ka: გამარჯობა
hy: Բարև
km: សួស្តី
my: မင်္ဂလာပါ
gu: નમસ્તે
kn: ನಮಸ್ಕಾರ
ml: നമസ്കാരം
pa: ਸਤ ਸ੍ਰੀ ਅਕਾਲ
ms: Selamat datang ke Malaysia
tl: Magandang umaga
sw: Habari ya asubuhi
is: Góðan daginn
sq: Mirëmëngjes
mr: तुम्ही कसे आहात?
ne: तपाईंलाई कस्तो छ?
am: ሰላም
"""
"""What menus, headings and greetings are made of, by language."""


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


@pytest.mark.parametrize("target", ["", "en", "zh-CN", "de"])
def test_short_texts_by_themselves(target: str) -> None:
    rows = [line.split(": ", 1) for line in SHORT.strip().split("\n")]
    texts = {text: code for code, those in rows for text in those.split(" | ")}
    assert len(set(texts.values())) > 50
    assert len(wrong(texts, target)) <= (0 if not target else 3)


def test_short_texts_are_in_the_language_of_their_company() -> None:
    page = ["Accueil", "Bonjour tout le monde, bienvenue sur notre site", "Contact", "OK"]
    assert detect_all(page) == ["fr"] * 4
    assert detect_all(["東京", "おはようございます、世界"]) == ["ja", "ja"]
    assert detect_all(["Доброго ранку", "Налаштування облікового запису користувача", "Так", "1"]) == ["uk"] * 4


def test_texts_that_do_not_agree_are_no_company() -> None:
    texts = [
        "Hola",
        "Ciao",
        "Привет",
        "Merhaba",
        "سلام",
        "Bonjour",
        "登录",
        "Guten Morgen",
        "Hello",
        "Привіт",
        "こんにちは",
    ]
    assert detect_all(texts, "en") == ["es", "it", "ru", "tr", "fa", "fr", "zh-CN", "de", "en", "uk", "ja"]


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
        "请看https://example.com/the-english-page.html吧，或写信给somebody.english@example.com": "zh-CN",
    }
    assert wrong(texts) == {}


def test_what_is_written_alike_in_both_scripts_is_in_that_of_the_target() -> None:
    assert detect_all(["你好"], "zh-TW") == ["zh-TW"]
    assert detect_all(["你好"], "en") == detect_all(["你好"], "zh-CN") == ["zh-CN"]
    assert detect_all(["你好", "這個國家很大"], "en") == ["zh-TW", "zh-TW"]
