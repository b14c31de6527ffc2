"""Shows that a wheel works by itself: tools/smoke_wheel.py dist/wingbeat-*.whl

Installs it into an empty environment, starts the server there with the bundled demo model, asks for one completion
and one streamed chat reply, and looks into the archive for what must and must not be in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
WANTED = (r"demo/.*\.safetensors", r"demo/.*\.vocab\.txt", r"demo/ORIGIN\.md", r"py\.typed")
NATIVE = (r"_kernels\..*\.so", r"_sampler\..*\.so", r"_text\..*\.so")
MAX_MB = 20


def main(wheel: Path) -> None:
    check_contents(wheel)
    with tempfile.TemporaryDirectory(prefix="wingbeat-smoke-") as folder:
        python = install(wheel, Path(folder))
        with_server(python, Path(folder))


def check_contents(wheel: Path) -> None:
    """The archive holds the package with its data, stripped modules, and no trace of where it was built."""
    megabytes = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {megabytes:.2f} MB", flush=True)
    assert megabytes < MAX_MB, f"the wheel is larger than {MAX_MB} MB"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for pattern in (*WANTED, *(NATIVE if compiler_found() else ())):
            assert any(re.fullmatch(f"wingbeat/{pattern}", name) for name in names), f"{pattern} is missing"
        for name in names:
            assert re.match(r"wingbeat(-[^/]*\.dist-info)?/", name), f"{name} does not belong into the wheel"
            data = archive.read(name)
            assert str(REPOSITORY).encode() not in data, f"{name} holds the path {REPOSITORY}"
            assert b".debug_info" not in data, f"{name} is not stripped"


def compiler_found() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"))


def install(wheel: Path, folder: Path) -> Path:
    """An environment that holds the wheel and what it depends on."""
    environment = folder / "venv"
    run(sys.executable, REPOSITORY / "tools" / "make_venv.py", environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel.resolve())
    installed = json.loads(output(python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"))
    names = {package["name"].lower() for package in installed}
    assert "torch" not in names, "the base install pulled torch"
    where = output(python, "-c", "import wingbeat; print(wingbeat.__file__)").strip()
    assert where.startswith(str(environment)), f"wingbeat is imported from {where}"
    print(f"installed with {len(names)} packages, torch not among them", flush=True)
    return python


def with_server(python: Path, folder: Path) -> None:
    """Start the installed command, ask it, stop it."""
    command = [python.with_name("wingbeat"), "serve", "--port", "0", "--log-format", "json"]
    server = subprocess.Popen(command, cwd=folder, env=clean_environment(), stderr=subprocess.PIPE, text=True)
    try:
        url = wait_until_ready(server)
        completion = post(f"{url}/v1/completions", {"prompt": "English: Save\n\nChinese:", "max_tokens": 16, "seed": 1})
        check(completion["choices"][0]["text"], completion["usage"])
        question = [{"role": "user", "content": "What is wingbeat?"}]
        chat = post(f"{url}/v1/chat/completions", {"messages": question, "max_tokens": 64, "temperature": 0})
        check(chat["choices"][0]["message"]["content"], chat["usage"])
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0, "the server did not end tidily"
    finally:
        server.kill()


def check(text: str, usage: dict[str, int]) -> None:
    print(f"the demo model says {text!r} ({usage['completion_tokens']} tokens)", flush=True)
    assert text.strip(), "an empty answer"
    assert usage["completion_tokens"] > 0


def wait_until_ready(server: subprocess.Popen[str]) -> str:
    """The address, from the log."""
    assert server.stderr is not None
    log = []
    for line in server.stderr:
        log.append(line)
        if line.startswith("{") and json.loads(line)["event"] == "ready":
            return json.loads(line)["url"]
    raise SystemExit("the server did not start:\n" + "".join(log))


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as reply:
        return json.load(reply)


def clean_environment() -> dict[str, str]:
    """Nothing that would point the installed package at the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("WINGBEAT_", "PYTHON"))}


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, env=clean_environment())


def output(*command: object) -> str:
    parts = [str(part) for part in command]
    return subprocess.run(parts, check=True, env=clean_environment(), stdout=subprocess.PIPE, text=True, cwd="/").stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
