"""OpenAI's package for JavaScript, and what clients read from the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clients.conftest import Server
from tests.clients.recipes import DOCUMENT, SHOWN_URL, Recipe, shell


@pytest.fixture
def node_folder(tmp_path: Path) -> Path:
    """Where `import OpenAI from "openai"` finds the package."""
    modules = Path(os.environ["NODE_MODULES"]).absolute()
    (tmp_path / "node_modules").symlink_to(modules)
    return tmp_path


def test_javascript(server: Server, node_folder: Path) -> None:
    (code,) = Recipe("openai", server.url).blocks("js")
    (node_folder / "recipe.mjs").write_text(code)
    assert "recurrent" in shell("node recipe.mjs", node_folder)


def test_javascript_errors(strict_server: Server, node_folder: Path) -> None:
    script = """
import OpenAI from "openai";
for (const [apiKey, fields] of [["wrong", {}], ["the-key", { model: "other" }], ["the-key", { temperature: 3 }]]) {
  const client = new OpenAI({ baseURL: process.env.BASE, apiKey, maxRetries: 0 });
  const messages = [{ role: "user", content: "Hi" }];
  await client.chat.completions.create({ model: "model", messages, stream: true, ...fields }).catch(
    (error) => console.log(error.constructor.name, error.code));
}"""
    (node_folder / "errors.mjs").write_text(script)
    assert shell("node errors.mjs", node_folder, BASE=strict_server.base).splitlines() == [
        "AuthenticationError invalid_api_key",
        "NotFoundError model_not_found",
        "BadRequestError invalid_value",
    ]


@pytest.mark.parametrize(
    "call",
    [
        "import openai; print(openai.OpenAI().models.list().data[0].id)",
        "from langchain_openai import ChatOpenAI; print(ChatOpenAI(model='model', max_tokens=4).invoke('Hi').content)",
        "import litellm; print(litellm.completion('openai/model', [{'role': 'user', 'content': 'Hi'}]).model)",
    ],
)
def test_the_environment_is_enough(call: str, server: Server, tmp_path: Path) -> None:
    shown = DOCUMENT.read_text(encoding="utf-8").partition("```bash\n")[2].partition("```")[0]
    assert "OPENAI_BASE_URL" in shown
    script = f'{shown.replace(SHOWN_URL, server.url)}\npython -c "{call}"'
    assert shell(script, tmp_path).strip()
