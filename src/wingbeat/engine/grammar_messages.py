"""What the engine and its grammar processes say to each other: msgspec structs, one msgpack frame each."""

from __future__ import annotations

from typing import Literal

import msgspec

from wingbeat.sampling.constraint import Constraint

Library = Literal["llguidance", "kbnf"]

STUCK = 4
"""Exit status of a grammar process in which a constraint took too long to compile."""

TOO_LONG = "it takes too long to compile: use shorter repetitions, fewer alternatives, simpler expressions"


class GrammarBootstrap(msgspec.Struct):
    """On standard input: the number of the open socket to the engine, which library to use, and how long compiling a
    constraint may take."""

    socket: int
    library: Library
    compile_seconds: float


class Vocabulary(msgspec.Struct, tag=True):
    """The first command: the bytes of each token, empty where it has none; masks have so many ``words`` of 32 bits."""

    tokens: list[bytes]
    end_of_text: int
    words: int


class Check(msgspec.Struct, tag=True):
    """Compile a constraint; ``Checked`` answers."""

    id: int
    constraint: Constraint


class Open(msgspec.Struct, tag=True):
    """A row begins under a constraint, or goes on after ``tokens``; ``Verdicts`` has its mask when it is compiled."""

    row: int
    constraint: Constraint
    tokens: list[int] = []


class Accept(msgspec.Struct, tag=True):
    """Rows and the tokens that were drawn for them; ``Verdicts`` answers for each."""

    tokens: list[tuple[int, int]]


class Close(msgspec.Struct, tag=True):
    """These rows have ended."""

    rows: list[int]


class Alive(msgspec.Struct, tag=True):
    """Something takes long, but the process is well."""


class Checked(msgspec.Struct, tag=True):
    """What came of ``Check``. ``begins_white``: such a text may begin with white space."""

    id: int
    error: str | None = None
    begins_white: bool = False


class Verdict(msgspec.Struct, array_like=True, gc=False):
    """What may follow after ``count`` tokens of a row: the tokens of ``bits`` (uint32 words), or nothing."""

    row: int
    count: int
    bits: bytes = b""
    complete: bool = False
    error: str | None = None


class Verdicts(msgspec.Struct, tag=True, gc=False):
    rows: list[Verdict]


Command = Vocabulary | Check | Open | Accept | Close
Event = Alive | Checked | Verdicts


def library_of(constraint: Constraint) -> Library:
    """Which library runs a constraint."""
    return "kbnf" if constraint.kind == "kbnf" else "llguidance"
