"""What a person at the terminal sees: the progress of loading, and how to make the first request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator

import structlog

from wingbeat.progress import progress_bar
from wingbeat.server.registry import ServedModel

log = structlog.get_logger("wingbeat")

_POLL_SECONDS = 0.1
_LOGGED_STEP = 0.25
"""Where there is no terminal, progress is logged at each of these shares."""


@contextlib.asynccontextmanager
async def loading_display(model: ServedModel) -> AsyncIterator[None]:
    """Shows how much of the model is loaded while the block runs: a bar on a terminal, else lines in the log."""
    show = _bar if sys.stderr.isatty() else _lines
    task = asyncio.create_task(show(model))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # the bar owns the terminal until it is gone


async def _bar(model: ServedModel) -> None:
    with progress_bar(f"Loading {model.name}", in_bytes=True) as show:
        while True:
            show(*model.client.progress)
            await asyncio.sleep(_POLL_SECONDS)


async def _lines(model: ServedModel) -> None:
    following = _LOGGED_STEP
    while True:
        done, total = model.client.progress
        if total and following <= done / total < 1:
            log.info("loading", percent=100 * done // total)
            following = done / total + _LOGGED_STEP
        await asyncio.sleep(_POLL_SECONDS)


def example(url: str, model: str, needs_key: bool) -> str:
    """Where the server is and a request to try, for a shell."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 100}
    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    return (
        f"\nWingbeat serves {model} at {url}   (documentation: {url}/docs, Ctrl-C stops)\n\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} \\\n"
        f"    -d '{json.dumps(body)}'\n"
    )
