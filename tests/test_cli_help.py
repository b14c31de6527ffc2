"""What a newcomer meets first: the help, the Tab key, and a quick start."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from wingbeat import LLM, Conversation, SamplingParams
from wingbeat.bench.random_model import SHAPES
from wingbeat.chat.session import Session
from wingbeat.cli import app
from wingbeat.cli.common import fail
from wingbeat.config import Settings
from wingbeat.text.profile import PROFILES

COMMANDS = ("chat", "serve", "pull", "list", "info", "convert", "doctor", "quantize", "bench")
WINGBEAT = str(Path(sys.executable).with_name("wingbeat"))
FRAMES = "╭╮╰╯│─ \n"


def shown(*args: str) -> str:
    """A help page as one line, without the frames around its panels."""
    result = CliRunner().invoke(app, [*args, "--help"], env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert result.exit_code == 0
    return " ".join(re.split(f"[{FRAMES}]+", result.output))


def test_the_commands_are_listed_in_the_order_of_use() -> None:
    assert tuple(get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]
    text = shown()
    for command in COMMANDS:
        assert f" {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_and_examples_parse(command: str) -> None:
    parsed = get_command(app).commands[command]  # type: ignore[attr-defined]
    assert [parameter.name for parameter in parsed.params if not getattr(parameter, "help", None)] == []
    examples = [line.strip() for line in parsed.epilog.splitlines() if line.startswith("  ")]
    assert len(examples) >= 3
    for example in examples:
        words = shlex.split(example.partition("|")[2] or example)
        words = words[: words.index(">")] if ">" in words else words
        assert words[:2] == ["wingbeat", command]
        parsed.make_context(command, words[2:])  # raises for an option that does not exist
        assert " ".join(re.split(r"\s+", example)) in shown(command)


def test_nothing_heavy_is_imported_for_the_help() -> None:
    code = """
import sys
from wingbeat.cli import app
try:
    app([*sys.argv[1:], "--help"])
except SystemExit:
    pass
heavy = {"numpy", "httpx", "fastapi", "msgspec", "zmq", "asyncio", "uvicorn", "wingbeat.config"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    for command in ([], *([name] for name in COMMANDS)):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def completed(shell: str, line: str) -> list[str]:
    """What the Tab key offers after ``line``, in the words of a shell's own protocol."""
    words = line.split(" ")
    environment = {
        "_WINGBEAT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),  # of bash
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",  # of the others
    }
    result = CliRunner().invoke(app, [], env=environment, prog_name="wingbeat")
    lines = [line for line in result.stdout.splitlines() if line]
    if shell == "zsh":  # _arguments '*: :(("value":"help"
        return [line.split('"')[1] for line in lines]
    return [line.partition("\t")[0] for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user presses the Tab key."""
    monkeypatch.chdir(folder := tmp_path)
    monkeypatch.setenv("WINGBEAT_MODELS_DIR", str(folder / "store"))
    (folder / "store").mkdir()
    (folder / "store" / "rwkv7-g1-0.4b.pth").touch()
    (folder / "models" / "big").mkdir(parents=True)
    (folder / "empty").mkdir()
    for name in ("one.pth", "two.safetensors", "notes.md", "serve.toml", ".hidden.pth"):
        (folder / name).touch()
    for name in ("three.pth", "four.safetensors", "read.me"):
        (folder / "models" / "big" / name).touch()
    return folder


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.usefixtures("folder")
def test_the_tab_key(shell: str) -> None:
    assert completed(shell, "wingbeat ") == list(COMMANDS)
    assert completed(shell, "wingbeat chat --dtype ") == list(get_args(Settings.model_fields["dtype"].annotation))
    assert completed(shell, "wingbeat serve mo") == [
        "models/big/four.safetensors",
        "models/big/three.pth",
    ]


def test_the_values_that_are_completed(folder: Path) -> None:
    for line, values in {
        "serve --backend ": get_args(Settings.model_fields["backend"].annotation),
        "serve --log-level ": get_args(Settings.model_fields["log_level"].annotation),
        "serve --log-format j": ("json",),
        "serve --profile ": PROFILES,
        "bench --shape ": SHAPES,
        "bench --model o": ("one.pth",),
        "serve --config ": ("empty/", "models/", "serve.toml", "store/"),
        "chat ": ("empty/", "models/", "one.pth", "store/", "two.safetensors", "rwkv7-g1-0.4b"),
        "serve rw": ("rwkv7-g1-0.4b",),
        "pull rwkv7-g1d-0.1b-2": ("rwkv7-g1d-0.1b-20260129-ctx8192.pth",),
        "chat e": ("empty/",),
        "chat .": (".hidden.pth",),
        "chat ./t": ("./two.safetensors",),
        "chat nothing/": (),
        f"doctor {folder}/two": (f"{folder}/two.safetensors",),
        "chat --load models/": ("models/big/four.safetensors",),
    }.items():
        assert completed("bash", f"wingbeat {line}") == list(values), line


def test_names_that_bash_must_quote_are_left_to_bash(folder: Path) -> None:
    (folder / "models" / "my model.pth").touch()
    assert completed("bash", "wingbeat serve models/") == []
    assert "models/my model.pth" in completed("fish", "wingbeat serve models/")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_can_be_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{Path(WINGBEAT).parent}:{os.environ['PATH']}"}
    # A second command keeps bash there as the parent that is looked for.
    script = "wingbeat --show-completion && wingbeat --install-completion && true"
    shell = ["bash", "--norc", "-c"]
    done = subprocess.run([*shell, script], capture_output=True, text=True, env=environment, check=True)
    assert "complete -o default -F _wingbeat_completion wingbeat" in done.stdout
    script = (
        "source ~/.bashrc; COMP_WORDS=(wingbeat chat --profile w); COMP_CWORD=3;"
        "_wingbeat_completion wingbeat; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run([*shell, script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "world\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("choose another"), "Error: choose another\n"),
        (MemoryError(), "Error: the model does not fit in memory: try --dtype int4;"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "Error: a.txt: No such file or directory\n"),
    ],
)
def test_errors_are_told_in_one_line(error: Exception, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end:
        fail(error)
    assert end.value.exit_code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(told)
    assert said.err.count("\n") == 1


def test_a_reader_that_went_away_is_no_error() -> None:
    with pytest.raises(BrokenPipeError):
        fail(BrokenPipeError(32, "Broken pipe"))


DOCUMENT = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "serve"])
def test_every_option_is_described(command: str) -> None:
    described = DOCUMENT.partition(f"## wingbeat {command}\n")[2].partition("\n## ")[0]
    for parameter in get_command(app).commands[command].params:  # type: ignore[attr-defined]
        for name in (*parameter.opts, *parameter.secondary_opts):
            assert not name.startswith("--") or f"`{name}`" in described, name


def test_every_command_of_the_chat_is_described() -> None:
    with LLM() as llm:
        usages = [command.usage for command in Session(Conversation(llm), SamplingParams()).commands.values()]
    assert re.findall(r"^\| `(/[^`]+)` \|", DOCUMENT, re.MULTILINE) == usages


def test_the_shown_commands_print_what_is_shown(tmp_path: Path) -> None:
    shown = re.findall(r"^```console\n\$ ([^\n]*)\n(.*?)```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    environment = {
        **os.environ,
        "COLUMNS": "150",
        "WINGBEAT_PORT": "0",
        "PATH": f"{Path(WINGBEAT).parent}:{os.environ['PATH']}",
    }
    for command, output in shown:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert re.split(r"\s+", done.stdout.strip()) == re.split(r"\s+", output.strip())
    assert len(shown) >= 2
