"""`wingbeat list`, and models by name in the other commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.live import write_model
from wingbeat.cli import app

PUBLISHED = "rwkv7-g1d-0.1b-20260129-ctx8192.pth"


def invoke(*args: str) -> str:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 0, result.output
    return result.stdout


def listed(*args: str) -> list[dict[str, Any]]:
    return json.loads(invoke("list", "--json", *args))


@pytest.fixture
def filled(folder: Path) -> Path:
    """A model of ours, one that says it is published, a download that was stopped, and a file that is no model."""
    folder.mkdir()
    write_model(folder, "tiny-ctx512")
    (folder / PUBLISHED).write_bytes(b"x" * 1000)
    (folder / "rwkv7-g1-0.1b-20250307-ctx4096.pth.0123456789ab.part").write_bytes(b"x" * 382231)
    (folder / "broken.pth").write_bytes(b"x")
    return folder


def test_what_is_here(filled: Path) -> None:
    models = {model.pop("name"): model for model in listed()}
    assert list(models) == ["rwkv7-g1-0.1b-20250307-ctx4096.pth", "broken.pth", PUBLISHED, "tiny-ctx512.safetensors"]
    tiny = filled / "tiny-ctx512.safetensors"
    size = tiny.stat().st_size
    assert models["tiny-ctx512.safetensors"] == {
        "version": "7",
        "parameters": "0.1M",
        "context": 512,
        "size": size,
        "here": size,
        "path": str(tiny),
        "note": None,
    }
    assert models["broken.pth"]["version"] is None
    assert models[PUBLISHED]["context"] == 8192
    assert models[PUBLISHED]["note"] == "not the published file, which has 382223725 bytes"
    stopped = models["rwkv7-g1-0.1b-20250307-ctx4096.pth"]
    assert (stopped["here"], stopped["size"], stopped["note"]) == (382231, 382231495, "unfinished")
    shown = invoke("list").splitlines()
    assert shown[0].split() == ["RWKV", "size", "context", "file", "here", "name"]
    assert shown[1].split()[:6] == ["7", "0.1B", "4096", "0.38", "GB", "0%"]
    assert shown[-1] == f"in {filled}"


@pytest.mark.usefixtures("filled")
def test_what_can_be_fetched() -> None:
    assert len(listed("--remote")) == 136
    assert len(listed("--all")) == 138
    assert [model["name"] for model in listed("--remote", "g1d-0.1b")] == [PUBLISHED]
    assert [model["here"] for model in listed("--remote", "g1d-0.1b")] == [1000]
    assert invoke("list", "--remote", "llama") == "No such models.\n"


def test_an_empty_folder_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    assert invoke("list") == (
        f"No models in {folder} yet. `wingbeat list --remote` shows what `wingbeat pull` can fetch.\n"
    )
    assert str(tmp_path / "other") in invoke("list", "--models-dir", str(tmp_path / "other"))


@pytest.mark.usefixtures("filled")
def test_a_model_goes_by_its_name(tmp_path: Path) -> None:
    findings = json.loads(CliRunner().invoke(app, ["doctor", "tiny", "--json"]).stdout)["findings"]
    assert "tiny-ctx512.safetensors: RWKV-7" in next(each["text"] for each in findings if each["about"] == "model")
    run = ["bench", "--model", "tiny", "--what", "decode b1", "--seconds", "0", "--json", "--backend", "reference"]
    assert json.loads(invoke(*run))["model"] == "tiny-ctx512"
    absent = CliRunner().invoke(app, ["serve", "g1d-0.4b"])
    assert absent.exit_code == 1
    assert absent.stderr.endswith("To fetch it: wingbeat pull rwkv7-g1d-0.4b-20260210-ctx8192.pth\n")
