"""Trees of turns: each node is a session of its own, named after its tree and numbered in the order they began."""

from __future__ import annotations

from wingbeat.services.session_log import session_name
from wingbeat.services.sessions import SessionStore


def node_id(tree: str, number: int) -> str:
    """The session of a node."""
    return f"{tree}:{number}"


async def next_number(sessions: SessionStore, owner: str, tree: str) -> int:
    """For a new node: larger than those of all that are kept, or running. Raises StorageError.

    Whoever asks holds the tree (`SessionStore.enter`) until the node is held.
    """
    kept = await sessions.below(owner, tree)
    running = sessions.held(session_name(owner, f"{tree}:"))
    return 1 + max((number_of(found) for found in (*kept, *running)), default=0)


def number_of(session_id: str) -> int:
    """Of a node; 0 for what is none."""
    number = session_id.rpartition(":")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0
