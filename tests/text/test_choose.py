from __future__ import annotations

from pathlib import Path

import pytest

from wingbeat.text import choose
from wingbeat.text.choose import advice, kind_of, tokenizer_for
from wingbeat.text.vocab import VocabError, default_vocab_path

from .pile import write_pile
from .vocabs import SINGLE_BYTES, with_bytes, write_vocab


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    path.touch()
    return path


@pytest.mark.parametrize("rows", [65530, 65536])
def test_world_by_the_number_of_rows(model: Path, rows: int) -> None:
    tokenizer = tokenizer_for(model, rows)
    assert tokenizer is not None
    assert tokenizer.path == default_vocab_path()


@pytest.mark.parametrize("rows", [100, 65529, 65537, 50277])
def test_none_when_nothing_fits(model: Path, rows: int) -> None:
    assert tokenizer_for(model, rows) is None


def test_the_file_beside_the_model(model: Path) -> None:
    path = write_vocab(model.with_name("model.vocab.txt"), SINGLE_BYTES)
    tokenizer = tokenizer_for(model, 4096)
    assert tokenizer is not None
    assert tokenizer.path == path


def test_an_override_wins(model: Path, tmp_path: Path) -> None:
    write_vocab(model.with_name("model.vocab.txt"), SINGLE_BYTES)
    path = write_vocab(tmp_path / "mine.txt", with_bytes([b"ab"]))
    tokenizer = tokenizer_for(model, 300, override=str(path))
    assert tokenizer is not None
    assert tokenizer.path == path


@pytest.mark.parametrize("named", [True, False])
def test_a_chosen_file_must_fit(model: Path, named: bool) -> None:
    name = "mine.txt" if named else "model.vocab.txt"
    path = write_vocab(model.with_name(name), with_bytes([b"ab"], first_id=512))
    with pytest.raises(VocabError, match="ids up to 512, but the model has only 512 rows"):
        tokenizer_for(model, 512, override=path if named else None)


def test_a_guessed_file_that_does_not_fit_is_passed_over(model: Path) -> None:
    write_vocab(model.with_name("vocab.txt"), SINGLE_BYTES)
    tokenizer = tokenizer_for(model, 65536)
    assert tokenizer is not None
    assert tokenizer.path == default_vocab_path()
    assert tokenizer_for(model, 200) is None
    assert tokenizer_for(model, 257) is not None


@pytest.mark.parametrize(
    ("rows", "kind", "size"),
    [(20096, "midi", 20096), (2176, "piano", 2176), (128, "abc", 128), (129, "abc", 128), (256, "bytes", 256)],
)
def test_built_in_ones_by_the_number_of_rows(model: Path, rows: int, kind: str, size: int) -> None:
    tokenizer = tokenizer_for(model, rows)
    assert tokenizer is not None
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.path) == (kind, size, None)
    assert kind_of(rows) == kind


@pytest.mark.parametrize("rows", [50277, 50304])
def test_the_20b_file_beside_the_model(model: Path, rows: int) -> None:
    assert tokenizer_for(model, rows) is None
    assert "`wingbeat pull 20B_tokenizer.json` fetches it" in advice(rows)
    path = write_pile(model.with_name("20B_tokenizer.json"))
    tokenizer = tokenizer_for(model, rows)
    assert tokenizer is not None
    assert (tokenizer.kind, tokenizer.path, tokenizer.vocab_size) == ("20b", path, 50277)
    world = tokenizer_for(model, 65536)  # of another kind of model in the same folder
    assert world is not None
    assert world.kind == "world"


def test_the_20b_file_in_the_models_folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("models")
    assert tokenizer_for(model, 50277, models_folder=folder) is None
    path = write_pile(folder / "20B_tokenizer.json")
    for named in (None, "20b"):
        tokenizer = tokenizer_for(model, 50277, named, models_folder=folder)
        assert tokenizer is not None
        assert tokenizer.path == path
    beside = write_pile(model.with_name("20B_tokenizer.json"))
    tokenizer = tokenizer_for(model, 50277, models_folder=folder)
    assert tokenizer is not None
    assert tokenizer.path == beside


def test_the_20b_file_of_an_installed_package(
    model: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pile(tmp_path_factory.mktemp("rwkv") / "20B_tokenizer.json")
    monkeypatch.setattr(choose, "packaged_file", lambda name: path if name == path.name else None)
    tokenizer = tokenizer_for(model, 50277)
    assert tokenizer is not None
    assert tokenizer.path == path


@pytest.mark.parametrize("rows", [600, 640])
def test_a_tokenizer_json_beside_the_model_or_in_its_folder(model: Path, rows: int) -> None:
    path = write_pile(model.with_name("tokenizer.json"), 600)
    for where in (model, model.parent):
        tokenizer = tokenizer_for(where, rows)
        assert tokenizer is not None
        assert tokenizer.path == path
    assert tokenizer_for(model, 599) is None
    path.write_text('{"model": {"type": "WordPiece"}}')
    assert tokenizer_for(model, rows) is None


def test_a_vocabulary_in_a_models_folder(tmp_path: Path) -> None:
    path = write_vocab(tmp_path / "rwkv_vocab_v20230424.txt", with_bytes([b"ab"]))
    tokenizer = tokenizer_for(tmp_path, 300)
    assert tokenizer is not None
    assert tokenizer.path == path


def test_a_tokenizer_of_the_models_own_name(model: Path) -> None:
    path = write_pile(model.with_name("model.tokenizer.json"), 600)
    tokenizer = tokenizer_for(model, 600)
    assert tokenizer is not None
    assert tokenizer.path == path
    with pytest.raises(VocabError, match=r"model\.tokenizer\.json has token ids up to 599, but"):
        tokenizer_for(model, 300)
    path.write_text("{")
    with pytest.raises(VocabError, match="is not a tokenizer"):
        tokenizer_for(model, 600)


@pytest.mark.parametrize("name", ["piano", "PIANO"])
def test_a_tokenizer_by_its_name(model: Path, name: str) -> None:
    write_vocab(model.with_name("model.vocab.txt"), SINGLE_BYTES)
    tokenizer = tokenizer_for(model, 4096, name)
    assert tokenizer is not None
    assert tokenizer.kind == "piano"


def test_every_name_is_one(model: Path) -> None:
    write_pile(model.with_name("20B_tokenizer.json"))
    for name in choose.NAMES:
        tokenizer = tokenizer_for(model, 65536, name)
        assert tokenizer is not None
        assert tokenizer.kind == name


def test_names_and_files_that_are_not_there(model: Path) -> None:
    with pytest.raises(VocabError, match="name a file, or one of world, 20b, midi"):
        tokenizer_for(model, 300, "x.txt")
    with pytest.raises(
        VocabError, match=r"20B_tokenizer\.json was not found: `wingbeat pull 20B_tokenizer\.json` fetches it"
    ):
        tokenizer_for(model, 50277, "20b")
    with pytest.raises(VocabError, match="midi has token ids up to 20095, but the model has only 300 rows"):
        tokenizer_for(model, 300, "midi")


def test_metadata_choose_a_name_and_open_no_file(model: Path, tmp_path: Path) -> None:
    chosen = tokenizer_for(model, 65536, metadata={"wingbeat.tokenizer": "bytes"})
    assert chosen is not None
    assert chosen.kind == "bytes"
    mine = tokenizer_for(model, 65536, "abc", {"wingbeat.tokenizer": "bytes"})
    assert mine is not None
    assert mine.kind == "abc"
    path = write_vocab(tmp_path / "v.txt", SINGLE_BYTES)
    with pytest.raises(VocabError, match="unknown tokenizer"):
        tokenizer_for(model, 65536, metadata={"wingbeat.tokenizer": str(path)})
