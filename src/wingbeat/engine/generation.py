"""A running request as its reader sees it: an asynchronous iterator of outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from wingbeat.engine.messages import FinishReason, GenerationRequest, RowOutput

MAX_UNREAD_TOKENS = 20_000
MAX_UNREAD_TOKENS_PER_ROW = 2_000
"""A reader that falls behind further than the larger of the two, over all its rows, loses its generation."""


class Generation:
    """Iterate to get lists of outputs, of any rows; those of steps that the reader missed come merged, one a row.

    Each row ends with exactly one output that has a ``finish_reason``; after the last of them the iteration ends. One
    reader. Whoever stops reading early calls ``cancel``.
    """

    def __init__(self, request: GenerationRequest, on_cancel: Callable[[Generation], None]) -> None:
        self.request = request  # as sent: with its id, and a seed even where the caller gave none
        self._on_cancel = on_cancel
        self._unfinished = set(range(len(request.rows)))
        self._unread: list[RowOutput] = []
        self._unread_tokens = 0
        self._max_unread = max(MAX_UNREAD_TOKENS, MAX_UNREAD_TOKENS_PER_ROW * len(request.rows))
        self._news = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Every row has ended, though the reader may not have seen it yet."""
        return not self._unfinished

    @property
    def unfinished_rows(self) -> int:
        return len(self._unfinished)

    @property
    def overrun(self) -> bool:
        return self._unread_tokens > self._max_unread

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> list[RowOutput]:
        while not self._unread:
            if not self._unfinished:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        outputs, self._unread, self._unread_tokens = self._unread, [], 0
        return merge(outputs)

    def cancel(self) -> None:
        """End the rows that still run; their last outputs say "cancelled". Does nothing when all have ended."""
        if self._unfinished:
            self._on_cancel(self)

    def feed(self, outputs: Iterable[RowOutput]) -> None:
        """Take outputs from the engine; those of rows that have ended here already are dropped."""
        for output in outputs:
            if output.row not in self._unfinished:
                continue
            self._unread.append(output)
            self._unread_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self._unfinished.discard(output.row)
        self._news.set()

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """End every unfinished row from this side."""
        rows = sorted(self._unfinished)
        self.feed(RowOutput(self.request.id, row, finish_reason=reason, error=error) for row in rows)


def merge(outputs: list[RowOutput]) -> list[RowOutput]:
    """The outputs of several steps as one for each row, in the order in which the rows first occur."""
    by_row: dict[int, list[RowOutput]] = {}
    for output in outputs:
        by_row.setdefault(output.row, []).append(output)
    if len(by_row) == len(outputs):
        return outputs
    return [_join(parts) for parts in by_row.values()]


def _join(parts: list[RowOutput]) -> RowOutput:
    last = parts[-1]
    logprobs = [entry for part in parts for entry in part.logprobs or ()]
    return RowOutput(
        request=last.request,
        row=last.row,
        text="".join(part.text for part in parts),
        token_ids=[token for part in parts for token in part.token_ids],
        logprobs=logprobs or None,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        error=last.error,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.completion_tokens,
    )
