"""What a sequence begins from, and what is wanted of it beside its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wingbeat.engine.messages import Embed
from wingbeat.engine.snapshot import Continuation
from wingbeat.ops.table import FloatArray


class Origin(NamedTuple):
    """The state that a sequence begins from: how many tokens that has seen, and its fields. None: a fresh one.

    ``key`` names its content for the prefix cache; None keeps sequences from here out of it. ``logits`` [V] and
    ``continuation`` are there where an answer can go on from it.
    """

    position: int = 0
    arrays: Mapping[str, FloatArray] | None = None
    key: str | None = None
    logits: FloatArray | None = None
    continuation: Continuation | None = None


class Wanted(NamedTuple):
    """What goes out beside a sequence's tokens; see ``RowExtras``."""

    prompt_logprobs: int | None = None  # alternatives to list for each token of the prompt
    prompt_state: bool = False
    state: bool = False
    reply: bool = False
    embed: Embed | None = None


FRESH = Origin(key="fresh")
NOTHING = Wanted()
"""The only value of those that want nothing: it is told by identity, for every token."""
