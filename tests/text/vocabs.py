"""Small World-format vocabulary files for the tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SINGLE_BYTES = {byte + 1: bytes([byte]) for byte in range(256)}


def literal(token: bytes) -> str:
    """The Python literal the published file would hold: a str where the bytes are valid UTF-8."""
    try:
        return repr(token.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(token)


def write_vocab(path: Path, tokens: dict[int, bytes], *, newline: str = "\n") -> Path:
    """A vocabulary file of exactly these tokens."""
    lines = [f"{token_id} {literal(token)} {len(token)}{newline}" for token_id, token in tokens.items()]
    path.write_bytes("".join(lines).encode("utf-8"))
    return path


def with_bytes(extra: Iterable[bytes], *, first_id: int = 257, step: int = 1) -> dict[int, bytes]:
    """The 256 single bytes and more tokens from `first_id` on."""
    return SINGLE_BYTES | {first_id + i * step: token for i, token in enumerate(extra)}
