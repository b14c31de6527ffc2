"""A running request as its reader sees it: an asynchronous iterator of outputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from wingbeat.engine.latency import Latencies
from wingbeat.engine.merging import merge
from wingbeat.engine.messages import FinishReason, GenerationRequest, RowExtras, RowOutput

MAX_UNREAD_TOKENS = 20_000
MAX_UNREAD_TOKENS_PER_ROW = 2_000
MOST_UNREAD_TOKENS = 500_000
"""A reader that falls behind further than the larger of the first two, over all its rows, or than the last one, loses
its generation. Alternatives of log-probabilities count too."""


class Generation:
    """Iterate to get lists of outputs, of any rows; those of steps that the reader missed come merged, one a row.

    Each row ends with exactly one output that has a ``finish_reason``; after the last of them the iteration ends. One
    reader. Whoever stops reading early calls ``cancel``.

    A reader may set ``taker`` to be called with the outputs of each step while it waits in the iteration, which then
    need not wake up for them. What it refuses by returning False, and all that comes before that is read, goes the
    long way. A reader of one row may set ``text_taker`` too, to be called with the text alone of each output but the
    last; what that refuses goes to ``taker``. Neither may raise.

    ``on_end`` is called with the last output of each row, whoever reads and however it ends. It may not raise. Of a row
    that is ended from this side the ``reply``, where it was asked for, is what was received of it.
    """

    __slots__ = (
        *("finish_reason", "first_token", "generated_tokens", "on_end", "overrun", "request", "submitted", "taker"),
        *("text_taker", "_last_token", "_latencies", "_max_unread", "_news", "_observe", "_on_cancel", "_replies"),
        *("_unfinished", "_unread", "_unread_tokens"),
    )

    def __init__(
        self, request: GenerationRequest, on_cancel: Callable[[Generation], None], latencies: Latencies | None = None
    ) -> None:
        self.request = request  # as sent: with its id, and a seed even where the caller gave none
        self.taker: Callable[[list[RowOutput]], bool] | None = None
        self.text_taker: Callable[[str], bool] | None = None
        self.on_end: Callable[[RowOutput], None] | None = None
        self.submitted = time.monotonic()
        self.first_token: float | None = None  # seconds from submission
        self.generated_tokens = 0  # by all rows so far
        self.finish_reason: FinishReason | None = None  # of the row that ended last
        self._on_cancel = on_cancel
        self._latencies = latencies or Latencies()
        self._observe = self._latencies.inter_token.observe
        self._last_token: list[float | None] = [None] * len(request.rows)  # when the newest token of each row came
        self._unfinished = set(range(len(request.rows)))
        # The tokens of each row so far, where they are wanted.
        self._replies: list[list[int]] | None = [[] for _ in request.rows] if "reply" in request.keep else None
        self._unread: list[RowOutput] = []
        self._unread_tokens = 0
        self.overrun = False  # the reader has fallen too far behind
        wanted = max(MAX_UNREAD_TOKENS, MAX_UNREAD_TOKENS_PER_ROW * len(request.rows))
        self._max_unread = min(wanted, MOST_UNREAD_TOKENS)
        self._news = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Every row has ended, though the reader may not have seen it yet."""
        return not self._unfinished

    @property
    def unfinished_rows(self) -> int:
        return len(self._unfinished)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> list[RowOutput]:
        while not self._unread:
            if not self._unfinished:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        outputs, self._unread, self._unread_tokens, self.overrun = self._unread, [], 0, False
        return merge(outputs)

    def cancel(self) -> None:
        """End the rows that still run; their last outputs say "cancelled". Does nothing when all have ended."""
        if self._unfinished:
            self._on_cancel(self)

    def feed(self, outputs: Sequence[RowOutput], now: float | None = None) -> int:
        """Take outputs from the engine, received at ``now``; those of rows that have ended already are dropped.

        Returns how many rows ended.
        """
        now = time.monotonic() if now is None else now
        unfinished, taken = self._unfinished, []
        last: list[RowOutput] = []
        for output in outputs:
            if output.row not in unfinished:
                continue
            taken.append(output)
            if output.token_ids:
                self._count(output, now)
            if output.finish_reason is not None:
                unfinished.discard(output.row)
                self.finish_reason = output.finish_reason
                last.append(output)
        if self._unread or self.taker is None or not self.taker(taken):
            self._unread += taken
            self._unread_tokens += sum(map(_weight, taken))
            self.overrun = self._unread_tokens > self._max_unread
            self._news.set()
        elif not unfinished:
            self._news.set()
        if self.on_end is not None:
            for output in last:
                self.on_end(output)
        return len(last)

    def feed_text(self, output: RowOutput, now: float) -> bool:
        """Give one output, received at ``now``, to ``text_taker``. False when it must be fed instead."""
        taker = self.text_taker
        if taker is None or self._unread or output.finish_reason is not None or not taker(output.text):
            return False
        self._count(output, now)
        return True

    def _count(self, output: RowOutput, now: float) -> None:
        self.generated_tokens += len(output.token_ids)
        if self._replies is not None:
            self._replies[output.row] += output.token_ids
        last = self._last_token[output.row]
        self._last_token[output.row] = now
        if last is not None:
            self._observe(now - last)
            return
        seconds = now - self.submitted
        self._latencies.first_token.observe(seconds)
        if self.first_token is None:
            self.first_token = seconds

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """End every unfinished row from this side."""
        replies = self._replies
        outputs: list[RowOutput] = []
        for row in sorted(self._unfinished):
            extras = None if replies is None else RowExtras(reply=replies[row])
            outputs.append(RowOutput(self.request.id, row, finish_reason=reason, error=error, extras=extras))
        self.feed(outputs)


def _weight(output: RowOutput) -> int:
    """How many plain tokens take as much memory: two alternatives of a log-probability are like one more."""
    return len(output.token_ids) + sum(len(entry.top) for entry in output.logprobs or ()) // 2
