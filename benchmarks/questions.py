"""Questions to every route that generates, and what came of them: for scripts that break the server under load."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

from served import Reply, request

PROMPT = "English: Save\n\nChinese:"
ENDINGS = {"stop", "length", "completed", "incomplete"}

Outcome = Literal["answered", "failed in its stream", "refused", "wrong"]


class Judgement(NamedTuple):
    """What became of a request, with the whole answer or with what is wrong."""

    outcome: Outcome
    detail: Any = None


class Question(NamedTuple):
    """A request for as many tokens as its number says, seeded with it."""

    path: str
    fields: dict[str, Any]

    def body(self, number: int) -> dict[str, Any]:
        limit = "max_output_tokens" if self.path.endswith("responses") else "max_tokens"
        return {**self.fields, limit: 20 + 37 * number % 200, "seed": number, "ignore_eos": True}

    def judge(self, reply: Reply) -> Judgement:
        """A complete answer, or an error as this route must say it."""
        if reply.status != 200:
            clear = reply.status in (500, 503) and reply.error is not None
            return Judgement("refused") if clear else _wrong(f"status {reply.status}", reply.body)
        streams = reply.headers["content-type"].startswith("text/event-stream")
        if self.path.endswith("responses"):
            return _response_events(reply.body) if streams else _response(json.loads(reply.body))
        return _chunks(reply.body) if streams else _choices([json.loads(reply.body)])


CHAT = {"messages": [{"role": "user", "content": "What is RWKV?"}]}

QUESTIONS = (
    Question("/v1/completions", {"prompt": PROMPT, "stream": True}),
    Question("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    Question("/v1/responses", {"input": "What is RWKV?", "stream": True}),
    Question("/v1/completions", {"prompt": PROMPT}),
    Question("/v1/completions", {"prompt": [PROMPT, "wing"], "n": 2, "logprobs": 2, "echo": True, "stream": True}),
    Question("/v1/chat/completions", {**CHAT, "n": 2, "logprobs": True, "top_logprobs": 2}),
    Question("/v1/responses", {"input": "What is RWKV?"}),
    Question("/openai/v1/chat/completions", {**CHAT, "n": 2, "logprobs": True, "stream": True}),
)


class Load:
    """Clients that ask all the time, each the same, and want the answer that is `known`, or a clear error."""

    def __init__(self, port: int, known: list[Any]) -> None:
        self._port = port
        self._known = known
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._ask_on(number)) for number in range(len(self._known))]
        try:
            yield
        finally:
            self.over = True
            await asyncio.gather(*tasks)

    async def _ask_on(self, number: int) -> None:
        while not self.over:
            try:
                outcome, detail = await ask(self._port, number)
            except ConnectionError as error:
                outcome, detail = "wrong", f"cut off: {error}"
            if outcome == "answered" and detail != self._known[number]:
                outcome, detail = "wrong", f"another answer: {detail}, not {self._known[number]}"
            self.outcomes[outcome] += 1
            if outcome == "wrong":
                self.faults.append(f"client {number}, {_question(number).path}: {detail}")
            elif outcome == "refused":
                await asyncio.sleep(0.05)


async def ask(port: int, number: int) -> Judgement:
    question = _question(number)
    return question.judge(await request(port, "POST", question.path, question.body(number)))


async def ask_all(port: int, clients: int) -> list[Judgement]:
    """What each of so many clients is told once."""
    return await asyncio.gather(*(ask(port, number) for number in range(clients)))


def _question(number: int) -> Question:
    return QUESTIONS[number % len(QUESTIONS)]


def _events(body: bytes) -> list[str]:
    """The data of each event of a stream."""
    lines = body.decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def _chunks(body: bytes) -> Judgement:
    """A stream of OpenAI's older routes."""
    *chunks, last = _events(body)
    if last == "[DONE]":
        return _choices([json.loads(chunk) for chunk in chunks])
    return _failed(json.loads(last), body)


def _choices(replies: list[dict[str, Any]]) -> Judgement:
    """A whole reply, or the chunks of one: the text of each choice and how it ended."""
    texts: dict[int, str] = {}
    endings: dict[int, str] = {}
    for choice in (choice for reply in replies for choice in reply["choices"]):
        said = choice.get("message") or choice.get("delta") or choice
        text = "".join(said.get(name) or "" for name in ("reasoning_content", "content", "text"))
        texts[choice["index"]] = texts.get(choice["index"], "") + text
        if choice["finish_reason"] is not None:
            endings[choice["index"]] = choice["finish_reason"]
    if endings.keys() != texts.keys() or not ENDINGS.issuperset(endings.values()):
        return Judgement("wrong", f"choices that do not end: {texts} {endings}")
    return Judgement("answered", (sorted(texts.items()), sorted(endings.items())))


def _response_events(body: bytes) -> Judgement:
    """A stream of the Responses API."""
    events = [json.loads(data) for data in _events(body)]
    if events[-1]["type"] == "error":
        if events[-2]["type"] != "response.failed":
            return _wrong("an error without response.failed", body)
        return _failed(events[-1], body)
    if [event["sequence_number"] for event in events] != list(range(len(events))):
        return _wrong("events are missing", body)
    return _response(events[-1].get("response") or {})


def _response(response: dict[str, Any]) -> Judgement:
    if response.get("status") not in ENDINGS:
        return Judgement("wrong", f"an odd end: {response}")
    parts = [part["text"] for item in response["output"] for part in item["content"]]
    return Judgement("answered", (parts, response["status"]))


def _failed(last: dict[str, Any], body: bytes) -> Judgement:
    """The end of a stream that is not complete: it must be an error that says that it was the server's."""
    error = last.get("error")
    clear = isinstance(error, dict) and error.get("type") == "server_error" and error.get("message")
    return Judgement("failed in its stream") if clear else _wrong("an odd end", body)


def _wrong(what: str, body: bytes) -> Judgement:
    return Judgement("wrong", f"{what}: {body[-300:]!r}")
