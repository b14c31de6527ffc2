"""Choices of the OpenAI dialect by themselves: reasoning, logprobs, pieces."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from wingbeat.engine.messages import RowOutput, TokenLogprob
from wingbeat.server.dialects.openai_answer import encode
from wingbeat.server.dialects.openai_chat import ChatChoice
from wingbeat.server.dialects.openai_logprobs import CompletionLogprobs
from wingbeat.server.dialects.openai_tokens import TextPlaces, TokenTexts, token_text
from wingbeat.text.reasoning import ReasoningSplitter

TOKENS = [b"", b">", b"so", b" be", b"</thi", b"nk>", b"\n\n", b"Yes", b".", b"\xe4", b"\xb8\x96", b"\xff"]


def token_bytes(token: int) -> bytes:
    return TOKENS[token]


TEXTS = TokenTexts(token_bytes)


def sampled(tokens: list[TokenLogprob]) -> RowOutput:
    """All tokens in one output, ended by max_tokens."""
    text = b"".join(token_bytes(item.token) for item in tokens).decode("utf-8", "replace")
    return RowOutput(1, 0, text, [item.token for item in tokens], tokens, finish_reason="length")


def rendered(logprobs: CompletionLogprobs, *rows: RowOutput) -> dict[str, Any]:
    return json.loads(bytes(logprobs.join([logprobs.push(row) for row in rows])))


def said(choice: ChatChoice, *rows: RowOutput) -> tuple[str, list[dict[str, Any]]]:
    """The content, and the entries of its log-probabilities."""
    whole = json.loads(encode(choice.whole([choice.push(row) for row in rows])))
    return whole["message"]["content"], whole["logprobs"]["content"]


def outputs(ids: list[int], last: RowOutput | None = None) -> list[RowOutput]:
    """A row's outputs, a token each, ended by max_tokens unless `last` says otherwise."""
    rows = [RowOutput(1, 0, text=TOKENS[i].decode(), token_ids=[i]) for i in ids]
    return [*rows, last or RowOutput(1, 0, finish_reason="length")]


@pytest.mark.parametrize(
    ("prompt_end", "ids", "reasoning", "content", "counted"),
    [
        (" <think", [1, 2, 3, 4, 5, 6, 7, 8], "so be", "Yes.", 5),
        (" <think", [1, 2, 3], "so be", "", 3),
        (" <think>\n</think", [1, 6, 7, 8], "", "Yes.", 0),
        ("Assistant:", [3, 8], "", "be.", 0),
    ],
)
@pytest.mark.parametrize("merged", [False, True])
def test_reasoning(prompt_end: str, ids: list[int], reasoning: str, content: str, counted: int, merged: bool) -> None:
    choice = ChatChoice(ReasoningSplitter(prompt_end), TEXTS, logprobs=False)
    rows = outputs(ids)
    if merged:  # several steps in one output, as a slow reader gets them
        text = "".join(row.text for row in rows)
        rows = [RowOutput(1, 0, text=text, token_ids=ids, finish_reason="length")]
    pieces = [choice.push(row) for row in rows]
    deltas = [chunk["delta"] for piece in pieces for chunk in choice.chunks(piece)]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == reasoning
    assert "".join(delta.get("content", "") for delta in deltas) == content
    message = choice.whole(pieces)["message"]
    assert (message.get("reasoning_content", ""), message["content"]) == (reasoning, content)
    assert choice.reasoning_tokens == counted


@pytest.mark.parametrize("prompt_end", [" <think", " <think>\n</think", "Assistant:", " It is"])
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_shown_of_texts_is_what_they_add(prompt_end: str, thinking: bool, seed: int) -> None:
    rng = random.Random(seed)
    rows = [RowOutput(1, 0, rng.choice([" ", "\n", "so", " be ", "", "</think>", ">"])) for _ in range(40)]
    plain, short = (ChatChoice(ReasoningSplitter(prompt_end, thinking=thinking), TEXTS, logprobs=False) for _ in "ab")
    shortened = 0
    for row in rows:
        piece, shown = plain.push(row), short.shown
        if shown is None:
            short.push(row)
            continue
        shortened += 1
        assert (shown(row.text), "") == (piece.text, piece.reasoning)
    assert shortened
    last = RowOutput(1, 0, " end", finish_reason="stop")
    assert plain.push(last) == short.push(last)


@pytest.mark.parametrize("reason", [None, 7])
@pytest.mark.parametrize("hold", [False, True])
def test_a_token_that_ended_a_completion_by_itself_is_the_last(reason: int | None, hold: bool) -> None:
    tokens = [TokenLogprob(7, -1.0, []), TokenLogprob(0, -2.0, [(0, -2.0), (8, -3.0)])]
    row = RowOutput(1, 0, "Yes", [7, 0], tokens, finish_reason="stop", stop_reason=reason)
    shown = rendered(CompletionLogprobs(TEXTS, 2, hold=hold), row)
    assert (shown["tokens"], shown["text_offset"]) == (["Yes", "<|endoftext|>"], [0, 3])
    assert shown["top_logprobs"][1] == {"<|endoftext|>": -2.0, ".": -3.0}


def stopped(merged: bool) -> list[RowOutput]:
    """`so` ` be` `.` `Yes` under the stop text "e.Y", which holds text back."""
    tokens = [TokenLogprob(token, -1.0, []) for token in (2, 3, 8, 7)]
    texts = ["so", " b", "", ""]
    if merged:
        return [RowOutput(1, 0, "so b", [2, 3, 8, 7], tokens, finish_reason="stop", stop_reason="e.Y")]
    rows = [RowOutput(1, 0, text, [t.token], [t]) for text, t in zip(texts, tokens, strict=True)]
    rows[-1].finish_reason, rows[-1].stop_reason = "stop", "e.Y"
    return rows


@pytest.mark.parametrize("merged", [False, True])
def test_tokens_of_a_stop_text_have_no_logprobs(merged: bool) -> None:
    rows = stopped(merged)
    assert rendered(CompletionLogprobs(TEXTS, 0, hold=True), *rows)["tokens"] == ["so", " be"]
    content, entries = said(ChatChoice(ReasoningSplitter(), TEXTS, logprobs=True), *rows)
    assert content == "so b"
    assert [entry["token"] for entry in entries] == ["so", " b"]


def test_tokens_that_turn_out_to_begin_no_stop_come_with_their_text() -> None:
    logprobs = CompletionLogprobs(TEXTS, 0, hold=True)
    rows = [*stopped(False)[:3], RowOutput(1, 0, "e.Yes", [7], [TokenLogprob(7, -1.0, [])], finish_reason="length")]
    pushed = [logprobs.push(row) for row in rows]
    assert [columns[0] if columns else b"" for columns in pushed] == [b'"so"', b'" be"', b"", b'".","Yes"']


def test_token_texts() -> None:
    assert token_text("世".encode()) == "世"
    assert token_text(b"\xe4\xb8") == "bytes:\\xe4\\xb8"


def test_offsets_follow_characters_across_tokens() -> None:
    # "so世." then a lone first byte, "Yes", a byte that starts nothing, "."
    row = sampled([TokenLogprob(token, -1.0, []) for token in (2, 9, 10, 8, 9, 7, 11, 8)])
    assert row.text == "so世.�Yes�."
    for hold in (False, True):
        logprobs = CompletionLogprobs(TEXTS, 0, 10, hold=hold)
        assert rendered(logprobs, row)["text_offset"] == [10, 12, 12, 13, 14, 15, 18, 19]


@pytest.mark.parametrize("start", [b"", b"x", b"\xff"])
@pytest.mark.parametrize(
    "data", [b"\xed\xa0W", b"\xed\xa0\xe4W", b"\xed\xa0\x80\xa0W", b"\xf1\x80W", b"\xf4\x90\xc3\xedW"]
)
def test_bytes_that_are_no_character_have_places_of_their_own(start: bytes, data: bytes) -> None:
    """Each token is one byte; W is one that can be found in the text, whatever became of those before it."""
    tokens = [bytes([byte]) for byte in start + data]
    places = TextPlaces(lambda token: tokens[token])
    found = [places.next(token) for token in range(len(tokens))]
    text = (start + data).decode("utf-8", "replace")
    assert found[-1] == (text.index("W"), len(text))
    assert [first for first, _ in found] == sorted(first for first, _ in found)


def test_minus_infinity_becomes_a_number() -> None:
    row = sampled([TokenLogprob(7, -1.0, [(7, -1.0), (8, float("-inf"))])])
    _, (entry,) = said(ChatChoice(ReasoningSplitter(), TEXTS, logprobs=True), row)
    assert [other["logprob"] for other in entry["top_logprobs"]] == [-1.0, -9999.0]
    assert entry["bytes"] == list(b"Yes")
    assert rendered(CompletionLogprobs(TEXTS, 2), row)["top_logprobs"] == [{"Yes": -1.0, ".": -9999.0}]


def test_alternatives_come_best_first_and_the_chosen_token_last_when_it_is_none_of_them() -> None:
    row = sampled([TokenLogprob(2, -3.0, [(7, -0.5), (8, -1e-05)]), TokenLogprob(8, -2.0, [(7, -1.0), (8, -2.0)])])
    first, second = rendered(CompletionLogprobs(TEXTS, 2), row)["top_logprobs"]
    assert list(first.items()) == [("Yes", -0.5), (".", -1e-05), ("so", -3.0)]
    assert list(second.items()) == [("Yes", -1.0), (".", -2.0)]
