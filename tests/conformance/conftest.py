"""Clients of a live server, as users have them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.live import LiveServer
from tests.server.conftest import model_path, server
from wingbeat.text.world import WorldTokenizer

__all__ = ["model_path", "server"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For servers that keep something: each module starts its own."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
async def aclient(server: LiveServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tokenizer(server: LiveServer) -> WorldTokenizer:
    known = server.registry.models[0].tokenizer
    assert known is not None
    return known
