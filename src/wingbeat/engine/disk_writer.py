"""The thread that writes states to disk, deletes them there, and survives whatever a disk does."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

from wingbeat.engine.disk_index import Entry, is_busy, is_damage
from wingbeat.engine.disk_ledger import Known, Ledger
from wingbeat.engine.disk_store import DiskStore


class DiskWriter:
    """Does to ``store``, whose files are in ``folder``, what ``ledger`` asks for, and notes there what came of it.

    Nothing raises: see ``_attempt``.
    """

    def __init__(self, folder: Path, store: DiskStore, ledger: Ledger) -> None:
        self._folder, self._store, self._ledger = folder, store, ledger

    def look(self) -> list[tuple[Entry, str | None]]:
        """What is there, each with a session that it is the last state of. For the start, before ``run``."""
        found: list[tuple[Entry, str | None]] = []
        self._attempt(lambda: found.extend(self._look()))
        self._ledger.known.update({entry.id: Known(entry.position, entry.logits) for entry, _ in found})
        return found

    def run(self) -> None:
        """Work until the ledger is closing and nothing is left to do."""
        self._attempt(self._tidy)
        while (job := self._next()) is not None:
            self._attempt(job)
        self._store.close()

    def _next(self) -> Callable[[], None] | None:
        """What to do, as soon as there is something; None when all is done."""
        ledger = self._ledger
        with ledger.changed:
            ledger.writing = None
            while True:
                wait = ledger.seconds_to_changes()
                if wait is not None and wait <= 0:
                    return self._settle
                ledger.writing = ledger.queue.pop()
                if ledger.writing is not None:
                    return self._write
                if ledger.closing:
                    return None
                ledger.changed.wait(wait)

    def _look(self) -> list[tuple[Entry, str | None]]:
        entries, damaged = self._store.entries()
        if damaged:
            self._warn(f"the index in {self._folder} had damaged entries: {damaged} states are dropped")
        return entries

    def _tidy(self) -> None:
        lost = self._store.tidy()
        with self._ledger.changed:
            self._ledger.lose(lost)

    def _write(self) -> None:
        ledger = self._ledger
        assert ledger.writing is not None
        try:
            kept, lost = self._store.write(ledger.writing)
        except BaseException:
            with ledger.changed:
                ledger.lose_writing()
            raise
        with ledger.changed:
            ledger.lose(lost)
            if not kept:
                ledger.lose_writing()
            failed, ledger.failing = ledger.failing, False
        if failed:
            ledger.say(logging.INFO, f"states are kept in {self._folder} again")

    def _settle(self) -> None:
        with self._ledger.changed:
            changes = self._ledger.take_changes()
        try:
            lost = self._store.settle(*changes)
        except BaseException:
            with self._ledger.changed:
                self._ledger.put_back(changes)
            raise
        with self._ledger.changed:
            self._ledger.lose(lost)

    def _attempt(self, job: Callable[[], None]) -> None:
        """Run what may fail in any way that a disk can."""
        try:
            job()
            self._ledger.totals = self._store.totals()
        except sqlite3.Error as error:
            if is_damage(error):
                self._begin_anew(str(error))
            elif is_busy(error):
                self._warn(f"the index in {self._folder} was locked for too long: it lacks a change")
            else:
                self._pause(error)
        except OSError as error:
            self._pause(error)
        except Exception as error:  # a malformed snapshot, no memory: this state alone
            self._warn(f"a state could not be kept in {self._folder}: {error or type(error).__name__}")
        if why := self._store.renewed():
            self._warn(f"the index in {self._folder} was damaged ({why}): the states there are dropped")

    def _begin_anew(self, why: str) -> None:
        ledger = self._ledger
        try:
            self._store.begin_anew(why)
        except OSError as error:
            self._pause(error)
        with ledger.changed:
            ledger.lose([id for id in ledger.known if ledger.queue.get(id) is None])

    def _pause(self, error: Exception) -> None:
        with self._ledger.changed:
            self._ledger.pause()
            failed, self._ledger.failing = self._ledger.failing, True
        if not failed:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self._warn(
                f"states are not kept in {self._folder} for now ({reason}): free space there, or name another folder in"
                " cache_dir; all else goes on"
            )

    def _warn(self, text: str) -> None:
        self._ledger.say(logging.WARNING, text)
