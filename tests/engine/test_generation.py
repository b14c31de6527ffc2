"""A reader's view of a request, and the bound on waiting work."""

from __future__ import annotations

import asyncio

import pytest

from wingbeat.engine.backlog import Backlog, QueueFull
from wingbeat.engine.generation import MAX_UNREAD_TOKENS, MAX_UNREAD_TOKENS_PER_ROW, Generation
from wingbeat.engine.latency import Latencies, LatencyHistogram
from wingbeat.engine.merging import merge
from wingbeat.engine.messages import GenerationRequest, Row, RowExtras, RowOutput, TokenLogprob
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.sampling.params import SamplingParams


def generation(rows: int = 1) -> Generation:
    request = GenerationRequest(id=1, fingerprint="", prompts=[[1]], rows=[Row(0)] * rows, sampling=SamplingParams())
    return Generation(request, lambda g: g.end("cancelled"))


def piece(row: int, text: str, token: int, **last: object) -> RowOutput:
    return RowOutput(1, row, text, [token], [TokenLogprob(token, -1.0, [])], **last)  # type: ignore[arg-type]


def test_merging_joins_the_steps_of_each_row() -> None:
    end = {"finish_reason": "stop", "stop_reason": "x", "prompt_tokens": 3, "completion_tokens": 2}
    merged = merge([piece(1, "a", 10), piece(0, "b", 11), piece(1, "c", 12, **end)])
    assert [(o.row, o.text, o.token_ids) for o in merged] == [(1, "ac", [10, 12]), (0, "b", [11])]
    last = merged[0]
    assert [entry.token for entry in last.logprobs or ()] == [10, 12]
    assert (last.finish_reason, last.stop_reason, last.prompt_tokens, last.completion_tokens) == ("stop", "x", 3, 2)


def test_merging_keeps_what_came_once() -> None:
    scored = RowExtras(prompt_logprobs=[None, TokenLogprob(5, -1.0, [])])
    (merged,) = merge([piece(0, "a", 1, extras=scored), piece(0, "b", 2), piece(0, "c", 3, finish_reason="stop")])
    assert merged.extras == scored
    snapshot = StateSnapshot("f", 3, {})
    (merged,) = merge([piece(0, "a", 1, extras=scored), piece(0, "c", 3, extras=RowExtras(state=snapshot))])
    assert merged.extras == RowExtras(scored.prompt_logprobs, None, snapshot)
    end = {"finish_reason": "stop", "cached_tokens": 5, "extras": RowExtras(reply=[1])}
    (merged,) = merge([piece(0, "a", 1, extras=scored), piece(0, "b", 2, **end)])
    assert (merged.cached_tokens, merged.extras) == (5, RowExtras(scored.prompt_logprobs, reply=[1]))


@pytest.mark.parametrize("how", ["unread", "taken", "as text", "cancelled", "failed"])
def test_the_last_output_of_each_row_is_told_however_it_is_read(how: str) -> None:
    request = GenerationRequest(
        id=1, fingerprint="", prompts=[[1]], rows=[Row(0)] * 2, sampling=SamplingParams(), keep=("reply",)
    )
    running = Generation(request, lambda g: g.end("cancelled"))
    told: list[tuple[int, str | None, list[int] | None]] = []
    running.on_end = lambda row: told.append((row.row, row.finish_reason, row.extras and row.extras.reply))
    if how == "taken":
        running.taker = lambda outputs: True
    if how == "as text":
        running.text_taker = lambda text: True
    for token in (7, 8):
        if not running.feed_text(piece(1, "x", token), 0.0):
            running.feed([piece(1, "x", token)])
    running.feed([piece(0, "y", 9, finish_reason="stop", extras=RowExtras(reply=[]))])
    assert told == [(0, "stop", [])]
    if how == "cancelled":
        running.cancel()
    elif how == "failed":
        running.end("error", "broken")
    else:
        running.feed([piece(1, "z", 3, finish_reason="length", extras=RowExtras(reply=[7, 8, 3]))])
    ended = {"cancelled": (1, "cancelled", [7, 8]), "failed": (1, "error", [7, 8])}
    assert told[1:] == [ended.get(how, (1, "length", [7, 8, 3]))]


async def test_a_taker_gets_steps_until_it_refuses() -> None:
    running = generation()
    seen: list[str] = []

    def take(outputs: list[RowOutput]) -> bool:
        seen.extend(o.text for o in outputs)
        return seen[-1] != "stop"

    running.taker = take
    reader = asyncio.create_task(anext(running))
    await asyncio.sleep(0)
    running.feed([piece(0, "a", 1)])
    running.feed([piece(0, "b", 2)])
    await asyncio.sleep(0)
    assert (seen, reader.done()) == (["a", "b"], False)
    running.feed([piece(0, "stop", 3)])  # refused: it and all that follows go to the reader
    running.feed([piece(0, "c", 4)])
    assert [o.text for o in await reader] == ["stopc"]
    running.feed([piece(0, "d", 5, finish_reason="stop")])
    assert seen == ["a", "b", "stop", "d"]
    with pytest.raises(StopAsyncIteration):
        await anext(running)


async def test_a_text_taker_gets_the_text_of_all_but_the_last_output_until_it_refuses() -> None:
    running = generation()
    texts: list[str] = []
    whole: list[str] = []
    running.taker = lambda outputs: not whole.extend(o.text for o in outputs)
    assert not running.feed_text(piece(0, "a", 1), 1.0)
    running.text_taker = lambda text: text != "stop" and not texts.append(text)
    assert running.feed_text(piece(0, "b", 2), 1.0)
    assert not running.feed_text(piece(0, "stop", 3), 2.0)
    assert not running.feed_text(piece(0, "d", 4, finish_reason="stop"), 3.0)
    assert (texts, running.generated_tokens) == (["b"], 1)
    running.taker = None
    running.feed([piece(0, "e", 5)], 4.0)  # waits for the reader, and so must what follows
    assert not running.feed_text(piece(0, "f", 6), 5.0)
    running.feed([piece(0, "f", 6)], 5.0)
    assert [o.text for o in await anext(running)] == ["ef"]
    assert (texts, whole, running.generated_tokens) == (["b"], [], 3)


def test_latencies_are_from_submission_to_a_rows_first_token_then_from_token_to_token() -> None:
    latencies = Latencies()
    request = GenerationRequest(id=1, fingerprint="", prompts=[[1]], rows=[Row(0)] * 2, sampling=SamplingParams())
    running = Generation(request, lambda g: None, latencies)
    start = running.submitted
    running.feed([piece(0, "a", 1)], start + 0.2)
    running.feed([piece(0, "b", 2), piece(1, "c", 3)], start + 0.5)
    running.feed([RowOutput(1, 0, finish_reason="cancelled")], start + 9)
    assert (sum(latencies.first_token.counts), sum(latencies.inter_token.counts)) == (2, 1)
    assert latencies.first_token.sum == pytest.approx(0.7)
    assert latencies.inter_token.sum == pytest.approx(0.3)
    assert (running.first_token, running.generated_tokens) == (pytest.approx(0.2), 3)


def test_a_histogram_counts_up_to_and_with_its_edges() -> None:
    histogram = LatencyHistogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1, 1]
    assert histogram.sum == pytest.approx(3.65)


async def test_a_slow_reader_gets_everything_merged() -> None:
    running = generation(2)
    for i in range(5):
        running.feed([piece(0, str(i), i), piece(1, "-", i)])
    first = await anext(running)
    assert [(o.row, o.text) for o in first] == [(0, "01234"), (1, "-----")]
    running.feed([piece(0, "!", 9, finish_reason="stop"), piece(1, "?", 9, finish_reason="length")])
    assert [[o.text for o in outputs] async for outputs in running] == [["!", "?"]]
    assert running.finished


async def test_a_waiting_reader_wakes_up() -> None:
    running = generation()
    reader = asyncio.create_task(anext(running))
    await asyncio.sleep(0)
    assert not reader.done()
    running.feed([piece(0, "a", 1)])
    assert (await reader)[0].text == "a"


async def test_cancelling_ends_each_row_once() -> None:
    running = generation(2)
    running.feed([piece(0, "a", 1, finish_reason="stop")])
    running.cancel()
    running.cancel()
    running.feed([piece(1, "late", 2)])
    seen = [o for outputs in [await anext(running)] for o in outputs]
    assert [(o.row, o.finish_reason) for o in seen] == [(0, "stop"), (1, "cancelled")]
    with pytest.raises(StopAsyncIteration):
        await anext(running)


async def test_what_nobody_reads_is_counted() -> None:
    running = generation()
    many = RowOutput(1, 0, "", [1] * MAX_UNREAD_TOKENS)
    running.feed([many])
    assert not running.overrun
    running.feed([piece(0, "", 1)])
    assert running.overrun
    await anext(running)
    assert not running.overrun


async def test_many_rows_may_be_further_behind() -> None:
    rows = 64
    running = generation(rows)
    running.feed([RowOutput(1, row, "", [1] * MAX_UNREAD_TOKENS_PER_ROW) for row in range(rows)])
    assert not running.overrun
    running.feed([piece(0, "", 1)])
    assert running.overrun


def test_the_backlog_is_bounded_in_rows() -> None:
    backlog = Backlog(limit=4)
    backlog.slots = 2
    backlog.enter(100)  # nothing waits: it flows through
    with pytest.raises(QueueFull):
        backlog.enter(1)
    backlog.leave(97)
    assert backlog.waiting == 1
    backlog.enter(3)
    with pytest.raises(QueueFull, match="4 sequences are waiting"):
        backlog.enter(1)


def test_retry_after_follows_the_rate_at_which_rows_finish() -> None:
    now = 0.0
    backlog = Backlog(limit=10, clock=lambda: now)
    backlog.enter(200)
    for _ in range(100):
        now += 3.0
        backlog.leave()
    with pytest.raises(QueueFull) as refusal:
        backlog.enter(1)
    assert refusal.value.retry_after == 60.0
    now += 3.0 * 88
    backlog.leave(88)  # 12 are left, 11 of them wait: with 4 more, 5 have to finish first
    with pytest.raises(QueueFull) as refusal:
        backlog.enter(4)
    assert refusal.value.retry_after == pytest.approx(15.0, rel=0.01)
