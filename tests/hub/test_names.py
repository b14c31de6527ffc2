from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from wingbeat.demo import demo_model_path
from wingbeat.hub.catalogue import catalogue, find
from wingbeat.hub.folder import NoSuchModelError, find_model, local_models, models_folder, unfinished
from wingbeat.hub.names import listed, matching, stem
from wingbeat.hub.source import HUGGING_FACE, from_catalogue, from_repository


def test_the_catalogue_holds_facts() -> None:
    entries = catalogue().values()
    assert len(entries) == 136
    assert {entry.version for entry in entries} == {"4", "5", "6", "7"}
    for entry in entries:
        assert entry.name.endswith((".pth", ".gguf"))
        assert entry.size > 10**8
        assert re.fullmatch(r"[\d.]+[BM]", entry.parameters)
        assert entry.hugging_face or entry.model_scope
        assert entry.context is None or 1024 <= entry.context <= 2**17
        assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    hashes = Counter(entry.sha256 for entry in entries if entry.sha256)
    assert [entry.name for entry in entries if hashes[entry.sha256] > 1] == []


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("rwkv7-g1-0.4b-20250324-ctx4096.pth", ["rwkv7-g1-0.4b-20250324-ctx4096.pth"]),
        ("RWKV7-G1-0.4B-20250324-CTX4096", ["rwkv7-g1-0.4b-20250324-ctx4096.pth"]),
        ("g1-0.4b", ["rwkv7-g1-0.4b-20250324-ctx4096.pth"]),
        ("g1-0.4b-20250324-ctx4096_Q8_0", ["rwkv7-g1-0.4b-20250324-ctx4096_Q8_0.gguf"]),
        ("rwkv7-g1d-0.4b", ["rwkv7-g1d-0.4b-20260210-ctx8192.pth"]),
        ("g1d 0.4b q8_0", ["rwkv7-g1d-0.4b-Q8_0.gguf"]),
        ("world-0.4b-v2.9", ["RWKV-x070-World-0.4B-v2.9-20250107-ctx4096.pth"]),
        ("x070 0.1b", ["RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth"]),
        ("g1-0.4b.pth", []),
        ("", []),
        ("llama", []),
    ],
)
def test_a_model_is_found_by_a_part_of_its_name(query: str, names: list[str]) -> None:
    assert [entry.name for entry in find(query)] == names


def test_a_fragment_that_fits_several() -> None:
    assert matching("0.4b", ["a-0.4b.pth", "b-0.4b.pth", "c-10.4b.pth"]) == ["a-0.4b.pth", "b-0.4b.pth"]
    assert matching("a", ["a.pth", "a.safetensors", "a-b.pth"]) == ["a.pth", "a.safetensors"]
    assert listed([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert stem("rwkv7-g1-0.4b") == "rwkv7-g1-0.4b"


def test_the_addresses() -> None:
    (entry,) = find("g1d-0.1b")
    assert [source.url for source in from_catalogue(entry, "https://mirror.test/").sources] == [
        "https://mirror.test/BlinkDL/rwkv7-g1/resolve/main/rwkv7-g1d-0.1b-20260129-ctx8192.pth",
        "https://modelscope.cn/models/Blink_DL/rwkv7-g1/resolve/master/rwkv7-g1d-0.1b-20260129-ctx8192.pth",
    ]
    (entry,) = find("rwkv7-g1-2.9b-20250519-ctx4096-Q6_K")
    assert [source.url for source in from_catalogue(entry, HUGGING_FACE).sources] == [
        "https://huggingface.co/mollysama/rwkv-mobile-models/resolve/main/gguf/rwkv7-g1-2.9b-20250519-ctx4096-Q6_K.gguf"
    ]
    raven = from_repository("BlinkDL/rwkv-4-raven/RWKV-4-Eng99%-x.pth", HUGGING_FACE, "refs/pr/1").sources[0].url
    assert raven == "https://huggingface.co/BlinkDL/rwkv-4-raven/resolve/refs%2Fpr%2F1/RWKV-4-Eng99%25-x.pth"
    scope = from_repository("a/b/c.pth", "https://www.modelscope.cn").sources[0].url
    assert scope == "https://www.modelscope.cn/models/a/b/resolve/master/c.pth"


@pytest.mark.parametrize(
    "path", ["a/b", "a/b/", "a/b/../c", "/a/b/c", "a/b/c\\d", "a b/c/d", "a/b/c\n", "a/b/c:d", "?/b/c"]
)
def test_a_path_that_is_no_file_of_a_hub(path: str) -> None:
    with pytest.raises(ValueError, match="write owner/repository/file"):
        from_repository(path, HUGGING_FACE)


@pytest.mark.parametrize(
    ("hub", "sent"),
    [
        ("https://huggingface.co", True),
        ("https://mirror.test", True),
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://mirror.test", False),
        ("https://modelscope.cn", False),
    ],
)
def test_who_gets_the_token(monkeypatch: pytest.MonkeyPatch, hub: str, sent: bool) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert (from_repository("a/b/c.pth", hub).sources[0].token == "secret") == sent


def test_a_model_that_is_here_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    (folder / "hf-model").mkdir(parents=True)
    (folder / "hf-model" / "config.json").touch()
    for name in ("rwkv7-g1-0.4b.pth", "rwkv7-g1-1.5b.st", "notes.txt", ".x.pth", "x.pth.0123.part", "x.vocab.txt"):
        (folder / name).touch()
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in local_models(folder)] == ["hf-model", "rwkv7-g1-0.4b.pth", "rwkv7-g1-1.5b.st"]
    assert [path.name for path in unfinished(folder)] == ["x.pth.0123.part"]
    assert local_models(tmp_path / "none") == []
    assert find_model("g1-0.4b", folder) == folder / "rwkv7-g1-0.4b.pth"
    assert find_model("hf-model", folder) == folder / "hf-model"
    assert find_model(Path("g1-1.5b"), folder) == folder / "rwkv7-g1-1.5b.st"
    assert find_model("demo", folder) == demo_model_path()
    (tmp_path / "g1-0.4b").touch()
    assert find_model("g1-0.4b", folder) == Path("g1-0.4b")  # a path comes first
    for model, message in {
        "rwkv7": r"could be any of rwkv7-g1-0.4b.pth, rwkv7-g1-1.5b.st in .*models",
        "g1d-2.9b": r"not here yet. To fetch it: wingbeat pull rwkv7-g1d-2.9b-20260131-ctx8192.pth$",
        "7.2b": r"could be any of .*\.pth.* wingbeat pull NAME",
        "llama": r"^There is no file llama: .* `wingbeat list`",
        "./g1": r"^There is no file g1: ",
        "models/none.pth": r"^There is no file models/none.pth: name a model's file, such as a .pth, or its folder.$",
    }.items():
        with pytest.raises(NoSuchModelError, match=message):
            find_model(model, folder)


def test_which_folder_holds_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINGBEAT_MODELS_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert tmp_path in models_folder().parents
    monkeypatch.setenv("WINGBEAT_MODELS_DIR", "~/mine")
    assert models_folder() == tmp_path / "mine"
    assert models_folder(tmp_path / "named") == tmp_path / "named"
