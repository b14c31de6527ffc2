"""Real clients against a real server: `make clients` installs both and runs what is here.

Other environments lack the clients, and there nothing of this folder is collected.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

if all(map(find_spec, ("langchain_openai", "litellm", "llm", "lm_eval"))):
    # Read when the clients are imported: nothing is fetched from the Internet, nothing is reported to it.
    os.environ.update(HF_HUB_OFFLINE="1", LANGSMITH_TRACING="false", LITELLM_LOCAL_MODEL_COST_MAP="True")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        os.environ.pop(name, None)
else:
    collect_ignore_glob = ["test_*.py"]


class Server(NamedTuple):
    """`url` is without /v1, `key` what it asks for, `wingbeat` the installed command."""

    url: str
    key: str
    wingbeat: Path

    @property
    def base(self) -> str:
        return f"{self.url}/v1"


def wingbeat_command() -> Path:
    command = os.environ.get("WINGBEAT") or shutil.which("wingbeat")
    assert command, "set WINGBEAT to the wingbeat command, as `make clients` does"
    return Path(command).absolute()


@contextlib.contextmanager
def serving(folder: Path, key: str = "none", **settings: str) -> Iterator[Server]:
    """`wingbeat serve` with the demo model, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = wingbeat_command()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINGBEAT_")}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [command, "serve", "--port", str(port)],
            cwd=folder,
            env={**environment, **settings},
            stdout=log,
            stderr=log,
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", key, command)
            wait_ready(process, server.url, folder / "server.log")
            yield server
        finally:
            process.terminate()
            process.wait(20)


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health") as reply:
            if reply.status == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo model, as `make serve` serves it."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that wants a key and takes prompts of 500 tokens at most."""
    limits = {"WINGBEAT_API_KEYS": "the-key", "WINGBEAT_MAX_PROMPT_TOKENS": "500"}
    with serving(tmp_path_factory.mktemp("strict"), "the-key", **limits) as running:
        yield running
