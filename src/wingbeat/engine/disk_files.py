"""The files of the states on disk: ``<first two digits>/<id>.safetensors`` in one folder.

The id is a digest of what the state has seen and for which model, and the file says both: so a file that was damaged,
or that lies under another's name, is never taken for a state.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Set
from pathlib import Path

from wingbeat.engine.snapshot import StateSnapshot

ABANDONED_SECONDS = 3600.0
"""A file that is older and not in the index was left by a process that was killed, or by a server that lost a race."""

SUFFIX = ".safetensors"
_FOLDER = re.compile(r"[0-9a-f]{2}")
_STATE = re.compile(r"([0-9a-f]{64})\.safetensors")
_UNFINISHED = re.compile(r"[0-9a-f]{64}\.safetensors\.[0-9a-f]+\.tmp")
_PIECE = 1 << 20


def state_id(model: str, origin: str, tokens: bytes) -> str:
    """The name of the state that a sequence of ``model`` has when it began from ``origin`` and has seen ``tokens``."""
    return _digest(model, origin, hashlib.sha256(tokens).hexdigest())


def _digest(model: str, origin: str, tokens: str) -> str:
    return hashlib.sha256(json.dumps([model, origin, tokens]).encode()).hexdigest()


class StateFiles:
    """The files in ``folder``, which only the user may look into."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, id: str) -> Path:
        return self._folder / id[:2] / f"{id}{SUFFIX}"

    def size(self, id: str) -> int:
        """Bytes of the file; 0 when there is none."""
        try:
            return self.path(id).stat().st_size
        except OSError:
            return 0

    def write(self, id: str, model: str, origin: str, tokens: bytes, snapshot: StateSnapshot) -> int:
        """Write the state, whole or not at all; the size of its file. Raises OSError.

        The size is 0 when another server, which had the state too, deleted the file as soon as it was there.
        The folder's own entry is not forced to the disk: a row whose file a failure of power undid is a state that is
        not there.
        """
        path = self.path(id)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        about = {"model": model, "origin": origin, "tokens": hashlib.sha256(tokens).hexdigest()}
        snapshot.save(path, about)
        try:
            path.chmod(0o600)
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, id: str, position: int) -> StateSnapshot | None:
        """The state of ``id``, after ``position`` tokens; None when there is no such file.

        Raises ValueError when it is not what was written, OSError when the disk cannot read it.
        """
        path = self.path(id)
        try:
            self._fetch(path)
            snapshot, about = StateSnapshot.load(path)
        except FileNotFoundError:
            return None
        except ValueError:
            if not path.exists():  # another server evicted it meanwhile
                return None
            raise
        said = _digest(*(about.get(name, "") for name in ("model", "origin", "tokens")))
        if said != id or snapshot.position != position:
            raise ValueError(f"{path} holds another state than its name says")
        return snapshot

    def _fetch(self, path: Path) -> None:
        """Read the file once, in order: fast, and a disk that fails is an error here. In a mapping it is a signal."""
        piece = bytearray(_PIECE)
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass

    def remove(self, ids: Iterable[str]) -> None:
        """Raises OSError, after it tried all."""
        failed = None
        for id in ids:
            try:
                self.path(id).unlink(missing_ok=True)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    def sweep(self, indexed: Set[str], age: float = ABANDONED_SECONDS) -> set[str]:
        """Delete states that are not ``indexed`` and older than ``age`` seconds, and unfinished files; what is left.

        Other files than this class makes are left alone, whatever folder the user named. Raises OSError.
        """
        left: set[str] = set()
        now = time.time()
        for folder in os.scandir(self._folder):
            if not _FOLDER.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(folder):
                state = _STATE.fullmatch(file.name)
                if state is not None and state[1] in indexed:
                    left.add(state[1])
                elif state is not None:
                    _remove_older(file, now - age)
                elif _UNFINISHED.fullmatch(file.name):
                    _remove_older(file, now - ABANDONED_SECONDS)
        return left


def _remove_older(file: os.DirEntry[str], than: float) -> None:
    try:
        if file.stat(follow_symlinks=False).st_mtime < than:
            os.unlink(file)
    except FileNotFoundError:  # another server was faster
        pass
