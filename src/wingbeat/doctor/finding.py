"""What one look at the machine brought."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Status = Literal["ok", "note", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """``status``: "note" is worth knowing, "problem" keeps the server from running. ``fix`` says what to do, in one
    line; ``details`` hold the figures behind ``text``. Nothing here may be secret: it ends up in bug reports."""

    about: str
    text: str
    status: Status = "ok"
    fix: str | None = None
    details: dict[str, Any] = {}


def gigabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
