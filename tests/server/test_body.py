"""Bodies within their limits: levels, containers, encodings."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.requests import Request

from wingbeat.server import body
from wingbeat.server.body import check_shape, read_model
from wingbeat.server.errors import ApiError


class Anything(BaseModel):
    a: Any = None


async def read(raw: bytes, *headers: tuple[bytes, bytes], limit: int = 10_000_000) -> Any:
    pieces = [raw[: len(raw) // 2], raw[len(raw) // 2 :]]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    return (await read_model(Request(scope, receive), Anything, limit)).a


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


TEXTS = st.text(st.sampled_from('[]{}"\\,:a世\n'), max_size=12)
VALUES = st.recursive(
    TEXTS | st.integers(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
)


@given(value=VALUES, most=st.integers(1, 4), spaced=st.booleans(), ascii_only=st.booleans())
def test_levels_are_counted_outside_of_texts(value: Any, most: int, spaced: bool, ascii_only: bool) -> None:
    raw = json.dumps(value, indent=1 if spaced else None, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "MAX_DEPTH", most)
        if depth(value) <= most:
            check_shape(raw)
        else:
            with pytest.raises(ApiError, match=f"more than {most} levels"):
                check_shape(raw)


async def test_levels_and_containers_have_limits() -> None:
    most = body.MAX_DEPTH - 1  # besides the outer object
    assert await read(b'{"a": ' + b"[" * most + b"]" * most + b"}") is not None
    with pytest.raises(ApiError, match="levels"):
        await read(b'{"a": ' + b"[" * (most + 1) + b"]" * (most + 1) + b"}")
    many = b'{"a": [' + b"{}," * (body.MAX_CONTAINERS - 3)
    assert len(await read(many + b"{}]}")) == body.MAX_CONTAINERS - 2
    with pytest.raises(ApiError, match="arrays and objects"):
        await read(many + b"{},{}]}")


@pytest.mark.parametrize("limit", ["MAX_FIELDS", "MAX_VALUES"])
async def test_fields_and_values_have_limits(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(body, limit, 4)
    text = ':,"' * 9
    fits = {"a": text, "b": 1, "c": text, "d": 2}
    assert await read(json.dumps(fits).encode()) == text
    with pytest.raises(ApiError, match="more than 4"):
        await read(json.dumps({**fits, "e": 1}).encode())


async def test_very_many_texts_are_refused_before_they_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_VALUES", 4)
    monkeypatch.setattr(body, "MAX_FIELDS", 0)
    with pytest.raises(ApiError, match="more than 4 values"):
        await read(b'{"a": [' + b'"",' * 20 + b'""]}')


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"[]" * 100_000, b"{" * 70, b'{"a": "' + b"[" * 70, b"]" * 70 + b"["])
async def test_brackets_without_sense_are_no_json(raw: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        await read(raw)
    assert refused.value.status == 400


async def test_brackets_in_texts_are_no_levels() -> None:
    text = '[{"\\' * 1000
    assert await read(json.dumps({"a": text}).encode()) == text


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"deflate, gzip", b"\xff"])
async def test_compressed_bodies_are_refused_by_name(encoding: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        await read(gzip.compress(b"{}"), (b"content-encoding", encoding))
    assert (refused.value.status, refused.value.code) == (415, "unsupported_content_encoding")
    assert repr(encoding.decode("latin-1")) in refused.value.message


@pytest.mark.parametrize("encoding", [b"identity", b"Identity", b""])
async def test_identity_is_no_compression(encoding: bytes) -> None:
    assert await read(b'{"a": 1}', (b"content-encoding", encoding)) == 1


async def test_a_byte_order_mark_is_passed_over() -> None:
    assert await read(b'\xef\xbb\xbf{"a": 1}') == 1


@pytest.mark.parametrize(
    "raw", [b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}', '{"a": 1}'.encode("utf-16"), b'{"a": "\\ud800"}']
)
async def test_what_is_not_utf_8_is_refused(raw: bytes) -> None:
    with pytest.raises(ApiError, match="not valid JSON"):
        await read(raw)
