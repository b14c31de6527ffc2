"""States that are kept, when servers are killed, disks are full, files are damaged: no wrong text, and it goes on."""

from __future__ import annotations

import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import QUESTIONS, Asked, Askers, ServerProcess, serving
from tests.live import live_server, settings_for

FULL = 2048
"""Bytes that a file may have on a disk that is full: less than a state."""


Check = Callable[[list[tuple[int, str]]], None]


@pytest.fixture(scope="module")
def cold(model_path: Path) -> Iterator[Asked]:
    """A server without a cache."""
    with live_server(settings_for(model_path, cache_memory_mb=0)) as live:
        yield Asked(live.url, live.http)


@pytest.fixture
def check(cold: Asked) -> Check:
    """That answers are those of a server without a cache."""

    def same(answers: list[tuple[int, str]]) -> None:
        known = {number: cold.ask(number) for number in {number for number, _ in answers}}
        assert answers == [(number, known[number][0]) for number, _ in answers]  # type: ignore[index]
        assert not any(cached for _, cached in known.values())  # type: ignore[misc]

    return same


def flags(folder: Path, *more: str) -> list[str]:
    return ["--cache-dir", str(folder / "cache"), "--data-dir", str(folder / "data"), *more]


def ask_some(server: Asked, numbers: range) -> tuple[list[tuple[int, str]], int]:
    """The answers, and how many tokens of the prompts were cached."""
    told = [server.ask(number) for number in numbers]
    assert None not in told
    return [(number, one[0]) for number, one in zip(numbers, told, strict=True)], sum(one[1] for one in told)  # type: ignore[index]


def states(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("??/*.safetensors"))


def until_saved(folder: Path, more: int = 3) -> None:
    """Until so many more states are on disk."""
    wanted, end = len(states(folder)) + more, time.monotonic() + 20
    while len(states(folder)) < wanted:
        assert time.monotonic() < end, "nothing is written"
        time.sleep(0.01)


def test_kills_while_states_are_saved(model_path: Path, tmp_path: Path, check: Check) -> None:
    answers: list[tuple[int, str]] = []
    for life in range(3):
        with serving(model_path, *flags(tmp_path)) as server:
            with Askers(server, first=10 * life) as askers:
                for _ in range(2):
                    until_saved(tmp_path)
                    (engine,) = server.engines
                    engine.kill()
                    askers.wait_for(20)
                until_saved(tmp_path)
                server.process.send_signal(signal.SIGKILL)
            answers += askers.answers
            complaints = server.complaints()
        assert len([line for line in complaints if "engine" in line]) >= 2
        assert not [line for line in complaints if "engine" not in line]
    check(answers)
    with serving(model_path, *flags(tmp_path)) as server:
        again, cached = ask_some(server, range(0, QUESTIONS, 20))
        assert server.complaints() == []
    check(again)
    assert cached > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only there can a process be told how long its files may be")
def test_a_disk_that_is_full(model_path: Path, tmp_path: Path, check: Check, cold: Asked) -> None:
    with serving(model_path, *flags(tmp_path)) as server:
        before, _ = ask_some(server, range(5))
        turns = [say(server, "one")]
        limit_files(server, FULL)
        meanwhile, _ = ask_some(server, range(20))
        unsaved = say(server, "another")
        stateless = server.http.post(f"{server.url}/v1/completions", json={"prompt": "x", "return_state": True}).json()
        limit_files(server, resource.RLIM_INFINITY)
        after, _ = ask_some(server, range(20, 30))
        turns.append(say(server, "one"))
        complaints = server.complaints()
    known = [say(cold, "one") for _ in range(2)]
    assert [turn["choices"][0]["message"] for turn in turns] == [turn["choices"][0]["message"] for turn in known]
    assert [turn["session"]["saved"] for turn in turns] == [True, True]
    assert unsaved["choices"][0]["message"] == known[0]["choices"][0]["message"]
    assert "was not added to the session" in unsaved["session"]["error"]
    (choice,) = stateless["choices"]
    assert choice["state"] is None
    assert "States cannot be kept" in choice["state_error"]
    check(before + meanwhile + after)
    assert len([line for line in complaints if "states are not kept in" in line]) == 1
    assert {Path(path).name for line in complaints for path in line.split("path=")[1:]} == {
        "sessions.sqlite3",
        "states.sqlite3",
    }


def say(server: Asked, session: str) -> dict[str, Any]:
    """One more turn of a session, the same words each time."""
    body = {"messages": [{"role": "user", "content": "wing"}], "max_tokens": 5, "temperature": 0, "session_id": session}
    reply = server.http.post(f"{server.url}/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def limit_files(server: ServerProcess, size: int) -> None:
    for pid in (server.process.pid, *(engine.pid for engine in server.engines)):
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, most))


def test_damaged_files(model_path: Path, tmp_path: Path, check: Check) -> None:
    with serving(model_path, *flags(tmp_path)) as server:
        before, _ = ask_some(server, range(30))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    chance = random.Random(1)
    for file in (kept := states(tmp_path)):
        damage(file, chance)
    with serving(model_path, *flags(tmp_path)) as server:
        answers, _ = ask_some(server, range(60))
        complaints = server.complaints()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert len(kept) > 20
    assert complaints
    assert all("a cached state is dropped" in line for line in complaints)
    (tmp_path / "cache" / "index.sqlite3").write_bytes(chance.randbytes(50_000))
    with serving(model_path, *flags(tmp_path)) as server:
        later, _ = ask_some(server, range(30, 90))
        (line,) = server.complaints()
    assert "was damaged" in line
    check(before + answers + later)


def damage(file: Path, chance: random.Random) -> None:
    """Cut it, change some of it, or put other bytes in its place; one in four stays."""
    content = bytearray(file.read_bytes())
    way = chance.randrange(4)
    if way == 0:
        del content[chance.randrange(len(content)) :]
    elif way == 1:
        for _ in range(3):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif way == 2:
        content[:] = chance.randbytes(len(content))
    file.write_bytes(content)


def test_two_servers_on_one_folder(model_path: Path, tmp_path: Path, check: Check) -> None:
    small = flags(tmp_path, "--cache-memory-mb", "1", "--cache-disk-mb", "2")  # both evict all the time
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(model_path, *small)) for _ in range(2)]
        with Askers(*servers) as askers:
            askers.wait_for(600)
        assert [server.complaints() for server in servers] == [[], []]
        answers = [ask_some(server, range(10))[0] for server in servers]
    assert askers.cached > 0
    check(askers.answers + answers[0] + answers[1])
