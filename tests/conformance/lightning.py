"""What the tests of rwkv_lightning's dialect share: its requests, and its streams read as its clients read them."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.live import LiveServer

PROMPTS = ["Chinese: 今天天气很好\n\nEnglish:", "Chinese: 我喜欢读书\n\nEnglish:"]
V1 = {
    "contents": PROMPTS,
    "max_tokens": 40,
    "stop_tokens": [0, 261, 24281],
    "temperature": 1.0,
    "noise": 0,
    "stream": False,
}
V2 = {
    "contents": PROMPTS,
    "max_tokens": 40,
    "stop_tokens": [0, 261, 24281],
    "temperature": 1.0,
    "top_k": 1,
    "top_p": 0.3,
    "pad_zero": True,
    "alpha_presence": 0.5,
    "alpha_frequency": 0.5,
    "alpha_decay": 0.996,
    "chunk_size": 32,
    "stream": False,
}


def post(server: LiveServer, path: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A reply that is no stream."""
    reply = server.http.post(path, json=body, **more)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/json"
    return reply.json()


def metric(server: LiveServer, name: str) -> float:
    """One of the figures at /metrics."""
    (found,) = re.findall(rf"^wingbeat_{name}\{{.*\}} (\S+)$", server.http.get("/metrics").text, re.MULTILINE)
    return float(found)


def refused(server: LiveServer, path: str, body: dict[str, Any] | bytes) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = server.http.post(path, content=content)
    return reply.status_code, reply.json()


def texts(reply: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in reply["choices"]] == list(range(len(reply["choices"])))
    assert {choice["message"]["role"] for choice in reply["choices"]} == {"assistant"}
    return [choice["message"]["content"] for choice in reply["choices"]]


def events(server: LiveServer, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, which ends as it should: each is one line and a blank one."""
    with server.http.stream("POST", path, json=body | {"stream": True}) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        whole = reply.read().decode()
    *said, last, rest = whole.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") and "\n" not in event for event in said)
    return [json.loads(event.removeprefix("data: ")) for event in said]


def joined(said: list[dict[str, Any]], rows: int) -> list[str]:
    """The text of each row."""
    found = [""] * rows
    for event in said:
        for choice in event.get("choices", ()):
            found[choice["index"]] += choice["delta"].get("content", "")
    return found
