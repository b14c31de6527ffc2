"""Text while it is being generated: bytes to characters, stop strings, and the trimming of a reply's ends."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable
from weakref import WeakValueDictionary


class StreamDecoder:
    """Joins the bytes of tokens to text, never handing out half a character.

    At most the three bytes of an unfinished character are held back. Bytes that can no longer become a character are
    U+FFFD when the next byte arrives at the latest, so a bad byte never stalls the stream. However the bytes are cut,
    the joined result equals `data.decode("utf-8", "replace")`.
    """

    __slots__ = ("pending",)

    def __init__(self, pending: bytes = b"") -> None:
        """`pending` continues a stream that was left with these bytes undecoded."""
        self.pending = pending
        """The bytes held back: the beginning of a character, at most three."""

    def push(self, data: bytes, *, final: bool = False) -> str:
        """The text that these bytes complete, possibly empty."""
        if self.pending:
            data = self.pending + data
        text, read = codecs.utf_8_decode(data, "replace", final)
        self.pending = data[read:]
        return text

    def flush(self) -> str:
        """The end of the stream: an unfinished character becomes U+FFFD. The decoder is as new afterwards."""
        return self.push(b"", final=True)


class StopMatcher:
    """Passes text through until a stop string is complete; the stop and whatever follows are never emitted.

    The stop that completes first wins; of several that complete with the same character, the longest. Only text that
    could still grow into a stop is held back. Work per character is constant, whatever the length of the output.
    """

    __slots__ = ("_automaton", "_held", "_state", "matched")

    def __init__(self, stops: Iterable[str]) -> None:
        """Raises ValueError for an empty stop string."""
        self._automaton = _automaton(tuple(stops))
        self._state = 0
        self._held = ""
        self.matched: str | None = None
        """The stop that ended the text, once there is one."""

    def push(self, text: str) -> tuple[str, str | None]:
        """Take the next piece of text. Returns what may be shown and the stop that matched, if any."""
        if self.matched is not None:
            return "", self.matched
        automaton, state = self._automaton, self._state
        if state == 0 and automaton.beginnings.isdisjoint(text):  # nearly always, and much faster than a look at each
            return text, None
        for index, char in enumerate(text):
            state = automaton.step(state, char)
            stop = automaton.complete[state]
            if stop is not None:
                seen = self._held + text[: index + 1]
                self._held, self.matched = "", stop
                return seen[: len(seen) - len(stop)], stop
        self._state = state
        seen = self._held + text
        border = len(seen) - automaton.depth[state]
        self._held = seen[border:]
        return seen[:border], None

    def flush(self) -> str:
        """The end of the text: what was held back turned out not to be a stop, and begins none. Empty after a match."""
        held, self._held, self._state = self._held, "", 0
        return held


class _StopAutomaton:
    """Aho-Corasick over characters. A state is the longest end of the text that begins some stop; 0 is none."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self.depth = [0]  # length of the state's string
        self.complete: list[str | None] = [None]  # the longest stop that ends the state's string
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [0]  # the state of the longest proper suffix
        for stop in stops:
            self._insert(stop)
        self._link()
        self.beginnings = frozenset(self._next[0])  # the characters that lead away from state 0

    def step(self, state: int, char: str) -> int:
        """The state after one more character."""
        while (found := self._next[state].get(char)) is None:
            if state == 0:
                return 0
            state = self._fallback[state]
        return found

    def _insert(self, stop: str) -> None:
        state = 0
        for char in stop:
            following = self._next[state].setdefault(char, len(self.depth))
            if following == len(self.depth):
                self.depth.append(self.depth[state] + 1)
                self.complete.append(None)
                self._next.append({})
                self._fallback.append(0)
            state = following
        self.complete[state] = stop

    def _link(self) -> None:
        queue = deque(self._next[0].values())  # breadth first: a fallback is shorter, so it is ready before its users
        while queue:
            state = queue.popleft()
            for char, following in self._next[state].items():
                self._fallback[following] = self.step(self._fallback[state], char)
                if self.complete[following] is None:
                    self.complete[following] = self.complete[self._fallback[following]]
                queue.append(following)


_automata: WeakValueDictionary[tuple[str, ...], _StopAutomaton] = WeakValueDictionary()


def _automaton(stops: tuple[str, ...]) -> _StopAutomaton:
    """Sequences with the same stops share the automaton, which never changes; it goes with the last of them."""
    automaton = _automata.get(stops)
    if automaton is None:
        automaton = _automata[stops] = _StopAutomaton(stops)
    return automaton


class Trimmer:
    """Drops white space at the ends of a text that arrives in pieces, and keeps it inside."""

    def __init__(self, *, leading: bool = True, trailing: bool = True, white: str | None = None) -> None:
        """`leading=False` keeps white space at the beginning, `trailing=False` that at the end. `white`: what counts as
        such at the beginning, if not all that is."""
        self._at_start = leading
        self._white = white
        self._keeps_end = not trailing
        self._held: list[str] = []

    def push(self, text: str) -> str:
        """The part of the text that is certain to stay; trailing white space waits for something to follow it."""
        if self._at_start:
            text = text.lstrip(self._white)
        kept = text if self._keeps_end else text.rstrip()
        if not kept:
            self._held.append(text)
            return ""
        self._at_start = False
        out = "".join([*self._held, kept])
        self._held = [text[len(kept) :]]
        return out


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `mark`."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-size:])), 0)
