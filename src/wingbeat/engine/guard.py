"""What a row may say next: its grammar, the texts that it must not contain, what comes before the grammar."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.grammar_messages import Vocabulary
from wingbeat.engine.grammars import Grammar, Grammars
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.token_index import WORD, TokenIndex
from wingbeat.sampling.word_filter import MarkFilter, WordFilter
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT

Bits = NDArray[np.uint32]

LEADING_WHITE = 2
"""Characters of white space that may come before a grammar's text."""
MOST_FILTERS = 64


class Guard:
    """Of one row. ``holds``: from here on a grammar decides, and stops do not count.

    A row that goes on from a state of an answer begins anew: what was said before is like a prompt.
    """

    __slots__ = (
        "_free",
        "_grammars",
        "_mark_state",
        "_marks",
        "_only",
        "_stops",
        "_words",
        "_words_state",
        "grammar",
        "holds",
        "spent",
    )

    def __init__(
        self,
        grammars: Grammars,
        grammar: Grammar | None,
        words: WordFilter | None,
        marks: Sequence[MarkFilter] = (),
        only: Bits | None = None,
    ):
        self._grammars, self.grammar = grammars, grammar
        self._words, self._marks = words, marks  # those that the grammar still waits for
        self._words_state = self._mark_state = 0
        self._only = only  # tokens that the answer may be of
        self._stops: list[int] = []  # tokens that would end the answer, where the grammar must come first
        self._free: list[Bits] = []  # tokens that are white space, while so many characters of it may come
        self.holds = grammar is not None and not marks
        self.spent = False  # all tokens are drawn that were asked for; only the grammar's word is missing

    def let_white(self, masks: list[Bits]) -> None:
        """``masks[i]``: tokens of at most i + 1 characters of white space, which may come before the grammar's text."""
        self._free = masks

    def require(self, stops: Sequence[int]) -> None:
        """The grammar must come: until then none of the tokens ``stops``, which would end the answer."""
        self._stops = list(stops)

    @property
    def waits(self) -> bool:
        """Whether the answer may not end, because the grammar must come first."""
        return bool(self._stops and self._marks)

    @property
    def ready(self) -> bool:
        """Whether what may come next is known."""
        return not self.holds or self.grammar is None or self.grammar.known

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        return self.holds and self.grammar is not None and self.grammar.complete

    @property
    def error(self) -> str | None:
        return None if self.grammar is None else self.grammar.error

    def mask(self, end_of_text: int | None) -> Bits:
        """The tokens that may come next, as bits; not to be changed. Without ``end_of_text``, if that is given."""
        bits = self._only
        if self._marks:
            bits = self._marks[0].mask(self._mark_state)
            if self._stops:
                bits = without(bits, self._stops)
        elif self.grammar is not None and self.holds:
            assert self.grammar.bits is not None
            bits = self.grammar.bits
            if self._free:
                bits = bits | self._free[-1]
        if self._words is not None:
            words = self._words.mask(self._words_state)
            bits = words if bits is None else bits & words
        assert bits is not None
        if end_of_text is not None and self.holds:
            bits = without(bits, [end_of_text])
        return bits

    def accept(self, token: int, data: bytes) -> None:
        """Take the token that was drawn, and its bytes."""
        if self._words is not None:
            self._words_state = self._words.advance(self._words_state, data)
        if self.grammar is None:
            return
        if self._marks:
            self._mark_state, full = self._marks[0].advance(self._mark_state, data)
            if full:
                self._marks, self._mark_state = self._marks[1:], 0
                self.holds = not self._marks
        elif self._free and not self._allowed(token):
            self._free = self._free[: len(self._free) - len(data)]
        else:
            self._free = []
            self._grammars.accept(self.grammar, token)

    def close(self) -> None:
        """The row has ended."""
        if self.grammar is not None:
            self._grammars.close(self.grammar)

    def _allowed(self, token: int) -> bool:
        assert self.grammar is not None
        assert self.grammar.bits is not None
        return bool(self.grammar.bits[token // WORD] >> (token % WORD) & 1)


def without(bits: Bits, tokens: Sequence[int]) -> Bits:
    """The mask without these tokens."""
    bits = bits.copy()
    for token in tokens:
        bits[token // WORD] &= ~np.uint32(1 << token % WORD)
    return bits


@lru_cache(maxsize=16)
def _only(tokens: tuple[int, ...], vocab_size: int) -> Bits:
    """The mask of these tokens. Rows of one request share it."""
    bits = np.zeros(-(-vocab_size // WORD), np.uint32)
    ids = np.array(tokens, np.int64)
    np.bitwise_or.at(bits, ids // WORD, np.left_shift(np.uint32(1), (ids % WORD).astype(np.uint32)))
    return bits


class Guards:
    """Makes guards for the rows of a model. What they share, for a vocabulary or a list of words, is made once."""

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._end_of_text = END_OF_TEXT if tokenizer is None else tokenizer.end_of_text
        self._index: TokenIndex | None = None
        self._white: list[Bits] = []
        self._filters: OrderedDict[tuple[str, ...] | str, WordFilter | MarkFilter] = OrderedDict()
        self.grammars = Grammars(self._vocabulary)

    def guard(self, sampling: SamplingParams) -> Guard | None:
        """None where everything may be said."""
        constraint, words = sampling.constraint, sampling.bad_words
        if sampling.allowed_token_ids is not None:
            return Guard(self.grammars, None, None, only=_only(sampling.allowed_token_ids, self._vocab_size))
        if constraint is None and not words:
            return None
        word_filter = self._word_filter(words) if words else None
        if constraint is None:
            return Guard(self.grammars, None, word_filter)
        white = self._white_masks() if constraint.leading_white else []
        marks = [self._mark_filter(mark) for mark in (constraint.after, constraint.begins) if mark]
        guard = Guard(self.grammars, self.grammars.open(constraint), word_filter, marks)
        guard.let_white(white)
        if constraint.required:
            guard.require((self._end_of_text, *sampling.stop_token_ids))
        return guard

    def prepare(self) -> None:
        """Make now what the first guard would have to wait for, with all other rows: tens of milliseconds."""
        if self._tokenizer is not None:
            self._white_masks()
            self._tokens().containing(b" ")  # NumPy imports a part of itself for the first search

    def _word_filter(self, words: tuple[str, ...]) -> WordFilter:
        found = self._filters.get(words)
        if not isinstance(found, WordFilter):
            found = WordFilter(self._tokens(), words)
            self._remember(words, found)
        return found

    def _mark_filter(self, mark: str) -> MarkFilter:
        found = self._filters.get(mark)
        if not isinstance(found, MarkFilter):
            found = MarkFilter(self._tokens(), mark)
            self._remember(mark, found)
        return found

    def _remember(self, key: tuple[str, ...] | str, made: WordFilter | MarkFilter) -> None:
        self._filters[key] = made
        if len(self._filters) > MOST_FILTERS:
            self._filters.popitem(last=False)

    def _white_masks(self) -> list[Bits]:
        if not self._white:
            index = self._tokens()
            self._white = [index.mask(index.white(length + 1)) for length in range(LEADING_WHITE)]
        return self._white

    def _tokens(self) -> TokenIndex:
        if self._index is None:
            self._index = TokenIndex(self._known_tokenizer(), self._vocab_size)
        return self._index

    def _vocabulary(self) -> Vocabulary:
        index = self._tokens()
        return Vocabulary(index.tokens, index.end_of_text, index.words)

    def _known_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ValueError("a constraint and bad_words need a tokenizer, and this model has none")
        return self._tokenizer
