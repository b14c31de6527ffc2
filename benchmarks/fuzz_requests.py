"""The requests that `fuzz.py` sends: each is made from the seed and its number alone, so that it can be sent again.

Bodies grow from the schemas of the server's own OpenAPI document: a request that would be answered, in which a few
values were exchanged for odd ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HOST = b"127.0.0.1"
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "FOO"]
FEW_TOKENS = 64

PLACEHOLDER = "@@raw {}@@"
RAW_JSON = ["1e400", "-1e400", "NaN", "-Infinity", "0123", "+1", "0x10", "1_000", ".5", "1.", "'x'", "undefined", "tru"]
RAW_JSON += [
    "1" * 5000,
    "1e99999999999999999999",
    "-0",
    "1E2",
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\x41"',
    '"\t"',
    '"\\u12"',
]
TEXTS = [
    "",
    " ",
    "x",
    "\0",
    "\n\n",
    "\ufeff",
    "\u202e",
    "é" * 50,
    "世界",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "e" + "\u0301" * 90,
]
TEXTS += [
    "a" * 1001,
    "../../etc/passwd",
    "%s%n{0}",
    "<|endoftext|>",
    "[DONE]",
    "data: [DONE]\n\n",
    "\r\nX: y",
    "User:",
    "-1",
]
NUMBERS = [0, 1, -1, 2, 127, 129, 4097, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30, 0.5, -0.0, 1e-320, 1e308]

VALID_BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "wing", "max_tokens": 3}),
    ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 2, "logprobs": 2, "seed": 5}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 4, "n": 2, "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}),
    ("/openai/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}),
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 3}),
]


@dataclass
class Attempt:
    """What one connection does: the bytes it sends, and what may come of it."""

    index: int
    kind: str
    sent: bytes
    replies: int = 1
    bodiless: bool = False  # HEAD
    valid: bool = False  # must be answered with 200
    incomplete: bool = False  # no answer is owed: the client leaves
    endless: bool = False  # may generate for a long time


class Requests:
    """Attempts of one seed against the routes of an OpenAPI document."""

    def __init__(self, document: Mapping[str, Any], seed: int) -> None:
        self._schemas = document["components"]["schemas"]
        self._routes = [
            (path, method.upper(), _body_schema(operation))
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]
        self._seed = seed
        self._kinds: list[tuple[Callable[[random.Random], Attempt], int]] = [
            (self._valid, 8),
            (self._odd_fields, 40),
            (self._broken_json, 14),
            (self._odd_shape, 8),
            (self._route, 8),
            (self._headers, 8),
            (self._no_http, 5),
            (self._cut_short, 5),
            (self._pipelined, 4),
        ]

    def make(self, index: int) -> Attempt:
        rng = random.Random(f"{self._seed}:{index}")
        (make,) = rng.choices([make for make, _ in self._kinds], [weight for _, weight in self._kinds])
        attempt = make(rng)
        attempt.index, attempt.kind = index, attempt.kind or make.__name__.strip("_")
        return attempt

    # --- kinds of attempts --------------------------------------------------------------------------------------------

    def _valid(self, rng: random.Random) -> Attempt:
        path, body = rng.choice(VALID_BODIES)
        return Attempt(0, "", head("POST", path, json.dumps(body).encode()), valid=True)

    def _odd_fields(self, rng: random.Random) -> Attempt:
        path, method, schema = rng.choice([route for route in self._routes if route[2]])
        value = self._value(schema, rng)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _exchange(value, rng)
        return _with_body(method, path, _dump(value, rng))

    def _broken_json(self, rng: random.Random) -> Attempt:
        path, method, schema = rng.choice([route for route in self._routes if route[2]])
        body = bytearray(_dump(self._value(schema, rng), rng))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(body) + 1)
            match rng.randrange(5):
                case 0:
                    del body[at:]
                case 1:
                    del body[at : at + rng.randrange(1, 5)]
                case 2:
                    body[at:at] = rng.choice((b"{", b"[", b"]", b"}", b",", b'"', b"\\", b"null", b"\0", b"\xff\xfe"))
                case 3:
                    body[at:at] = rng.randbytes(rng.randrange(1, 5))
                case _:
                    body[at : at + 1] = rng.randbytes(1)
        return _with_body(method, path, bytes(body))

    def _odd_shape(self, rng: random.Random) -> Attempt:
        path, method, _ = rng.choice([route for route in self._routes if route[2]])
        levels, size = rng.choice((3, 63, 64, 65, 250, 20_000)), rng.choice((100, 5_000, 60_000, 700_000))
        big = rng.random() < 0.01
        body = rng.choice(
            [
                b"", b" ", b"null", b"[]", b"0", b'"x"', b"{}", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"{}{}",
                b"[" * levels + b"]" * levels,
                b'{"prompt": ' + b"[" * levels + b"]" * levels + b"}",
                b'{"messages": ' + b'[{"content":' * levels + b"0" + b"}]" * levels + b"}",
                b"[" * levels,
                b'{"input": [' + b",".join([b"[[]]"] * (size // 10)) + b"]}",
                b'{"prompt": "' + b"wing " * (size // 5) + b'", "max_tokens": 1}',
                b'{"prompt": "' + "世".encode() * (size // 3) + b'", "max_tokens": 1}',
                b'{"prompt": [' + b"5," * (size // 2) + b'5], "max_tokens": 1}',
                b'{"messages": [' + b",".join([b'{"role":"user","content":""}'] * (size // 30)) + b'], "n": 1}',
                b'{"prompt": "x", "max_tokens": 1' + b', "a": 1' * (size // 8) + b"}",
            ]
        )  # fmt: skip
        if big:
            body = b'{"prompt": "' + b"x" * rng.choice((5_000_000, 33_600_000)) + b'", "max_tokens": 1}'
        return _with_body(method, path, body)

    def _route(self, rng: random.Random) -> Attempt:
        path = rng.choice(
            [route[0] for route in self._routes] + ["/", "/docs", "/openapi.json", "/health", "/docs/assets/x"]
        )
        path = path.replace("{", "").replace("}", "")
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = rng.randrange(1, len(path) + 1)
            odd = (
                "/",
                "//",
                "..",
                "%2e%2e/",
                "%00",
                "%",
                "%ff",
                "?",
                "?a=%",
                "#",
                "é",
                " ",
                "x" * 9000,
                "\t",
                ";",
                "\\",
                "*",
            )
            path = path[:at] + rng.choice(odd) + path[at:]
        method = rng.choice(METHODS)
        attempt = _with_body(method, path, rng.choice((b"", b"", b"{}", b'{"prompt": "x", "max_tokens": 1}')))
        attempt.bodiless = method == "HEAD"
        return attempt

    def _headers(self, rng: random.Random) -> Attempt:
        path, body = rng.choice(VALID_BODIES)
        raw = json.dumps(body).encode()
        lines = [
            b"%s: %s" % (name, rng.choice(values)) for name, values in rng.sample(ODD_HEADERS, rng.choice((1, 1, 2, 4)))
        ]
        if rng.random() < 0.1:
            lines += [b"X-%d: y" % index for index in range(rng.choice((50, 99, 150, 3000)))]
        sent = head(rng.choice(["POST", "POST", "OPTIONS"]), path, raw, *lines)
        return Attempt(0, "", sent)

    def _no_http(self, rng: random.Random) -> Attempt:
        sent = bytearray(head("POST", "/v1/completions", b'{"prompt": "x", "max_tokens": 1}'))
        end = sent.index(b"\r\n\r\n")
        for _ in range(rng.choice((1, 2, 5))):
            at = rng.randrange(end)
            sent[at : at + rng.randrange(3)] = rng.choice((rng.randbytes(2), b"\r", b"\n", b"\0", b" ", b":", b"\r\n"))
        framing = (b"Content-Length: 9\r\nContent-Length: 9", b"Transfer-Encoding: chunked\r\nContent-Length: 5",
                   b"Transfer-Encoding: gzip, chunked", b"Content-Length: -1", b"Content-Length: 1e3")  # fmt: skip
        chunks = (
            b"5\r\nhello\r\n0\r\n\r\n",
            b"-1\r\n",
            b"fffffffffffffffff\r\n",
            b"5\r\nhelloworld",
            b"0\r\nX: y\r\n\r\n",
        )
        other = rng.choice(
            [
                rng.randbytes(rng.randrange(1, 200)),
                b"\x16\x03\x01\x02\x00\x01",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                + rng.choice(framing)
                + b"\r\n\r\n"
                + rng.choice(chunks),
                b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + rng.choice(chunks),
            ]
        )
        return Attempt(0, "", rng.choice((bytes(sent), other)), incomplete=True)

    def _cut_short(self, rng: random.Random) -> Attempt:
        path, body = rng.choice(VALID_BODIES)
        body = {**body, "max_tokens": 1_000_000, "max_output_tokens": 1_000_000, "ignore_eos": True}
        sent = head("POST", path, json.dumps({**body, "stream": rng.random() < 0.7}).encode())
        return Attempt(0, "", sent[: rng.choice((rng.randrange(1, len(sent)), len(sent)))], incomplete=True)

    def _pipelined(self, rng: random.Random) -> Attempt:
        makers = (self._valid, self._odd_fields, self._broken_json)
        parts = [rng.choice(makers)(rng) for _ in range(rng.randrange(2, 6))]
        sent = b"".join(part.sent for part in parts)
        return Attempt(0, "", sent, replies=len(parts), endless=any(part.endless for part in parts))

    # --- bodies -------------------------------------------------------------------------------------------------------

    def _value(self, schema: Mapping[str, Any], rng: random.Random, depth: int = 0) -> Any:
        """A value that fits, mostly: all that is required and some of what is not, with few tokens to generate."""
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rsplit("/", 1)[-1]], rng, depth)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._value(rng.choice(schema[key]), rng, depth)
        if "const" in schema or "enum" in schema:
            return rng.choice(schema.get("enum") or [schema["const"]])
        match schema.get("type"):
            case "object":
                return self._object(schema, rng, depth)
            case "array":
                count = max(schema.get("minItems", 0), rng.randrange(3)) if depth < 6 else 0
                return [self._value(schema.get("items", {}), rng, depth + 1) for _ in range(count)]
            case "string":
                return rng.choice(("wing", "Hello", "auto", "user", "text", rng.choice(TEXTS)))
            case "integer" | "number":
                return _number(schema, rng)
            case "boolean":
                return rng.random() < 0.5
        return rng.choice((None, None, 1, "x", [], {}))

    def _object(self, schema: Mapping[str, Any], rng: random.Random, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        chosen = {
            name: self._value(inner, rng, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or (rng.random() < 0.15 and depth < 6)
        }
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if name in schema.get("properties", {}):
                chosen[name] = rng.choice((1, 2, 3))
        return chosen


ODD_HEADERS: list[tuple[bytes, list[bytes]]] = [
    (
        b"Content-Type",
        [b"text/plain", b"multipart/form-data; boundary=x", b"application/json; charset=utf-16", b"\xff", b""],
    ),
    (b"Content-Encoding", [b"gzip", b"identity", b"br, gzip", b"\xff"]),
    (
        b"Authorization",
        [b"Bearer", b"Bearer x", b"Basic eDp5", b"\xff\xfe", b"Bearer " + b"x" * 9000, b"Bearer \xc3\xa9"],
    ),
    (b"Expect", [b"100-continue", b"200-ok"]),
    (b"Connection", [b"close", b"upgrade", b"keep-alive, Upgrade", b"x" * 300]),
    (b"Upgrade", [b"websocket", b"h2c", b"TLS/1.0"]),
    (b"Host", [b"", b"[", b"[::1", b"a b", b"x:99999999", b"\xff", b"x/y?z#", b"@"]),
    (b"X-Request-Id", [b"", b"x" * 5000, b"\xff", b"a\tb", b"{}", b"%0d%0a"]),
    (b"Origin", [b"null", b"http://evil.test", b"\xff"]),
    (b"Access-Control-Request-Method", [b"POST", b"FOO", b""]),
    (b"Access-Control-Request-Headers", [b"x-a", b"\xff", b"a, " * 500]),
    (b"Accept", [b"text/event-stream", b"image/png", b"\xff"]),
    (b"Cookie", [b"a=b; " * 1000, b"\xff"]),
    (b"Range", [b"bytes=0-0", b"bytes=5-1", b"x"]),
    (b"X-Forwarded-For", [b"\xff", b"::1, x", b"1.2.3.4" * 100]),
    (b"Transfer-Encoding", [b"gzip", b"identity", b"chunked"]),
    (b"Content-Length", [b"3", b"x"]),
    (b"X", [b"y" * 60_000, b"y" * 70_000, b"\x01"]),
]


def head(method: str, path: str, body: bytes, *lines: bytes) -> bytes:
    """A whole request."""
    first = b"%s %s HTTP/1.1" % (method.encode(), path.encode())
    return b"\r\n".join([first, b"Host: " + HOST, b"Content-Length: %d" % len(body), *lines, b"", b""]) + body


def _with_body(method: str, path: str, body: bytes) -> Attempt:
    return Attempt(0, "", head(method, path, body), endless=_may_be_endless(path, body))


def _may_be_endless(path: str, body: bytes) -> bool:
    """Whether a body that the server may take asks for many tokens, or leaves their number to the model."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict):
        return False
    limits = [fields[name] for name in ("max_tokens", "max_completion_tokens", "max_output_tokens") if name in fields]
    few = [limit for limit in limits if isinstance(limit, int | float) and 0 <= limit <= FEW_TOKENS]
    return len(few) < max(1, len(limits)) or len(body) > 50_000


def _body_schema(operation: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return operation["requestBody"]["content"]["application/json"]["schema"]
    except KeyError:
        return None


def _number(schema: Mapping[str, Any], rng: random.Random) -> float:
    low, high = schema.get("minimum", 0), min(schema.get("maximum", 3), 3)
    value = rng.choice((low, high, rng.uniform(low, high)))
    return int(value) if schema.get("type") == "integer" else value


def _odd(rng: random.Random) -> Any:
    return rng.choice(
        (
            None, True, False, [], {}, [None], {"": None}, {"a": {"b": []}}, ["x"] * 20, [[[]]],
            rng.choice(NUMBERS), rng.choice(NUMBERS), [rng.choice(NUMBERS)], {str(rng.choice(NUMBERS)): 1},
            rng.choice(TEXTS), rng.choice(TEXTS), [rng.choice(TEXTS)], {rng.choice(TEXTS): rng.choice(TEXTS)},
            PLACEHOLDER.format(rng.randrange(len(RAW_JSON))), "x" * rng.choice((2_000, 50_000)),
        )
    )  # fmt: skip


def _exchange(value: Any, rng: random.Random) -> None:
    """Put an odd value at a random place inside of `value`, or an odd field beside it."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        inner = value[key]
        if not (isinstance(inner, dict | list) and inner) or rng.random() < 0.5:
            if isinstance(value, dict) and rng.random() < 0.05:
                value[rng.choice(TEXTS)] = value.pop(key)
            else:
                value[key] = _odd(rng)
            return
        value = inner


def _dump(value: Any, rng: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for number, raw in enumerate(RAW_JSON):
        text = text.replace(json.dumps(PLACEHOLDER.format(number)), raw)
    return text.encode("utf-8", "surrogatepass")
