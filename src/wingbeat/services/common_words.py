"""Words by which a short text gives its language away: the smallest ones, and those of greetings and of menus."""

from __future__ import annotations

_TABLE = """
en the an of and to is are you your it this that with for my not no yes hello hi thanks good home page privacy policy
de der die das und ist nicht ein eine zu mit für ich du wir sie wie mein auf im am ja nein hallo danke guten seite
es el la los las un una y es de en que con para por mi su no sí hola gracias buenos buenas cómo está inicio cuenta
fr le la les un une et est de des du en que pour avec je vous mon ma sur au oui non bonjour salut merci comment page
it il lo la gli un una e è di che con per sono mio non come chi sì no ciao grazie buona della del stai accedi ho
pt o a os as um uma e é de do da que com para não sim meu minha olá oi bom boa dia obrigado obrigada entrar você
nl de het een en is van niet met voor ik je hoe mijn op ja nee hallo dank goede instellingen inloggen meer over
pl i w na z nie jest się do to jak tak dla moje o co cześć dziękuję dzień dobry proszę strona
tr ve bir bu için ile ben sen ne nasıl evet hayır merhaba selam teşekkürler günaydın iyi hesap sayfa giriş
vi và là của có không cho tôi bạn trang xin chào cảm ơn đăng tài
id dan yang di ini itu untuk dengan saya anda tidak apa ya halo terima kasih selamat masuk akun halaman pagi
ms dan yang di ini itu untuk dengan saya anda tidak apa ya terima kasih selamat ke datang
cs a v na je se to s z do pro ne ano jak můj ahoj děkuji dobrý den stránka nastavení
sk a v na je sa to s z do pre nie áno ako môj ahoj ďakujem dobrý deň stránka nastavenia
sv och är en ett att det på för med jag du inte hur min mitt ja nej hej tack god logga sida
da og er en et at det på for med jeg du ikke hvordan min ja nej hej tak god side
no og er en et at det på for med jeg du ikke hvordan min mitt ja nei hei takk god i dag side
fi ja on ei se että minä sinä miten oma kyllä hei moi kiitos hyvää sivu tili
ro și în este un o la cu de nu pe pentru meu da bună salut mulțumesc ziua pagina autentificare
hu és a az egy nem hogy van én te igen szia helló köszönöm jó oldal fiók
hr i u na je se za da ne kako moj bok hvala dobro dobar dan jutro postavke stranica
sl in v na je se za da ne kako moj živjo hvala dobro dober dan jutro nastavitve stran
ca el la els les un una i és de en amb per no sí hola gràcies bon dia com configuració
lt ir yra ne su kad aš tu taip labas ačiū rytas diena puslapis
lv un ir ne ar ka es tu jā sveiki paldies labdien lapa
et ja on ei see et ma sa kuidas jah tere aitäh hommikust leht
sq dhe është në një për me nuk po jo mirë faleminderit përshëndetje
tl ang ng sa mga na ako ikaw oo hindi kumusta salamat po magandang umaga
sw na ya wa ni kwa hii habari asante ndiyo hapana jambo karibu
af die en is nie van het ek jy my ja nee hallo dankie goeie
ru и в не на я ты вы мы что это с как да нет привет здравствуйте спасибо доброе утро добрый день о войти мой
uk і в не на я ти ви ми що це з як так ні привіт дякую доброго ранку добрий день про увійти мій
bg и в не на аз ти вие ние че това с как да моят здравей здравейте благодаря добро добър ден нощ утро профила
sr и у не на ја ти ви ми да је с како не здраво хвала добро јутро добар дан
mk и во не на јас ти вие ние да е со како не здраво благодарам добро утро добар ден си
be і ў не на я ты вы мы што гэта з як так не прывітанне дзякуй добрай раніцы дзень
ar في من على هذا هذه أنا أنت ما كيف نعم لا مرحبا السلام عليكم شكرا صباح الخير إلى عن
fa در از به این که من تو شما است و را چه بله نه سلام ممنون متشکرم صبح بخیر شب خوش
ur میں سے کا کی کے ہے ہیں آپ یہ کو نہیں ہاں سلام شکریہ میرا کیا اور
hi में से का की के है हैं आप यह को नहीं हाँ मेरा क्या और नमस्ते धन्यवाद
mr मध्ये आहे आहेत तुम्ही हे ला नाही होय माझे काय आणि नमस्कार धन्यवाद
ne मा छ छन् तपाईं यो लाई छैन हो मेरो के र नमस्ते धन्यवाद
"""


def _read(table: str) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for code, *words in map(str.split, table.strip().split("\n")):
        for word in words:
            found.setdefault(word, set()).add(code)
    return {word: frozenset(codes) for word, codes in found.items()}


LANGUAGES_OF = _read(_TABLE)
"""Codes of the languages that have a word, by the word in small letters."""
