"""The API's side of the engine: owns the engine's process, sends requests, hands outputs to their readers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import zmq
import zmq.asyncio

from wingbeat.engine.backlog import Backlog, QueueFull
from wingbeat.engine.bootstrap import LOAD_FAILED, Bootstrap, frame_bootstrap
from wingbeat.engine.generation import Generation
from wingbeat.engine.messages import (
    Cancel,
    EngineConfig,
    Event,
    Failed,
    GenerationRequest,
    Loading,
    LogLine,
    Ready,
    RowOutput,
    Stats,
    StepOutput,
    Submit,
    with_seed,
)
from wingbeat.engine.socket_folder import SOCKET_NAME, make_folder

__all__ = ["EngineClient", "EngineConfig", "EngineUnavailable", "Generation", "QueueFull"]

log = logging.getLogger(__name__)

Status = Literal["loading", "ready", "failed", "restarting", "closed"]
SETTLED = ("ready", "failed", "closed")

STABLE_SECONDS = 30.0  # an engine that was ready for so long did not crash "at once"
MAX_CRASHES = 4  # crashes at once, one after the other, before giving up
FIRST_BACKOFF = 0.25  # seconds before the first restart; doubles with each crash
IPC_PATH_MAX_LEN = 107  # bytes of a socket's path, where zmq does not tell
EXIT_SECONDS = 1.0  # how long a process may take to leave before it is killed


class EngineUnavailable(Exception):  # noqa: N818 - a state of affairs, not a mistake
    """No engine to run a request: it is loading, restarting, has failed or was closed. The message says which."""


class EngineClient:
    """One engine in a process of its own. All methods belong to one event loop."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.status: Status = "loading"
        self.error: str | None = None
        self.progress: tuple[int, int] = (0, 0)  # bytes of the checkpoint read, of all
        self.info: dict[str, Any] | None = None  # ModelInfo's fields, once loaded
        self.pid: int | None = None
        self.on_ready: Callable[[], None] = lambda: None  # called each time the engine has loaded the model
        self._stats = Stats()
        self._backlog = Backlog(config.max_queue)
        self._generations: dict[int, Generation] = {}
        self._ids = itertools.count(1)
        self._encoder = msgspec.msgpack.Encoder()
        self._settled = asyncio.Event()
        self._token = b""  # of the process that runs; empty: there is none
        self._process: asyncio.subprocess.Process | None = None
        self._ready_since: float | None = None
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._folder: str | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the process and return; ``status`` and ``wait_ready`` tell how it goes."""
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            address = self._bind(self._socket)
        except BaseException:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._read(self._socket)), asyncio.create_task(self._supervise(address))]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until requests are taken. Raises EngineUnavailable when that will not be, TimeoutError after seconds."""
        await asyncio.wait_for(self._settled.wait(), timeout)
        if self.status != "ready":
            raise EngineUnavailable(self._why_not())

    def submit(self, request: GenerationRequest) -> Generation:
        """Send a request; its id is chosen here, and its seed where it has none (see ``Generation.request``).

        Raises QueueFull when too many rows wait, EngineUnavailable unless ``status`` is "ready". A request that the
        engine refuses (a token id out of range, a bad parameter) ends with ``finish_reason`` "error".
        """
        if self.status != "ready":
            raise EngineUnavailable(self._why_not())
        if not request.rows:
            raise ValueError("a request needs at least one row")
        sampling = with_seed(request.sampling)
        request = msgspec.structs.replace(request, id=next(self._ids), sampling=sampling)
        frame = self._encoder.encode(Submit(request))
        self._backlog.enter(len(request.rows))
        generation = self._generations[request.id] = Generation(request, self._cancel)
        self._send(frame)
        return generation

    def stats(self) -> Stats:
        """The engine's load as of its last step."""
        return self._stats

    async def close(self) -> None:
        """End everything: running generations fail, the process and the socket's files go. May be called twice."""
        self._settle("closed")
        self._lose("the engine was closed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = self._socket = None
        self._remove_folder()

    def _bind(self, socket: zmq.asyncio.Socket) -> str:
        """The address: a socket file in a private folder, or a loopback port where there can be none."""
        if os.name == "posix" and zmq.has("ipc"):
            self._folder = make_folder()
            path = f"{self._folder}/{SOCKET_NAME}"
            if len(os.fsencode(path)) <= getattr(zmq, "IPC_PATH_MAX_LEN", IPC_PATH_MAX_LEN):
                socket.bind(f"ipc://{path}")
                return f"ipc://{path}"
            self._remove_folder()
        return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _supervise(self, address: str) -> None:
        crashes = 0
        while True:
            self._ready_since = None
            code = await self._run_process(address)
            if code == LOAD_FAILED:
                with contextlib.suppress(TimeoutError):  # the frame with the reason may still be on its way
                    await asyncio.wait_for(self._settled.wait(), EXIT_SECONDS)
                self._token = b""
                self._give_up(self.error or "the model cannot be loaded; the log says why")
                return
            self._token = b""  # what the dead process said last comes too late
            stable = self._ready_since is not None and time.monotonic() - self._ready_since > STABLE_SECONDS
            crashes = 1 if stable else crashes + 1
            error = f"the engine's process ended ({_describe_exit(code)})"
            if crashes >= MAX_CRASHES:
                self._give_up(f"{error} {crashes} times in a row")
                return
            log.error("%s; starting it again", error)
            self._settled.clear()
            self.status, self.error, self.progress = "restarting", error, (0, 0)
            self._lose(error)
            await asyncio.sleep(FIRST_BACKOFF * 2 ** (crashes - 1))

    async def _run_process(self, address: str) -> int:
        """Run the engine until it ends; returns its exit status. Cancelled: ends it."""
        self._token = secrets.token_bytes(16)  # a stray frame of an earlier process, or of a stranger, has another
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "wingbeat.engine.worker"),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C and a closed terminal are this process's business
        )
        assert process.stdin is not None
        self.pid, self._process = process.pid, process
        try:
            process.stdin.write(frame_bootstrap(Bootstrap(address, self._token, self.config, log.getEffectiveLevel())))
            return await process.wait()
        finally:
            self.pid = self._process = None
            await _end_process(process)

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        decoder = msgspec.msgpack.Decoder(Event)
        while True:
            sender, *frames = await socket.recv_multipart()
            if not sender or sender != self._token:
                continue
            try:
                self._dispatch(decoder.decode(b"".join(frames)))
            except Exception:
                log.exception("a message of the engine cannot be used; starting the engine again")
                self._end_engine()
            await asyncio.sleep(0)  # frames that are here already are received at once: let the readers have each

    def _end_engine(self) -> None:
        """Kill the process: what it says no longer counts. ``_supervise`` ends its requests and starts another."""
        self._token = b""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the engine's client failed", exc_info=error)
            for other in self._tasks:
                other.cancel()
            self._give_up(f"the engine's client failed: {type(error).__name__}: {error}")

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, StepOutput):
            self._stats = event.stats
            by_request: dict[int, list[RowOutput]] = {}
            for output in event.rows:
                by_request.setdefault(output.request, []).append(output)
            for request_id, outputs in by_request.items():
                if generation := self._generations.get(request_id):
                    self._feed(generation, outputs)
        elif isinstance(event, Loading):
            self.progress = (event.done, event.total)
        elif isinstance(event, Ready):
            self._lose("the engine was started again")
            self.info, self.error = event.info, None
            self._backlog.slots = event.slots
            self._stats = Stats(slots=event.slots)
            self._ready_since = time.monotonic()
            self._settle("ready")
            self.on_ready()
        elif isinstance(event, Failed):
            self._give_up(event.error)
        elif isinstance(event, LogLine):
            logging.getLogger(event.logger).log(event.level, "%s", event.text)

    def _feed(self, generation: Generation, outputs: list[RowOutput]) -> None:
        before = generation.unfinished_rows
        generation.feed(outputs)
        if finished := before - generation.unfinished_rows:
            self._backlog.leave(finished)
        if generation.finished:
            del self._generations[generation.request.id]
        elif generation.overrun:
            self._drop(generation)
            generation.end("error", "the answer was not read as fast as it was written, and too much of it is waiting")

    def _cancel(self, generation: Generation) -> None:
        self._drop(generation)
        generation.end("cancelled")

    def _drop(self, generation: Generation) -> None:
        """Forget a generation and have the engine free its slots; late outputs find no reader."""
        del self._generations[generation.request.id]
        self._backlog.leave(generation.unfinished_rows)
        self._send(self._encoder.encode(Cancel([generation.request.id])))

    def _lose(self, error: str) -> None:
        """End every generation: the engine that ran them is gone."""
        for generation in self._generations.values():
            self._backlog.leave(generation.unfinished_rows)
            generation.end("error", error)
        self._generations.clear()
        self._stats = Stats(slots=self._stats.slots)

    def _send(self, frame: bytes, /) -> None:
        # Through the asyncio socket even though nothing is awaited: a plain send would swallow its wake-ups. There is
        # no high-water mark, so the frame is queued before this returns.
        assert self._socket is not None
        self._socket.send_multipart([self._token, frame])

    def _give_up(self, error: str) -> None:
        if self.status == "failed":
            return
        log.error("%s", error)
        self.error = error
        self._lose(error)
        self._settle("failed")

    def _settle(self, status: Status) -> None:
        self.status = status
        self._settled.set()

    def _why_not(self) -> str:
        reasons = {
            "loading": "the model is being loaded",
            "restarting": f"the engine is being restarted: {self.error}",
            "failed": f"the engine has failed: {self.error}",
            "closed": "the engine was closed",
        }
        return reasons[self.status]


async def _end_process(process: asyncio.subprocess.Process) -> None:
    """Close the process's standard input, which ends it; kill it when that is not enough."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), EXIT_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _describe_exit(code: int) -> str:
    if code == -9:
        return "killed by signal 9; if nobody did that, the system ran out of memory"
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
