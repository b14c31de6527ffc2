"""Files of states: written, read and checked. Messages name them as a client knows them, never by their paths."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.formats.checkpoint import open_checkpoint
from wingbeat.services.recent_states import KeptState

SNAPSHOT_SUFFIX = ".safetensors"
INITIAL_SUFFIXES = (".pth", ".pt", ".st", ".state", ".safetensors")
"""Of files of tuned initial states: they tell in which order the values lie."""

MODEL = "model"
"""Under which name a file says what its model is called."""
OPENING = "opening"
"""Under which name a file says what the prompt of an answer that was cut off ended with, see `ReasoningSplitter`."""
_MODEL_OF_CONVERSATION = "conversation.model"  # where `Conversation.save` says it
_TUNED = ".time_state"


class StateRefusedError(ValueError):
    """What a client gave cannot be kept or used. The message says why."""


def write_state(path: Path, snapshot: StateSnapshot, extra: Mapping[str, str]) -> KeptState:
    """The file appears complete or not at all. Raises OSError."""
    snapshot.save(path, extra)
    return KeptState(snapshot, extra, checksum_of(path))


def read_state(path: Path, called: str, checksum: str | None = None) -> KeptState:
    """The state in a file, which should have this checksum.

    Raises StateRefusedError, which says `called` for the file, FileNotFoundError.
    """
    found = checksum_of(path)
    if checksum not in (None, found):
        raise StateRefusedError(f"{called} was altered or damaged since it was kept: delete it and use another copy")
    try:
        snapshot, extra = StateSnapshot.load(path)
    except ValueError as error:
        raise StateRefusedError(_told(error, path, called)) from None
    return KeptState(snapshot, extra, found)


def check_initial(path: Path, called: str) -> None:
    """Raises StateRefusedError for a file that holds no tuned initial state. That it fits a model is not known yet."""
    try:
        names = list(open_checkpoint(path))
    except ValueError as error:
        raise StateRefusedError(_told(error, path, called)) from None
    strange = next((name for name in names if not name.endswith(_TUNED)), None)
    if strange is not None or not names:
        found = "it is empty" if strange is None else f"it holds {strange[:100]!r}"
        raise StateRefusedError(
            f"{called} is no tuned initial state, which holds a {_TUNED} for each layer and nothing else: {found}"
        )


def model_of(extra: Mapping[str, str]) -> str:
    """The name of the model that made a state, as its file tells it; empty where it does not."""
    return extra.get(MODEL) or extra.get(_MODEL_OF_CONVERSATION) or ""


def checksum_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(error: ValueError, path: Path, called: str) -> str:
    return str(error).replace(repr(str(path)), called).replace(str(path), called)
