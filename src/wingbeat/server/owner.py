"""Whose something that is kept is: a key sees only what it has made itself."""

from __future__ import annotations

from wingbeat.server.tracking import current_request

DIGITS = 16
"""Of the key's digest: enough to tell keys apart."""


def owner() -> str:
    """Of what the request that this code runs for makes and sees; empty on a server without keys."""
    record = current_request()
    return "" if record is None or record.key is None else record.key.digest.hex()[:DIGITS]
