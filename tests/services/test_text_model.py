"""A real embedding model in ONNX: tokens, chunks, vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wingbeat.services.text_model import MissingExtraError, TextModel

pytest.importorskip("onnxruntime")

TEXT = "A bird flies over the sea. It sings!\n\nThe sky above it is blue, and the wind is cold. " * 8


@pytest.fixture(scope="module")
def model(embed_folder: Path) -> TextModel:
    return TextModel(embed_folder)


def vectors(model: TextModel, *texts: str) -> np.ndarray:
    return model.embed([model.tokens(text) for text in texts])


def test_texts_that_mean_the_same_are_near(model: TextModel) -> None:
    found = vectors(model, "a small dog", "a little puppy", "the stock market fell")
    assert found.shape == (3, model.width) == (3, 256)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    near = found @ found.T
    assert near[0, 1] > near[0, 2] + 0.2


def test_padding_changes_nothing(model: TextModel) -> None:
    together = vectors(model, "a dog", TEXT, "x")
    for text, vector in zip(("a dog", TEXT, "x"), together, strict=True):
        assert np.allclose(vectors(model, text)[0], vector, atol=1e-6)


@pytest.mark.parametrize("most", [1, 7, 30, 510])
def test_chunks_fit_and_lose_nothing_but_white_space(model: TextModel, most: int) -> None:
    chunks = model.chunks(TEXT, most)
    assert "".join("".join(chunks).split()) == "".join(TEXT.split())
    assert all(chunk == chunk.strip() for chunk in chunks)
    if most > 1:
        assert all(len(model._tokenizer.encode(chunk, add_special_tokens=False).ids) <= most for chunk in chunks)
    if most == 30:
        assert chunks[0].endswith((".", "!"))


def test_a_prefix_has_room_in_a_chunk(model: TextModel) -> None:
    prefix = "passage: " * 20
    chunks = model.chunks("bird " * 3000, 510, prefix)
    assert max(len(model.tokens(prefix + chunk)) for chunk in chunks) <= 512


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model\.onnx"):
        TextModel(tmp_path)
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no text-embedding model"):
        TextModel(tmp_path)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name, name=name)

    monkeypatch.setattr("wingbeat.services.text_model.import_module", refuse)
    with pytest.raises(MissingExtraError, match=r'pip install "wingbeat\[embed\]"'):
        TextModel(tmp_path)
