"""Token lists as llama.cpp writes them into GGUF files."""

from __future__ import annotations

from collections.abc import Mapping


def written(tokens: Mapping[int, bytes], rows: int) -> list[bytes]:
    """The tokens as the converter writes them: valid UTF-8 as it is but for escapes, other bytes as `\\xHH`."""
    return [b"<s>", *(_written(tokens[i]) if i in tokens else f"[PAD{i}]".encode() for i in range(1, rows))]


def _written(token: bytes) -> bytes:
    return repr(token)[2:-1].encode()
