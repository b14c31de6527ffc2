"""The states that sequences of a model may begin from, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wingbeat.engine.origin import FRESH, Origin
from wingbeat.models import Model
from wingbeat.models.tuned_states import read_tuned_state
from wingbeat.ops.table import FloatArray

NONE = "none"
"""The name of the state that has seen nothing."""

INTERNAL = "internal"
"""The name of the state that the model's own file holds, which is the default where it does."""


class InitialStates:
    """``files`` are tuned states by name; ``default`` is the name of the one for requests that name none.

    Raises ValueError, naming the file and the tensor, for a state that cannot be read or does not fit the model.
    """

    def __init__(self, model: Model, files: Mapping[str, str], default: str | None) -> None:
        self._origins = {NONE: FRESH}
        if model.initial_state is not None:
            self._origins[INTERNAL] = _origin(model.initial_state)
        self._layout = model.executable.layout
        for name, path in files.items():
            self.load(name, Path(path))
        self._configured = default
        self.default = default or self._first
        if self.default not in self._origins:
            raise ValueError(f"default_state: {self._unknown(self.default)}")

    def load(self, name: str, path: Path) -> None:
        """Offer the state of a file under ``name``, which may have been that of another.

        Raises ValueError, and changes nothing, for a name that is taken or a file that cannot be used.
        """
        if name in (NONE, INTERNAL) or not name:
            raise ValueError(f"a state cannot have the name {name!r}: choose another for {path}")
        self._origins[name] = _origin(read_tuned_state(path, self._layout))

    def drop(self, name: str) -> None:
        """Offer the state of that name no longer. Raises ValueError where that cannot be."""
        if name in (NONE, INTERNAL):
            raise ValueError(f"the state {name!r} cannot be dropped")
        self.origin(name)
        del self._origins[name]
        if self.default == name:
            self.default = self._configured if self._configured in self._origins else self._first

    def make_default(self, name: str) -> None:
        """Begin from this state where a request names none. Raises ValueError for an unknown name."""
        self.origin(name)
        self.default = name

    @property
    def _first(self) -> str:
        """The default of a model for which nothing else is said."""
        return INTERNAL if INTERNAL in self._origins else NONE

    @property
    def names(self) -> list[str]:
        return list(self._origins)

    def origin(self, name: str | None) -> Origin:
        """Where a sequence begins; None takes the default. Raises ValueError for an unknown name."""
        try:
            return self._origins[self.default if name is None else name]
        except KeyError:
            raise ValueError(f"state: {self._unknown(name)}") from None

    def _unknown(self, name: str | None) -> str:
        return f"there is no initial state {name!r}; there are {', '.join(self._origins)}"


def _origin(arrays: Mapping[str, FloatArray]) -> Origin:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return Origin(0, arrays, f"tuned-{digest.hexdigest()[:32]}")
