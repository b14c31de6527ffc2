from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder, not there yet; no other settings from the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith(("WINGBEAT_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WINGBEAT_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"
