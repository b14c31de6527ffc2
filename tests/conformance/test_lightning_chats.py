"""rwkv_lightning's known defects K15 and K22, of conversations in OpenAI's form on its paths, are not so here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.lightning import events, post
from tests.live import LiveServer
from wingbeat.text.profile import PROFILES
from wingbeat.text.world import WorldTokenizer

PATHS = [f"/{prefix}/chat/completions" for prefix in ("v1", "v2", "v3", "openai/v1")]
CODE = "```python\ndef beat(wing):\n    if wing:\n\n        return 1\n\n\n# end\n```"
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief.\r\n\r\nBe kind."},
    {"role": "user", "content": f"Explain:\n\n{CODE}\n\n  - thus\n"},
    {"role": "assistant", "content": "One moment."},
    {"role": "tool", "tool_call_id": "1", "content": '{\n  "speed": 3\n}'},
    {"role": "user", "content": "Well?"},
]


@pytest.fixture
def prompts(server: LiveServer, tokenizer: WorldTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model reads, from now on."""
    read: list[str] = []
    client = server.registry.first.client
    submit = client.submit

    def listening(request: Any) -> Any:
        read.extend(tokenizer.decode(ids) for ids in request.prompts)
        return submit(request)

    monkeypatch.setattr(client, "submit", listening)
    return read


@pytest.mark.parametrize("path", PATHS)
def test_k15_k22_the_model_reads_the_whole_conversation(server: LiveServer, prompts: list[str], path: str) -> None:
    """In one row: code as it was written, what tools found, and all that was said before."""
    reply = post(server, path, {"messages": TALK, "max_tokens": 2})
    assert len(reply["choices"]) == 1
    assert prompts == [
        "System: Be brief.\nBe kind.\n\n"
        f"User: Explain:\n{CODE}\n  - thus\n\n"
        "Assistant: One moment.\n\n"
        'User: Function output:\n{\n  "speed": 3\n}\n\n'
        "User: Well?\n\nAssistant:"
    ]


@pytest.mark.parametrize("path", PATHS)
def test_k15_stop_ends_the_answer(server: LiveServer, path: str) -> None:
    body = {"messages": TALK, "max_tokens": 40, "seed": 3, "temperature": 1, "top_p": 1, "ignore_eos": True}
    free = post(server, path, body)["choices"][0]["message"]["content"]
    stop = free[5:8]
    for stops in (stop, ["# ?", stop]):
        (choice,) = post(server, path, body | {"stop": stops})["choices"]
        assert choice["message"]["content"] == free[: free.index(stop)].rstrip()
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("path", PATHS)
def test_as_many_stops_as_there_may_be(server: LiveServer, path: str) -> None:
    """Of all kinds, beside those of the model's chats; of more it is said how many there are."""
    own = len(server.registry.first.profile.stops)
    labels = [f"\nSpeaker {number}:" for number in range(65)]
    body = {"messages": TALK, "stop": ["# ?", "# !"], "max_tokens": 2}
    post(server, path, body | {"stop_tokens": labels[: 62 - own]})
    reply = server.http.post(path, json=body | {"stop_tokens": labels[: 63 - own]})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "stop_tokens"
    assert "65 texts" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_k15_the_tag_of_the_reasoning_is_no_text(
    server: LiveServer, prompts: list[str], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The prompt ends with half of it; the model, here one that says nothing else, writes its end first."""
    monkeypatch.setattr(server.registry.first, "_profile", PROFILES["g1"])
    body = {"messages": TALK, "enable_thinking": True, "logit_bias": {str(ord(">") + 1): 100}, "max_tokens": 8}
    (choice,) = post(server, path, body)["choices"]
    assert prompts[-1].endswith("Assistant: <think")
    assert choice["message"]["reasoning_content"] == ">" * 7
    assert not choice["message"]["content"]
    deltas = [choice["delta"] for event in events(server, path, body) for choice in event["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == ">" * 7
    assert not any(delta.get("content") for delta in deltas)
