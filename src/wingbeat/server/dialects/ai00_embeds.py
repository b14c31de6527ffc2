"""Ai00's POST /api/oai/embeds: a text in chunks, each with its vector, from the embedding model."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, field_validator
from starlette.responses import Response

from wingbeat.server.body import read_model, run_sized
from wingbeat.server.dialects.openai_answer import encode
from wingbeat.server.dialects.openai_replies import EMBED_ERRORS, Exact
from wingbeat.server.dialects.openai_schema import example, whole_numbers
from wingbeat.server.embed_errors import embed_errors
from wingbeat.server.errors import bad_request
from wingbeat.server.openapi import body_of
from wingbeat.server.streaming import unless_gone
from wingbeat.services.embedder import Chunk, Embedder

MAX_TOKENS = 510
PREFIX = "query:"


class EmbedsBody(BaseModel):
    """A text to be split and embedded."""

    model_config = example({"input": "The sky is blue.", "prefix": "passage: "})

    input: str = Field(min_length=1, description="The text.")
    max_tokens: int | None = Field(None, description="Tokens of a chunk; out of 1 to 510 the nearest counts.")
    prefix: str | None = Field(None, max_length=1000, description="Put directly before each chunk. Default `query:`.")

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        return whole_numbers(value)


class EmbeddedChunk(Exact):
    chunk: str
    """Without the prefix."""
    embed: list[list[float]]
    """Exactly one vector."""


class EmbeddedText(Exact):
    object: Literal["embed"]
    index: int
    chunks: list[EmbeddedChunk]


class EmbedsReply(Exact):
    object: Literal["embeds"]
    model: str
    data: list[EmbeddedText]


SCHEMAS = (EmbedsBody,)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""


def embeds_router(embedder: Embedder | None, max_body: int) -> APIRouter:
    """The route, without its prefix. Bodies over `max_body` bytes are refused."""
    router = APIRouter(tags=["Embeddings"])

    @router.post("/embeds", response_model=EmbedsReply, responses=EMBED_ERRORS, openapi_extra=body_of(EmbedsBody))
    async def embeds(request: Request) -> Response:
        """Split a text, and give a vector of each piece."""
        body = await read_model(request, EmbedsBody, max_body)
        if embedder is None:
            message = "This server has no embedding model: start it with --embed-model. POST /v1/embeddings has vectors"
            raise bad_request(f"{message} of the RWKV model.", "model", "no_embedding_model")
        most = MAX_TOKENS if body.max_tokens is None else min(max(body.max_tokens, 1), MAX_TOKENS)
        prefix = PREFIX if body.prefix is None else body.prefix
        with embed_errors():
            chunks = await unless_gone(request, embedder.chunks(body.input, most, prefix))
        if not chunks:
            raise bad_request("input: there is nothing but white space.", "input")
        reply = await run_sized(len(chunks) * 1000, _reply, embedder.name, chunks)
        return Response(reply, media_type="application/json")

    return router


def _reply(name: str, chunks: list[Chunk]) -> bytes:
    parts = [{"chunk": chunk.text, "embed": [chunk.vector.tolist()]} for chunk in chunks]
    data = [{"object": "embed", "index": 0, "chunks": parts}]
    return encode({"object": "embeds", "model": name, "data": data})
