"""Conversations that send their whole history each turn, over HTTP, and what the server says of its first tokens."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from served import Served, request, serving

TURNS = 20
ANSWER = 64
QUESTION_WORDS = 40
TOGETHER = 32
EARLY, LATE = (2, 3), (TURNS - 1, TURNS)
TEXT = Path(__file__).parent / "texts" / "moby-dick.txt"


class Turn(NamedTuple):
    """One turn of one conversation, the first being 1. `read` are the tokens of `prompt` that no state had seen."""

    number: int
    prompt: int
    read: int
    first_token: float


def turns(model: Path, dtype: str, threads: int | None) -> Iterator[dict[str, Any]]:
    """The time to the first token early and late in a conversation, with and without company and cache."""
    for cache, conversations in (("on", 1), ("on", TOGETHER), ("off", 1)):
        flags = ["--dtype", dtype, "--max-batch", str(TOGETHER), "--log-level", "info", "--cache-disk-mb", "0"]
        flags += [] if threads is None else ["--threads", str(threads)]
        flags += ["--cache-memory-mb", "0"] if cache == "off" else []
        with serving(*flags, model=str(model)) as served:
            found = asyncio.run(converse_all(served, conversations))
        yield summary(cache, conversations, found)


def summary(cache: str, conversations: int, found: list[Turn]) -> dict[str, Any]:
    early, late = ([turn for turn in found if turn.number in span] for span in (EARLY, LATE))
    first = [median(turn.first_token for turn in span) for span in (early, late)]
    return {
        "cache": cache,
        "conversations": conversations,
        "prompt, turn 20": round(median(turn.prompt for turn in found if turn.number == TURNS)),
        "read, turns 2-3": round(median(turn.read for turn in early)),
        "read, turns 19-20": round(median(turn.read for turn in late)),
        "first token, turns 2-3, ms": 1e3 * first[0],
        "turns 19-20, ms": 1e3 * first[1],
        "ratio": first[1] / first[0],
    }


async def converse_all(served: Served, conversations: int) -> list[Turn]:
    """All turns of so many conversations at once, each of which goes on as soon as it is answered."""
    await asyncio.gather(*(converse(served.port, -1 - number, turns=2) for number in range(4)))  # warms up
    usages: dict[str, tuple[int, dict[str, Any]]] = {}
    for told in await asyncio.gather(*(converse(served.port, number) for number in range(conversations))):
        usages |= told
    waits: dict[str, float] = {}
    while not usages.keys() <= waits.keys():  # a line comes after its reply
        lines = [json.loads(line) for line in served.new_lines()]
        waits |= {line["request_id"]: line["first_token"] for line in lines if line.get("first_token") is not None}
        await asyncio.sleep(0.1)
    return [
        Turn(number, usage["prompt_tokens"], usage["prompt_tokens"] - cached(usage), waits[id])
        for id, (number, usage) in usages.items()
    ]


def cached(usage: dict[str, Any]) -> int:
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


async def converse(port: int, seed: int, turns: int = TURNS) -> dict[str, tuple[int, dict[str, Any]]]:
    """One conversation: the number of the turn and the usage of each request, by its id."""
    words, chance = TEXT.read_text(encoding="utf-8").split(), random.Random(seed)
    messages: list[dict[str, str]] = []
    told = {}
    for number in range(1, turns + 1):
        start = chance.randrange(len(words) - QUESTION_WORDS)
        messages.append({"role": "user", "content": " ".join(words[start : start + QUESTION_WORDS])})
        body = {"messages": messages, "max_tokens": ANSWER, "seed": seed, "ignore_eos": True}
        reply = await request(port, "POST", "/v1/chat/completions", body)
        if reply.status != 200:
            raise SystemExit(f"the server answered: {reply.body.decode(errors='replace')}")
        answer = json.loads(reply.body)
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"] or ""})
        told[reply.headers["x-request-id"]] = number, answer["usage"]
    return told
