"""Where a sequence begins: behind another one that is reading the same, from a cached state, or from its origin."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from wingbeat.engine.prefix_cache import Match, PrefixCache
from wingbeat.engine.radix import common
from wingbeat.engine.sequence import Sequence
from wingbeat.engine.state_pool import StatePool
from wingbeat.ops.table import FloatArray

log = logging.getLogger(__name__)

MIN_SHARED = 32
"""Tokens that must be saved for a sequence to wait for another one, or for a chunk to end early. They are read in about
the time of one step."""

NO_MATCH = Match(None, 0)

BORDER = 512
"""Tokens of a prompt after which its state is kept, when a chunk has just ended."""


class Beginnings:
    """Puts states into the slots of ``pool`` that sequences get, and keeps those that others may begin from."""

    def __init__(self, pool: StatePool, cache: PrefixCache) -> None:
        self._pool, self._cache = pool, cache

    def begin(self, sequence: Sequence, running: Iterable[Sequence]) -> None:
        """Prepare the slot of ``sequence``. It may follow one of ``running``, up to itself if it is one of them."""
        sequence.leader = None
        match = self._match(sequence, sequence.path)
        depth = 0 if match.state is None else match.state.node.depth
        leader, shared = _leader(sequence, running, depth)
        if leader is not None:
            sequence.leader, sequence.follow_to = leader, shared
            leader.cuts.append(shared)
            return
        self._put(sequence, match)
        sequence.cached = depth
        sequence.cuts = [cut for cut in sequence.cuts if cut >= depth + MIN_SHARED]
        shared = min(match.shared, sequence.reusable)
        if not sequence.cuts and depth + MIN_SHARED <= shared < len(sequence.prompt):
            sequence.cuts.append(shared)  # two prompts part here, and there will be a third

    def settle(self, sequence: Sequence) -> None:
        """Prepare the slot of ``sequence``, whose state has seen a stop, to read its answer again without."""
        self._put(sequence, self._match(sequence, sequence.path + np.array(sequence.reply, np.int32).tobytes()))

    def follow(self, sequence: Sequence, leader: Sequence) -> None:
        """Give ``sequence`` the state that it waited for."""
        self._pool.copy(leader.slot, sequence.slot)
        sequence.begin_at(leader.fed)
        sequence.cached = leader.fed
        if sequence.fed < len(sequence.prompt):
            sequence.leader = None

    def keep(self, sequence: Sequence, logits: FloatArray | None) -> None:
        """Keep the state of ``sequence``, which is reading, where that is worth it. ``logits`` [V]: at its end."""
        at_end = logits is not None
        if not (at_end or sequence.fed in sequence.cuts or sequence.fed - sequence.kept_at >= BORDER):
            return
        sequence.kept_at = sequence.fed
        self._keep(sequence, logits, own=at_end)

    def keep_last(self, sequence: Sequence) -> None:
        """Keep the state of ``sequence``, which ends."""
        if sequence.sampled:
            self._keep(sequence, None, own=sequence.ending is not None or sequence.true_to_reply)

    def _match(self, sequence: Sequence, tokens: bytes) -> Match:
        key, most = sequence.origin.key, sequence.reusable
        if key is None or not most:
            return NO_MATCH
        return self._cache.match(key, tokens, None if most == len(sequence.prompt) else most)

    def _put(self, sequence: Sequence, match: Match) -> None:
        """Begin from what was found. Where that has seen all there is to read, it has the logits, too."""
        if match.state is None:
            self._pool.reset(sequence.slot, sequence.origin.arrays)
            depth, logits = 0, sequence.origin.logits
        else:
            self._cache.use(match.state, self._pool.states[sequence.slot])
            depth, logits = match.state.node.depth, match.state.logits
        sequence.begin_at(depth, logits if depth == len(sequence.to_read) else None)

    def _keep(self, sequence: Sequence, logits: FloatArray | None, *, own: bool) -> None:
        """``own``: it is what the session, if there is one, goes on from."""
        key = sequence.origin.key
        if key is not None and sequence.cacheable:
            session = sequence.session if own else None
            try:
                self._cache.store(key, sequence.seen, self._pool.states[sequence.slot], logits, session)
            except Exception:  # no memory: the sequence can do without
                log.exception("a state could not be kept")


def _leader(sequence: Sequence, running: Iterable[Sequence], depth: int) -> tuple[Sequence | None, int]:
    """Which sequence will have read the most of what ``sequence`` is to read, and how much; None: too little.

    ``depth`` tokens need not be read anyway.
    """
    best, most = None, depth + MIN_SHARED - 1
    for other in running:
        if other is sequence:
            break
        reads = other.leader is None or other.follow_to < len(other.prompt)
        if other.decoding or other.sampled or not reads:
            continue
        if other.prompt is sequence.prompt:
            return (None, 0) if depth == len(sequence.prompt) else (other, len(sequence.prompt))
        limit = min(other.reusable, sequence.reusable)  # what is scored of a prompt is read slowly
        if limit and other.origin.key == sequence.origin.key:
            shared = min(common(other.path, sequence.path), limit)
            if shared < len(other.prompt) or shared < len(sequence.prompt):
                shared = min(shared, len(sequence.prompt) - 1)  # the last token's logits are its own
            if shared > max(most, other.fed):
                best, most = other, shared
    return best, most
