"""The constraints of a grammar process: compiled beside the masks of rows, kept, refused when that takes too long."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from wingbeat.engine.grammar_messages import TOO_LONG, Verdict, Vocabulary
from wingbeat.sampling.constraint import Constraint, ConstraintError

log = logging.getLogger("wingbeat.engine.grammar_worker")

COMPILERS = 2  # constraints that are compiled at once
MOST_KEPT = 256
MOST_KEPT_BYTES = 512 << 20
REHEARSED = 3  # tokens
MOST_SPARE = 4  # used matchers of a constraint that are kept for its next rows
MOST_TOKENS = 2048  # of a used matcher: it may have kept a mask for each
WHITE = (b" ", b"\t", b"\r", b"\n")
EMPTY = "line 1: no text but the empty one is possible"


class Matcher(Protocol):
    """One text under a grammar; see ``grammar_llguidance`` and ``grammar_kbnf``."""

    @property
    def complete(self) -> bool: ...
    def copy(self) -> Matcher: ...
    def accept(self, token: int) -> None: ...
    def mask(self) -> bytes: ...
    def reset(self) -> bool:
        """Go back to the beginning, and whether that leaves anything that a copy of a new one lacks."""
        ...


class Compiler(Protocol):
    def compile(self, constraint: Constraint) -> Matcher: ...


class Compiled:
    """A constraint's matcher at the beginning, what may come first, and the bytes that it takes."""

    def __init__(self, matcher: Matcher, first: Verdict, size: int, *, begins_white: bool) -> None:
        self._matcher, self.first, self._size = matcher, first, size
        self.begins_white = begins_white
        self._spare: list[tuple[Matcher, int]] = []  # with the tokens that each has taken

    @property
    def size(self) -> int:
        return self._size + len(self.first.bits) * sum(taken for _, taken in self._spare)

    def matcher(self) -> tuple[Matcher, int]:
        """One for a new row, and how many tokens it has taken for others. Some know masks from then."""
        return self._spare.pop() if self._spare else (self._matcher.copy(), 0)

    def give_back(self, matcher: Matcher, taken: int) -> bool:
        """A row has ended; all its matcher's tokens are ``taken``. Whether it is kept, so that ``size`` has grown."""
        if taken > MOST_TOKENS or len(self._spare) == MOST_SPARE or not matcher.reset():
            return False
        self._spare.append((matcher, taken))
        return True


class Shelf:
    """Compiled constraints by content: the ones used last, up to a number and a size."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Compiled] = OrderedDict()

    def get(self, key: bytes) -> Compiled | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: bytes, compiled: Compiled) -> None:
        self._kept[key] = compiled
        self.tidy()

    def tidy(self) -> None:
        """Drop what is too much."""
        size = sum(kept.size for kept in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > MOST_KEPT or size > MOST_KEPT_BYTES):
            size -= self._kept.popitem(last=False)[1].size


class Compilation:
    """One that is under way, and who waits for it."""

    def __init__(self, pool: ThreadPoolExecutor, make: Callable[[], Compiled]) -> None:
        self._begun: float | None = None
        self._make = make
        self.future: Future[Compiled] = pool.submit(self._run)
        self.waiting: list[Callable[[Compiled | str], None]] = []

    @property
    def seconds(self) -> float:
        """Since it was begun."""
        return 0.0 if self._begun is None else time.monotonic() - self._begun

    def _run(self) -> Compiled:
        self._begun = time.monotonic()
        return self._make()


class Compiling:
    """Compiles with ``compiler``; a constraint that takes more than ``seconds`` is refused."""

    def __init__(self, compiler: Compiler, vocabulary: Vocabulary, seconds: float) -> None:
        self._compiler, self._end_of_text, self._seconds = compiler, vocabulary.end_of_text, seconds
        self._white = {token_id for token_id, token in enumerate(vocabulary.tokens) if token.startswith(WHITE)}
        self._pool = ThreadPoolExecutor(COMPILERS, "compile")
        self.shelf = Shelf()
        self._under_way: dict[bytes, Compilation] = {}
        self.stuck = False  # a thread is lost to a constraint that has been refused

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def ask(self, constraint: Constraint, answer: Callable[[Compiled | str], None]) -> None:
        """Have ``answer`` called with the constraint, compiled, or what is wrong with it: now or by ``settle``."""
        text = f"{constraint.kind} {constraint.white!r} {constraint.grammar}"
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self.shelf.get(key)
        if known is not None:
            answer(known)
            return
        if key not in self._under_way:
            self._under_way[key] = Compilation(self._pool, lambda: self._make(constraint))
        self._under_way[key].waiting.append(answer)

    def settle(self) -> None:
        """Hand on what has been compiled since, and refuse what takes too long."""
        for key, compilation in list(self._under_way.items()):
            if compilation.future.done():
                error = compilation.future.exception()
                result = compilation.future.result() if error is None else words(error)
            elif compilation.seconds > self._seconds:
                result, self.stuck = TOO_LONG, True
            else:
                continue
            del self._under_way[key]
            if isinstance(result, Compiled):
                self.shelf.put(key, result)
            for answer in compilation.waiting:
                answer(result)

    def _make(self, constraint: Constraint) -> Compiled:
        before = _resident()
        matcher = self._compiler.compile(constraint)
        first = begin(matcher, self._end_of_text)
        size = len(constraint.grammar) + max(0, _resident() - before)
        begins_white = not self._white.isdisjoint(_tokens(first))
        return Compiled(matcher, Verdict(0, 0, first), size, begins_white=begins_white)


def begin(matcher: Matcher, end_of_text: int | None = None) -> bytes:
    """What may come first. Raises ConstraintError where that is nothing, or what follows is found to be too much."""
    if matcher.complete:
        raise ConstraintError(EMPTY)
    bits = matcher.mask()
    allowed = _tokens(bits)
    if not allowed:
        raise ConstraintError("no token of this model can begin such a text")
    if allowed == [end_of_text]:
        raise ConstraintError(EMPTY)
    _rehearse(matcher.copy(), allowed[-1])
    return bits


def _rehearse(matcher: Matcher, token: int) -> None:
    """Write a few tokens: some grammars turn out to be too large only then. Raises ConstraintError."""
    for _ in range(REHEARSED):
        matcher.accept(token)
        if matcher.complete or not (allowed := _tokens(matcher.mask())):
            return
        token = allowed[-1]


def words(error: BaseException) -> str:
    """What to tell whoever wrote the constraint."""
    if isinstance(error, ConstraintError):
        return str(error)
    log.error("a grammar failed", exc_info=error)
    return f"the grammar cannot be used: {type(error).__name__}: {str(error)[:200]}"


def _tokens(bits: bytes) -> list[int]:
    """Those whose bits are set."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")).tolist()


def _resident() -> int:
    """Bytes of memory that this process holds, where the system tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
