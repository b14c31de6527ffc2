"""A key that comes as a field of a JSON body: found without taking the body away from those who read it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Message, Receive


class Peeked(msgspec.Struct):
    """What of a body is looked at before it is known who sent it."""

    password: Any = None
    contents: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def has_contents(self) -> bool:
        """Whether it is a batch of rwkv_lightning's."""
        return bytes(self.contents) != b"null"


_decode = msgspec.json.Decoder(Peeked).decode
_BOM = b"\xef\xbb\xbf"


async def peek(receive: Receive, most: int) -> tuple[Peeked, Receive]:
    """What the body of a request holds, and a `receive` that gives its messages again.

    Of a body of more than `most` bytes no more is read, and nothing is looked for.
    """
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body") or size > most:
            break
    waiting = iter(messages)

    async def again() -> Message:
        message = next(waiting, None)
        return await receive() if message is None else message

    body = b"" if size > most else b"".join(message.get("body", b"") for message in messages)
    return _peeked(body), again


def _peeked(body: bytes) -> Peeked:
    try:
        return _decode(body.removeprefix(_BOM))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Peeked()
