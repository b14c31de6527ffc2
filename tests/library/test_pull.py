"""`wingbeat pull` as a user runs it, against a hub on this machine."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.hub.fake_hub import FakeHub, fake_hub, stall
from tests.random_models import random_rwkv4, write_safetensors
from tests.text.pile import write_pile
from wingbeat import LLM
from wingbeat.cli import app
from wingbeat.hub import catalogue as catalogue_module
from wingbeat.hub.names import MODEL_ENDINGS

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
NAME = "rwkv7-test-0.1b.pth"
WINGBEAT = [sys.executable, "-c", "from wingbeat.cli import main; main()"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as server:
        server.publish(f"owner/repo/{NAME}", DATA)
        server.publish("owner/repo/folder/other.pth", DATA)
        yield server


@pytest.fixture(autouse=True)
def _catalogue(hub: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of two files, and the hub that has one of them."""
    monkeypatch.setenv("WINGBEAT_HUB", hub.url)
    lines = ["file\tversion\t...", f"{NAME}\t7\t0.1B\t4096\t{len(DATA)}\t{SHA256}\towner/repo\t-"]
    lines.append(f"rwkv7-test-0.4b.pth\t7\t0.4B\t4096\t{len(DATA)}\t-\towner/repo\t-")
    (tmp_path / "catalogue.tsv").write_text("\n".join(lines))
    monkeypatch.setattr(catalogue_module, "FILE", tmp_path / "catalogue.tsv")
    catalogue_module.catalogue.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def _forget() -> Iterator[None]:
    yield
    catalogue_module.catalogue.cache_clear()


def invoke(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["pull", *args])
    return result.exit_code, result.stdout, result.stderr


def test_by_name_and_again(hub: FakeHub, folder: Path) -> None:
    code, out, err = invoke("test-0.1b")
    assert (code, out) == (0, f"{folder / NAME}\n")
    assert "its sha256 is right" in err
    assert (folder / NAME).read_bytes() == DATA
    asked = len(hub.requests)
    code, out, err = invoke(NAME)
    assert (code, out) == (0, f"{folder / NAME}\n")
    assert "is there already, and its sha256 is right" in err
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    "args",
    [["owner/repo/folder/other.pth"], ["owner/repo", "--file", "folder/other.pth"]],
)
def test_any_file_of_the_hub(folder: Path, args: list[str]) -> None:
    code, out, _ = invoke(*args)
    assert (code, out) == (0, f"{folder / 'other.pth'}\n")
    assert (folder / "other.pth").read_bytes() == DATA
    code, _, err = invoke(*args)
    assert code == 0
    assert "nothing is known to compare it with" in err


def test_the_mirror_and_the_folder_may_be_flags(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINGBEAT_HUB", "http://127.0.0.1:9")
    flags = ["--hub", hub.url, "--models-dir", str(tmp_path / "other")]
    assert invoke(NAME, *flags)[:2] == (0, f"{tmp_path / 'other' / NAME}\n")
    monkeypatch.delenv("WINGBEAT_HUB")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert invoke(NAME)[0] == 0
    hub.publish("owner/repo/dev.pth", DATA, revision="dev")
    assert invoke("owner/repo/dev.pth", "--revision", "dev")[0] == 0


def publish_pile_model(hub: FakeHub, folder: Path) -> bytes:
    """A Pile model; returns the tokenizer that it needs, which is not published yet."""
    model = write_safetensors(folder / "made.safetensors", random_rwkv4(vocab=50277))
    hub.publish("owner/repo/RWKV-4-Raven-tiny.safetensors", model.read_bytes())
    return write_pile(folder / "made.json").read_bytes()


def test_a_pile_model_brings_its_tokenizer(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    hub.publish("EleutherAI/gpt-neox-20b/tokenizer.json", publish_pile_model(hub, tmp_path))
    code, out, err = invoke("owner/repo/RWKV-4-Raven-tiny.safetensors")
    model = folder / "RWKV-4-Raven-tiny.safetensors"
    assert (code, out) == (0, f"{model}\n")
    assert "20B_tokenizer.json, the tokenizer of the Pile models: its tokens are right." in err
    with LLM("raven-tiny", max_batch=1) as llm:  # found by its name in the models folder
        assert (llm.tokenizer.path, llm.profile.name) == (folder / "20B_tokenizer.json", "raven")
    asked = len(hub.requests)
    assert invoke("owner/repo/RWKV-4-Raven-tiny.safetensors")[0] == 0
    assert len(hub.requests) == asked


def test_a_pile_model_whose_tokenizer_cannot_be_had(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    tokenizer = publish_pile_model(hub, tmp_path)
    code, out, err = invoke("owner/repo/RWKV-4-Raven-tiny.safetensors")
    assert (code, out) == (1, "")
    assert "404: there is no such file" in err
    assert "is here, but not its tokenizer: `wingbeat pull 20B_tokenizer.json` tries again" in err
    hub.publish("EleutherAI/gpt-neox-20b/tokenizer.json", write_pile(tmp_path / "short.json", 600).read_bytes())
    code, _, err = invoke("20b_tokenizer.json")
    assert code == 1
    assert "is not the 20B tokenizer (its tokens are others), and has been deleted" in err
    assert not (folder / "20B_tokenizer.json").exists()
    hub.publish("EleutherAI/gpt-neox-20b/tokenizer.json", tokenizer)
    assert invoke("20b_tokenizer.json")[:2] == (0, f"{folder / '20B_tokenizer.json'}\n")


@pytest.mark.parametrize("left", [b"mine", DATA[::-1]])
def test_another_file_of_that_name_stays(folder: Path, left: bytes) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(left)
    code, out, err = invoke(NAME)
    assert (code, out) == (1, "")
    assert "--force" in err
    assert (folder / NAME).read_bytes() == left
    assert invoke(NAME, "--force")[0] == 0
    assert (folder / NAME).read_bytes() == DATA


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["test"], f"could be any of {NAME}, rwkv7-test-0.4b.pth"),
        (["llama"], "the catalogue has no model 'llama': `wingbeat list --remote`"),
        (["owner/repo"], f"name a file of it with --file. Known are {NAME}"),
        (["https://huggingface.co/a/b"], "write owner/repository/file"),
        (["a/b/../c"], "write owner/repository/file"),
        (["owner/repo/none.pth"], "404: there is no such file"),
        ([NAME, "--hub", "ftp://x"], "hub: it should be an address"),
        ([NAME, "--models-dir", "catalogue.tsv"], "catalogue.tsv: File exists"),
    ],
)
def test_mistakes_are_told_in_a_line(args: list[str], message: str) -> None:
    code, out, err = invoke(*args)
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def start(hub: FakeHub, folder: Path, size: int) -> subprocess.Popen[str]:
    """`wingbeat pull` that has got so many bytes and waits for more."""
    hub.faults = [None, stall(size)]
    process = subprocess.Popen(
        [*WINGBEAT, "pull", "owner/repo/folder/other.pth"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )
    while not any(part.stat().st_size >= size for part in folder.glob("*.part")):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_a_killed_download_goes_on(hub: FakeHub, folder: Path) -> None:
    process = start(hub, folder, 70_000)
    process.kill()
    process.communicate()
    assert [path.suffix for path in folder.iterdir()] == [".part"]
    assert not str(next(folder.iterdir())).endswith(MODEL_ENDINGS)
    done = subprocess.run([*WINGBEAT, "pull", "owner/repo/folder/other.pth"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert hub.asked("range")[-1] == "bytes=70000-"
    assert [path.name for path in folder.iterdir()] == ["other.pth"]
    assert (folder / "other.pth").read_bytes() == DATA


def test_ctrl_c_keeps_what_has_come(hub: FakeHub, folder: Path) -> None:
    process = start(hub, folder, 70_000)
    time.sleep(0.3)  # until it waits for more: on its way there a signal would only be seen when that comes
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err.endswith("Stopped. The same command goes on from here.\n")
    assert "Traceback" not in err
    (part,) = folder.iterdir()
    assert part.stat().st_size == 70_000
