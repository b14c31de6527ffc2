"""Logits equal the official `rwkv` package's, on random models of odd shapes (fixtures of tools/make_fixtures.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.random_models import random_model, write_pth
from wingbeat.models import load_model
from wingbeat.ops.table import Executable, StepBatch

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "logits").glob("*.npz"))
TOLERANCE = 2e-5  # of the spread of the official logits
CHUNKS = ([40], [1] * 40, [7, 7, 7, 7, 7, 5], [5, 1, 1, 20, 1, 12])


def forward(executable: Executable, tokens: np.ndarray, chunks: list[int]) -> np.ndarray:
    """Logits [T, V] of one sequence fed in chunks."""
    pool = executable.layout.allocate(2)
    pieces = []
    for piece in np.split(tokens, np.cumsum(chunks)[:-1]):
        batch = StepBatch(
            tokens=piece,
            slots=np.array([1], np.int32),
            seq_starts=np.array([0, len(piece)], np.int32),
            logit_rows=np.arange(len(piece), dtype=np.int32),
        )
        pieces.append(executable.run(batch, pool).copy())
    return np.concatenate(pieces)


def beside_another(executable: Executable, tokens: np.ndarray) -> np.ndarray:
    """Logits [T, V] of a sequence whose prompt shares a step with a shorter one."""
    other = tokens[:13][::-1]
    batch = StepBatch(
        tokens=np.concatenate([other, tokens]),
        slots=np.array([2, 0], np.int32),
        seq_starts=np.array([0, 13, 13 + len(tokens)], np.int32),
        logit_rows=np.arange(13, 13 + len(tokens), dtype=np.int32),
    )
    return executable.run(batch, executable.layout.allocate(3))


def test_there_are_fixtures() -> None:
    assert len(FIXTURES) == 24


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_logits_equal_the_official_package(fixture: Path, backend: str, tmp_path: Path) -> None:
    official = np.load(fixture)
    arguments = json.loads(str(official["arguments"]))
    gn_eps = float(official["gn_eps"]) if "gn_eps" in official else None
    path = write_pth(tmp_path / "model.pth", random_model(**arguments))
    executable = load_model(path, dtype="float32", backend=backend, gn_eps=gn_eps).executable
    tokens, expected = official["tokens"], official["logits"]
    fed = {str(chunks): forward(executable, tokens, chunks) for chunks in CHUNKS}
    for how, logits in (fed | {"company": beside_another(executable, tokens)}).items():
        assert logits.shape == expected.shape
        error = np.abs(logits - expected).max() / np.ptp(expected)
        assert error <= TOLERANCE, f"{error:.1e} of the spread when fed in {how}"
