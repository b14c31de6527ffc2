"""The engine in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.engine.helpers import answers, complete
from tests.random_models import random_rwkv7, write_safetensors
from wingbeat.engine.bootstrap import Bootstrap
from wingbeat.engine.client import EngineClient, EngineConfig, EngineUnavailable, Generation, QueueFull
from wingbeat.engine.engine import Engine
from wingbeat.engine.frame_socket import FrameSocket
from wingbeat.engine.generation import MAX_UNREAD_TOKENS
from wingbeat.engine.messages import Cancel, GenerationRequest, Ready, Row, RowOutput, Stats, StepOutput
from wingbeat.engine.process import end_process, start_process
from wingbeat.engine.socket_folder import SOCKET_NAME, make_folder
from wingbeat.models import load_model
from wingbeat.ops import cpu
from wingbeat.sampling.constraint import Constraint, ConstraintError
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.world import WorldTokenizer

TIMEOUT = 60.0
ENDLESS = SamplingParams(ignore_eos=True)


@pytest.fixture
def config(model_path: Path) -> EngineConfig:
    return EngineConfig(model=str(model_path), backend="reference", max_batch=4, max_queue=2)


@pytest.fixture
async def make_client() -> AsyncIterator[Callable[[EngineConfig], EngineClient]]:
    """Makes clients that are closed whatever the test does: one left open would block the end of the whole run."""
    async with contextlib.AsyncExitStack() as stack:

        def make(config: EngineConfig) -> EngineClient:
            client = EngineClient(config)
            stack.push_async_callback(client.close)
            return client

        yield make


@pytest.fixture
async def client(config: EngineConfig, make_client: Callable[[EngineConfig], EngineClient]) -> EngineClient:
    client = make_client(config)
    await client.start()
    await client.wait_ready(TIMEOUT)
    return client


def submit(
    client: EngineClient, rows: int, sampling: SamplingParams, prompt: tuple[int, ...] = (1, 2, 3)
) -> Generation:
    assert client.info is not None
    request = GenerationRequest(
        fingerprint=client.info["fingerprint"],
        prompts=[list(prompt)],
        rows=[Row(0, choice) for choice in range(rows)],
        sampling=sampling,
    )
    return client.submit(request)


async def read(generation: Generation) -> list[RowOutput]:
    async with asyncio.timeout(TIMEOUT):
        return [output async for outputs in generation for output in outputs]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_generate_cancel_refuse(client: EngineClient, config: EngineConfig, tokenizer: WorldTokenizer) -> None:
    sampling = SamplingParams(seed=1, max_tokens=12, ignore_eos=True, logprobs=1)
    first, bad, wrong = (
        submit(client, 2, sampling),
        submit(client, 1, SamplingParams(top_p=7.0)),
        submit(client, 1, ENDLESS, prompt=("text",)),  # type: ignore[arg-type]
    )
    local = Engine(load_model(config.model, backend="reference"), tokenizer, config)
    assert answers(await read(first))[1, 0].token_ids == complete(local, [1, 2, 3], sampling).token_ids
    assert "top_p" in str(answers(await read(bad))[2, 0].error)
    assert "int" in str(answers(await read(wrong))[3, 0].error)

    endless = submit(client, 2, ENDLESS)
    assert endless.request.sampling.seed is not None
    await anext(endless)
    waiting = submit(client, 3, ENDLESS)
    with pytest.raises(QueueFull):
        submit(client, 2, ENDLESS)
    for generation in (endless, waiting):
        generation.cancel()
        assert (await read(generation))[-1].finish_reason == "cancelled"
    after = await read(submit(client, 1, sampling))
    assert after[-1].finish_reason == "length"
    stats = client.stats()
    assert (stats.waiting, stats.running, stats.slots_in_use, stats.slots) == (0, 0, 0, 4)


@pytest.mark.skipif(not cpu.available(), reason="built without a C++ compiler: there is nothing to pack")
async def test_packed_weights_are_kept_and_mapped_by_the_process(
    config: EngineConfig,
    make_client: Callable[[EngineConfig], EngineClient],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WINGBEAT_CACHE", str(tmp_path))
    found = []
    for _ in range(2):
        client = make_client(msgspec.structs.replace(config, backend="cpu", dtype="int8", cache_packed=True))
        await client.start()
        await client.wait_ready(TIMEOUT)
        found.append(answers(await read(submit(client, 1, SamplingParams(seed=1, max_tokens=9))))[1, 0].token_ids)
        (path,) = tmp_path.glob("packed/*")
        maps = Path(f"/proc/{client.pid}/maps")
        if maps.exists():
            assert (str(path) in maps.read_text()) == (len(found) == 2)
    assert found[0] == found[1]


async def test_a_killed_engine_is_an_error_for_its_requests_and_comes_back(client: EngineClient) -> None:
    generation = submit(client, 2, ENDLESS)
    await anext(generation)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    outputs = await read(generation)
    assert [(o.finish_reason, "signal 9" in str(o.error)) for o in outputs[-2:]] == [("error", True)] * 2
    assert client.status == "restarting"
    with pytest.raises(EngineUnavailable, match="restarted"):
        submit(client, 1, ENDLESS)
    await client.wait_ready(TIMEOUT)
    assert (await read(submit(client, 1, SamplingParams(max_tokens=3))))[-1].error is None


async def test_closing_leaves_no_process_and_no_file(client: EngineClient) -> None:
    generation = submit(client, 1, ENDLESS)
    await anext(generation)
    assert client._socket is not None
    pid, folder = client.pid, client._socket.folder
    assert pid is not None
    assert folder is not None
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    await asyncio.wait_for(client.close(), 10)
    assert not alive(pid)
    assert not Path(folder).exists()
    assert (await read(generation))[-1].error == "the engine was closed"
    assert client.status == "closed"
    with pytest.raises(EngineUnavailable, match="closed"):
        submit(client, 1, ENDLESS)


async def test_a_model_that_cannot_be_loaded_is_a_failure_with_its_reason(
    tmp_path: Path, make_client: Callable[[EngineConfig], EngineClient]
) -> None:
    client = make_client(EngineConfig(model=str(tmp_path / "missing.pth")))
    await client.start()
    with pytest.raises(EngineUnavailable, match=r"missing\.pth"):
        await client.wait_ready(TIMEOUT)
    assert client.status == "failed"


async def test_without_unix_sockets_it_talks_over_loopback(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch, make_client: Callable[[EngineConfig], EngineClient]
) -> None:
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    client = make_client(config)
    await client.start()
    await client.wait_ready(TIMEOUT)
    assert client._socket is not None
    assert client._socket.address.startswith("tcp://127.0.0.1:")
    assert (
        len(answers(await read(submit(client, 1, SamplingParams(max_tokens=3, ignore_eos=True))))[1, 0].token_ids) == 3
    )


async def test_an_engine_that_only_crashes_is_given_up(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch, make_client: Callable[[EngineConfig], EngineClient]
) -> None:
    monkeypatch.setattr("wingbeat.engine.process.FIRST_PAUSE", 0.001)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    client = make_client(config)
    await client.start()
    with pytest.raises(EngineUnavailable, match=r"exit status 1.* 4 times in a row"):
        await client.wait_ready(TIMEOUT)
    assert client.status == "failed"


async def test_a_reader_that_is_far_behind_loses_its_request_only(
    config: EngineConfig, make_client: Callable[[EngineConfig], EngineClient]
) -> None:
    client = make_client(config)
    sent: list[bytes] = []
    client._send = sent.append
    client._dispatch(Ready({"fingerprint": ""}, Stats(slots=4)))
    slow, other = submit(client, 2, ENDLESS), submit(client, 1, ENDLESS)
    flood = [1] * (MAX_UNREAD_TOKENS + 1)
    client._dispatch(StepOutput([RowOutput(1, 0, "", flood), RowOutput(2, 0, "a", [5])], Stats(slots=4)))
    assert msgspec.msgpack.decode(sent[-1], type=Cancel).ids == [1]
    assert "not read as fast" in str((await read(slow))[-1].error)
    assert [o.text for o in await anext(other)] == ["a"]
    assert client._backlog._rows == 1


async def test_the_outputs_of_a_step_stay_in_order_when_a_reader_takes_texts(
    config: EngineConfig, make_client: Callable[[EngineConfig], EngineClient]
) -> None:
    client = make_client(config)
    client._send = lambda frame: None  # type: ignore[method-assign]
    client._dispatch(Ready({"fingerprint": ""}, Stats(slots=4)))
    running = submit(client, 1, ENDLESS)
    seen: list[str] = []
    running.taker = lambda outputs: not seen.extend(o.text for o in outputs)
    running.text_taker = lambda text: text != "b" and not seen.append(text)
    texts = [RowOutput(1, 0, text, [5]) for text in "abc"]
    client._dispatch(StepOutput([*texts, RowOutput(1, 0, "d", finish_reason="stop")], Stats(slots=4)))
    assert (seen, running.finished, client._backlog._rows) == (["a", "b", "c", "d"], True, 0)


async def test_readers_get_their_turn_between_frames_that_are_here_already(
    config: EngineConfig, make_client: Callable[[EngineConfig], EngineClient]
) -> None:
    client = make_client(config)
    socket = FrameSocket(client._receive)
    peer = zmq.Context.instance().socket(zmq.DEALER)
    peer.setsockopt(zmq.IDENTITY, b"token")
    try:
        peer.connect(socket.address)
        client._token, client._send = b"token", lambda frame: None  # type: ignore[method-assign]
        client._dispatch(Ready({"fingerprint": ""}, Stats(slots=4)))
        running = submit(client, 1, ENDLESS)
        steps = [RowOutput(1, 0, "a", [5]) for _ in range(5)] + [RowOutput(1, 0, finish_reason="stop")]
        for step in steps:
            peer.send(msgspec.msgpack.encode(StepOutput([step], Stats(slots=4))))
        time.sleep(0.1)  # the loop is what must not run: all frames are here when it does
        assert [o.text for o in await read(running)] == ["a"] * 5 + [""]
    finally:
        peer.close(linger=0)
        socket.close()


async def test_many_rows_with_many_logprobs_outlive_a_busy_loop(
    config: EngineConfig, make_client: Callable[[EngineConfig], EngineClient]
) -> None:
    client = make_client(msgspec.structs.replace(config, max_batch=64))
    await client.start()
    await client.wait_ready(TIMEOUT)
    running = submit(client, 64, SamplingParams(max_tokens=40, ignore_eos=True, logprobs=20))
    await anext(running)
    time.sleep(0.5)  # the loop is what must be busy
    assert {answer.finish_reason for answer in answers(await read(running)).values()} == {"length"}


async def test_messages_of_an_ended_process_are_refused(client: EngineClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    async with asyncio.timeout(TIMEOUT):
        while client.status == "ready":
            await asyncio.sleep(0.001)
    assert client._token == b""
    client._receive(b"", msgspec.msgpack.encode(Ready({}, Stats(slots=4))))
    assert client.status == "restarting"


async def test_a_message_that_cannot_be_used_starts_the_engine_again(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ArithmeticError("unexpected")

    monkeypatch.setattr(client, "_take_step", fail)
    last = (await read(submit(client, 1, ENDLESS)))[-1]
    assert (last.finish_reason, client.status) == ("error", "restarting")
    monkeypatch.undo()
    await client.wait_ready(TIMEOUT)
    assert (await read(submit(client, 1, SamplingParams(max_tokens=3))))[-1].error is None


async def test_a_process_that_cannot_be_started_is_a_failure(
    config: EngineConfig, make_client: Callable[[EngineConfig], EngineClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    client = make_client(config)
    await client.start()
    with pytest.raises(EngineUnavailable, match="nowhere"):
        await client.wait_ready(TIMEOUT)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_that_dies_before_it_is_told_anything_is_a_crash(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    start = asyncio.create_subprocess_exec

    async def killed_at_once(*command: str, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*command, **options)
        process.kill()
        await process.wait()
        return process

    async def run() -> None:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", killed_at_once)
        process = await start_process(Bootstrap("ipc://nowhere", b"token", config, 0))
        assert await process.wait() == -signal.SIGKILL
        await end_process(process)

    factory = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


async def test_an_engine_that_was_in_use_is_started_as_soon_as_that_is_possible_again(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when all files that may be open are, or no memory is left for another process."""
    monkeypatch.setattr("wingbeat.engine.process.FIRST_PAUSE", 0.01)
    assert client.pid is not None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        os.kill(client.pid, signal.SIGKILL)
        async with asyncio.timeout(TIMEOUT):
            while client.restarts < 2:
                await asyncio.sleep(0.01)
        assert client.status == "restarting"
        assert "cannot be started" in str(client.error)
    await client.wait_ready(TIMEOUT)
    assert (await read(submit(client, 1, SamplingParams(max_tokens=3))))[-1].error is None


async def test_a_temporary_folder_with_a_long_path_is_no_obstacle(
    config: EngineConfig,
    make_client: Callable[[EngineConfig], EngineClient],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    client = make_client(config)
    await client.start()
    await client.wait_ready(TIMEOUT)
    assert list(folder.iterdir()) == []


async def test_a_start_that_fails_leaves_no_folder(
    config: EngineConfig,
    make_client: Callable[[EngineConfig], EngineClient],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("wingbeat.engine.frame_socket.SOCKET_NAME", "no/such/folder")
    client = make_client(config)
    with pytest.raises(zmq.ZMQError):
        await client.start()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_dead_processes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, answering, living, other = (
        tmp_path / name
        for name in (
            f"wingbeat-{ended.pid}-a",
            f"wingbeat-{ended.pid}-b",
            f"wingbeat-{os.getppid()}-c",
            "wingbeat-notes",
        )
    )
    for folder in (dead, answering, living, other):
        folder.mkdir()
    with socket.socket(socket.AF_UNIX) as abandoned, socket.socket(socket.AF_UNIX) as listener:
        abandoned.bind(str(dead / SOCKET_NAME))
        listener.bind(str(answering / SOCKET_NAME))
        listener.listen()
        made = Path(make_folder())
    assert set(tmp_path.iterdir()) == {answering, living, other, made}


async def test_the_engine_logs_through_its_parent(
    tmp_path: Path, make_client: Callable[[EngineConfig], EngineClient], caplog: pytest.LogCaptureFixture
) -> None:
    tensors = random_rwkv7(layers=1, width=64, vocab=77)
    path = write_safetensors(tmp_path / "odd.safetensors", {**tensors, "100%.extra": tensors["emb.weight"]})
    client = make_client(EngineConfig(model=str(path), backend="reference"))
    await client.start()
    await client.wait_ready(TIMEOUT)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("wingbeat.models", "WARNING")
    assert record.getMessage() == f"{path}: ignoring unknown tensors: 100%.extra"


ORPHAN = """
import asyncio, sys
from wingbeat.engine.bootstrap import Bootstrap
from wingbeat.engine.client import EngineClient, EngineConfig
async def main():
    client = EngineClient(EngineConfig(model=sys.argv[1], backend="reference"))
    await client.start()
    await client.wait_ready()
    print(client.pid, client._socket.folder, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_the_engine_ends_with_its_parent(model_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(model_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    async with asyncio.timeout(TIMEOUT):
        while alive(int(pid)) and not is_zombie(int(pid)):
            await asyncio.sleep(0.01)
    parent.stdout.close()
    Path(folder, "engine").unlink(missing_ok=True)
    Path(folder).rmdir()


def is_zombie(pid: int) -> bool:
    """Dead, but not yet collected by whoever inherited it (the first process of a container may never do that)."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


async def test_a_constraint_is_compiled_once_and_a_bad_one_is_refused(client: EngineClient) -> None:
    good = Constraint("choice", '["wing", "beat"]')
    await client.compile(good)
    sent: list[bytes] = []
    client._send = sent.append  # type: ignore[method-assign]
    await client.compile(good)
    assert not sent
    del client._send
    with pytest.raises(ConstraintError, match="unclosed group"):
        await client.compile(Constraint("regex", "("))
    generation = submit(client, 1, SamplingParams(constraint=good))
    texts = [output.text async for outputs in generation for output in outputs]
    assert "".join(texts) in ("wing", "beat")
    assert generation.finish_reason == "stop"
