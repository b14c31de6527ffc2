"""The answer is told even where its state cannot be kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from wingbeat.engine.messages import RowExtras, RowOutput
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.server.dialects.openai_states import ReturnedStates
from wingbeat.services.states import StateStore


def ended(row: int) -> RowOutput:
    state = StateSnapshot.from_arrays("finger", 7, {"wkv": np.ones(16, np.float32)})
    return RowOutput(1, row, finish_reason="stop", extras=RowExtras(state=state))


async def test_a_disk_that_fails_costs_the_state_alone(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "states", budget=2**20, life=100)
    await store.open()
    model: Any = SimpleNamespace(name="tiny", info={"state_shapes": {"wkv": [16]}}, vocab_size=10)
    states = ReturnedStates(store, model, "id")
    await states.check_room(2)
    states.take(ended(0), "")
    await states.give()
    assert list(states.field(0)) == ["state"]
    shutil.rmtree(tmp_path / "states" / "stored")
    (tmp_path / "states" / "stored").write_text("no folder any more")
    states.take(ended(1), "")
    await states.give()
    failed = states.field(1)
    assert failed["state"] is None
    assert "States cannot be kept" in failed["state_error"]
    await store.close()
