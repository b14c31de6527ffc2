"""Logits equal the official `rwkv` package's, on random models of odd shapes (fixtures of tools/make_fixtures.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.random_models import random_rwkv7, write_pth
from wingbeat.models import load_model
from wingbeat.ops.table import Executable, StepBatch

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "logits").glob("*.npz"))
TOLERANCE = 1e-4  # of the spread of the official logits


def forward(executable: Executable, tokens: np.ndarray, chunk: int) -> np.ndarray:
    """Logits [T, V] of one sequence fed `chunk` tokens at a time."""
    pool = executable.layout.allocate(2)
    pieces = []
    for start in range(0, len(tokens), chunk):
        piece = tokens[start : start + chunk]
        batch = StepBatch(
            tokens=piece,
            slots=np.array([1], np.int32),
            seq_starts=np.array([0, len(piece)], np.int32),
            logit_rows=np.arange(len(piece), dtype=np.int32),
        )
        pieces.append(executable.run(batch, pool).copy())
    return np.concatenate(pieces)


def test_there_are_fixtures() -> None:
    assert len(FIXTURES) == 8


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_logits_equal_the_official_package(fixture: Path, backend: str, tmp_path: Path) -> None:
    official = np.load(fixture)
    arguments = json.loads(str(official["arguments"]))
    path = write_pth(tmp_path / "model.pth", random_rwkv7(**arguments))
    executable = load_model(path, dtype="float32", backend=backend).executable
    tokens, expected = official["tokens"], official["logits"]
    for chunk in (len(tokens), 1, 7):
        logits = forward(executable, tokens, chunk)
        assert logits.shape == expected.shape
        error = np.abs(logits - expected).max() / np.ptp(expected)
        assert error <= TOLERANCE, f"{error:.1e} of the spread in chunks of {chunk}"
