"""Requests that name a tuned initial state, and a model with an adapter, through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI

from tests.live import LiveServer, live_server, settings_for, write_model
from tests.random_models import normal, write_pth
from wingbeat.config import AdapterSettings

IDS = [60, 70, 80]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("tuned")
    tensors = {f"blocks.{i}.att.time_state": normal(1, str(i), 1, 64, 64) for i in range(2)}
    lora = {"blocks.0.att.key.lora_A": normal(1, "A", 4, 64), "blocks.0.att.key.lora_B": normal(1, "B", 64, 4)}
    settings = settings_for(
        write_model(folder),
        states={"poet": write_pth(folder / "poet.pth", tensors)},
        loras=[AdapterSettings(path=write_pth(folder / "lora.pth", lora), alpha=2.0)],
    )
    with live_server(settings) as live:
        yield live


def logprobs(client: OpenAI, **extra: str) -> list[float | None]:
    reply = client.completions.create(
        model="tiny", prompt=IDS, max_tokens=6, logprobs=1, seed=5, extra_body={"ignore_eos": True, **extra}
    )
    assert reply.choices[0].logprobs is not None
    return reply.choices[0].logprobs.token_logprobs or []


def test_a_request_begins_from_the_state_it_names(tuned: LiveServer) -> None:
    client = OpenAI(base_url=f"{tuned.url}/v1", api_key="none")
    fresh, poet = logprobs(client), logprobs(client, state="poet")
    assert fresh != poet
    assert logprobs(client, state="none") == fresh
    assert logprobs(client, state="poet") == poet


def test_chats_too(tuned: LiveServer) -> None:
    client = OpenAI(base_url=f"{tuned.url}/v1", api_key="none")

    def chat(**extra: str) -> list[float]:
        reply = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "the wing"}],
            max_tokens=20,
            logprobs=True,
            seed=5,
            extra_body={"ignore_eos": True, **extra},
        )
        assert reply.choices[0].logprobs is not None
        return [token.logprob for token in reply.choices[0].logprobs.content or ()]

    assert chat() == chat() != chat(state="poet")


def test_an_unknown_state_is_refused_with_those_there_are(tuned: LiveServer) -> None:
    client = OpenAI(base_url=f"{tuned.url}/v1", api_key="none")
    with pytest.raises(NotFoundError, match=r"no initial state 'painter'; there are none, poet") as refused:
        logprobs(client, state="painter")
    assert (refused.value.param, refused.value.code) == ("state", "state_not_found")


def test_the_adapter_is_in_the_model(tuned: LiveServer, tmp_path: Path) -> None:
    with live_server(settings_for(write_model(tmp_path))) as plain:
        clients = [OpenAI(base_url=f"{live.url}/v1", api_key="none") for live in (tuned, plain)]
        assert logprobs(clients[0]) != logprobs(clients[1])
        with pytest.raises(NotFoundError, match="there are none"):
            logprobs(clients[1], state="poet")
