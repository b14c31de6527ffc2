"""What a hub's answer says of a file, and what its refusals mean."""

from __future__ import annotations

import email.utils
import hashlib
import re
import time
from dataclasses import dataclass

import httpx

LONGEST_WAIT = 300.0
"""Seconds that a server may ask us to wait before the next try."""

_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class RefusedError(Exception):
    """The hub does not give the file, and asking again will not help; the message says why and what to do."""


class TransientError(Exception):
    """The hub cannot give the file now. ``wait``: seconds that it asks for, if it does."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Facts:
    """What a hub says of a file before it is fetched: its size, its sha256 and a name for this version of it."""

    size: int | None
    sha256: str | None
    etag: str | None

    @property
    def identity(self) -> str:
        """Of this version of the file, short."""
        return (self.sha256 or hashlib.sha256(f"{self.etag} {self.size}".encode()).hexdigest())[:12]


def facts(reply: httpx.Response) -> Facts:
    """From the answer to a request for a range, and from those that redirected to it."""
    linked = [found for each in (*reply.history, reply) if (found := each.headers.get("x-linked-etag"))]
    sha256 = linked[0].removeprefix("W/").strip('"').lower() if linked else ""
    etag = reply.headers.get("etag", "")
    return Facts(size_of(reply), sha256 if _SHA256.fullmatch(sha256) else None, etag or None)


def size_of(reply: httpx.Response) -> int | None:
    """Of the whole file, if the answer tells it."""
    if reply.status_code != httpx.codes.OK:
        found = _RANGE.fullmatch(reply.headers.get("content-range", ""))
        return int(found[2]) if found and found[2] != "*" else None
    length = reply.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def start_of(reply: httpx.Response) -> int:
    """The position in the file at which the answer's bytes begin."""
    if reply.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    found = _RANGE.fullmatch(reply.headers.get("content-range", ""))
    if found is None or found[1] is None:
        raise RefusedError("its answer does not say which part of the file it is: use another mirror")
    return int(found[1])


def check(reply: httpx.Response, *, has_token: bool) -> None:
    """Raise RefusedError or TransientError unless the answer carries bytes of the file."""
    status = reply.status_code
    if status in _TRANSIENT:
        raise TransientError(f"{status} {reply.reason_phrase}", _wait(reply))
    if status in (401, 403):
        if has_token:
            raise RefusedError(f"{status}: the token in HF_TOKEN does not give access; accept the terms on its page")
        raise RefusedError(f"{status}: not public, or not there; put a token that has access into HF_TOKEN")
    if status == 404:
        raise RefusedError("404: there is no such file")
    if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise RefusedError(f"{status} {reply.reason_phrase}")
    if reply.history and reply.history[0].url.scheme == "https" and reply.url.scheme != "https":
        raise RefusedError(f"it redirects to {reply.url.host} without encryption")
    if reply.headers.get("content-type", "").startswith("text/html"):
        raise RefusedError("a Web page came instead of the file: is there a login page or a proxy on the way?")
    if reply.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError("the file came compressed, which cannot be resumed: use another mirror")


def _wait(reply: httpx.Response) -> float | None:
    """Retry-After: seconds or a date."""
    text = reply.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return min(float(text), LONGEST_WAIT)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    return min(max(0.0, moment - time.time()), LONGEST_WAIT)
