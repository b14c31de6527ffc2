from __future__ import annotations

import json
from typing import Any

import pytest

from wingbeat.engine.messages import EngineConfig, RowOutput
from wingbeat.server.dialects.lightning_answer import MAX_EVENT, BatchAnswer, BatchStream
from wingbeat.server.registry import ServedModel


@pytest.mark.parametrize("step", [50, 20_000])
@pytest.mark.parametrize("character", ["a", "世", "\x01", "🦊"])
def test_events_stay_short(character: str, step: int) -> None:
    """In bytes, whatever the characters, however many rows have something to say at once, and also where steps that a
    slow client missed come as one."""
    text, steps = character * step, 100_000 // step
    answer = BatchAnswer(ServedModel(EngineConfig(model="demo"), max_prompt_tokens=1), 3, identity="x")
    stream = BatchStream(answer, 100_000)
    sent = b""
    for number in range(steps):
        reason = "stop" if number == steps - 1 else None
        rows = [RowOutput(1, row, text, [1], finish_reason=reason) for row in range(3)]
        sent += stream.step(rows)
    events = [event.removeprefix(b"data: ") for event in sent.split(b"\n\n")[:-1]]
    assert max(map(len, events)) < MAX_EVENT + 200
    found = [""] * 3
    for choice in (choice for event in events for choice in _choices(event)):
        found[choice["index"]] += choice["delta"].get("content", "")
    assert found == [text * steps] * 3


def test_a_row_with_several_tokens_in_a_step_has_one_piece() -> None:
    """And ends once: guesses that came true bring them."""
    answer = BatchAnswer(ServedModel(EngineConfig(model="demo"), max_prompt_tokens=1), 2, identity="x")
    rows = [RowOutput(1, 1, "a", [1]), RowOutput(1, 0, "c", [1]), RowOutput(1, 1, "b", [2], finish_reason="length")]
    (event,) = BatchStream(answer, 2).step(rows).split(b"\n\n")[:-1]
    ended = {"index": 1, "delta": {"content": "ab"}, "finish_reason": "length"}
    assert _choices(event.removeprefix(b"data: ")) == [ended]


def _choices(event: bytes) -> list[dict[str, Any]]:
    return json.loads(event)["choices"]
