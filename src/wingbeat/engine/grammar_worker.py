"""A grammar process: ``python -m wingbeat.engine.grammar_worker``, started and owned by ``GrammarProcess``.

It compiles constraints and says which tokens may follow in each row. The end of standard input means that the engine is
gone, and ends this process at once. Compiling runs beside the masks of rows; kbnf, which holds Python's lock, has a
process of its own, and tries a grammar in yet another one first. A thread that compiles for too long cannot be ended,
so this process ends then, and the engine tells another one of the rows.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from typing import NoReturn

import msgspec

from wingbeat.engine.bootstrap import read_frame
from wingbeat.engine.frame_pipe import FramePipe
from wingbeat.engine.grammar_compiling import Compiler, Compiling
from wingbeat.engine.grammar_messages import (
    STUCK,
    Accept,
    Alive,
    Check,
    Close,
    Command,
    Event,
    GrammarBootstrap,
    Library,
    Open,
    Vocabulary,
)
from wingbeat.engine.grammar_rows import Rows

POLL_SECONDS = 0.002  # between looks at what is being compiled
ALIVE_SECONDS = 1.0


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

    def send(event: Event) -> None:
        pipe.send(encoder.encode(event))

    compiling: Compiling | None = None
    rows: Rows | None = None
    alive = time.monotonic()
    while not pipe.closed:
        pipe.wait(POLL_SECONDS if compiling else None)
        for frame in pipe.receive():
            command = decoder.decode(frame)
            if isinstance(command, Vocabulary):
                compiler = make_compiler(bootstrap.library, command)
                compiling = Compiling(compiler, command, bootstrap.compile_seconds)
                rows = Rows(compiling, send)
                gc.freeze()  # the vocabulary stays: no collection need look at it again
            elif rows is not None:
                _obey(rows, command)
        if not compiling:
            continue
        compiling.settle()
        if compiling.stuck:
            pipe.flush(ALIVE_SECONDS)
            os._exit(STUCK)
        if time.monotonic() - alive > ALIVE_SECONDS:
            alive = time.monotonic()
            send(Alive())


def _obey(rows: Rows, command: Accept | Open | Close | Check) -> None:
    match command:
        case Accept():
            rows.accept(command.tokens)
        case Open():
            rows.open(command)
        case Close():
            rows.close(command.rows)
        case Check():
            rows.check(command)


def _die_with_owner() -> NoReturn:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
