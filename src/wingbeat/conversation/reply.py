"""The answer to a message of a conversation while it is written, and what a kept state has seen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.llm import Chunk, Completion


class Reply(Iterator[Chunk]):
    """The answer to a message while it is written: an iterator of its pieces.

    ``completion`` holds what there is of it so far, ``read`` how many tokens of its prompt no kept state had seen (0
    until it begins). Nothing runs but while a piece is asked for.
    """

    def __init__(self, prompt_ids: list[int], write: Callable[[Reply], Generator[Chunk]]) -> None:
        self.completion = Completion(prompt_ids)
        self.read = 0
        self._stopped = False
        self._chunks = write(self)

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """End the answer after the step under way; go on to iterate for its last pieces. For signal handlers, too."""
        self._stopped = True

    def wait(self) -> Completion:
        """The whole answer."""
        for _ in self:
            pass
        return self.completion

    def close(self) -> None:
        """Leave it at what was said."""
        self._chunks.close()

    def __next__(self) -> Chunk:
        return next(self._chunks)


class Seen(NamedTuple):
    """Tokens and the state that has seen them; None: a fresh one."""

    ids: list[int]
    state: StateSnapshot | None


FRESH = Seen([], None)
