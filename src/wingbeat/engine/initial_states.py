"""The states that sequences of a model may begin from, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wingbeat.engine.sequence import FRESH, Origin
from wingbeat.models import Model
from wingbeat.models.tuned_states import read_tuned_state

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
            self._origins[INTERNAL] = Origin(0, model.initial_state)
        for name, path in files.items():
            if name in (NONE, INTERNAL) or not name:
                raise ValueError(f"a state cannot have the name {name!r}: choose another for {path}")
            self._origins[name] = Origin(0, read_tuned_state(Path(path), model.executable.layout))
        self.default = default or (INTERNAL if INTERNAL in self._origins else NONE)
        if self.default not in self._origins:
            raise ValueError(f"default_state: {self._unknown(self.default)}")

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
