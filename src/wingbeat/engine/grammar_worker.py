"""A grammar process: ``python -m wingbeat.engine.grammar_worker``, started and owned by ``GrammarProcess``.

It compiles constraints and says which tokens may follow in each row. The end of standard input means that the engine is
gone, and ends this process at once. Compiling runs beside the masks of rows; kbnf, which holds Python's lock, has a
process of its own, and tries a grammar in yet another one first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, NoReturn, Protocol

import msgspec
import numpy as np

from wingbeat.engine.bootstrap import read_frame
from wingbeat.engine.frame_pipe import FramePipe
from wingbeat.engine.grammar_messages import (
    Accept,
    Alive,
    Check,
    Checked,
    Close,
    Command,
    Event,
    GrammarBootstrap,
    Library,
    Open,
    Verdict,
    Verdicts,
    Vocabulary,
)
from wingbeat.sampling.constraint import Constraint, ConstraintError

log = logging.getLogger("wingbeat.engine.grammar_worker")

COMPILERS = 2  # constraints that are compiled at once
MOST_KEPT = 256
MOST_KEPT_BYTES = 512 << 20
POLL_SECONDS = 0.002  # between looks at what is being compiled
ALIVE_SECONDS = 1.0
REHEARSED = 3  # tokens
WHITE = (b" ", b"\t", b"\r", b"\n")
EMPTY = "line 1: no text but the empty one is possible"
FLUSH_SECONDS = 0.001  # masks that are ready do not wait longer for those of others


class Matcher(Protocol):
    """One text under a grammar; see ``grammar_llguidance`` and ``grammar_kbnf``."""

    @property
    def complete(self) -> bool: ...
    def copy(self) -> Matcher: ...
    def accept(self, token: int) -> None: ...
    def mask(self) -> bytes: ...


class Compiler(Protocol):
    def compile(self, constraint: Constraint) -> Matcher: ...


class Compiled(NamedTuple):
    """A matcher at the beginning, to be copied, what may come first, and the bytes that it takes."""

    matcher: Matcher
    first: Verdict
    size: int
    begins_white: bool


class Row:
    """A row's matcher, and how long its last mask took."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self.count = 0
        self.seconds = 0.0


class Shelf:
    """Compiled constraints by content: the ones used last, up to a number and a size."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Compiled] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Compiled | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: bytes, compiled: Compiled) -> None:
        self._kept[key] = compiled
        self._bytes += compiled.size
        while len(self._kept) > 1 and (len(self._kept) > MOST_KEPT or self._bytes > MOST_KEPT_BYTES):
            self._bytes -= self._kept.popitem(last=False)[1].size


class Grammars:
    """What a grammar process does, given a way to ``send``."""

    def __init__(self, compiler: Compiler, vocabulary: Vocabulary, send: Callable[[Event], None]) -> None:
        self._compiler, self._end_of_text, self._send = compiler, vocabulary.end_of_text, send
        self._white = {token_id for token_id, token in enumerate(vocabulary.tokens) if token.startswith(WHITE)}
        self._pool = ThreadPoolExecutor(COMPILERS, "compile")
        self._shelf = Shelf()
        self._compiling: dict[bytes, tuple[Future[Compiled], list[Callable[[Compiled | str], None]]]] = {}
        self._rows: dict[int, Row] = {}
        self._closed: set[int] = set()  # rows that ended before their constraint was compiled

    @property
    def compiling(self) -> bool:
        return bool(self._compiling)

    def check(self, command: Check) -> None:
        def answer(result: Compiled | str) -> None:
            if isinstance(result, str):
                self._send(Checked(command.id, result))
            else:
                self._send(Checked(command.id, begins_white=result.begins_white))

        self._compile(command.constraint, answer)

    def open(self, command: Open) -> None:
        row = command.row

        def begin(result: Compiled | str) -> None:
            if row in self._closed:
                self._closed.discard(row)
            elif isinstance(result, str):
                self._send(Verdicts([Verdict(row, 0, error=result)]))
            else:
                self._rows[row] = Row(result.matcher.copy())
                self._send(Verdicts([msgspec.structs.replace(result.first, row=row)]))

        self._compile(command.constraint, begin)

    def close(self, rows: list[int]) -> None:
        for row in rows:
            if self._rows.pop(row, None) is None and self._compiling:
                self._closed.add(row)

    def accept(self, tokens: list[tuple[int, int]]) -> None:
        """Take the tokens of rows. Who has ended is told first, then what may follow, the fast ones first."""
        ended: list[Verdict] = []
        going: list[tuple[int, Row]] = []
        for number, token in tokens:
            row = self._rows.get(number)
            if row is None:  # it had an error
                continue
            row.count += 1
            try:
                row.matcher.accept(token)
                complete = row.matcher.complete
            except BaseException as error:  # a panic in Rust is no Exception
                ended.append(self._failed(number, row, error))
                continue
            if complete:
                ended.append(Verdict(number, row.count, complete=True))
            else:
                going.append((number, row))
        if ended:
            self._send(Verdicts(ended))
        if len(going) > 1:
            going.sort(key=lambda entry: entry[1].seconds)
        self._mask(going)

    def _mask(self, rows: list[tuple[int, Row]]) -> None:
        ready: list[Verdict] = []
        start = flushed = time.perf_counter()
        for number, row in rows:
            try:
                ready.append(Verdict(number, row.count, row.matcher.mask()))
            except BaseException as error:
                ready.append(self._failed(number, row, error))
            now = time.perf_counter()
            row.seconds, start = now - start, now
            if now - flushed > FLUSH_SECONDS:
                self._send(Verdicts(ready))
                ready, flushed = [], now
        if ready:
            self._send(Verdicts(ready))

    def _failed(self, number: int, row: Row, error: BaseException) -> Verdict:
        """A library that fails costs the one row alone."""
        del self._rows[number]
        return Verdict(number, row.count, error=_words(error))

    def settle(self) -> None:
        """Hand on what has been compiled since."""
        for key, (future, waiting) in list(self._compiling.items()):
            if not future.done():
                continue
            del self._compiling[key]
            error = future.exception()
            result = future.result() if error is None else _words(error)
            if isinstance(result, Compiled):
                self._shelf.put(key, result)
            for answer in waiting:
                answer(result)
        if not self._compiling:
            self._closed.clear()

    def _compile(self, constraint: Constraint, answer: Callable[[Compiled | str], None]) -> None:
        text = f"{constraint.kind} {constraint.white!r} {constraint.grammar}"
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._shelf.get(key)
        if known is not None:
            answer(known)
        elif key in self._compiling:
            self._compiling[key][1].append(answer)
        else:
            self._compiling[key] = self._pool.submit(self._make, constraint), [answer]

    def _make(self, constraint: Constraint) -> Compiled:
        before = _resident()
        matcher = self._compiler.compile(constraint)
        if matcher.complete:
            raise ConstraintError(EMPTY)
        first = Verdict(0, 0, matcher.mask())
        allowed = _tokens(first.bits)
        if not allowed:
            raise ConstraintError("no token of this model can begin such a text")
        if allowed == [self._end_of_text]:
            raise ConstraintError(EMPTY)
        _rehearse(matcher.copy(), allowed[-1])
        size = len(constraint.grammar) + max(0, _resident() - before)
        return Compiled(matcher, first, size, not self._white.isdisjoint(allowed))


def _rehearse(matcher: Matcher, token: int) -> None:
    """Write a few tokens: some grammars turn out to be too large only then. Raises ConstraintError."""
    for _ in range(REHEARSED):
        matcher.accept(token)
        if matcher.complete or not (allowed := _tokens(matcher.mask())):
            return
        token = allowed[-1]


def _tokens(bits: bytes) -> list[int]:
    """Those whose bits are set."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")).tolist()


def _words(error: BaseException) -> str:
    if isinstance(error, ConstraintError):
        return str(error)
    log.error("a grammar failed", exc_info=error)
    return f"the grammar cannot be used: {type(error).__name__}: {str(error)[:200]}"


def _resident() -> int:
    """Bytes of memory that this process holds, where the system tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def make_compiler(library: Library, vocabulary: Vocabulary) -> Compiler:
    """The only place that imports the libraries."""
    if library == "kbnf":
        from wingbeat.engine import grammar_kbnf

        return grammar_kbnf.Compiler(vocabulary)
    from wingbeat.engine import grammar_llguidance

    return grammar_llguidance.Compiler(vocabulary)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the owner
        signal.signal(number, signal.SIG_IGN)
    bootstrap = read_frame(GrammarBootstrap)
    threading.Thread(target=_die_with_owner, daemon=True).start()
    pipe = FramePipe(socket.socket(fileno=bootstrap.socket))
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Command)
    grammars: Grammars | None = None
    alive = time.monotonic()
    while not pipe.closed:
        pipe.wait(POLL_SECONDS if grammars is not None and grammars.compiling else None)
        for frame in pipe.receive():
            command = decoder.decode(frame)
            if isinstance(command, Vocabulary):
                compiler = make_compiler(bootstrap.library, command)
                grammars = Grammars(compiler, command, lambda event: pipe.send(encoder.encode(event)))
            elif grammars is not None:
                _obey(grammars, command)
        if grammars is None:
            continue
        grammars.settle()
        if grammars.compiling and time.monotonic() - alive > ALIVE_SECONDS:
            alive = time.monotonic()
            pipe.send(encoder.encode(Alive()))


def _obey(grammars: Grammars, command: Accept | Open | Close | Check) -> None:
    match command:
        case Accept():
            grammars.accept(command.tokens)
        case Open():
            grammars.open(command)
        case Close():
            grammars.close(command.rows)
        case Check():
            grammars.check(command)


def _die_with_owner() -> NoReturn:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
