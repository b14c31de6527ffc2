"""States that clients have the server keep: files in a folder, an index beside it, the newest in memory too.

A file appears complete, then its row in the index. What a crash leaves of that is a file without a row, which goes when
it is old, or a row without a file, which goes when that is noticed. `StateStore` runs all of it in a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.services.recent_states import KeptState, RecentStates
from wingbeat.services.state_files import (
    MODEL,
    SNAPSHOT_SUFFIX,
    StateRefusedError,
    check_initial,
    checksum_of,
    model_of,
    read_state,
    write_state,
)
from wingbeat.services.state_index import Kind, LoadedInitial, StateIndex, StateRecord

log = structlog.get_logger("wingbeat.server")

LEFTOVER_SECONDS = 3600.0
"""A file that the index does not know is being written, unless it is older than this."""

TOUCH_SECONDS = 60.0
"""How exact the time of the last use is: a write to the disk for each request would be much."""

_NAME = re.compile(r"\w[\w .:@+=-]{0,127}")
_ID = re.compile("st_[0-9a-f]{24}")
_NO_NAMES = ("load", "none", "internal")

Clock = Callable[[], float]
New = tuple[StateSnapshot, Mapping[str, str]]
"""A state to be kept, and texts beside it."""


class NameTakenError(StateRefusedError):
    """The owner has a state of that name already."""


class StatesFullError(Exception):
    """The states that stay until they are deleted leave no room for more."""


class StateShelf:
    """States in `folder`. `budget` is how many bytes an owner may have, `life` how many seconds a state without a name
    stays after it was last used.

    All methods but `path` need the `index` to be open, and raise OSError and sqlite3.Error where it or files fail.
    """

    index: StateIndex

    def __init__(self, folder: Path, *, budget: int, life: float, clock: Clock) -> None:
        self.budget = budget
        self._folder = folder
        self._life = life
        self._clock = clock
        self._recent = RecentStates()

    # --- to keep

    def keep(self, owner: str, states: Sequence[New], model: str, name: str | None = None) -> list[StateRecord]:
        """Keep states that the model of this name made: all of them, or none.

        Raises NameTakenError, StatesFullError.
        """
        self._check_name(owner, name)
        records: list[StateRecord] = []
        try:
            for snapshot, extra in states:
                path = self._folder / (_new_id() + SNAPSHOT_SUFFIX)
                kept = write_state(path, snapshot, {**extra, MODEL: model})
                self._recent.put(kept)
                records.append(self._enter(owner, path, "snapshot", name, kept))
        except BaseException:
            self._drop(records)
            raise
        return records

    def adopt(self, owner: str, upload: Path, kind: Kind, suffix: str, name: str | None) -> StateRecord:
        """Keep a file of `new_upload`.

        Raises StateRefusedError for a file of another kind or a damaged one, NameTakenError, StatesFullError.
        """
        self._check_name(owner, name)
        path = self._folder / (_new_id() + suffix)
        upload.replace(path)
        try:
            kept = read_state(path, "the file") if kind == "snapshot" else check_initial(path, "the file")
            _sync(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return self._enter(owner, path, kind, name, kept)

    def copy(self, record: StateRecord, name: str | None) -> StateRecord:
        """The same state once more. Raises StateRefusedError when its file is gone, NameTakenError, StatesFullError."""
        self._check_name(record.owner, name)
        copy = self._dated(record._replace(id=_new_id(), name=name, created=self._clock()))
        path = self._folder / copy.file_name
        try:
            _link(self.path(record), path)
        except FileNotFoundError:
            self._drop_lost(record)
            raise StateRefusedError(f"the file of the state {record.id!r} is gone: it was dropped") from None
        self._add(copy, path)
        return copy

    def rename(self, record: StateRecord, name: str | None) -> StateRecord:
        """One without a name stays no longer than others without. Raises NameTakenError."""
        if name != record.name:
            self._check_name(record.owner, name)
        renamed = self._dated(record._replace(name=name))
        self.index.change(renamed)
        return renamed

    def remove(self, record: StateRecord) -> None:
        self._drop([record])

    def check_room(self, owner: str, size: int) -> None:
        """Raises StatesFullError when so many bytes more could not be kept."""
        _, staying = self.index.usage(owner, self._clock())
        if staying + size > self.budget:
            raise StatesFullError(
                f"the states that stay until they are deleted have {_mb(staying)}, {_mb(size)} more are wanted, and a "
                f"key may have {_mb(self.budget)}: delete some (GET /v1/states lists them)"
            )

    def new_upload(self) -> Path:
        """Where to write what is to be adopted."""
        return self._folder / f"{secrets.token_hex(12)}.upload"

    # --- to find

    def find(self, owner: str, reference: str) -> StateRecord | None:
        """The state of this id, else of this name."""
        return self.index.find(owner, reference, self._clock())

    def page(self, owner: str, limit: int, after: StateRecord | None) -> list[StateRecord]:
        """Up to `limit` states, the newest first, of those behind `after`."""
        return self.index.page(owner, self._clock(), limit, after)

    def path(self, record: StateRecord) -> Path:
        return self._folder / record.file_name

    def read(self, record: StateRecord) -> KeptState | None:
        """A kept snapshot; None when its file is gone. Raises StateRefusedError for one that was damaged."""
        kept = self._recent.get(record.checksum)
        if kept is None:
            try:
                kept = read_state(self.path(record), f"the state {record.name or record.id!r}", record.checksum)
            except FileNotFoundError:
                self._drop_lost(record)
                return None
            self._recent.put(kept)
        if self._clock() - record.used > TOUCH_SECONDS:
            self.index.change(self._dated(record))
        return kept

    def read_file(self, path: Path) -> KeptState:
        """The state in a file that is not kept here. Raises StateRefusedError."""
        return read_state(path, f"the file {path.name!r}")

    def decode(self, data: bytes) -> KeptState:
        """The state in a file's bytes. Raises StateRefusedError."""
        path = self.new_upload()
        try:
            path.write_bytes(data)
            return read_state(path, "what was sent")
        finally:
            path.unlink(missing_ok=True)

    def encode(self, state: New, model: str) -> bytes:
        """A file's bytes, with the name of the model that made the state."""
        path = self.new_upload()
        try:
            write_state(path, state[0], {**state[1], MODEL: model})
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    # --- initial states that are loaded

    def loaded(self) -> list[LoadedInitial]:
        return self.index.loaded()

    def remember_loaded(self, entry: LoadedInitial) -> list[LoadedInitial]:
        """What is loaded then. A kept state that is loaded stays."""
        record = self.index.find(entry.owner, entry.state_id, self._clock())
        if record is not None:
            self.index.change(record._replace(expires=None))
        self.index.load(entry)
        return self.loaded()

    def forget_loaded(self, entry: LoadedInitial) -> list[LoadedInitial]:
        self.index.unload(entry)
        record = self.index.find(entry.owner, entry.state_id, self._clock())
        if record is not None:
            self.index.change(self._dated(record))
        return self.loaded()

    # --- order

    def tidy(self) -> None:
        """Drop what has expired, and what is left of a crash."""
        self._drop(self.index.expired(self._clock()))
        known = {}
        for record in self.index.all():
            known[record.file_name] = record
            if not self.path(record).exists():
                self._drop_lost(record)
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name not in known and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                    log.warning("a file that belongs to no state is deleted", file=path.name)
                    path.unlink()

    def _enter(self, owner: str, path: Path, kind: Kind, name: str | None, kept: KeptState | None) -> StateRecord:
        """Make the row of a file that is there. The file goes where that fails."""
        now = self._clock()
        record = StateRecord(
            id=path.stem,
            owner=owner,
            name=name,
            kind=kind,
            suffix=path.suffix,
            fingerprint=kept.snapshot.fingerprint if kept else "",
            model=model_of(kept.extra) if kept else "",
            position=kept.snapshot.position if kept else 0,
            bytes=path.stat().st_size,
            checksum=kept.checksum if kept else checksum_of(path),
            created=now,
            used=now,
            expires=None,
        )
        record = self._dated(record)
        self._add(record, path)
        return record

    def _add(self, record: StateRecord, path: Path) -> None:
        try:
            self._make_room(record.owner, record.bytes)
            self.index.add(record)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _make_room(self, owner: str, size: int) -> None:
        """Drop states without a name, the least used first, until so much more fits."""
        self.check_room(owner, size)
        total, _ = self.index.usage(owner, self._clock())
        for record in self.index.least_used(owner):
            if total + size <= self.budget:
                break
            total -= record.bytes
            self._drop([record])

    def _dated(self, record: StateRecord) -> StateRecord:
        """As used now."""
        now = self._clock()
        stays = record.name is not None or any(entry.state_id == record.id for entry in self.index.loaded())
        return record._replace(used=now, expires=None if stays else now + self._life)

    def _check_name(self, owner: str, name: str | None) -> None:
        if name is None:
            return
        check_name(name)
        if self.index.find(owner, name, self._clock()) is not None:
            raise NameTakenError(f"there is a state of the name {name!r} already: rename or delete it first")

    def _drop_lost(self, record: StateRecord) -> None:
        log.warning("the file of a state is gone: it is dropped", state=record.id, name=record.name)
        self._drop([record])

    def _drop(self, records: Iterable[StateRecord]) -> None:
        records = list(records)
        self.index.remove(record.id for record in records)
        for record in records:
            self.path(record).unlink(missing_ok=True)


def check_name(name: str) -> None:
    """Raises StateRefusedError for what cannot be the name of a state."""
    if not _NAME.fullmatch(name) or _ID.fullmatch(name) or name.lower() in _NO_NAMES:
        raise StateRefusedError(
            f"{name[:100]!r} cannot be the name of a state: it should begin with a letter or digit and have up to "
            f"128 letters, digits, spaces and _ . : @ + = -, and not be {', '.join(_NO_NAMES)} or an id"
        )


def _new_id() -> str:
    return f"st_{secrets.token_hex(12)}"


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"


def _sync(path: Path) -> None:
    """Else a power failure could leave an empty file under a name that the index knows."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
        _sync(target)
