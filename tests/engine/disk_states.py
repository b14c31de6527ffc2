"""States whose numbers follow from what they have seen, so that a wrong one is known."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wingbeat.engine.disk_tier import DiskTier
from wingbeat.engine.snapshot import StateSnapshot

MODEL = "model a"
SIZE = 3000
"""More than a file of ``state`` has; two need more."""


def tokens(*ids: int) -> bytes:
    return np.array(ids, "<i4").tobytes()


def state(seen: bytes, origin: str = "fresh", *, logits: bool = False, floats: int = 500) -> StateSnapshot:
    """The state that a tier may give for these tokens, and no other."""
    seed = int.from_bytes(hashlib.sha256(origin.encode() + seen).digest()[:8], "little")
    random = np.random.default_rng(seed)
    arrays = {"shift": random.random(7, np.float32), "wkv": random.random((floats // 50, 50), np.float32)}
    return StateSnapshot.from_arrays("fp", len(seen) // 4, arrays, arrays["shift"] if logits else None)


def put(tier: DiskTier, *ids: int, session: str | None = None, logits: bool = False) -> str | None:
    seen = tokens(*ids)
    return tier.put("fresh", seen, state(seen, logits=logits), session)


def get(tier: DiskTier, id: str | None) -> StateSnapshot | None:
    assert id is not None
    return tier.get(id).result(20)


def eventually(condition: Callable[[], object]) -> None:
    """Wait for the tier's threads."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.005)


def idle(tier: DiskTier) -> None:
    """Wait until the thread that writes has done all and waits for more."""
    eventually(lambda: tier._changed._waiters)  # type: ignore[attr-defined]


def stored(folder: Path, budget: int = 10**9, model: str = MODEL) -> dict[tuple[str, bytes], str | None]:
    """What a server finds that starts now; every state of it is right."""
    tier = DiskTier(folder, budget, model)
    found = {}
    for each in tier.load():
        snapshot = get(tier, each.id)
        if snapshot is not None:
            # What the index says of logits is a hint: a server may have been killed between file and row.
            assert snapshot == state(each.tokens, each.origin, logits=snapshot.logits is not None)
            found[each.origin, each.tokens] = each.session
    tier.close(20)
    return found


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent != folder)
