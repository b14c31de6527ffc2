"""A tree over token ids whose nodes may hold something: what is kept for the beginnings of texts."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")

TOKEN_BYTES = 4
"""Tokens are int32 in the machine's byte order."""

SOON = 16


class Node(Generic[T]):
    """The place after ``depth`` tokens. ``edge`` are the tokens between the parent and here."""

    __slots__ = ("children", "depth", "edge", "parent", "value")

    def __init__(self, parent: Node[T] | None, edge: bytes) -> None:
        self.parent = parent
        self.edge = edge
        self.depth: int = len(edge) // TOKEN_BYTES + (0 if parent is None else parent.depth)
        self.children: dict[bytes, Node[T]] = {}  # by the first token of their edges
        self.value: T | None = None

    @property
    def tokens(self) -> bytes:
        """All tokens from the root to here."""
        edges: list[bytes] = []
        node: Node[T] | None = self
        while node is not None:
            edges.append(node.edge)
            node = node.parent
        return b"".join(reversed(edges))


class RadixTree(Generic[T]):
    """Paths of tokens that share their beginnings. Every leaf has a value, and every other node a value or a fork."""

    def __init__(self) -> None:
        self.root: Node[T] = Node(None, b"")

    def walk(self, tokens: bytes) -> tuple[Node[T], int]:
        """The deepest node on the path of ``tokens``, and for how many of them there is a path."""
        node, at = self.root, 0
        while (child := node.children.get(tokens[at : at + TOKEN_BYTES])) is not None:
            shared = common(child.edge, tokens[at : at + len(child.edge)])
            if shared * TOKEN_BYTES < len(child.edge):
                return node, node.depth + shared
            node, at = child, at + len(child.edge)
        return node, node.depth

    def place(self, tokens: bytes) -> Node[T]:
        """The node after exactly ``tokens``, made if there is none. Give it a value or ``prune`` it."""
        node, depth = self.walk(tokens)
        at = node.depth * TOKEN_BYTES
        if depth > node.depth:
            node = self._split(node.children[tokens[at : at + TOKEN_BYTES]], depth - node.depth)
            at = node.depth * TOKEN_BYTES
        if at < len(tokens):
            node = _hang(node, Node(node, tokens[at:]))
        return node

    def prune(self, node: Node[T]) -> None:
        """Take away a node without a value, with those before it that are of no more use."""
        while node.value is None and node.parent is not None and len(node.children) < 2:
            parent = node.parent
            if node.children:
                (child,) = node.children.values()
                child.edge = node.edge + child.edge
                child.parent = parent
                parent.children[child.edge[:TOKEN_BYTES]] = child
                return
            del parent.children[node.edge[:TOKEN_BYTES]]
            node = parent

    def _split(self, child: Node[T], tokens: int) -> Node[T]:
        """Put a node into the edge of ``child``, after so many of its tokens."""
        assert child.parent is not None
        cut = tokens * TOKEN_BYTES
        middle = _hang(child.parent, Node(child.parent, child.edge[:cut]))
        child.parent, child.edge = middle, child.edge[cut:]
        _hang(middle, child)
        return middle


def _hang(parent: Node[T], child: Node[T]) -> Node[T]:
    parent.children[child.edge[:TOKEN_BYTES]] = child
    return child


def common(a: bytes, b: bytes) -> int:
    """How many tokens two runs of them have in common at their beginning."""
    length = min(len(a), len(b)) // TOKEN_BYTES
    for tokens in (min(length, SOON), length):  # most that differ do so soon
        size = tokens * TOKEN_BYTES
        if a[:size] != b[:size]:
            differ = np.frombuffer(a, np.int32, tokens) != np.frombuffer(b, np.int32, tokens)
            return int(differ.argmax())
    return length
