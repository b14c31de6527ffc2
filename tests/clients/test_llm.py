"""The `llm` command."""

from __future__ import annotations

import json
from pathlib import Path

from tests.clients.conftest import Server
from tests.clients.recipes import Recipe, shell


def recipe(server: Server, folder: Path) -> Recipe:
    """The recipe, with its file where `llm` looks for it."""
    shown = Recipe("llm", server.url)
    shown.write_files(folder)
    return shown


def test_recipe(server: Server, tmp_path: Path) -> None:
    printed = recipe(server, tmp_path).run_shell(tmp_path, LLM_USER_PATH=str(tmp_path))
    assert printed.count("recurrent") == 2
    assert printed.strip().endswith("保存文件")
    calls = json.loads(shell("llm logs list --json -n 0", tmp_path, LLM_USER_PATH=str(tmp_path)))
    assert [call["model"] for call in calls] == ["wingbeat", "wingbeat", "wingbeat", "wingbeat-text"]
    assert calls[2]["conversation_id"] == calls[1]["conversation_id"] != calls[0]["conversation_id"]
    assert calls[2]["input_tokens"] > calls[0]["input_tokens"] > 0


def test_json(server: Server, tmp_path: Path) -> None:
    recipe(server, tmp_path)
    printed = shell("llm -m wingbeat Hi -o json_object 1 -o max_tokens 40", tmp_path, LLM_USER_PATH=str(tmp_path))
    assert printed.startswith("{")


def test_keys(strict_server: Server, tmp_path: Path) -> None:
    recipe(strict_server, tmp_path)
    models = tmp_path / "extra-openai-models.yaml"
    models.write_text(models.read_text().replace("- model_id", "- api_key_name: wingbeat\n  model_id"))
    wrong = shell("llm -m wingbeat Hi --key wrong 2>&1 || true", tmp_path, LLM_USER_PATH=str(tmp_path))
    assert "invalid_api_key" in wrong
    script = f"llm keys set wingbeat --value {strict_server.key}; llm -m wingbeat Hi"
    assert shell(script, tmp_path, LLM_USER_PATH=str(tmp_path)).strip()
