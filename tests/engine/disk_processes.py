"""Servers on a folder of states, as processes of their own that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.engine.disk_states import MODEL, get, idle, put, state, tokens
from wingbeat.engine.disk_index import DiskIndex
from wingbeat.engine.disk_tier import DiskTier

MOMENTS = {
    "the file is written": (os, "fsync"),
    "the file is named": (Path, "replace"),
    "the file is in the index": (DiskIndex, "add"),
    "the transaction ends": (DiskIndex, "_hand"),
    "what it replaces is deleted": (Path, "unlink"),
}
"""Before these, a server can be killed."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.engine.disk_processes"])


def start(target: object, *arguments: object) -> tuple[BaseProcess, Connection]:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=target, args=(theirs, *arguments), daemon=True)  # type: ignore[arg-type]
    process.start()
    theirs.close()
    return process, ours


def work(told: Connection, folder: Path, budget: int, seed: int, operations: int) -> None:
    """All that a server does, at random; says "ready", and in the end how many states it got back."""
    chance = random.Random(seed)
    tier = DiskTier(folder, budget, MODEL)
    ids = {each.id: each.tokens for each in tier.load()}
    told.send("ready")
    right = 0
    for _ in range(operations):
        seen = tokens(*(chance.randrange(3) for _ in range(chance.randrange(1, 4))))
        session = chance.choice([None, "one", "two", "three"])
        if (id := put_seen(tier, seen, session, logits=chance.random() < 0.3)) is not None:
            ids[id] = seen
        if chance.random() < 0.5:
            idle(tier)
        id = chance.choice(list(ids))
        if (snapshot := get(tier, id)) is not None:
            assert snapshot == state(ids[id], logits=snapshot.logits is not None)
            right += 1
        tier.touch(id)
        if chance.random() < 0.1:
            tier.drop([id])
        if chance.random() < 0.1:
            tier.forget("two")
        tier.gone()
    tier.close(20)
    told.send(right)


def put_seen(tier: DiskTier, seen: bytes, session: str | None, *, logits: bool) -> str | None:
    return tier.put("fresh", seen, state(seen, logits=logits), session)


def die(told: Connection, folder: Path, moment: str) -> None:
    """Write the second state of a session, and be killed in between."""
    tier = DiskTier(folder, 10**9, MODEL)
    owner, name = MOMENTS[moment]
    setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    put(tier, 1, 2, session="chat")
    tier.close(20)


def fill(told: Connection, folder: Path, room: int) -> None:
    """Go on where no file can be longer than ``room`` bytes; says what was lost and what was got."""
    tier = DiskTier(folder, 10**9, MODEL)
    ids = [each.id for each in tier.load()]
    put(tier, 1)
    idle(tier)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    lost = put(tier, 2)
    idle(tier)
    told.send((lost, tier.gone(), put(tier, 3), [get(tier, id) == state(tokens(0)) for id in ids]))
    tier.close(20)
