"""The folder of states: the index and the files together. Slow: for a thread that may wait for the disk."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from wingbeat.engine.disk_files import StateFiles, state_id
from wingbeat.engine.disk_index import DiskIndex, Entry, open_index, set_aside, worth
from wingbeat.engine.disk_queue import Write

INDEX = "index.sqlite3"


class Written(NamedTuple):
    """``kept``: whether the state is on disk now. ``lost``: the ids of those that it replaced."""

    kept: bool
    lost: list[str]


class DiskStore:
    """States of ``model`` among those of others in ``folder``, all within ``budget`` bytes.

    Methods raise OSError and sqlite3.Error; after one that ``is_damage``, ``begin_anew`` helps. Ids that they return
    are not on disk any more.
    """

    def __init__(self, files: StateFiles, folder: Path, budget: int, model: str) -> None:
        self._files = files
        self._folder, self._budget, self._model = folder, budget, model
        self._opened: DiskIndex | None = None
        self._renewed = ""
        self._unknown = False  # whether files may be there that a damaged index knew

    def renewed(self) -> str:
        """Why the index was begun anew, once after each time; else nothing."""
        why, self._renewed = self._renewed, ""
        return why

    def totals(self) -> tuple[int, int]:
        """States of all models, and their bytes."""
        return self._index().totals()

    def entries(self) -> tuple[list[tuple[Entry, str | None]], int]:
        """This model's states, each with a session that it is the last state of, and how many rows were damaged."""
        found = self._index().entries(self._model)
        good = [(entry, session) for entry, session in found if _is_whole(entry)]
        if len(good) < len(found):
            self._index().remove({entry.id for entry, _ in found} - {entry.id for entry, _ in good})
        return good, len(found) - len(good)

    def tidy(self) -> list[str]:
        """Delete what a killed server left, rows without a file, and what is over the budget."""
        index = self._index()
        indexed = index.ids()
        missing = indexed - self._files.sweep(indexed)
        index.remove(missing)
        evicted = index.make_room(0, self._budget, math.inf) or []
        self._files.remove(evicted)
        return [*missing, *evicted]

    def write(self, write: Write) -> Written:
        """Write the state, unless it is there; the file first. Not kept is what is worth less than what it needs."""
        index = self._index()
        found = index.find(write.id)
        if found is not None and self._files.size(write.id) == found.size and found.logits >= write.has_logits:
            lost = index.claim(write.id, write.sessions)
            self._files.remove(lost)
            return Written(True, lost)
        new = worth(len(write.tokens) // 4, 0, write.size, time.time())
        evicted = index.make_room(write.size, self._budget, math.inf if write.sessions else new)
        if evicted is None:
            return Written(False, [])
        self._files.remove(evicted)
        size = self._files.write(write.id, self._model, write.origin, write.tokens, write.snapshot)
        if size == 0:
            return Written(False, evicted)
        entry = Entry(
            write.id, self._model, write.origin, write.tokens, write.snapshot.position, write.has_logits, size
        )
        try:
            replaced = index.add(entry, write.sessions)
        except BaseException:
            with contextlib.suppress(OSError):  # else it lies there, unknown, until the next start
                self._files.remove([write.id])
            raise
        self._files.remove(replaced)
        return Written(True, [id for id in evicted + replaced if id != write.id])

    def settle(self, drops: Iterable[str], forgets: Iterable[str], uses: Mapping[str, int]) -> list[str]:
        """Delete the states ``drops`` and the last ones of the sessions ``forgets``; count ``uses``."""
        index = self._index()
        index.remove(drops)
        forgotten = index.forget(forgets)
        self._files.remove([*drops, *forgotten])
        index.touch(uses)
        return forgotten

    def begin_anew(self, why: str) -> None:
        """Set the index aside: it is damaged."""
        self.close()
        set_aside(self._folder / INDEX)
        self._renewed, self._unknown = why, True

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _index(self) -> DiskIndex:
        """The index, opened if need be: the folder may have been removed, or not be there before now."""
        if self._opened is not None and self._opened.stale:
            self.close()
        if self._opened is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._opened, why = open_index(self._folder / INDEX)
            if why:
                self._renewed, self._unknown = why, True
            if self._unknown:  # they are of no use, and would not count
                self._files.sweep(self._opened.ids(), 0.0)
                self._unknown = False
        return self._opened


def _is_whole(entry: Entry) -> bool:
    """Whether the row is as it was written, as far as a wrong one could do harm: its id says so."""
    kinds = (type(entry.origin), type(entry.tokens), type(entry.position))
    return kinds == (str, bytes, int) and entry.id == state_id(entry.model, entry.origin, entry.tokens)
