"""The command as a user runs it: a process, its output, its exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tests.live import write_model
from wingbeat.cli import app
from wingbeat.config import AdapterSettings, Settings

WINGBEAT = [sys.executable, "-c", "from wingbeat.cli import main; main()"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WINGBEAT, *args], capture_output=True, text=True, timeout=30, env=_environment({}))


def _environment(extra: dict[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WINGBEAT_")}
    return {**clean, "COLUMNS": "200", "NO_COLOR": "1", **extra}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("cli"))


class Served:
    """`wingbeat serve` on a free port, ready."""

    def __init__(self, *args: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [*WINGBEAT, "serve", *args, "--port", "0", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(env),
        )
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if "ready" in line:
                break
        found = re.search(r"http://[\d.:]+\d", "".join(self.log))
        assert found, self.log
        self.url = found[0]

    def stop(self, number: int) -> tuple[int, str, str]:
        """Send a signal; returns the exit status and what was printed to both outputs."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, "".join(self.log) + err


@pytest.fixture
def served(model: Path) -> Iterator[Served]:
    server = Served(str(model))
    yield server
    server.process.kill()
    server.process.communicate()


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"wingbeat \S+\n", result.output)


def test_help_explains_the_flags() -> None:
    assert "serve" in CliRunner().invoke(app, ["--help"]).output
    text = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    for flag in ("--dtype", "--host", "--port", "--api-key", "--max-batch", "--any-model", "--config"):
        assert flag in text


SETTINGS: dict[str, tuple[Any, Any, Any]] = {
    "dtype": ("float32", "bfloat16", "int8"),
    "quant": ("int8", "int4", "int8"),
    "backend": ("cpu", "auto", "reference"),
    "api_keys": (["a"], ["b"], ["c"]),
    "open_paths": (["/a"], ["/b"], ["/c"]),
    "cors_origins": (["a"], ["b"], ["c"]),
    "loras": (["a"], ["b"], ["c"]),
    "states": (["a"], ["b"], ["c"]),
    "any_model": (False, True, False),
    "allow_load": (False, True, False),
    "access_log": (True, False, True),
    "cache_packed": (False, True, False),
    "log_level": ("debug", "warning", "error"),
    "log_format": ("auto", "text", "json"),
    **dict.fromkeys(
        (
            "model",
            "models_dir",
            "data_dir",
            "cache_dir",
            "tokenizer",
            "profile",
            "host",
            "default_state",
            "strategy",
            "embed_model",
        ),
        ("a", "b", "c"),
    ),
}
"""What each may be in the file, in the environment and as a flag; others are numbers."""

BECOME: dict[str, Any] = {
    "models_dir": [Path(each) for each in "abc"],
    "data_dir": [Path(each) for each in "abc"],
    "cache_dir": [Path(each) for each in "abc"],
    "loras": [[AdapterSettings(path=Path(each))] for each in "abc"],
    "states": [{each: Path(each)} for each in "abc"],
}
"""What they are then, where it is something else."""

OPTIONS = {
    "api_keys": "api-key",
    "open_paths": "open-path",
    "cors_origins": "cors-origin",
    "loras": "lora",
    "states": "state",
}


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in ("keys", "hub")])
def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for other in Settings.model_fields:
        monkeypatch.delenv(f"WINGBEAT_{other.upper()}", raising=False)
    given: list[Settings] = []
    monkeypatch.setattr("wingbeat.server.run.serve", given.append)
    in_file, in_environment, flag = SETTINGS.get(name, (3, 4, 5))
    option = "--" + OPTIONS.get(name, name.replace("_", "-"))
    if isinstance(flag, bool):
        flags = [option if flag else option.replace("--", "--no-")]
    else:
        value = flag[0] if isinstance(flag, list) else str(flag)
        flags = [value] if name == "model" else [option, value]

    Path("wingbeat.toml").write_text(f"{name} = {json.dumps(in_file)}")
    CliRunner().invoke(app, ["serve"])
    variable = in_environment[0] if isinstance(in_environment, list) else str(in_environment)
    monkeypatch.setenv(f"WINGBEAT_{name.upper()}", variable)
    CliRunner().invoke(app, ["serve"])
    CliRunner().invoke(app, ["serve", *flags])
    found = [getattr(settings, name) for settings in given]
    assert found == BECOME.get(name, [in_file, in_environment, flag])


def test_ctrl_c_ends_streams_with_an_error_and_leaves_quietly(served: Served) -> None:
    body = {"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=20) as reply:
        lines = reply.iter_lines()
        next(lines)
        begun = time.monotonic()
        served.process.send_signal(signal.SIGINT)
        while httpx.get(f"{served.url}/health").status_code == 200:
            time.sleep(0.01)
        served.process.send_signal(signal.SIGINT)  # the first one lets requests finish
        *_, last = [line for line in lines if line]
    code, out, err = served.stop(0)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert code == 0
    assert "Traceback" not in err
    assert f"curl {served.url}/v1/chat/completions" in out
    assert time.monotonic() - begun < 8


def test_the_printed_example_works(served: Served) -> None:
    _, out, _ = served.stop(signal.SIGINT)
    found = re.search(r"-d '(.*)'", out)
    assert found
    assert json.loads(found[1])["messages"][0]["role"] == "user"


def test_json_logs_and_a_warning_about_a_public_host(model: Path) -> None:
    server = Served(str(model), "--host", "0.0.0.0", WINGBEAT_LOG_FORMAT="json")
    code, out, err = server.stop(signal.SIGINT)
    entries = [json.loads(line) for line in err.splitlines()]
    assert code == 0
    assert out == ""
    assert [entry["event"] for entry in entries if "api-key" in entry["event"]]
    assert [entry["event"] for entry in entries][-1] == "stopping"


def test_a_port_in_use(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", str(model), "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "--port" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("flags", "message"), [(["nowhere.pth"], "nowhere.pth"), (["--dtype", "int3"], "dtype: ")])
def test_mistakes_are_explained(flags: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", *flags])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_the_ending_of_a_model_path_may_be_left_out(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"broken{ending}").write_bytes(b"no model")
    result = CliRunner().invoke(app, ["serve", "--model-path", str(tmp_path / "broken")])
    assert result.exit_code == 1
    assert f"broken{ending}" in result.output.replace("\n", "")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    result = run("serve", str(path), "--port", "0")
    assert result.returncode == 1
    assert result.stderr.rstrip().splitlines()[-1].startswith("Error: The model cannot be loaded: ")
    assert "broken.safetensors" in result.stderr


def test_on_a_terminal_the_example_is_printed_unbroken(model: Path) -> None:
    master, terminal = os.openpty()
    flags = ["serve", str(model), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*WINGBEAT, *flags], stdout=terminal, stderr=terminal, env={**_environment({}), "COLUMNS": "60"}
    )
    os.close(terminal)
    shown = ""
    while "max_tokens" not in shown and process.poll() is None:
        shown += os.read(master, 4096).decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    os.close(master)
    assert "Loading tiny" in shown
    assert re.search(r"curl \S+/v1/chat/completions -H 'Content-Type: application/json' \\\r\n", shown)
