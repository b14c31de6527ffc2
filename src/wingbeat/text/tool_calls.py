"""An answer that may call tools, while it is written: its text, and its calls in pieces."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from wingbeat.text.stream import Trimmer, overlap
from wingbeat.text.tools import CALL_HEAD, FENCE


class CallDelta(NamedTuple):
    """What is added to the call at this `place`: it begins, where there is a `name`, or its arguments grow."""

    place: int
    name: str | None = None
    arguments: str = ""


class WrittenCall:
    """A call so far."""

    def __init__(self, name: str) -> None:
        self.id = f"call_{secrets.token_hex(12)}"
        self.name = name
        self.arguments = ""

    @property
    def function(self) -> dict[str, str]:
        return {"name": self.name, "arguments": self.arguments}

    @property
    def whole(self) -> dict[str, Any]:
        """As a message has it."""
        return {"id": self.id, "type": "function", "function": self.function}


class CallReader:
    """Tells the text of an answer from the calls after it. They have the form of `calls_grammar`, as the answer was
    decoded under it.

    `at_start`: calls come instead of a text, and a fence in the text begins none.
    """

    def __init__(self, *, at_start: bool) -> None:
        self.calls: list[WrittenCall] = []
        self._at_start = at_start
        self._plain = False  # whether no call can come any more
        self._text: Trimmer | None = Trimmer(leading=False)  # None: calls have begun
        self._held = ""
        self._arguments: _Value | None = None  # of the call that is being written

    def push(self, text: str) -> tuple[str, list[CallDelta]]:
        """The text of the answer that this piece adds, and what it adds to calls."""
        self._held += text
        shown = self._read_text() if self._text is not None else ""
        return shown, self._read_calls() if self._text is None else []

    def flush(self) -> str:
        """The end of the answer: what was held back as the beginning of a fence is text after all."""
        if self._text is None:
            return ""
        held, self._held = self._held, ""
        return self._text.push(held)

    def _read_text(self) -> str:
        assert self._text is not None
        text, held = self._text, self._held
        if self._at_start and not self._plain:
            held = held.lstrip()
            if FENCE.startswith(held) and held != FENCE:
                return ""
            self._plain = not held.startswith(FENCE)
        if self._plain:
            shown, self._held = self._held, ""
            return text.push(shown)
        before, fence, after = held.partition(FENCE)
        if fence:
            self._text, self._held = None, after
            return text.push(before)
        border = len(held) - overlap(held, FENCE)
        self._held = held[border:]
        return text.push(held[:border])

    def _read_calls(self) -> list[CallDelta]:
        deltas: list[CallDelta] = []
        while self._held:
            if self._arguments is None:
                head = CALL_HEAD.search(self._held)
                if head is None:
                    break
                self._held = self._held[head.end() :]
                self._arguments = _Value()
                self.calls.append(WrittenCall(head[1]))
                deltas.append(CallDelta(len(self.calls) - 1, name=head[1]))
                continue
            size = self._arguments.read(self._held)
            if size:
                self.calls[-1].arguments += self._held[:size]
                deltas.append(CallDelta(len(self.calls) - 1, arguments=self._held[:size]))
            if size < len(self._held):
                self._arguments = None
            self._held = self._held[size:]
        return deltas


class _Value:
    """Finds the end of a JSON value inside an object, which arrives in pieces: the bracket that closes the object."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = self._escaped = False

    def read(self, text: str) -> int:
        """How many characters of the next piece belong to the value."""
        for place, sign in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_text:
                self._escaped = sign == "\\"
                self._in_text = sign != '"'
            elif sign == '"':
                self._in_text = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                if self._depth == 0:
                    return place
                self._depth -= 1
        return len(text)
