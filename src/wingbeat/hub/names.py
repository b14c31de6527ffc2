"""Finding a model by a part of its file's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MODEL_ENDINGS = (".pth", ".safetensors", ".st", ".gguf", ".bin", ".prefab")
"""Of files that hold a model."""

SHOWN = 8  # names that a message lists before it only counts

_QUANTISED = re.compile(r"gguf|(?<![a-z0-9])i?q\d", re.IGNORECASE)


def stem(name: str) -> str:
    """The name without the ending of a model's file. (Not `Path.stem`: "rwkv7-g1-0.4b" has no ending.)"""
    return next((name.removesuffix(end) for end in MODEL_ENDINGS if name.lower().endswith(end)), name)


def matching(query: str, names: Iterable[str]) -> list[str]:
    """Which of ``names`` are meant by ``query``: one when it is clear, several when it is not.

    The first of these rules that finds any counts, letters of either case: the whole name; the name without its
    ending; a piece of it between separators ("g1-0.4b"); a piece anywhere; all of the query's words, in any order.
    A query with an ending must be the whole name. A fragment that says nothing of quantisation prefers files without.
    """
    wanted, candidates = query.strip().lower(), list(names)
    whole = [name for name in candidates if name.lower() == wanted]
    if whole or not wanted or stem(wanted) != wanted:
        return whole
    if same := [name for name in candidates if stem(name).lower() == wanted]:
        return same
    piece = re.compile(rf"(?<![a-z0-9.]){re.escape(wanted)}(?![a-z0-9])")
    words = re.split(r"[\s_-]+", wanted)
    rules: tuple[Callable[[str], object], ...] = (
        piece.search,
        lambda name: wanted in name,
        lambda name: all(word in name for word in words),
    )
    for rule in rules:
        if found := [name for name in candidates if rule(name.lower())]:
            return found if _QUANTISED.search(query) else _without_quantised(found)
    return []


def listed(names: list[str]) -> str:
    """Some of ``names``, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _without_quantised(names: list[str]) -> list[str]:
    return [name for name in names if not _QUANTISED.search(name)] or names
