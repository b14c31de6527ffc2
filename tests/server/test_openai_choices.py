"""Choices of the OpenAI dialect by themselves: reasoning, logprobs, pieces."""

from __future__ import annotations

import pytest

from wingbeat.engine.messages import RowOutput, TokenLogprob
from wingbeat.server.dialects.openai_chat import ChatChoice
from wingbeat.server.dialects.openai_completions import CompletionChoice
from wingbeat.server.dialects.openai_tokens import CompletionLogprobs, chat_logprobs, token_text
from wingbeat.text.reasoning import ReasoningSplitter

TOKENS = [b"", b">", b"so", b" be", b"</thi", b"nk>", b"\n\n", b"Yes", b".", b"\xe4", b"\xb8\x96", b"\xff"]


def token_bytes(token: int) -> bytes:
    return TOKENS[token]


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
    choice = ChatChoice(ReasoningSplitter(prompt_end), token_bytes, logprobs=False)
    rows = outputs(ids)
    if merged:  # several steps in one output, as a slow reader gets them
        text = "".join(row.text for row in rows)
        rows = [RowOutput(1, 0, text=text, token_ids=ids, finish_reason="length")]
    pieces = [choice.push(row) for row in rows]
    deltas = [choice.chunk(piece)["delta"] for piece in pieces]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == reasoning
    assert "".join(delta.get("content", "") for delta in deltas) == content
    message = choice.whole(pieces)["message"]
    assert (message.get("reasoning_content", ""), message["content"]) == (reasoning, content)
    assert choice.reasoning_tokens == counted


@pytest.mark.parametrize(("reason", "shown"), [(None, 1), (7, 1), (".", 2)])
def test_a_token_that_only_ends_the_answer_has_no_logprob(reason: str | int | None, shown: int) -> None:
    logprobs = [TokenLogprob(7, -1.0, []), TokenLogprob(8, -2.0, [])]
    row = RowOutput(1, 0, "Yes", [7, 8], logprobs, finish_reason="stop", stop_reason=reason)
    assert len(CompletionChoice(token_bytes, logprobs=0).push(row).logprobs) == shown


def test_token_texts() -> None:
    assert token_text("世".encode()) == "世"
    assert token_text(b"\xe4\xb8") == "bytes:\\xe4\\xb8"


def test_offsets_follow_characters_across_tokens() -> None:
    logprobs = CompletionLogprobs(token_bytes, 0, 10)
    sampled = [TokenLogprob(token, -1.0, []) for token in (2, 9, 10, 8, 9, 7, 11, 8)]
    # "so世." then a lone first byte, "Yes", a byte that starts nothing, "."
    assert "".join([b"".join(map(token_bytes, (t.token for t in sampled))).decode("utf-8", "replace")]) == "so世.�Yes�."
    assert logprobs.push(sampled)["text_offset"] == [10, 12, 12, 13, 14, 15, 18, 19]


def test_minus_infinity_becomes_a_number() -> None:
    item = TokenLogprob(7, -1.0, [(7, -1.0), (8, float("-inf"))])
    entry = chat_logprobs([item], token_bytes)["content"][0]
    assert [other["logprob"] for other in entry["top_logprobs"]] == [-1.0, -9999.0]
    assert CompletionLogprobs(token_bytes, 2, 0).push([item])["top_logprobs"] == [{"Yes": -1.0, ".": -9999.0}]
