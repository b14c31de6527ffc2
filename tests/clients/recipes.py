"""The recipes of docs/clients.md, as a reader would follow them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
SHOWN_URL = "http://127.0.0.1:8000"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED_FILE = re.compile(r"`([\w.-]+)`[^`\n]*:\n\n\Z")


class Recipe:
    """One section of the document, its blocks pointed at the server at `url`."""

    def __init__(self, title: str, url: str) -> None:
        text = DOCUMENT.read_text(encoding="utf-8")
        (self.text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        self.text = self.text.replace(SHOWN_URL, url)

    def blocks(self, language: str) -> list[str]:
        found = [code for shown, code in FENCED.findall(self.text) if shown == language]
        assert found, f"the recipe has no {language}"
        return found

    def run_python(self) -> dict[str, Any]:
        """The names after all Python blocks, which continue each other."""
        names: dict[str, Any] = {}
        for code in self.blocks("python"):
            exec(compile(code, DOCUMENT.name, "exec"), names)
        return names

    def write_files(self, folder: Path) -> None:
        """The blocks that follow the name of a file: "In `name`: ..."."""
        files = 0
        for block in FENCED.finditer(self.text):
            if named := NAMED_FILE.search(self.text[: block.start()]):
                (folder / named[1]).write_text(block[2], encoding="utf-8")
                files += 1
        assert files, "the recipe names no file"

    def run_shell(self, folder: Path, **environment: str) -> str:
        """What the Bash blocks print, run in `folder` with this environment's commands."""
        return shell("\n".join(self.blocks("bash")), folder, **environment)


def shell(script: str, folder: Path, **environment: str) -> str:
    """What a script prints; it has to succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
