"""Reasoning that ends when its budget is used up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.helpers import answers, complete, drain, request, speller_engine
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.engine.thinking import ThinkingLimit
from wingbeat.sampling.params import SamplingParams, ThinkingBudget
from wingbeat.text.world import WorldTokenizer

CLOSING = (7, 8)


def forced_after(budget: ThinkingBudget, *pieces: bytes) -> list[int | None]:
    """What must come first, and after each piece."""
    limit = ThinkingLimit(budget)
    forced = [limit.forced]
    for number, piece in enumerate(pieces):
        limit.push(limit.forced or 100 + number, piece)
        forced.append(limit.forced)
    return forced


@pytest.mark.parametrize(
    ("tokens", "begun", "pieces", "forced"),
    [
        (2, True, (b">", b"Hm", b"\n</", b"think>", b"x"), [None, None, 7, 8, None, None]),
        (0, True, (b"\n</", b"think>"), [7, 8, None]),
        (3, True, (b">", b"</thi", b"nk>", b"x", b"y"), [None] * 6),
        (3, True, (b">", b"</thi", b"nk!", b"\n</", b"think>"), [None, None, None, 7, 8, None]),
        (1, False, (b" <th", b"ink>", b"a", b"", b"", b"b"), [None, None, None, 7, 8, None, None]),
        (3, False, (b"<", b"think", b"></", b"think", b">", b"x", b"y"), [None] * 8),
        (1, False, (b"<think></think>", b"x", b"y"), [None] * 4),
        (1, False, (b"The", b" <think>", b"a", b"b"), [None] * 5),
        (1, False, (b"\n", b" ", b"<", b"b", b"c"), [None] * 6),
    ],
)
def test_what_must_come(tokens: int, begun: bool, pieces: tuple[bytes, ...], forced: list[int | None]) -> None:
    assert forced_after(ThinkingBudget(tokens, CLOSING, begun), *pieces) == forced


@pytest.mark.parametrize(
    "pieces",
    [(b"Certainly, said the model",), (b"<", b"b>: that is bold"), (b"<think>and so to begin with", b" </th", b"ink>")],
)
def test_how_far_it_has_come_is_always_possible(pieces: tuple[bytes, ...]) -> None:
    budget = ThinkingBudget(1, CLOSING, begun=False)
    limit = ThinkingLimit(budget)
    for piece in pieces:
        limit.push(100, piece)
        before = limit.reasoned(budget)
        assert before.possible
        assert ThinkingLimit(budget, before).forced == limit.forced
        limit = ThinkingLimit(budget, before)


def test_nothing_must_come_where_there_is_no_end() -> None:
    assert forced_after(ThinkingBudget(0, ()), b"a") == [None, None]


def test_the_model_is_interrupted(tokenizer: WorldTokenizer) -> None:
    ids = [tokenizer.encode(piece)[0] for piece in "ABCDEFGHIJKL"]
    closing = tuple(tokenizer.encode("\n</think>"))
    engine = speller_engine(tokenizer, ids)
    answer = complete(engine, [7], SamplingParams(thinking=ThinkingBudget(3, closing), max_tokens=12, logprobs=0))
    assert answer.token_ids == [*ids[:3], *closing, *ids[3 + len(closing) : 12]]
    assert answer.text == "ABC\n</think>" + "ABCDEFGHIJKL"[3 + len(closing) :]
    assert answer.logprobs is not None
    assert all(entry.logprob < -10 for entry in answer.logprobs[3 : 3 + len(closing)])


@pytest.mark.parametrize("spelled", ["ABCDEFGHIJKLMNOP", "<think>ABCDEFGHIJ", "AB</think>CDEFGH", "<thi ABCDEFGHIJK"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_budget_goes_on_with_the_answer(
    tokenizer: WorldTokenizer, tmp_path: Path, spelled: str, *, begun: bool
) -> None:
    """Wherever it is cut, in the closing tokens too, and also of a state that was kept before the answer."""
    ids = [tokenizer.encode(piece)[0] for piece in spelled]
    budget = ThinkingBudget(10 if "<" in spelled else 3, tuple(tokenizer.encode("\n</think>")), begun)
    engine = speller_engine(tokenizer, ids)
    whole = complete(engine, [7], SamplingParams(seed=1, thinking=budget, max_tokens=16))
    for cut in range(16):
        first = request(engine, 1, [[7]], SamplingParams(seed=1, thinking=budget, max_tokens=cut))
        first.keep = ("prompt", "end")
        engine.submit(first)
        begun_answer = answers(drain(engine))[1, 0]
        assert begun_answer.extras is not None
        state = begun_answer.extras.prompt_state if cut == 0 else begun_answer.extras.state
        assert state is not None
        state.save(tmp_path / "state")
        rest = request(engine, 2, [[]], SamplingParams(thinking=budget, max_tokens=16 - cut))
        rest.state, _ = StateSnapshot.load(tmp_path / "state")
        engine.submit(rest)
        assert begun_answer.token_ids + answers(drain(engine))[2, 0].token_ids == whole.token_ids
