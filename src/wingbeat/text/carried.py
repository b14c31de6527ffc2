r"""A vocabulary that a model's file carries in llama.cpp's form: World tokens as text, by id.

The bytes of a token are written as UTF-8 with `\n`, `\r`, `\t` and `\xHH`; a backslash before any other character
stands for that character. Id 0 is the end of text; rows without a token are called `[PAD65530]` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_PADDING = re.compile(rb"\[PAD\d+\]")
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def carried_tokens(texts: Iterable[bytes]) -> dict[int, bytes]:
    """Token ids to the tokens' bytes, of all that have some."""
    tokens = {token_id: _ESCAPE.sub(_unescaped, text) for token_id, text in enumerate(texts) if token_id}
    return {token_id: token for token_id, token in tokens.items() if token and not _PADDING.fullmatch(token)}


def _unescaped(found: re.Match[bytes]) -> bytes:
    escape = found[1]
    return bytes((int(escape[1:], 16),)) if len(escape) == 3 else _LETTERS.get(escape, escape)
