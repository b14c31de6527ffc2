"""POST /v1/embeddings: vectors of texts, from the RWKV model or from the embedding model beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.engine.messages import Embed
from wingbeat.reading import Vector, embedding_request, layer_of, shaped, vector_in
from wingbeat.server.body import read_model, run_sized
from wingbeat.server.dialects.openai_answer import encode
from wingbeat.server.dialects.openai_embeddings_schema import EmbeddingsBody, EmbeddingsReply
from wingbeat.server.dialects.openai_replies import EMBED_ERRORS
from wingbeat.server.embed_errors import embed_errors
from wingbeat.server.errors import bad_request
from wingbeat.server.openapi import body_of
from wingbeat.server.reading import read_rows
from wingbeat.server.registry import ModelRegistry, Prompt, ServedModel
from wingbeat.server.starts import Starts
from wingbeat.server.streaming import unless_gone
from wingbeat.services.embedder import Embedder
from wingbeat.services.text_model import MAX_TOKENS

SCHEMAS = (EmbeddingsBody,)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""

OF_RWKV = ("layer", "pooling")


def embeddings_router(registry: ModelRegistry, starts: Starts, max_body: int) -> APIRouter:
    """The route, without its prefix. Bodies over `max_body` bytes are refused."""
    router, embedder = APIRouter(tags=["Embeddings"]), registry.embedder

    @router.post(
        "/embeddings", response_model=EmbeddingsReply, responses=EMBED_ERRORS, openapi_extra=body_of(EmbeddingsBody)
    )
    async def embed(request: Request) -> Response:
        """Vectors of one or several texts."""
        body = await read_model(request, EmbeddingsBody, max_body)
        if embedder is not None and body.model == embedder.name:
            name = embedder.name
            vectors, tokens = await unless_gone(request, _by_embedder(body, embedder))
        else:
            model = _rwkv(registry, body)
            name = model.name
            vectors, tokens = await _by_rwkv(request, body, model, starts)
        reply = await run_sized(sum(map(len, vectors)), _reply, body, name, vectors, tokens)
        return Response(reply, media_type="application/json")

    return router


def _rwkv(registry: ModelRegistry, body: EmbeddingsBody) -> ServedModel:
    model = registry.find(body.model or None)
    model.check_ready()
    if body.prefix:
        raise bad_request("prefix: only for the embedding model; put it into the input.", "prefix")
    _check_dimensions(body, model.info["width"])
    return model


async def _by_rwkv(
    request: Request, body: EmbeddingsBody, model: ServedModel, starts: Starts
) -> tuple[Sequence[Vector], int]:
    try:
        layer = layer_of(body.layer, model.info["layers"])
    except ValueError as error:
        raise bad_request(f"{error}.", "layer") from None
    prompts: list[Prompt] = [(text,) if isinstance(text, str) else text for text in body.input]
    encoded = await model.encode(prompts, "input")
    wanted = embedding_request(encoded.fingerprint, encoded, Embed(layer, body.pooling or "mean"))
    tokens = sum(map(len, encoded))
    generation = model.read(wanted, await starts.find(None, model), tokens, "input")
    rows = await read_rows(request, generation, model)
    return [shaped(vector_in(row), body.dimensions, normalize=body.normalize is not False) for row in rows], tokens


async def _by_embedder(body: EmbeddingsBody, embedder: Embedder) -> tuple[Sequence[Vector], int]:
    for field in OF_RWKV:
        if getattr(body, field) is not None:
            raise bad_request(f"{field}: only for the RWKV model.", field)
    if body.normalize is False:
        raise bad_request("normalize: vectors of this model have length 1.", "normalize")
    texts = [text for text in body.input if isinstance(text, str)]
    if len(texts) < len(body.input):
        raise bad_request("input: this model takes texts; its token ids are none of the RWKV model's.", "input")
    with embed_errors():
        _check_dimensions(body, embedder.width())
        ids = await embedder.tokens([(body.prefix or "") + text for text in texts])
        for place, tokens in enumerate(ids):
            if len(tokens) > MAX_TOKENS:
                message = f"input: text {place} has {len(tokens)} tokens, and this model reads {MAX_TOKENS}."
                raise bad_request(f"{message} Split it, as POST /v1/embeds does.", "input", "context_length_exceeded")
        vectors = await embedder.embed(ids)
    return [shaped(vector, body.dimensions, normalize=True) for vector in vectors], sum(map(len, ids))


def _check_dimensions(body: EmbeddingsBody, width: int) -> None:
    if body.dimensions is not None and body.dimensions > width:
        raise bad_request(f"dimensions: must be at most {width}, the model's width.", "dimensions")


def _reply(body: EmbeddingsBody, name: str, vectors: Sequence[Vector], tokens: int) -> bytes:
    def shown(vector: Vector) -> Any:
        if body.encoding_format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return vector.tolist()

    data = [{"object": "embedding", "index": i, "embedding": shown(vector)} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return encode({"object": "list", "model": name, "data": data, "usage": usage})
