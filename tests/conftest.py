"""What all tests share: folders of the user that are theirs alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

_folders = tempfile.TemporaryDirectory(prefix="wingbeat-tests-")  # goes at the end, with what is in it

# Of this process and those that tests start, before any module is collected: nothing of the user's is read or written.
for _name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
    os.environ[_name] = os.path.join(_folders.name, _name)
    os.makedirs(os.environ[_name])


@pytest.fixture(scope="session")
def embed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small, real text-embedding model in ONNX."""
    pytest.importorskip("onnxruntime")
    from tools.make_embed_fixture import make

    return make(tmp_path_factory.mktemp("embed") / "static-256")
