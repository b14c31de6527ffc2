"""`prediction`: the same answer, in fewer steps."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

from tests.live import LiveServer, live_server, settings_for
from wingbeat.llm import demo_model_path

MESSAGES: Any = [{"role": "user", "content": "hello"}]


def drafted(server: LiveServer) -> tuple[int, int]:
    (model,) = server.http.get("/stats").json()["models"]
    return model["drafted_tokens"], model["accepted_tokens"]


def ask(client: OpenAI, seed: int, prediction: Any = None, *, stream: bool = False) -> str:
    """A seeded answer of a random model, which repeats nothing by itself."""
    more = {} if prediction is None else {"prediction": {"type": "content", "content": prediction}}
    reply: Any = client.chat.completions.create(
        model="model",
        messages=MESSAGES,
        seed=seed,
        max_tokens=60,
        stream=stream,
        extra_body={"ignore_eos": True},
        **more,
    )
    if stream:
        return "".join(part.choices[0].delta.content or "" for part in reply)
    return reply.choices[0].message.content


def test_a_predicted_answer_is_the_same_and_was_guessed() -> None:
    """By the demo model: what a random one says is no text that the same tokens would be made of."""
    with (
        live_server(settings_for(demo_model_path())) as fresh,
        OpenAI(base_url=f"{fresh.url}/v1", api_key="none") as client,
    ):
        answer = ask(client, 1)
        assert ask(client, 1, answer) == answer
        guessed, true = drafted(fresh)
        assert 0 < true <= guessed
        assert f'wingbeat_accepted_tokens_total{{model="wingbeat-demo"}} {true}' in fresh.http.get("/metrics").text


def test_a_wrong_prediction_changes_nothing(client: OpenAI) -> None:
    answer = ask(client, 2)
    for wrong in ("something else " * 20, [{"type": "text", "text": answer[10:30]}], "", answer[:9] + "x" + answer[9:]):
        assert ask(client, 2, wrong) == ask(client, 2, wrong, stream=True) == answer


def test_a_prediction_has_a_limit_like_a_prompt(server: LiveServer) -> None:
    limit = server.registry.models[0].max_prompt_tokens
    body = {"messages": MESSAGES, "prediction": {"type": "content", "content": "x " * limit}}
    reply = server.http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prediction")
