from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.model_files import write_gguf
from tests.text.carried import written
from tests.text.vocabs import SINGLE_BYTES, with_bytes, write_vocab
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.formats.checkpoint import open_checkpoint

TOKENS = with_bytes([b"wing", b"a\nb", "世".encode(), "世".encode()[:2]])


def write_model(path: Path, kind: str = "rwkv") -> Path:
    metadata = {"tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": written(TOKENS, 300)}
    return write_gguf(path, {"x": np.zeros((2, 2), np.float32)}, metadata)


def test_a_gguf_files_own_tokens(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    metadata = open_checkpoint(path).metadata
    write_vocab(tmp_path / "vocab.txt", SINGLE_BYTES)
    tokenizer = load_tokenizer(path, 300, None, metadata)
    assert tokenizer is not None
    assert tokenizer.path == path
    assert {i: token for i in range(300) if (token := tokenizer.token_bytes(i))} == TOKENS
    assert tokenizer.encode("wing世a\nb") == [257, 259, 258]


def test_what_the_user_names_comes_first(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    tokenizer = load_tokenizer(path, 300, "bytes", open_checkpoint(path).metadata)
    assert tokenizer is not None
    assert tokenizer.kind == "bytes"


def test_tokens_of_another_kind_do_not_count(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", "gpt2")
    assert load_tokenizer(path, 300, None, open_checkpoint(path).metadata) is None
