"""The bounds that docs/robustness.md names are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wingbeat.config import Settings
from wingbeat.engine import generation, process
from wingbeat.server import body, protocol, run, states
from wingbeat.server.dialects import openai_completions_schema, openai_prompt_logprobs

PAGE = (Path(__file__).parents[2] / "docs" / "robustness.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[1] for row in re.findall(r"^\| (.+?) \| (.+?) \| .+ \|$", PAGE, re.MULTILINE)}


def setting(name: str) -> int:
    return Settings.model_fields[name].default


BOUNDS = {
    "body": [setting("max_body_mb")],
    "levels of arrays and objects in a body": [body.MAX_DEPTH],
    "arrays and objects; fields; values in a body": [body.MAX_CONTAINERS, body.MAX_FIELDS, body.MAX_VALUES],
    "address of a request": [protocol.MAX_TARGET // 1024],
    "headers, trailers included": [protocol.MAX_HEADERS, protocol.MAX_HEADER_BYTES // 1024],
    "requests that wait on one connection (pipelining)": [protocol.MAX_PIPELINE],
    "time for a request to arrive": [protocol.REQUEST_SECONDS, 1024 / protocol.BODY_RATE],
    "an unused connection": [protocol.REQUEST_SECONDS, run.KEEP_ALIVE_SECONDS],
    "time in which a client reads nothing, with its buffers full": [protocol.UNREAD_SECONDS],
    "tokens that wait for a slow reader, alternatives included": [
        generation.MAX_UNREAD_TOKENS,
        generation.MAX_UNREAD_TOKENS_PER_ROW,
        generation.MOST_UNREAD_TOKENS,
    ],
    "prompt tokens of a request, for all its answers": [setting("max_prompt_tokens")],
    "prompt tokens with log-probabilities (`echo`)": [openai_prompt_logprobs.MAX_SCORED],
    "sequences of a request (prompts times `n`)": [openai_completions_schema.MAX_CHOICES],
    "sequences that wait": [setting("max_queue")],
    "sessions of a key": [setting("max_sessions_per_key")],
    "tokens of an answer that names no limit": [setting("default_max_tokens")],
    "a state that is uploaded, as JSON": [states.BODY_TIMES],
    "kept [states](states.md) of a key": [setting("max_states_mb_per_key")],
    "a state without a name": [setting("state_hours")],
}


@pytest.mark.parametrize("what", BOUNDS)
def test_a_bound_is_as_documented(what: str) -> None:
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", ROWS[what])]
    assert numbers == BOUNDS[what]


def test_the_pauses_before_a_restart_are_as_documented() -> None:
    assert f"{process.FIRST_PAUSE} seconds after a crash" in PAGE
    assert f"up to {process.LONGEST_PAUSE:.0f} seconds" in PAGE
    assert process.MAX_FAILED_STARTS == 4
    assert "given up after four crashes" in PAGE
