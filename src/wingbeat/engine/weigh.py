"""Has a model's file looked at before an engine is started for it: can it be loaded, and what memory would it take?

That is done by ``wingbeat.engine.weigher`` in a process of its own: who serves other models meanwhile neither waits for
the file nor has anything to do with it.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from wingbeat.engine.messages import EngineConfig

TIMEOUT = 600  # seconds; adapters are read whole, from whatever disk


class Weight(msgspec.Struct):
    """What the process found: how many bytes, or why the model cannot be loaded."""

    bytes: int = 0
    error: str | None = None


async def weigh(config: EngineConfig) -> int:
    """Bytes that an engine would take at most, but for its states, which take what is free.

    Raises ValueError, saying what to do, for a model that cannot be loaded; TimeoutError; OSError.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "wingbeat.engine.weigher"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(msgspec.msgpack.encode(config)), TIMEOUT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ValueError(f"{config.model} could not be looked at: the process for it ended with {process.returncode}")
    weight = msgspec.msgpack.decode(out, type=Weight)
    if weight.error is not None:
        raise ValueError(weight.error)
    return weight.bytes
