"""Constraints in the dialect of Ai00, which kbnf runs. For the grammar process: it holds Python's lock."""

from __future__ import annotations

import copy
import re
import sys
from typing import Any

from wingbeat.engine.grammar_compiling import begin
from wingbeat.engine.grammar_legacy import is_legacy, to_kbnf
from wingbeat.engine.grammar_messages import Vocabulary
from wingbeat.engine.grammar_trial import TooMuch, attempt
from wingbeat.sampling.constraint import Constraint, ConstraintError

OPTIONAL = ("torch", "jax", "jaxlib", "triton", "mlx", "tensorflow")
"""What kbnf imports where it is installed. None of it is needed here, and some takes seconds."""

REGEX_MEMORY = 64 << 20  # bytes for the automaton of one expression
TRIAL_SECONDS = 2.0
"""Twice that is what compiling may take: what has been tried is done again."""
TRIAL_MEMORY = 2 << 30  # bytes
TOO_MUCH = "the grammar takes too long or too much memory to compile: use shorter repetitions and expressions"

_REMAINDER = re.compile(r'errors: \[\("((?:[^"\\]|\\.)*)"')
_UNDEFINED = re.compile(r"nonterminal `([^`]+)`")


def load() -> Any:
    """The module, without what it would import beside."""
    missing = [name for name in OPTIONAL if name not in sys.modules]
    for name in missing:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import kbnf
    finally:
        for name in missing:
            del sys.modules[name]
    return kbnf


class Matcher:
    """One text under a grammar."""

    def __init__(self, kbnf: Any, engine: Any, words: int) -> None:
        self._kbnf, self._engine, self._words = kbnf, engine, words

    @property
    def complete(self) -> bool:
        return self._engine.is_finished()

    def copy(self) -> Matcher:
        return Matcher(self._kbnf, copy.copy(self._engine), self._words)

    def accept(self, token: int) -> None:
        """Raises ConstraintError when that is not possible."""
        try:
            self._engine.try_accept_new_token(token)
        except ValueError as error:
            raise ConstraintError(str(error)) from None

    def mask(self) -> bytes:
        """The tokens that may follow, as uint32 words. The end of text is none of them: a whole text ends by itself."""
        self._engine.compute_allowed_token_ids()  # before the first mask, too: without it nothing is allowed
        bits: bytes = self._engine.get_index_of_allowed_token_ids()  # kbnf's own set of bits, in the order of ours
        size = 4 * self._words
        return bits if len(bits) == size else bits[:size].ljust(size, b"\0")

    def reset(self) -> bool:
        """Go back to the beginning. It knows the masks that it has computed, most of which take a millisecond."""
        self._engine.reset()
        return True


class Compiler:
    """Makes matchers for a vocabulary. A grammar is tried in a process of its own first, which can be ended."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._kbnf = load()
        self._words = vocabulary.words
        self._vocabulary = make_vocabulary(self._kbnf, vocabulary.tokens)

    def compile(self, constraint: Constraint) -> Matcher:
        """Raises ConstraintError."""
        grammar = to_kbnf(constraint.grammar) if is_legacy(constraint.grammar) else constraint.grammar
        try:
            refusal = attempt(lambda: self._try(grammar), TRIAL_SECONDS, TRIAL_MEMORY)
        except TooMuch:
            raise ConstraintError(TOO_MUCH) from None
        if refusal:
            raise ConstraintError(refusal)
        return self._make(grammar)

    def _try(self, grammar: str) -> str:
        """What is wrong with it, if anything is."""
        try:
            begin(self._make(grammar))
        except ConstraintError as error:
            return str(error)
        return ""

    def _make(self, grammar: str) -> Matcher:
        try:
            engine = make_engine(self._kbnf, grammar, self._vocabulary)
        except ValueError as error:
            raise ConstraintError(explain(grammar, str(error))) from None
        return Matcher(self._kbnf, engine, self._words)


def make_vocabulary(kbnf: Any, tokens: list[bytes]) -> Any:
    known = {token_id: token for token_id, token in enumerate(tokens) if token}
    texts = {token_id: token.decode("utf-8", "replace") for token_id, token in known.items()}
    return kbnf.Vocabulary({token_id: kbnf.Token(token) for token_id, token in known.items()}, texts)


def make_engine(kbnf: Any, grammar: str, vocabulary: Any) -> Any:
    """Raises ValueError in kbnf's words."""
    config = kbnf.Config()
    expressions = config.regex_config
    expressions.max_memory_usage = REGEX_MEMORY
    config.regex_config = expressions
    return kbnf.InternalEngine(grammar, vocabulary, config)


def explain(grammar: str, error: str) -> str:
    """kbnf's words, with the line where that can be told."""
    remainder = _REMAINDER.search(error)
    if remainder is not None:
        left = len(re.sub(r"\\(?:u\{[0-9a-f]+\}|.)", "x", remainder[1]))
        return f"line {_line(grammar, len(grammar) - left)}: the grammar cannot be read from here on"
    first = error.strip().splitlines()[0].removeprefix("KBNF semantics error: ")[:300].rstrip(".")
    undefined = _UNDEFINED.search(error)
    if undefined is not None:
        found = re.search(rf"\b{re.escape(undefined[1])}\b", grammar)
        return f"line {_line(grammar, found.start() if found else 0)}: {first}"
    return first


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
