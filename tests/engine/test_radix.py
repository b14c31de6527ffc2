"""The tree of tokens against a dictionary of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wingbeat.engine.radix import Node, RadixTree, common

TOKENS = st.lists(st.sampled_from([1, 2, 70000]), min_size=1, max_size=8).map(tuple)


def packed(tokens: tuple[int, ...]) -> bytes:
    return np.array(tokens, np.int32).tobytes()


def shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def nodes(node: Node[int]) -> list[Node[int]]:
    return [node, *(below for child in node.children.values() for below in nodes(child))]


@given(st.lists(st.tuples(st.booleans(), TOKENS), max_size=40), TOKENS)
def test_it_finds_what_a_dictionary_finds(changes: list[tuple[bool, tuple[int, ...]]], wanted: tuple[int, ...]) -> None:
    tree: RadixTree[int] = RadixTree()
    known: dict[tuple[int, ...], int] = {}
    for number, (adds, tokens) in enumerate(changes):
        node = tree.place(packed(tokens))
        assert node.tokens == packed(tokens)
        assert node.value == known.get(tokens)
        node.value = number if adds else None
        if adds:
            known[tokens] = number
        else:
            known.pop(tokens, None)
            tree.prune(node)
    for node in nodes(tree.root)[1:]:
        assert node.value is not None or len(node.children) > 1  # nothing is left over
        assert node.depth * 4 == len(node.tokens)
    node, depth = tree.walk(packed(wanted))
    assert depth == max((shared(tokens, wanted) for tokens in known), default=0)
    found = node
    while found is not tree.root and found.value is None:
        assert found.parent is not None
        found = found.parent
    beginnings = [tokens for tokens in known if wanted[: len(tokens)] == tokens]
    assert found.value == (known[max(beginnings, key=len)] if beginnings else None)


@given(TOKENS, TOKENS)
def test_common_beginnings(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert common(packed(a), packed(b)) == shared(a, b)
