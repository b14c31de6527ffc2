"""`wingbeat serve` as a process that can be killed, and questions whose answers are known."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.test_cli import WINGBEAT

START_SECONDS = 60.0
GONE = (httpx.TransportError, ConnectionError)
BEGINNINGS, QUESTIONS = 6, 400


class Asked:
    """A server that answers at ``url``."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self.http = url, http

    def ask(self, number: int) -> tuple[str, int] | None:
        """The answer to a question, and how much of its prompt was cached; None: the error of a killed engine."""
        reply = self.http.post(f"{self.url}/v1/completions", json=question(number))
        if reply.status_code in (500, 503):
            assert reply.json()["error"]["message"]
            return None
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["text"], reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


class ServerProcess(Asked):
    """A server in a process of its own, which writes its log to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__("", httpx.Client(timeout=30))
        self.process, self.log = process, log

    def wait_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not (self.url and self.health().get("status") == "ok"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            found = re.search(r"http://[\d.]+:\d+", self.log.read_text())
            self.url = found[0] if found else ""
            time.sleep(0.05)

    def health(self) -> dict[str, Any]:
        with contextlib.suppress(*GONE):
            return self.http.get(f"{self.url}/health").json()
        return {}

    @property
    def engines(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def complaints(self) -> list[str]:
        """Warnings and errors in the log, tracebacks too."""
        pattern = re.compile(r"warning|error|Traceback|critical", re.IGNORECASE)
        return [line for line in self.log.read_text().splitlines() if pattern.search(line)]


def question(number: int) -> dict[str, Any]:
    """Many share their beginnings, so that their states are used and not only kept."""
    beginning = random.Random(number % BEGINNINGS).choices(range(1, 257), k=60)
    rest = random.Random(1000 + number).choices(range(1, 257), k=20)
    return {"prompt": beginning + rest, "max_tokens": 8, "temperature": 0, "ignore_eos": True}


@contextlib.contextmanager
def serving(model: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server with these flags, killed in the end."""
    command = [*WINGBEAT, "serve", str(model), "--port", "0", "--threads", "1", "--dtype", "float32", "--no-access-log"]
    with tempfile.NamedTemporaryFile() as log, subprocess.Popen([*command, *flags], stdout=log, stderr=log) as process:
        server = ServerProcess(process, Path(log.name))
        try:
            server.wait_ready()
            yield server
        finally:
            server.http.close()
            process.kill()


class Askers:
    """Threads that ask ``servers`` all the time; ``answers`` are what they were told, by question."""

    def __init__(self, *servers: ServerProcess, first: int = 0) -> None:
        self.answers: list[tuple[int, str]] = []
        self.cached = 0
        self.wrong: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(server, random.Random(first + number)))
            for number, server in enumerate(servers * 3)
        ]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.wrong, self.wrong[0]

    def wait_for(self, answers: int, seconds: float = 30.0) -> None:
        """Until there are so many more answers."""
        wanted, end = len(self.answers) + answers, time.monotonic() + seconds
        while len(self.answers) < wanted and not self.wrong:
            assert time.monotonic() < end, "nobody answers"
            time.sleep(0.01)

    def _ask_on(self, server: ServerProcess, chance: random.Random) -> None:
        while not self._over.is_set():
            number = chance.randrange(QUESTIONS)
            try:
                told = server.ask(number)
            except GONE:  # the server itself was killed
                told = None
            except BaseException as error:
                self.wrong.append(error)
                return
            if told is None:
                time.sleep(0.02)
            else:
                self.answers.append((number, told[0]))
                self.cached += told[1]
