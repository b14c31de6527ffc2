"""Hugging Face folders: whole, sharded, and with names and links that lead elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.model_files import write_folder
from tests.torch_zip import write_torch_zip
from wingbeat.formats.checkpoint import FormatError, open_checkpoint
from wingbeat.formats.folder import model_files, model_name
from wingbeat.formats.safetensors import save_safetensors

ARRAYS = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abcde")}
CONFIG = {"model_type": "rwkv7", "attn": None, "hidden_size": 64, "value_dim": [64, 64], "fuse_norm": True}


def check(path: Path, container: str = "safetensors") -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.container == container
    assert set(checkpoint) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(checkpoint[name].read(), array, strict=True)


@pytest.mark.parametrize("shards", [1, 3])
def test_whole_and_sharded(tmp_path: Path, shards: int) -> None:
    folder = write_folder(tmp_path / "model", ARRAYS, CONFIG, shards)
    check(folder)
    check(folder / "config.json")
    if shards > 1:
        check(folder / "model.safetensors.index.json")
    assert open_checkpoint(folder).metadata == {
        "model_type": "rwkv7",
        "attn": "null",
        "hidden_size": "64",
        "value_dim": "[64, 64]",
        "fuse_norm": "true",
    }
    assert open_checkpoint(folder).path == folder


def test_torch_files_inside(tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "pytorch_model.bin", ARRAYS)
    check(tmp_path, "torch")


def test_the_hubs_cache(tmp_path: Path) -> None:
    """Its files are links from snapshots/REVISION to blobs beside."""
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_safetensors(blobs / "123", ARRAYS, {})
    (blobs / "456").write_text(json.dumps(CONFIG))
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    (snapshot / "config.json").symlink_to("../../blobs/456")
    check(snapshot)


def test_what_a_model_is_called_and_consists_of(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "RWKV7-2.9B", ARRAYS, CONFIG)
    assert model_name(folder) == model_name(folder / "config.json") == "RWKV7-2.9B"
    assert model_name(Path("models/rwkv-1.5b.pth")) == "rwkv-1.5b"
    assert model_name(Path("models--RWKV--v7-2.9B") / "snapshots" / "abc" / "config.json") == "v7-2.9B"
    assert model_files(folder) == [folder / "config.json", folder / "model.safetensors"]
    assert model_files(folder / "model.safetensors") == [folder / "model.safetensors"]


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/secret.safetensors", "a/b.safetensors", "..", ".", "", "a\\b", "C:x", "a\0b"]
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    save_safetensors(tmp_path / "secret.safetensors", ARRAYS, {})
    folder = write_folder(tmp_path / "model", ARRAYS, CONFIG, 2)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(FormatError, match="which is not a plain name in it: refused"):
        open_checkpoint(folder)


@pytest.mark.parametrize("target", ["../secret.safetensors", "../blobs/secret.safetensors"])
def test_links_that_lead_out(tmp_path: Path, target: str) -> None:
    (tmp_path / "blobs").mkdir()
    save_safetensors(tmp_path / "secret.safetensors", ARRAYS, {})
    save_safetensors(tmp_path / "blobs" / "secret.safetensors", ARRAYS, {})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(target)
    with pytest.raises(FormatError, match="a link that leads out of its folder"):
        open_checkpoint(tmp_path / "model")


def test_links_in_a_circle(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", ARRAYS, CONFIG, 2)
    shard = tmp_path / "model" / "model-00001-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(FormatError, match="is missing"):
        open_checkpoint(tmp_path / "model")


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (INDEX, b"{", "cannot be read as JSON"),
        (INDEX, b"[" * 100_000, "cannot be read as JSON"),
        (INDEX, b"\xff", "cannot be read as JSON"),
        (INDEX, b"[]", "not a JSON object"),
        (INDEX, b"{}", "does not say in its weight_map"),
        (INDEX, b'{"weight_map": {}}', "does not say in its weight_map"),
        (INDEX, b'{"weight_map": {"a": 1}}', "does not say in its weight_map"),
        (INDEX, b'{"weight_map": {"a": "model-00003.safetensors"}}', r"model-00003\.safetensors is missing"),
        (INDEX, b'{"weight_map": {"b": "model-00001-of-00002.safetensors"}}', "lacks tensor 'b', which model"),
        (INDEX, json.dumps({"weight_map": {str(i): f"{i}.x" for i in range(2000)}}).encode(), "names 2,000 files"),
        (INDEX, b" " * ((16 << 20) + 1), "more than 16,777,216 bytes"),
        ("config.json", b" " * ((1 << 20) + 1), "more than 1,048,576 bytes"),
        ("config.json", b"nothing", "cannot be read as JSON"),
        ("model-00001-of-00002.safetensors", b"version https://git-lfs", "a Git LFS pointer"),
    ],
)
def test_damaged_folders(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    folder = write_folder(tmp_path / "model", ARRAYS, CONFIG, 2)
    (folder / file).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_checkpoint(folder)


def test_folders_of_other_things(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is a folder without model.safetensors or pytorch_model.bin: give the path"):
        open_checkpoint(tmp_path)
    for i in range(7):
        (tmp_path / f"{i}.pth").touch()
    with pytest.raises(FormatError, match=r"give one of the model files in it: 0\.pth, .*4\.pth and 2 more"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(FormatError, match="not a regular file"):
        open_checkpoint(tmp_path)
