"""States of beginnings that were read before: a tree of tokens, with the states in memory or on disk.

A state is a function of where its sequence began and of the tokens that it has seen since, to the last bit. Both are
its key here, so that a state that is found is the state that reading would give.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import math
import time
from collections.abc import Iterable
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wingbeat.engine.disk_tier import DiskTier
from wingbeat.engine.memory import available_memory
from wingbeat.engine.messages import EngineConfig
from wingbeat.engine.radix import TOKEN_BYTES, Node, RadixTree
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.models import Model
from wingbeat.ops.copying import copy_state
from wingbeat.ops.table import FloatArray, StateLayout

log = logging.getLogger(__name__)

MIN_GAIN = 16
"""A state is kept if it saves the reading of so many tokens, compared with the nearest one before it."""

HALF_LIFE = 600.0
"""Seconds in which a state that is not used becomes worth as much as one that saves half as many tokens."""

AGAIN = 1 / 32
"""How often a state is used again, about, once its conversation has gone on from it: an answer is made anew, a question
asked in other words. If its uses counted, or all that it saves, the newest states of conversations, which were not used
yet and save one turn, would leave before all the earlier ones."""

BUSY_SECONDS = 1.0
"""While sequences run, one state in so many seconds is handed to the disk, and those of sessions; the others wait until
nothing runs. A snapshot and its checksum are work for the processors that compute."""

MEMORY_SHARE = 8  # one part in this many of the memory that is free
MOST_MEMORY = 2 * 2**30


class CachedState:
    """The state after the tokens of ``node``. ``block``: its place in memory, -1 where it is on disk alone."""

    __slots__ = ("block", "disk", "hits", "logits", "node", "origin", "predicts", "ticket", "used")

    def __init__(self, origin: str, node: Node[CachedState]) -> None:
        self.origin = origin
        self.node = node
        self.block = -1
        self.logits: FloatArray | None = None  # what is predicted after those tokens, where that is kept
        self.disk: str | None = None
        self.predicts = False  # whether its copy on disk is thought to have them, too
        self.hits = 0
        self.used = time.monotonic()
        self.ticket = 0  # of its newest entry in the queue for eviction

    @property
    def has_logits(self) -> bool:
        return self.predicts if self.block < 0 else self.logits is not None


class Fetch(NamedTuple):
    """A state that is being read from disk."""

    state: CachedState
    snapshot: Future[StateSnapshot | None]


class Match(NamedTuple):
    state: CachedState | None
    """The deepest state in memory that can stand for a beginning of the tokens."""
    shared: int
    """How many of the tokens were read before, whether there is a state after them or not."""


class PrefixCache:
    """``blocks`` states in memory, beside those that ``disk`` holds. Used by one thread."""

    def __init__(self, layout: StateLayout, blocks: int, disk: DiskTier | None = None) -> None:
        self._layout = layout
        self._arena = np.empty((blocks, layout.slot_floats), np.float32)  # pages are taken when they are first written
        self._free = list(range(blocks - 1, -1, -1))
        self._disk = disk
        self._trees: dict[str, RadixTree[CachedState]] = {}  # by origin
        self._on_disk: dict[str, CachedState] = {}
        self._sessions: dict[str, CachedState] = {}
        self._queue: list[tuple[float, int, CachedState]] = []  # the least valuable first; see `_rank`
        self._tickets = itertools.count(1)
        self._logits_bytes = 0
        self._unwritten: dict[CachedState, None] = {}  # to be written to disk, the newest last
        self._wrote_at = 0.0
        for stored in [] if disk is None else disk.load():
            state = self._place(stored.origin, stored.tokens)
            state.disk, state.predicts = stored.id, stored.logits
            self._on_disk[stored.id] = state
            if stored.session is not None:
                self._sessions[stored.session] = state

    @property
    def states(self) -> int:
        """How many there are in memory."""
        return len(self._arena) - len(self._free)

    @property
    def bytes(self) -> int:
        return self.states * self._layout.slot_bytes + self._logits_bytes

    @property
    def disk_states(self) -> int:
        return 0 if self._disk is None else self._disk.states

    @property
    def disk_bytes(self) -> int:
        return 0 if self._disk is None else self._disk.bytes

    def match(self, origin: str, tokens: bytes, most: int | None = None) -> Match:
        """What is known of ``tokens``. A state after all of them counts only with its logits, one after more than
        ``most`` of them not at all."""
        if origin not in self._trees:
            return Match(None, 0)
        node, shared = self._trees[origin].walk(tokens)
        return Match(_deepest(node, len(tokens) // TOKEN_BYTES, most), shared)

    def use(self, state: CachedState, target: FloatArray) -> None:
        """Copy a state that ``match`` found into a slot, ``target`` float32 [slot_floats]."""
        copy_state(target, self._arena[state.block])
        state.hits += 1
        self._touch(state)
        if state.disk is not None and self._disk is not None:
            self._disk.touch(state.disk)

    def store(
        self,
        origin: str,
        tokens: bytes,
        source: FloatArray,
        logits: FloatArray | None = None,
        session: str | None = None,
    ) -> None:
        """Keep a copy of ``source``, a slot's state after ``tokens``, where that is worth it.

        ``session``: whose last state it is; another one that was its last is from now on like any other.
        """
        node = self._trees[origin].walk(tokens)[0] if origin in self._trees else None
        known = node.value if node is not None and node.depth * TOKEN_BYTES == len(tokens) else None
        if known is None or known.block < 0:
            if session is None and len(tokens) // TOKEN_BYTES - _depth_in_memory(node) < MIN_GAIN:
                return
            if (block := self._take_block()) < 0:
                return
            copy_state(self._arena[block], source)
            known = known or self._place(origin, tokens)  # not before: making room may have changed the tree
            known.block = block
            if (before := _in_memory(known.node.parent)) is not None:
                self._queue_up(before)  # it saves less from now on, see `_rank`
        self._keep_logits(known, logits)
        self._touch(known)
        if session is not None:
            self._sessions[session] = known
            self._write(known, session)
        elif self._disk is not None and known.disk is None:
            self._unwritten.pop(known, None)
            self._unwritten[known] = None

    def fetch(self, origin: str, tokens: bytes, most: int | None = None) -> Fetch | None:
        """Begin to read a state from disk that has seen more of ``tokens`` than those in memory; None: there is none.

        ``most`` is that of ``match``. ``fetched`` takes the result.
        """
        if origin not in self._trees or self._disk is None or not len(self._arena):
            return None
        node, _ = self._trees[origin].walk(tokens)
        state = _deepest(node, len(tokens) // TOKEN_BYTES, most, in_memory=False)
        if state is None or state.block >= 0 or state.disk is None:
            return None
        self._disk.touch(state.disk)
        return Fetch(state, self._disk.get(state.disk))

    def fetched(self, fetch: Fetch) -> None:
        """Put a state that was read from disk into memory, unless it cannot be had."""
        state, snapshot = fetch.state, fetch.snapshot.result()
        there = state.disk is not None and self._on_disk.get(state.disk) is state
        if snapshot is None or not there or state.block >= 0 or (block := self._take_block()) < 0:
            return
        self._layout.restore(self._arena, block, snapshot.to_arrays())
        state.block = block
        self._keep_logits(state, None if snapshot.logits is None else snapshot.logits.to_array("logits"))
        self._touch(state)

    def forget(self, sessions: Iterable[str]) -> None:
        """Drop the states that were the last ones of these sessions."""
        for session in sessions:
            state = self._sessions.pop(session, None)
            if state is not None and state not in self._sessions.values():
                self._drop(state)
            if self._disk is not None:
                self._disk.forget(session)

    def tidy(self) -> None:
        """Forget what is no longer on disk."""
        for name in [] if self._disk is None else self._disk.gone():
            state = self._on_disk.pop(name, None)
            if state is not None:
                state.disk = None
                if state.block < 0:
                    self._drop(state)

    def rest(self, *, busy: bool = False) -> bool:
        """Hand a state that waits for that to the disk, if it is time; whether more of them wait."""
        if not self._unwritten:
            return False
        now = time.monotonic()
        if not busy or now - self._wrote_at >= BUSY_SECONDS:
            self._wrote_at = now
            state = next(reversed(self._unwritten))
            if self._write(state, None):
                del self._unwritten[state]
        return bool(self._unwritten)

    def close(self, seconds: float) -> None:
        """Write what waits for the disk, for so long at most."""
        if self._disk is not None:
            for state in reversed(self._unwritten):
                self._write(state, None)
            self._disk.close(seconds)

    def _place(self, origin: str, tokens: bytes) -> CachedState:
        """The state at its place in the tree, neither in memory nor on disk yet if it is new."""
        node = self._trees.setdefault(origin, RadixTree()).place(tokens)
        if node.value is None:
            node.value = CachedState(origin, node)
        return node.value

    def _drop(self, state: CachedState) -> None:
        """Take a state out of memory and out of the tree; its copy on disk is not asked for any more."""
        self._release(state)
        if state.disk is not None:
            self._on_disk.pop(state.disk, None)
            state.disk = None
        if state.node.value is state:
            state.node.value = None
            tree = self._trees[state.origin]
            tree.prune(state.node)
            if not tree.root.children:
                del self._trees[state.origin]

    def _release(self, state: CachedState) -> None:
        """Give back the memory of a state."""
        if state.block >= 0:
            self._free.append(state.block)
            self._unwritten.pop(state, None)
            state.block = -1
        if state.logits is not None:
            self._logits_bytes -= state.logits.nbytes
            state.logits = None

    def _take_block(self) -> int:
        """A free block, that of the least valuable state if need be; -1 where there is no memory at all."""
        while not self._free and self._queue:
            rank, ticket, state = heapq.heappop(self._queue)
            if ticket != state.ticket or state.block < 0:
                continue
            if (now := _rank(state)) > rank + 0.5:  # one before it has gone meanwhile
                heapq.heappush(self._queue, (now, ticket, state))
                continue
            if state.disk is None:
                self._drop(state)
            else:
                self._release(state)
        return self._free.pop() if self._free else -1

    def _keep_logits(self, state: CachedState, logits: FloatArray | None) -> None:
        if logits is not None and state.logits is None:
            state.logits = logits.copy()
            self._logits_bytes += state.logits.nbytes

    def _touch(self, state: CachedState) -> None:
        state.used = time.monotonic()
        self._queue_up(state)

    def _queue_up(self, state: CachedState) -> None:
        """Give a state its place in the queue for eviction, in place of an earlier one."""
        state.ticket = next(self._tickets)
        heapq.heappush(self._queue, (_rank(state), state.ticket, state))
        if len(self._queue) > 4 * len(self._arena) + 64:
            self._queue = [entry for entry in self._queue if entry[1] == entry[2].ticket and entry[2].block >= 0]
            heapq.heapify(self._queue)

    def _write(self, state: CachedState, session: str | None) -> bool:
        """Have a state written to disk; False where it takes none now."""
        if self._disk is None:
            return False
        size = self._layout.slot_bytes + (0 if state.logits is None else state.logits.nbytes)
        if not self._disk.accepts(size, session):
            return False
        arrays = self._layout.views(self._arena, state.block)
        snapshot = StateSnapshot.from_arrays("", state.node.depth, arrays, state.logits)
        name = self._disk.put(state.origin, state.node.tokens, snapshot, session)
        if name is not None:
            state.disk, state.predicts = name, state.logits is not None
            self._on_disk[name] = state
        return name is not None


def prefix_cache(model: Model, config: EngineConfig) -> PrefixCache:
    """The cache that ``config`` asks for. Raises ValueError for a folder that cannot be one."""
    executable = model.executable
    blocks = _blocks(executable.layout, executable.vocab_size, config.cache_memory)
    disk = None
    if config.cache_dir is not None and config.cache_disk > 0 and blocks > 0:
        disk = DiskTier(Path(config.cache_dir), config.cache_disk, _identity(model, config))
    return PrefixCache(executable.layout, blocks, disk)


def _identity(model: Model, config: EngineConfig) -> str:
    """Names all that the numbers of a state depend on."""
    info = model.info
    said = (version("wingbeat"), info.fingerprint, info.dtype, info.backend, info.kernels, config.gn_eps)
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _blocks(layout: StateLayout, vocab_size: int, memory: int | None) -> int:
    """How many states ``memory`` bytes hold, each with its logits. None: a part of the memory that is free."""
    if memory is None:
        memory = min(MOST_MEMORY, available_memory() // MEMORY_SHARE)
    return memory // (layout.slot_bytes + 4 * vocab_size)


def _deepest(
    node: Node[CachedState], length: int, most: int | None = None, *, in_memory: bool = True
) -> CachedState | None:
    """The nearest state from ``node`` to the root that can stand for a beginning of ``length`` tokens, ``most`` at the
    most."""
    most = length if most is None else most
    at: Node[CachedState] | None = node
    while at is not None:
        state = at.value
        there = state is not None and (state.block >= 0 or not in_memory) and at.depth <= most
        if there and state is not None and (at.depth < length or state.has_logits):
            return state
        at = at.parent
    return None


def _in_memory(node: Node[CachedState] | None) -> CachedState | None:
    """The nearest state in memory, from ``node`` to the root."""
    while node is not None and (node.value is None or node.value.block < 0):
        node = node.parent
    return None if node is None else node.value


def _depth_in_memory(node: Node[CachedState] | None) -> int:
    """How many tokens that state has seen."""
    state = _in_memory(node)
    return 0 if state is None else state.node.depth


def _rank(state: CachedState) -> float:
    """The worth of a state, as an exponent of two: what it saves, how often it did, and how long ago.

    All states take the same memory, so this is their order by worth per byte. It does not change with time, since all
    fade alike.
    """
    saves = state.node.depth - _depth_in_memory(state.node.parent)
    uses = AGAIN if _has_gone_on(state.node) else 1 + state.hits
    return math.log2(max(1, saves) * uses) + state.used / HALF_LIFE


def _has_gone_on(node: Node[CachedState]) -> bool:
    """Whether all that is in memory after ``node`` is one path, like that of a conversation."""
    if len(node.children) != 1:
        return False
    (child,) = node.children.values()
    return child.value is None or child.value.block >= 0
