from __future__ import annotations

from pathlib import Path

import pytest

from wingbeat.text.vocab import default_vocab_path, read_vocab
from wingbeat.text.world import WorldTokenizer

from .vocabs import write_vocab


@pytest.fixture(scope="session")
def world() -> WorldTokenizer:
    return WorldTokenizer(default_vocab_path())


@pytest.fixture(scope="session")
def subset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every twelfth World token beside the single bytes: has gaps, and fits the memory-hungry oracle."""
    tokens = {i: token for i, token in read_vocab(default_vocab_path()).items() if i <= 261 or i % 12 == 0}
    return write_vocab(tmp_path_factory.mktemp("vocab") / "subset.vocab.txt", tokens)


@pytest.fixture(scope="session")
def subset(subset_path: Path) -> WorldTokenizer:
    return WorldTokenizer(subset_path)
