"""Small random models behind every backend that this installation has."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.random_models import random_rwkv7, write_safetensors
from tests.text.vocabs import with_bytes, write_vocab
from wingbeat.models import Model, load_model
from wingbeat.ops import cpu
from wingbeat.text.world import WorldTokenizer

CHOICES = [("reference", "float32")]
if cpu.available():
    CHOICES += [("cpu", "float32"), ("cpu", "bfloat16"), ("cpu", "int8"), ("cpu", "int4")]
VOCAB = 300


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 300 rows with its vocabulary beside it."""
    folder = tmp_path_factory.mktemp("model")
    words = [b"the ", b"wing", b"beat", b"\n\n", "é".encode(), "世界".encode(), b"stop", b"User", b": "]
    write_vocab(folder / "tiny.vocab.txt", with_bytes(words))
    return write_safetensors(folder / "tiny.safetensors", random_rwkv7(layers=2, width=64, vocab=VOCAB, seed=3))


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> WorldTokenizer:
    return WorldTokenizer(model_path.with_name("tiny.vocab.txt"))


@functools.cache
def _load(path: Path, backend: str, dtype: str) -> Model:
    return load_model(path, dtype=dtype, backend=backend, threads=2)


@pytest.fixture(params=CHOICES, ids="-".join)
def model(request: pytest.FixtureRequest, model_path: Path) -> Model:
    return _load(model_path, *request.param)
