"""Texts to the pieces that a model is asked to translate, and its answers back to texts.

A piece is a line, or a part of a long one, so that no line end is ever the model's affair. Marks of other programs in
a text (`<b>`, `{0}`) stay in their piece, where a good model keeps them; a piece that comes back without them is
translated again in parts, between its marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from wingbeat.sampling.params import MAX_STOPS
from wingbeat.services.languages import language_name

MAX_PIECE = 800
"""Characters of a piece, where the line has a place to part it."""

_LINE_ENDS = re.compile(r"((?:[^\S\r\n]*(?:\r\n|\r|\n))+[^\S\r\n]*)")
_MARK = re.compile(r"(</?[A-Za-z][^<>\n]*>|\{\{?[^{}\s]{0,40}\}?\}|&[A-Za-z]{2,8};|&#\d{1,7};)")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；…])\s*")
_LETTER = re.compile(r"[^\W\d_]")


class Piece(NamedTuple):
    """What a text is cut into. `wanted`: whether it is to be translated, or stays as it is."""

    text: str
    wanted: bool = False


class CutText:
    """A text in pieces."""

    def __init__(self, text: str) -> None:
        self.pieces = [piece for part in _LINE_ENDS.split(text) for piece in _cut_line(part)]

    @property
    def wanted(self) -> list[Piece]:
        """Those to translate."""
        return [piece for piece in self.pieces if piece.wanted]

    def joined(self, translated: Sequence[str]) -> str:
        """The text with a translation in place of each wanted piece."""
        found = iter(translated)
        return "".join(next(found) if piece.wanted else piece.text for piece in self.pieces)


def _cut_line(line: str) -> list[Piece]:
    """White space at both ends of a piece is not the model's affair either."""
    if not _LETTER.search(line):
        return [Piece(line)] if line else []
    cut: list[Piece] = []
    for part in _short_parts(line):
        inner = part.strip()
        before, _, after = part.partition(inner)
        cut += [
            Piece(before),
            Piece(inner, wanted=bool(_LETTER.search(inner))),
            Piece(after),
        ]
    return [piece for piece in cut if piece.text]


def _short_parts(line: str) -> list[str]:
    """A long line in whole sentences, with the white space that follows each."""
    if len(line) <= MAX_PIECE:
        return [line]
    parts, begin, end = [], 0, 0
    for found in _SENTENCE_END.finditer(line):
        if found.end() - begin > MAX_PIECE and end > begin:
            parts.append(line[begin:end])
            begin = end
        end = found.end()
    if len(line) - begin > MAX_PIECE and end > begin:
        parts.append(line[begin:end])
        begin = end
    return [*parts, line[begin:]] if begin < len(line) else parts


def marks_in(text: str) -> list[str]:
    """Tags and the like, in order."""
    return _MARK.findall(text)


def keeps_marks(piece: str, translated: str) -> bool:
    """Whether each mark of a piece came back, as often as it was there."""
    return sorted(marks_in(piece)) == sorted(marks_in(translated))


def cut_at_marks(piece: str) -> CutText:
    """A piece in parts between its marks."""
    cut = CutText("")
    for part in _MARK.split(piece):
        cut.pieces += [Piece(part)] if _MARK.fullmatch(part) else _cut_line(part)
    return cut


def prompt(text: str, source: str, target: str) -> str:
    """As RWKV's World models were trained to translate."""
    return f"{language_name(source)}: {text}\n\n{language_name(target)}:"


def stops(languages: Iterable[str]) -> tuple[str, ...]:
    """What ends the translation of a piece: a blank line, or the next example of the same kind."""
    names = sorted({language_name(code) for code in languages})
    return ("\n\n", *(f"\n{name}:" for name in names[: MAX_STOPS - 1]))


def one_line(text: str) -> str:
    """A translation of a piece, which had no line ends."""
    return " ".join(text.split("\n")).strip()
