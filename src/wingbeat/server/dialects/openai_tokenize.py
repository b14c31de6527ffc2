"""POST /tokenize and /detokenize, GET /tokenizer_info: texts to token ids and back, as the model would see them.

The end of text is a token that has no text. By its name alone, `<|endoftext|>`, it can be asked for; inside a text that
name is a text like any other, so that nobody's text ends a document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from wingbeat.server.body import read_model, run_sized
from wingbeat.server.dialects.openai_answer import encode
from wingbeat.server.dialects.openai_chat import spoken
from wingbeat.server.dialects.openai_replies import ERRORS
from wingbeat.server.dialects.openai_tokenize_schema import (
    ContentTokens,
    DetokenizeBody,
    DetokenizeReply,
    TokenizeBody,
    TokenizeReply,
    TokenizerInfo,
)
from wingbeat.server.dialects.openai_tokens import token_text
from wingbeat.server.errors import bad_request
from wingbeat.server.openapi import body_of
from wingbeat.server.registry import ModelRegistry, ServedModel
from wingbeat.text.tokenizer import END_OF_TEXT_NAME, Tokenizer

SCHEMAS = (TokenizeBody, DetokenizeBody)
"""Models that the OpenAPI document needs beside those that FastAPI finds by itself."""

_ERRORS: dict[int | str, dict[str, Any]] = {code: ERRORS[code] for code in (400, 401, 404, 413, 415, 503)}


def tokenize_router(registry: ModelRegistry, max_body: int) -> APIRouter:
    """The routes, without a prefix. Bodies over `max_body` bytes are refused."""
    router = APIRouter(tags=["Tokens"])

    @router.post(
        "/tokenize",
        response_model=TokenizeReply | ContentTokens,
        responses=_ERRORS,
        openapi_extra=body_of(TokenizeBody),
    )
    async def tokenize(request: Request) -> Response:
        """The token ids of a text or a conversation."""
        body = await read_model(request, TokenizeBody, max_body)
        body.check()
        model, tokenizer = _ready(registry, body.model)
        if body.messages:
            model.check_chats()
        if body.content is not None:
            ids = [part for part in body.content if isinstance(part, int)]
            model.check_tokens(ids, "content")
        return await _rendered(_size(body), lambda: _tokenized(body, model, tokenizer))

    @router.post(
        "/detokenize", response_model=DetokenizeReply, responses=_ERRORS, openapi_extra=body_of(DetokenizeBody)
    )
    async def detokenize(request: Request) -> Response:
        """The text of token ids. Bytes that are no UTF-8 become U+FFFD."""
        body = await read_model(request, DetokenizeBody, max_body)
        model, tokenizer = _ready(registry, body.model)
        _check_count(body.tokens, model, "tokens")
        model.check_tokens(body.tokens, "tokens")
        return await _rendered(len(body.tokens), lambda: _detokenized(body.tokens, tokenizer))

    @router.get(
        "/tokenizer_info",
        response_model=TokenizerInfo,
        responses={code: ERRORS[code] for code in (400, 401, 503)},
    )
    async def tokenizer_info() -> Response:
        """What clients want to know before they tokenise."""
        model, tokenizer = _ready(registry, None)
        info = {
            "tokenizer_class": type(tokenizer).__name__,
            "vocab_size": model.vocab_size,
            "model_max_length": model.max_prompt_tokens,
            "bos_token": None,
            "eos_token": END_OF_TEXT_NAME,
            "pad_token": None,
            "unk_token": None,
        }
        return Response(encode(info), media_type="application/json")

    return router


def _ready(registry: ModelRegistry, name: str | None) -> tuple[ServedModel, Tokenizer]:
    model = registry.find(name or None)
    model.check_ready()
    if model.tokenizer is None:
        raise bad_request(f"The model {model.name} has no tokenizer.", "model")
    return model, model.tokenizer


def _check_count(ids: Sequence[int], model: ServedModel, param: str) -> None:
    """Raises ApiError (400) for more tokens than a request may have: replies about many millions fill the memory."""
    if len(ids) > model.max_prompt_tokens:
        message = f"{param}: {len(ids)} tokens, and a request may have {model.max_prompt_tokens}. Send it in parts."
        raise bad_request(message, param, "context_length_exceeded")


def _size(body: TokenizeBody) -> int:
    texts = [part for part in body.content or () if isinstance(part, str)]
    texts += [message.text for message in body.messages or ()]
    return sum(map(len, texts)) + len(body.prompt or "") + len(body.content or "")


async def _rendered(size: int, work: Callable[[], dict[str, Any]]) -> Response:
    reply = await run_sized(size, lambda: encode(work()))
    return Response(reply, media_type="application/json")


def _tokenized(body: TokenizeBody, model: ServedModel, tokenizer: Tokenizer) -> dict[str, Any]:
    if body.content is not None:
        ids = [token for part in body.content for token in _ids(part, tokenizer)]
        _check_count(ids, model, "content")
        return {"tokens": [_piece(token, tokenizer) for token in ids] if body.with_pieces else ids}
    ids = _conversation(body, model, tokenizer) if body.messages else _prompt(body.prompt or "", tokenizer)
    _check_count(ids, model, "messages" if body.messages else "prompt")
    strings = [_name(token, tokenizer) for token in ids] if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": model.max_prompt_tokens, "tokens": ids, "token_strs": strings}


def _ids(part: str | int, tokenizer: Tokenizer) -> list[int]:
    if isinstance(part, int):
        return [part]
    return [tokenizer.end_of_text] if part == END_OF_TEXT_NAME else tokenizer.encode(part)


def _prompt(text: str, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.end_of_text] if text == END_OF_TEXT_NAME else tokenizer.encode_segments([text])


def _conversation(body: TokenizeBody, model: ServedModel, tokenizer: Tokenizer) -> list[int]:
    turns_only = body.add_generation_prompt is False and not body.continue_final_message
    messages, template, tools = spoken(body.messages or ()), model.profile.chat_template(), body.offered
    if tools is not None:
        messages = template.with_tools(messages, template.told_of(tools.told, tools.prompt))
    if not turns_only and body.thinking is not False:
        messages = template.hinted(messages, body.reasoning_effort)
    segments = model.profile.render(
        messages,
        thinking=None if turns_only else body.thinking,
        continue_final=bool(body.continue_final_message),
    )
    if tools is not None and tools.required and not turns_only:
        segments = template.closed(segments)
    # Without an answer begun, the label of the one who would answer is the last segment.
    return tokenizer.encode_segments(segments[:-1] if turns_only else segments)


def _name(token: int, tokenizer: Tokenizer) -> str:
    return END_OF_TEXT_NAME if token == tokenizer.end_of_text else token_text(tokenizer.token_bytes(token))


def _piece(token: int, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    try:
        return {"id": token, "piece": END_OF_TEXT_NAME if token == tokenizer.end_of_text else data.decode()}
    except UnicodeDecodeError:
        return {"id": token, "piece": list(data)}


def _detokenized(tokens: Sequence[int], tokenizer: Tokenizer) -> dict[str, str]:
    named = END_OF_TEXT_NAME.encode()
    data = b"".join(named if token == tokenizer.end_of_text else tokenizer.token_bytes(token) for token in tokens)
    text = data.decode("utf-8", "replace")
    return {"prompt": text, "content": text}
