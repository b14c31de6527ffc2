"""An end to a model's reasoning that would go on for too long: its closing tokens, which come whatever it would say."""

from __future__ import annotations

from collections import deque

from wingbeat.engine.snapshot import Reasoned
from wingbeat.sampling.params import ThinkingBudget

_OPEN, _CLOSE = b"<think>", b"</think>"


class ThinkingLimit:
    """Counts the tokens of one answer's reasoning. ``forced`` is the token that must come next, if one must.

    Reasoning that the prompt has not begun is what the answer begins with ``<think>``. It ends with ``</think>``,
    across token borders. ``before``: how far an answer that goes on had come.
    """

    __slots__ = ("_beginning", "_closing", "_over", "_tail", "_thinking", "_tokens", "_used")

    def __init__(self, budget: ThinkingBudget, before: Reasoned | None = None) -> None:
        before = before or Reasoned(begun=budget.begun)
        self._closing = deque(budget.closing[before.closed :])
        self._tokens, self._used = budget.tokens, before.used
        self._thinking = before.begun
        self._over = before.over or not self._closing
        self._beginning, self._tail = (b"", before.tail) if before.begun else (before.tail, b"")

    @property
    def forced(self) -> int | None:
        """The token that has to be the next one, whatever the model predicts."""
        return self._closing[0] if self._thinking and not self._over and self._used >= self._tokens else None

    def push(self, token: int, data: bytes) -> None:
        """Take the next token of the answer, which is ``data``."""
        if self._over:
            return
        if not self._thinking:
            self._begin(data)
            return
        if token == self.forced:
            self._closing.popleft()
            self._over = not self._closing
            return
        self._used += 1
        seen = self._tail + data
        self._over = _CLOSE in seen
        self._tail = seen[1 - len(_CLOSE) :]

    def reasoned(self, budget: ThinkingBudget) -> Reasoned:
        """How far it has come under this budget, which is its own."""
        tail = b"" if self._over else self._tail if self._thinking else self._beginning
        closed = len(budget.closing) - len(self._closing)
        return Reasoned(begun=self._thinking, over=self._over, used=self._used, closed=closed, tail=tail)

    def _begin(self, data: bytes) -> None:
        self._beginning = seen = (self._beginning + data).lstrip()
        if seen.startswith(_OPEN):
            self._thinking = True
            said = seen[len(_OPEN) :]
            self._over = _CLOSE in said
            self._tail = said[1 - len(_CLOSE) :]
        else:
            self._over = not _OPEN.startswith(seen)
