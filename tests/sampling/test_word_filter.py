"""Words that must not come and marks, against a search of the text itself."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.text.vocabs import with_bytes, write_vocab
from wingbeat.sampling.token_index import TokenIndex
from wingbeat.sampling.word_filter import MarkFilter, WordFilter
from wingbeat.text.world import WorldTokenizer

PIECES = [b"ab", b"aba", b"bab", b"aab", b"\xff\xff", b"\xffa", b"bbb"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TokenIndex:
    path = tmp_path_factory.mktemp("vocab") / "v.txt"
    write_vocab(path, with_bytes(PIECES))
    return TokenIndex(WorldTokenizer(path), 300)


def allowed(bits: np.ndarray, index: TokenIndex) -> set[bytes]:
    ids = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()
    assert index.end_of_text in ids
    return {index.tokens[token] for token in ids} - {b""}


def spoken(index: TokenIndex) -> list[bytes]:
    return [token for token in index.tokens if token]


def test_tokens_are_found_by_their_bytes(index: TokenIndex) -> None:
    for text in (b"a", b"ab", b"\xff", b"\xff\xff", b"zz", b"ba"):
        found = {index.tokens[token] for token in index.starting_with(text).tolist()}
        assert found == {token for token in spoken(index) if token.startswith(text)}
        inside = {index.tokens[token] for token in index.containing(text).tolist()}
        assert inside == {token for token in spoken(index) if text in token}
        before = {index.tokens[token] for token in index.containing_before_end(text).tolist()}
        assert before == {token for token in spoken(index) if text in token[:-1]}


@pytest.mark.parametrize("words", [("ab",), ("aab", "ba"), ("abab", "b" * 4, "ÿ"), ("a", "aa")])
def test_a_token_is_let_through_if_and_only_if_no_word_is_written(index: TokenIndex, words: tuple[str, ...]) -> None:
    words_filter = WordFilter(index, words)
    unwanted = [word.encode() for word in words]
    draw = random.Random(1)
    for _ in range(20):
        text, state = b"", 0
        for _ in range(8):
            may = allowed(words_filter.mask(state), index)
            assert may == {t for t in spoken(index) if not any(word in text + t for word in unwanted)}
            token = draw.choice(sorted(may, key=lambda t: (t[:1] not in b"ab", t))[:12])
            text, state = text + token, words_filter.advance(state, token)


@pytest.mark.parametrize("mark", ["ab", "aba", "abab", "bb", "x"])
def test_no_token_runs_past_a_mark(index: TokenIndex, mark: str) -> None:
    marks = MarkFilter(index, mark)
    wanted = mark.encode()
    draw = random.Random(2)
    for _ in range(20):
        text, state, complete = b"", 0, False
        while not complete and len(text) < 20:
            may = allowed(marks.mask(state), index)
            assert may == {t for t in spoken(index) if wanted not in (text + t)[:-1]}
            token = draw.choice(sorted(may, key=lambda t: (t[:1] not in b"abx", t))[:12])
            text, (state, complete) = text + token, marks.advance(state, token)
            assert complete == text.endswith(wanted)
