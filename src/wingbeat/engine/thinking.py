"""An end to a model's reasoning that would go on for too long: its closing tokens, which come whatever it would say."""

from __future__ import annotations

from collections import deque

from wingbeat.sampling.params import ThinkingBudget

_OPEN, _CLOSE = b"<think>", b"</think>"


class ThinkingLimit:
    """Counts the tokens of one answer's reasoning. ``forced`` is the token that must come next, if one must.

    Reasoning that the prompt has not begun is what the answer begins with ``<think>``. It ends with ``</think>``,
    across token borders.
    """

    __slots__ = ("_beginning", "_closing", "_left", "_over", "_tail", "_thinking")

    def __init__(self, budget: ThinkingBudget) -> None:
        self._closing = deque(budget.closing)
        self._left = budget.tokens
        self._thinking = budget.begun
        self._over = not budget.closing
        self._beginning = self._tail = b""

    @property
    def forced(self) -> int | None:
        """The token that has to be the next one, whatever the model predicts."""
        return self._closing[0] if self._thinking and not self._over and self._left <= 0 else None

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
        self._left -= 1
        seen = self._tail + data
        self._over = _CLOSE in seen
        self._tail = seen[1 - len(_CLOSE) :]

    def _begin(self, data: bytes) -> None:
        self._beginning = seen = (self._beginning + data).lstrip()
        if seen.startswith(_OPEN):
            self._thinking = True
            self._tail = seen[len(_OPEN) :]
            self._over = _CLOSE in self._tail
        else:
            self._over = not _OPEN.startswith(seen)
