"""`wingbeat doctor`: what it finds, what it advises, when it says that serving is impossible."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.live import live_server, settings_for, write_model
from wingbeat.cli import app
from wingbeat.config import Settings
from wingbeat.demo import demo_model_path
from wingbeat.doctor import installation, machine, model, serving
from wingbeat.models.loader import load_checkpoint
from wingbeat.ops import cpu
from wingbeat.ops.cores import default_threads

needs_kernels = pytest.mark.skipif(not cpu.available(), reason="no C++ kernels")


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine, and no long probes."""
    monkeypatch.setattr(installation, "PROBED_MEGABYTES", 1)
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WINGBEAT_{name.upper()}", raising=False)
    monkeypatch.delenv("WINGBEAT_KERNELS", raising=False)
    monkeypatch.setenv("WINGBEAT_PORT", "0")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("doctor"))


def doctor(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, args)])


def findings(*args: str | Path) -> dict[str, dict[str, Any]]:
    """The findings by what they are about; serving is impossible exactly when one is a problem."""
    result = doctor(*args, "--json")
    found = {finding["about"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert result.exit_code == any(finding["status"] == "problem" for finding in found.values())
    assert all(finding["fix"] for finding in found.values() if finding["status"] == "problem")
    return found


@needs_kernels
def test_a_machine_that_can_serve(tiny: Path) -> None:
    found = findings(tiny)
    assert {finding["status"] for finding in found.values()} <= {"ok", "note"}
    assert found["processor"]["details"]["threads"] == default_threads()
    assert found["kernels"]["details"]["level"] == cpu.levels()[0]
    assert set(cpu.levels()) <= set(cpu.built_levels())
    assert found["speed"]["details"]["read_bytes_per_second"] > 0
    assert found["model"]["details"]["layers"] == 2
    assert found["model"]["details"]["fingerprint"] == load_checkpoint(tiny).fingerprint
    assert found["tokenizer"]["details"]["path"] == str(tiny.with_suffix(".vocab.txt"))
    assert found["chat format"]["details"]["name"] == "world"


def test_where_packed_weights_are_kept(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path / "cache"))
    found = findings(tiny)["packed weights"]
    assert f"--cache-packed keeps them in {tmp_path}/cache/packed (none there yet)" in found["text"]
    monkeypatch.setenv("WINGBEAT_CACHE_PACKED", "1")
    found = findings(tiny)["packed weights"]
    assert (found["status"], found["details"]["kept"], found["details"]["files"]) == ("ok", True, 0)
    (tmp_path / "cache" / "packed").mkdir(parents=True)
    (tmp_path / "cache" / "packed" / "one.packed").write_bytes(bytes(100))
    assert findings(tiny)["packed weights"]["details"]["bytes"] == 100
    monkeypatch.setenv("WINGBEAT_CACHE", str(tiny))
    found = findings(tiny)["packed weights"]
    assert found["status"] == "note"
    assert "WINGBEAT_CACHE" in found["fix"]


def test_the_demo_is_looked_at_when_nothing_is_named() -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    assert demo_model_path().name in result.output.replace("\n", "")
    assert "Wingbeat can serve here." in result.output


def test_keys_are_counted_and_never_shown(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "wingbeat.toml").write_text('api_keys = ["from-the-file"]\nmax_batch = 3\n')
    monkeypatch.setenv("WINGBEAT_API_KEYS", "from-the-environment,another-one")
    found = findings(tiny)["settings"]["details"]
    assert found["api_keys"] == 2
    assert found["sources"] == {
        "max_batch": "wingbeat.toml",
        "port": "the environment",
        "api_keys": "the environment",
    }
    (tmp_path / "broken.toml").write_text('api_keys = ["from-the-file", 5]\n')
    for output in (doctor(tiny), doctor(tiny, "--json"), doctor(tiny, "--config", tmp_path / "broken.toml", "--json")):
        assert "from-the" not in output.output
        assert "another-one" not in output.output


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("max_batch = 0\nspeed = 9\n")
    found = findings("--config", path)["settings"]
    assert found["status"] == "problem"
    assert "max_batch" in found["text"]
    assert "speed: there is no such setting" in found["text"]
    assert "does not exist" in findings("--config", tmp_path / "none.toml")["settings"]["text"]


def test_a_public_server_without_a_key(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setenv("WINGBEAT_HOST", "0.0.0.0")
    assert findings(tiny)["settings"]["status"] == "note"
    monkeypatch.setenv("WINGBEAT_KEYS", '[{"name": "a", "key": "one-secret"}]')
    found = findings(tiny)["settings"]
    assert found["status"] == "ok"
    assert found["details"]["api_keys"] == 1
    assert "one-secret" not in json.dumps(found)


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        monkeypatch.setenv("WINGBEAT_PORT", str(other.getsockname()[1]))
        monkeypatch.setattr(serving, "HEALTH_SECONDS", 0.1)
        found = findings(tiny)["port"]
    assert found["status"] == "problem"
    assert "--port" in found["fix"]


def test_a_port_where_wingbeat_serves(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    with live_server(settings_for(tiny)) as server:
        monkeypatch.setenv("WINGBEAT_PORT", server.url.rpartition(":")[2])
        # In a process of its own: this one's output belongs to the server's log, too.
        found = in_a_process_with(None, tiny)["port"]
    assert found["status"] == "note"
    assert "a wingbeat server listens" in found["text"]


def test_an_address_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setenv("WINGBEAT_HOST", "192.0.2.1")
    found = findings(tiny)["port"]
    assert found["status"] == "problem"
    assert "--host" in found["fix"]


def test_a_folder_too_deep_for_sockets(monkeypatch: pytest.MonkeyPatch, tiny: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    found = findings(tiny)["sockets"]
    assert found["status"] == "problem"
    assert "TMPDIR" in found["fix"]


def test_few_open_files(tiny: Path) -> None:
    """The server raises the soft limit itself; the hard one is the machine's."""
    for limits, status in (((256, 256), "note"), ((256, 5000), "ok")):
        found = in_a_process_with(limits, tiny)["open files"]
        assert found["status"] == status
        assert found["details"] == {"soft": limits[0], "hard": limits[1]}
        assert (status == "note") == ("LimitNOFILE" in (found["fix"] or ""))


def in_a_process_with(open_files: tuple[int, int] | None, *args: str | Path) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "wingbeat", "doctor", *map(str, args), "--json"]
    if open_files is not None:
        command = ["sh", "-c", f"ulimit -Sn {open_files[0]}; ulimit -Hn {open_files[1]}; exec {shlex.join(command)}"]
    done = subprocess.run(command, capture_output=True, check=True)
    return {finding["about"]: finding for finding in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize(("name", "content"), [("none.pth", None), ("text.safetensors", b"hello"), ("text.pth", b"x")])
def test_a_file_that_is_no_model(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    found = findings(path)["model"]
    assert found["status"] == "problem"
    assert name in found["text"]


def test_a_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    needs = findings(tiny)["model memory"]["details"]
    need = {dtype: size + needs["state"] for dtype, size in needs["weights"].items()}
    choices = [(need[dtype] + 1000, f"--dtype {dtype}") for dtype in ("int8", "int4", "nf4")]
    for free, fix in (*choices, (need["nf4"] - 1000, "smaller model")):
        monkeypatch.setattr(model, "available_memory", lambda free=free: free)
        found = findings(tiny)["model memory"]
        assert found["status"] == "problem"
        assert fix in found["fix"]


def test_a_batch_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    needs = findings(tiny)["model memory"]["details"]
    monkeypatch.setenv("WINGBEAT_MAX_BATCH", "1000000")
    monkeypatch.setattr(model, "available_memory", lambda: needs["weights"][needs["dtype"]] + 7 * needs["state"] + 1000)
    assert findings(tiny)["model memory"]["fix"].startswith("--max-batch 7,")


def test_a_model_no_vocabulary_fits(tiny: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely.safetensors"
    lonely.write_bytes(tiny.read_bytes())
    assert findings(lonely)["tokenizer"]["status"] == "note"


def test_native_modules_that_are_missing_or_broken(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr(installation, "NATIVE", {"_kernels": "kernels", "_absent": "sampler"})
    found = findings(tiny)["native modules"]
    assert found["status"] == "note"
    assert "not built: sampler" in found["text"]
    assert "apt install g++" in found["fix"]
    monkeypatch.setattr(installation, "import_module", _refuse)
    found = findings(tiny)
    assert found["native modules"]["status"] == "problem"
    assert "GLIBC_9" in found["native modules"]["text"]
    assert "kernels" not in found


def _refuse(name: str) -> None:
    raise ImportError("GLIBC_9 not found")


@needs_kernels
def test_kernels_chosen_by_hand(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setenv("WINGBEAT_KERNELS", "portable")
    assert findings(tiny)["kernels"]["status"] == "note"
    monkeypatch.setenv("WINGBEAT_KERNELS", "quantum")
    found = findings(tiny)
    assert found["kernels"]["status"] == "problem"
    assert "portable" in found["kernels"]["fix"]
    assert "speed" not in found


def test_graphics_cards_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (found,) = [finding for finding in machine.look_at_machine() if finding.about == "graphics card"]
    assert found.text == "NVIDIA T4, 15360 MiB: not used yet, models run on the CPU"
    tool.write_text("#!/bin/sh\nexit 9\n")
    (found,) = [finding for finding in machine.look_at_machine() if finding.about == "graphics card"]
    assert found.text.startswith("no NVIDIA card")
