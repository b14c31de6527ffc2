"""The documents, tried: their examples run, their links lead somewhere, their tables are complete."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from tests.live import LiveServer, live_server, settings_for
from wingbeat.cli import app
from wingbeat.config import DEMO, Settings
from wingbeat.llm import demo_model_path
from wingbeat.server.dialects.openai_chat_schema import ChatBody
from wingbeat.server.dialects.openai_completions_schema import CompletionBody

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SHOWN_URL = "http://127.0.0.1:8000"

REPEATED = {"api_keys": "api_key", "cors_origins": "cors_origin"}
"""Settings that are lists, by the name of the flag that adds to them."""


class Block(NamedTuple):
    document: Path
    line: int
    language: str
    code: str

    @property
    def id(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document."""
    text = document.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(document, text.count("\n", 0, found.start()) + 2, found[1], found[2])


def prose(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


SETTING_UP = {"operating.md", "states.md"}
"""Their requests want a server with other settings, or the reply of the request before."""


def curls(document: Path) -> Iterator[Block]:
    """The requests in the blocks of a document that hold nothing else."""
    for block in blocks(document):
        if block.language in ("bash", "sh") and block.code.startswith("curl "):
            for found in re.finditer(r"^curl .*?(?=^curl |\Z)", block.code, re.DOTALL | re.MULTILINE):
                line = block.line + block.code.count("\n", 0, found.start())
                yield Block(document, line, block.language, found[0])


CURLS = [request for document in DOCUMENTS if document.name not in SETTING_UP for request in curls(document)]
PYTHON = [
    document
    for document in DOCUMENTS
    if any(block.language == "python" for block in blocks(document))
    and document.name != "clients.md"  # needs other packages: `make clients` runs it
]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(settings_for(demo_model_path(), dtype="auto")) as live:
        yield live


@pytest.mark.parametrize("block", CURLS, ids=lambda block: block.id)
def test_curl(block: Block, server: LiveServer) -> None:
    """Sent as curl would, which not every machine has."""
    curl = argparse.ArgumentParser("curl", allow_abbrev=False)
    curl.add_argument("url")
    curl.add_argument("-H", action="append", default=[])
    curl.add_argument("-d")
    curl.add_argument("-N", action="store_true")
    command = curl.parse_args(shlex.split(block.code.replace("\\\n", ""))[1:])
    headers = dict(header.split(": ", 1) for header in command.H)
    assert command.url.startswith(f"{SHOWN_URL}/")
    path = command.url.removeprefix(SHOWN_URL)
    reply = server.http.post(path, content=command.d.encode(), headers=headers)
    assert reply.status_code == 200, reply.text
    answers = {"choices", "tokens", "data", "translations"}
    assert reply.text.endswith("data: [DONE]\n\n") if command.N else answers & set(reply.json())


@pytest.mark.parametrize("document", PYTHON, ids=lambda document: str(document.relative_to(ROOT)))
def test_python(
    document: Path,
    server: LiveServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The blocks of one document continue each other, as a reader would run them."""
    monkeypatch.chdir(tmp_path)  # some write files
    names: dict[str, Any] = {}
    for block in blocks(document):
        if block.language == "python":
            # Empty lines before it make a traceback name the line of the document.
            source = "\n" * (block.line - 1) + block.code.replace(SHOWN_URL, server.url)
            exec(compile(source, str(document), "exec"), names)
            assert "print(" not in source or capsys.readouterr().out.strip(), f"{block.id} printed nothing"


def test_what_the_page_of_the_api_offers_to_send(server: LiveServer) -> None:
    document = server.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    bodies = {path: methods["post"]["requestBody"] for path, methods in document["paths"].items() if "post" in methods}
    assert "/v1/chat/completions" in bodies
    for path, body in bodies.items():
        schema = body["content"]["application/json"]["schema"]
        names = [kind["$ref"].rpartition("/")[2] for kind in schema.get("anyOf", [schema])]
        reply, *others = [server.http.post(path, json=schemas[name]["examples"][0]) for name in names]
        assert [other.status_code for other in others] == [200] * len(others)
        expected = {"/models/load": 403, "/v1/states": 404, "/v1/states/load": 404}  # not allowed; no such state
        expected |= {"/v1/embeds": 400, "/api/oai/embeds": 400}  # no embedding model
        assert reply.status_code == expected.get(path, 200), reply.text


def test_there_are_examples() -> None:
    assert {block.document.name for block in CURLS} >= {"README.md", "README.zh.md", "api.md", "rwkv-lightning.md"}
    assert {document.name for document in PYTHON} >= {"README.md", "README.zh.md", "python-api.md"}


def test_the_chinese_readme_shows_the_same_examples() -> None:
    def shown(name: str) -> list[tuple[str, str]]:
        return [(block.language, block.code) for block in blocks(ROOT / name)]

    assert shown("README.zh.md") == shown("README.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            assert (document.parent / target.partition("#")[0]).exists(), target


def test_every_setting_is_described_with_its_flag_and_default() -> None:
    flags = {option for parameter in get_command(app).commands["serve"].params for option in parameter.opts}  # type: ignore[attr-defined]
    text = prose("docs/configuration.md")
    for name, field in Settings.model_fields.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert len(rows) == 1, name
        flag = "--" + REPEATED.get(name, name).replace("_", "-")
        assert (f"`{flag}`" in rows[0]) == (flag in flags), f"{name}: {flag}"
        assert f"`WINGBEAT_{name.upper()}`" in rows[0]
        if isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
            assert re.search(rf"\| `?{re.escape(str(field.default))}`? \|", rows[0]), f"{name}: {field.default}"


def test_the_shown_configuration_file_is_valid() -> None:
    (block,) = [block for block in blocks(ROOT / "docs/configuration.md") if block.language == "toml"]
    shown = tomllib.loads(block.code)
    assert Settings(**shown).model_dump(include=set(shown)) == shown
    assert Settings().model == DEMO


@pytest.mark.parametrize("body", [ChatBody, CompletionBody])
def test_every_field_of_the_api_is_described(body: type[ChatBody | CompletionBody]) -> None:
    text = prose("docs/api.md")
    assert [name for name in body.model_fields if f"`{name}`" not in text] == []


def test_every_route_is_described(server: LiveServer) -> None:
    text = prose("docs/api.md")
    paths = server.http.get("/openapi.json").json()["paths"]
    shown = {re.sub(r"\{.*?\}", "{id}", path): method.upper() for path, item in paths.items() for method in item}
    assert [f"{method} {path}" for path, method in shown.items() if f"`{method} {path}`" not in text] == []


def test_the_shown_error_is_what_is_sent(server: LiveServer) -> None:
    reply = server.http.post("/v1/completions", json={"prompt": "x", "temperature": 3})
    assert reply.status_code == 400
    shown = [block.code for block in blocks(ROOT / "docs/api.md") if block.language == "json"]
    assert reply.json() in [json.loads(code) for code in shown]
