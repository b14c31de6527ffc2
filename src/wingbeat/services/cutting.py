"""Texts to the pieces that a model is asked to translate, and its answers back to texts.

A piece is a line, a cell between tabs, or a part of a long one, so that no break is ever the model's affair. Marks of
other programs in a text (`<b>`, `{0}`) stay in their piece, where a good model keeps them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

MAX_PIECE = 800
"""Characters of a piece; one mark may be longer."""

_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
_EDGES = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff"
"""White space, and what has no width at all."""
_TAG = re.compile(r"<(/?)([A-Za-z][^\s<>/]*)[^<>\n]*?(/?)>")
_MARK = re.compile(r"</?[A-Za-z][^<>\n]*>|\{\{?[^{}\s]{0,40}\}?\}|&[A-Za-z]{2,8};|&#[Xx]?[0-9A-Fa-f]{1,7};")
_LETTER = re.compile(r"[^\W\d_]")

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""Of scripts that have no spaces between sentences: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""

_CLOSING = "\"'”’»)\\]」』）】"
_PLACES = (
    re.compile(rf"[.!?؟۔।॥][{_CLOSING}]*\s+|[。！？…][{_CLOSING}]*\s*"),
    re.compile(r"[,;:،؛]\s+|[，、；：]\s*"),
    re.compile(r"\s+"),
)
"""After which a long line may be parted, the best first: sentences, clauses, words."""
_IN_MARK = "\0"

Span = tuple[int, int]
"""Where a part of a text begins, and where it ends."""


class CutText:
    """A text and those parts of it that are to be translated: in order, with no breaks in them and no white space
    around, `most` at most."""

    def __init__(self, text: str, spans: Iterator[Span], most: int | None = None) -> None:
        self._text = text
        self._spans = list(islice(spans, most))
        self.pieces = [text[begin:end] for begin, end in self._spans]
        self.more = sum(1 for _ in spans)
        """How many there would be beside them."""

    def joined(self, translated: Sequence[str]) -> str:
        """The text with a translation in place of each piece."""
        parts, last, before = [], 0, ""
        for (begin, end), translation in zip(self._spans, translated, strict=True):
            gap = self._text[last:begin]
            if last and not gap.strip(" "):
                spaced = _spaced(self._text[last - 1], self._text[begin])
                gap = _gap(gap, spaced, _spaced(before[-1:], translation[:1]))
            parts += [gap, translation]
            last, before = end, translation
        return "".join([*parts, self._text[last:]])


def _spaced(before: str, after: str) -> bool:
    """Whether sentences that end and begin so have spaces between them."""
    return not (_UNSPACED.match(before) or _UNSPACED.match(after))


def _gap(gap: str, was_spaced: bool, is_spaced: bool) -> str:
    """What comes between translations of parts that had only spaces between them, or nothing."""
    if was_spaced == is_spaced:
        return gap
    return (gap or " ") if is_spaced else ""


def cut_text(text: str, most: int | None = None) -> CutText:
    """In pieces of up to `MAX_PIECE` characters."""
    return CutText(text, _within(text, _between(_BREAKS, text)), most)


def cut_shorter(piece: str, most: int) -> CutText:
    """A piece in parts of up to `most` characters."""
    return CutText(piece, _within(piece, [(0, len(piece))], most))


def cut_at_marks(piece: str) -> CutText:
    """A piece in parts between its marks."""
    return CutText(piece, _within(piece, _between(_MARK, piece)))


def _between(separator: re.Pattern[str], text: str) -> Iterator[Span]:
    """What is not the separator."""
    last = 0
    for found in separator.finditer(text):
        yield last, found.start()
        last = found.end()
    yield last, len(text)


def _within(text: str, spans: Iterable[Span], most: int = MAX_PIECE) -> Iterator[Span]:
    """What is to be translated in these parts of a text."""
    for begin, end in spans:
        for part in _parts(text[begin:end], most):
            inner = part.strip(_EDGES)
            if has_letters(inner):
                start = begin + len(part) - len(part.lstrip(_EDGES))
                yield start, start + len(inner)
            begin += len(part)


def _parts(line: str, most: int) -> Iterator[str]:
    """A line in parts of up to so many characters, each as long as may be."""
    if len(line) <= most:
        yield line
        return
    plain = _MARK.sub(lambda mark: _IN_MARK * len(mark[0]), line)
    begin = 0
    while begin < len(line):
        end = _end(plain, begin, most)
        yield line[begin:end]
        begin = end


def _end(plain: str, begin: int, most: int) -> int:
    """Where a part that begins there ends. Better early than at a bad place, but not with next to nothing in it."""
    if len(plain) - begin <= most:
        return len(plain)
    window = plain[begin : begin + most]
    for places in _PLACES:
        last = max((found.end() for found in places.finditer(window)), default=0)
        if last > most // 4:
            return begin + last
    end = begin + most
    while end > begin and _holds_together(plain, end):
        end -= 1
    if end > begin:
        return end
    end = begin + most
    while end < len(plain) and _holds_together(plain, end):
        end += 1
    return end


def _holds_together(plain: str, place: int) -> bool:
    """Whether the characters on both sides of a place are parts of one."""
    before, after = plain[place - 1], plain[place : place + 1]
    if before == _IN_MARK:
        return after == _IN_MARK
    return before == "\u200d" or after == "\u200d" or unicodedata.category(after or " ").startswith("M")


def has_letters(text: str) -> bool:
    """Whether there is anything to translate beside marks."""
    return bool(_LETTER.search(without_marks(text)))


def without_marks(text: str) -> str:
    return _MARK.sub(" ", text)


def marks_in(text: str) -> list[str]:
    """Tags and the like, in order."""
    return _MARK.findall(text)


def keeps_marks(piece: str, translated: str) -> bool:
    """Whether each mark of a piece came back, as often as it was there, and tags enclose each other as they did."""
    same = Counter(marks_in(piece)) == Counter(marks_in(translated))
    return same and (_well_nested(translated) or not _well_nested(piece))


def _well_nested(text: str) -> bool:
    """Whether each tag that ends is the last one that began."""
    opened: list[str] = []
    for ends, name, empty in _TAG.findall(text):
        if ends and name in opened:
            if opened.pop() != name:
                return False
        elif ends:
            return False
        elif not empty:
            opened.append(name)
    return True


def one_line(text: str) -> str:
    """A translation of a piece, which had no breaks."""
    return " ".join(text.split("\n")).strip()
