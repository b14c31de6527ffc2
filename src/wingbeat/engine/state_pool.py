"""The slots that hold the states of running sequences."""

from __future__ import annotations

from collections.abc import Mapping

from wingbeat.engine.memory import available_memory
from wingbeat.ops.copying import copy_state
from wingbeat.ops.table import FloatArray, StateLayout

DEFAULT_SLOTS = 64
MEMORY_SHARE = 4  # the pool may take one part in this many of the memory that is free


class StatePool:
    """``slots`` states of ``layout``, one contiguous block each. A sequence keeps its slot while it runs."""

    def __init__(self, layout: StateLayout, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"a state pool needs at least one slot, not {slots}")
        self.layout = layout
        self.slots = slots
        self.states = layout.allocate(slots)  # float32 [slots, layout.slot_floats]
        self._free = list(range(slots - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def in_use(self) -> int:
        return self.slots - len(self._free)

    def acquire(self) -> int:
        """Take a free slot; what it holds is whatever its last sequence left. Raises IndexError when none is free."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def reset(self, slot: int, arrays: Mapping[str, FloatArray] | None = None) -> None:
        """Make ``slot`` the state of a sequence that has seen nothing, or the state with these canonical ``arrays``."""
        if arrays is None:
            self.layout.reset(self.states, slot)
        else:
            self.layout.restore(self.states, slot, arrays)

    def views(self, slot: int) -> dict[str, FloatArray]:
        """The state in ``slot`` as canonical arrays, by field name, which share its memory."""
        return self.layout.views(self.states, slot)

    def copy(self, source: int, target: int) -> None:
        """Make ``target`` the state of ``source``: from here on the two sequences share nothing."""
        copy_state(self.states[target], self.states[source])


def default_slots(layout: StateLayout) -> int:
    """64, or as many as a quarter of the free memory holds, but at least one."""
    return max(1, min(DEFAULT_SLOTS, available_memory() // MEMORY_SHARE // max(1, layout.slot_bytes)))
