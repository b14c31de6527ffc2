"""Vectors through the official client, from the RWKV model and from the embedding model beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI

from tests.live import LiveServer, live_server, settings_for
from wingbeat.server.dialects.ai00_embeds import EmbedsReply
from wingbeat.server.dialects.openai_embeddings_schema import EmbeddingsReply
from wingbeat.text.world import WorldTokenizer

TEXTS = ["the wing beats", "é世界", "wing " * 700]


def vectors(client: OpenAI, **body: Any) -> np.ndarray:
    reply = client.embeddings.create(**{"model": "tiny", "input": TEXTS, **body})
    assert [item.index for item in reply.data] == list(range(len(reply.data)))
    return np.array([item.embedding for item in reply.data], np.float32)


def test_floats_and_base64_are_the_same(server: LiveServer, client: OpenAI, tokenizer: WorldTokenizer) -> None:
    """The client asks for base64 unless it is told otherwise, and decodes it."""
    by_default, floats = vectors(client), vectors(client, encoding_format="float")
    assert by_default.shape == (3, 64)
    assert (by_default == floats).all()
    assert np.linalg.norm(floats, axis=1) == pytest.approx(1, abs=1e-6)
    reply = server.http.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    EmbeddingsReply.model_validate(reply)
    raw = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in reply["data"]]
    assert (np.array(raw) == floats).all()
    tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_every_form_of_input(client: OpenAI, tokenizer: WorldTokenizer) -> None:
    together = vectors(client)
    ids = [tokenizer.encode(text) for text in TEXTS]
    assert (vectors(client, input=ids) == together).all()
    for text, tokens, vector in zip(TEXTS, ids, together, strict=True):
        assert (vectors(client, input=text)[0] == vector).all()
        assert (vectors(client, input=tokens)[0] == vector).all()


def test_dimensions_pooling_and_layers(client: OpenAI) -> None:
    plain = vectors(client, extra_body={"normalize": False})
    few = vectors(client, dimensions=7)
    assert np.allclose(few, plain[:, :7] / np.linalg.norm(plain[:, :7], axis=1, keepdims=True), atol=1e-6)
    assert (vectors(client, extra_body={"layer": 1, "pooling": "mean"}) == vectors(client)).all()
    shift = {layer: vectors(client, extra_body={"layer": layer, "pooling": "shift"}) for layer in (0, 1, -1)}
    assert (shift[1] == shift[-1]).all()
    assert not np.allclose(shift[0], shift[1], atol=1e-3)
    last = vectors(client, input=[" ", "the wing "], extra_body={"layer": 0, "pooling": "shift"})
    assert last.shape == (2, 64)


def test_embedding_beside_generating(client: OpenAI) -> None:
    alone = vectors(client)
    body: dict[str, Any] = {"model": "tiny", "prompt": "the ", "max_tokens": 200, "extra_body": {"ignore_eos": True}}
    with client.completions.create(**body, stream=True) as stream:
        next(iter(stream))
        assert (vectors(client) == alone).all()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [5, 300]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["wing " * 400_000] * 3}, "input"),
        ({"dimensions": 65}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"layer": 2}, "layer"),
        ({"layer": -3}, "layer"),
        ({"pooling": "max"}, "pooling"),
        ({"normalize": "no"}, "normalize"),
        ({"prefix": "query: "}, "prefix"),
    ],
)
def test_what_is_refused(server: LiveServer, body: dict[str, Any], param: str) -> None:
    reply = server.http.post("/v1/embeddings", json={"input": "x", **body})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_a_missing_input_and_another_model(server: LiveServer, client: OpenAI) -> None:
    assert server.http.post("/v1/embeddings", json={}).json()["error"]["code"] == "missing_required_parameter"
    with pytest.raises(openai.NotFoundError):
        vectors(client, model="text-embedding-3-small")


def test_without_an_embedding_model(server: LiveServer) -> None:
    reply = server.http.post("/api/oai/embeds", json={"input": "rwkv"})
    assert reply.status_code == 400
    assert "--embed-model" in reply.json()["error"]["brief"]


# --- the embedding model


@pytest.fixture(scope="module")
def embedding(model_path: Path, embed_folder: Path) -> Iterator[LiveServer]:
    with live_server(settings_for(model_path, embed_model=str(embed_folder))) as live:
        for _ in range(100):
            if live.http.post("/v1/embeds", json={"input": "x"}).status_code != 503:
                break
        yield live


@pytest.fixture(scope="module")
def embedder(embedding: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{embedding.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_the_embedding_model_by_its_name(embedder: OpenAI) -> None:
    texts = ["a small dog", "a little puppy", "the stock market fell"] * 15
    found = vectors(embedder, model="static-256", input=texts)
    assert found.shape == (45, 256)
    assert (found == vectors(embedder, model="static-256", input=texts, encoding_format="float")).all()
    near = found @ found.T
    assert near[0, 1] > near[0, 2] + 0.2
    assert np.allclose(found[:3], found[3:6], atol=1e-6)
    assert vectors(embedder).shape == (3, 64)  # the RWKV model is still there
    few = vectors(embedder, model="static-256", input=texts[:1], dimensions=16)
    assert np.linalg.norm(few[0]) == pytest.approx(1, abs=1e-6)
    prefixed = vectors(embedder, model="static-256", input=["dog"], extra_body={"prefix": "query: "})
    assert np.allclose(prefixed, vectors(embedder, model="static-256", input=["query: dog"]), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [5, 6]}, "input"),
        ({"input": "word " * 600}, "input"),
        ({"dimensions": 257}, "dimensions"),
        ({"layer": 0}, "layer"),
        ({"pooling": "mean"}, "pooling"),
        ({"normalize": False}, "normalize"),
    ],
)
def test_what_the_embedding_model_refuses(embedding: LiveServer, body: dict[str, Any], param: str) -> None:
    reply = embedding.http.post("/v1/embeddings", json={"model": "static-256", "input": "x", **body})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_the_embedding_model_is_listed_and_generates_nothing(embedder: OpenAI) -> None:
    listed = {model.id: model for model in embedder.models.list()}
    assert [*listed] == ["tiny", "static-256"]
    assert embedder.models.retrieve("static-256") == listed["static-256"]
    messages: list[Any] = [{"role": "user", "content": "x"}]
    for generate in (
        lambda: embedder.chat.completions.create(model="static-256", messages=messages),
        lambda: embedder.completions.create(model="static-256", prompt="x"),
        lambda: embedder.responses.create(model="static-256", input="x"),
    ):
        with pytest.raises(openai.BadRequestError, match="static-256 is an embedding model") as refused:
            generate()
        assert refused.value.param == "model"


@pytest.mark.parametrize("path", ["/api/oai/embeds", "/api/oai/v1/embeds", "/v1/embeds"])
def test_chunks_of_a_text(embedding: LiveServer, embedder: OpenAI, path: str) -> None:
    def embeds(**body: Any) -> list[Any]:
        reply = embedding.http.post(path, json=body)
        assert reply.status_code == 200, reply.text
        EmbedsReply.model_validate(reply.json())
        return reply.json()["data"][0]["chunks"]

    (only,) = embeds(input="rwkv")
    assert only["chunk"] == "rwkv"
    want = vectors(embedder, model="static-256", input=["query:rwkv"])
    assert np.allclose(only["embed"], want, atol=1e-6)
    text = "A bird flies over the sea. It sings! " * 30
    chunks = embeds(input=text, max_tokens=20, prefix="passage: ")
    assert "".join("".join(c["chunk"] for c in chunks).split()) == "".join(text.split())
    want = vectors(embedder, model="static-256", input=["passage: " + chunks[2]["chunk"]])
    assert np.allclose(chunks[2]["embed"], want, atol=1e-6)
    assert len(embeds(input="a b", max_tokens=0)) == 2
    for bad in ({"input": ""}, {"input": " \n "}, {}, {"input": ["a"]}):
        refused = embedding.http.post(path, json=bad)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")


def test_a_model_that_cannot_be_loaded(model_path: Path, tmp_path: Path) -> None:
    with live_server(settings_for(model_path, embed_model=str(tmp_path))) as live:
        reply = live.http.post("/api/oai/embeds", json={"input": "rwkv"})
        assert reply.status_code in (501, 503)
        assert live.http.post("/v1/embeddings", json={"input": "rwkv"}).status_code == 200
