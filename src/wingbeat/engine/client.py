"""The API's side of the engine: owns the engine's process, sends requests, hands outputs to their readers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from wingbeat.engine.backlog import Backlog, QueueFull
from wingbeat.engine.bootstrap import LOAD_FAILED, Bootstrap
from wingbeat.engine.compilations import Compilations
from wingbeat.engine.frame_socket import FrameSocket
from wingbeat.engine.generation import Generation
from wingbeat.engine.late_states import LateStates
from wingbeat.engine.latency import Latencies
from wingbeat.engine.messages import (
    Cancel,
    Command,
    Compiled,
    EngineConfig,
    Event,
    Failed,
    Forget,
    GenerationRequest,
    Loading,
    LogLine,
    Ready,
    RowOutput,
    StateLoaded,
    Stats,
    StepOutput,
    Stop,
    Submit,
    with_seed,
)
from wingbeat.engine.process import (
    EXIT_SECONDS,
    MAX_FAILED_STARTS,
    RestartPolicy,
    describe_exit,
    end_process,
    start_process,
)
from wingbeat.sampling.constraint import Constraint

__all__ = ["EngineClient", "EngineConfig", "EngineUnavailable", "Generation", "QueueFull"]

log = logging.getLogger(__name__)

CLOSED = "the engine was closed"
STOP_SECONDS = 2.0  # how long an engine may write what waits for the disk when it is to end
IDLE_POLL = 0.02  # seconds between looks whether a generation still runs

OVERRUN = "the answer was not read as fast as it was written, and too much of it is waiting"

Status = Literal["loading", "ready", "failed", "restarting", "closed"]


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
        self.restarts = 0  # starts of the process after the first
        self.on_ready: Callable[[], None] = lambda: None  # called each time the engine has loaded the model
        self.latencies = Latencies()
        self._late_states = LateStates(self._command)
        self._compilations = Compilations(self._command)
        self._forgotten: set[str] = set()  # sessions whose states the engine is yet to drop
        self._stats = Stats()
        self._backlog = Backlog(config.max_queue)
        self._generations: dict[int, Generation] = {}
        self._ids = itertools.count(1)
        self._encoder = msgspec.msgpack.Encoder()
        self._settled = asyncio.Event()
        self._load_error = asyncio.Event()  # the process that runs has said why it cannot load the model
        self._decoder = msgspec.msgpack.Decoder(Event)
        self._restarts = RestartPolicy()
        self._token = b""  # of the process that runs; empty: there is none
        self._process: asyncio.subprocess.Process | None = None
        self._socket: FrameSocket | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._closed_because = CLOSED

    async def start(self) -> None:
        """Start the process and return; ``status`` and ``wait_ready`` tell how it goes."""
        self._socket = FrameSocket(self._receive)
        self._supervisor = asyncio.create_task(self._supervise(self._socket.address))
        self._supervisor.add_done_callback(self._supervisor_ended)

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
        request = msgspec.structs.replace(request, id=next(self._ids), sampling=with_seed(request.sampling))
        frame = self._encoder.encode(Submit(request))
        self._backlog.enter(len(request.rows))
        generation = self._generations[request.id] = Generation(request, self._cancel, self.latencies)
        self._send(frame)
        return generation

    def forget(self, sessions: Iterable[str]) -> None:
        """Have the engine drop what it keeps for these sessions, as soon as there is one."""
        self._forgotten.update(sessions)
        if self.status == "ready" and self._forgotten:
            self._command(Forget(list(self._forgotten)))
            self._forgotten.clear()

    async def load_state(self, name: str, path: str | None, *, default: bool = False) -> None:
        """Offer a file's initial state under ``name``, also after the engine is started again; None: no longer.

        ``default``: for requests that name none. Raises ValueError when it cannot be used, and nothing has changed;
        EngineUnavailable when there is no engine.
        """
        if self.status != "ready":
            raise EngineUnavailable(self._why_not())
        try:
            await self._late_states.load(name, path, default=default)
        except ConnectionError as error:
            raise EngineUnavailable(str(error)) from None

    async def compile(self, constraint: Constraint) -> bool:
        """See that a constraint can be used, and whether a text of its form may begin with white space. One that was
        found good is remembered: the engine is not asked again.

        Raises ConstraintError, which says what is wrong with it; EngineUnavailable when there is nobody to ask.
        """
        if self.status != "ready":
            raise EngineUnavailable(self._why_not())
        try:
            return await self._compilations.compile(constraint)
        except ConnectionError as error:
            raise EngineUnavailable(str(error)) from None

    @property
    def states(self) -> list[str]:
        """Names of the initial states, once the model is loaded."""
        return self._late_states.names

    @property
    def default_state(self) -> str:
        """The name of the one for requests that name none."""
        return self._late_states.default

    def stats(self) -> Stats:
        """The engine's load as of its last step."""
        return self._stats

    async def wait_idle(self, timeout: float) -> None:
        """Wait until no generation runs, but no longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self._generations and time.monotonic() < deadline:
            await asyncio.sleep(IDLE_POLL)

    async def close(self, reason: str = CLOSED) -> None:
        """End everything: running generations fail, the process and the socket's files go. May be called twice."""
        self._settle("closed")
        self._closed_because = reason
        self._lose(reason)
        try:
            if self._supervisor is not None:
                if self.config.cache_dir is not None and self._process is not None and self._token:
                    self._command(Stop())
                    await asyncio.wait([self._supervisor], timeout=STOP_SECONDS)
                self._supervisor.cancel()
                await asyncio.gather(self._supervisor, return_exceptions=True)
        finally:  # also when who closes it is cancelled meanwhile
            if self._socket is not None:
                self._socket.close()

    async def _supervise(self, address: str) -> None:
        """Run the engine again and again. Cancelled: ends it."""
        while True:
            try:
                code = await self._run_process(address)
                error = await self._why_ended(code)
            except OSError as failure:  # there may be files, processes or memory for one later
                if not self._restarts.was_ready:
                    raise
                code, error = None, f"the engine's process cannot be started: {failure}"
            self._token = b""  # what the dead process said last comes too late
            if self.status == "closed":
                return
            if code == LOAD_FAILED and not self._restarts.was_ready:
                self._give_up(error)
                return
            pause = self._restarts.after_crash()
            if pause is None:
                self._give_up(f"{error} {MAX_FAILED_STARTS} times in a row")
                return
            log.error("%s; starting it again", error)
            self._settled.clear()
            self.status, self.error, self.progress = "restarting", error, (0, 0)
            self._lose(error)
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _run_process(self, address: str) -> int:
        """Run the engine until it ends; returns its exit status. Cancelled: ends it."""
        self._load_error.clear()
        self._token = secrets.token_bytes(16)  # a stray frame of an earlier process, or of a stranger, has another
        process = await start_process(Bootstrap(address, self._token, self.config, log.getEffectiveLevel()))
        self.pid, self._process = process.pid, process
        try:
            return await process.wait()
        finally:
            self.pid = self._process = None
            await end_process(process)

    async def _why_ended(self, code: int) -> str:
        if code != LOAD_FAILED:
            return f"the engine's process ended ({describe_exit(code)})"
        with contextlib.suppress(TimeoutError):  # the frame with the reason may still be on its way
            await asyncio.wait_for(self._load_error.wait(), EXIT_SECONDS)
        return self.error or "the model cannot be loaded; the log says why"

    def _supervisor_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the engine's client failed", exc_info=error)
            self._give_up(f"the engine's client failed: {type(error).__name__}: {error}")

    def _receive(self, sender: bytes, frame: bytes) -> None:
        if not sender or sender != self._token:
            return
        try:
            self._dispatch(self._decoder.decode(frame))
        except Exception:
            log.exception("a message of the engine cannot be used; starting the engine again")
            self._end_engine()

    def _end_engine(self) -> None:
        """Kill the process: what it says no longer counts. ``_supervise`` ends its requests and starts another."""
        self._token = b""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, StepOutput):
            self._take_step(event)
        elif isinstance(event, Loading):
            self.progress = (event.done, event.total)
        elif isinstance(event, Ready):
            self._lose("the engine was started again")
            self.info, self.error = event.info, None
            self._late_states.ready(event)
            self._backlog.slots = event.stats.slots
            self._stats = event.stats
            self._restarts.ready()
            self._settle("ready")
            self.forget(())
            self.on_ready()
        elif isinstance(event, Failed):
            self._load_failed(event.error)
        elif isinstance(event, StateLoaded):
            self._late_states.take(event)
        elif isinstance(event, Compiled):
            self._compilations.take(event)
        elif isinstance(event, LogLine):
            logging.getLogger(event.logger).log(event.level, "%s", event.text)

    def _take_step(self, step: StepOutput) -> None:
        now = time.monotonic()
        self._restarts.served()
        self._stats = step.stats
        others: dict[Generation, list[RowOutput]] = {}
        for output in step.rows:
            generation = self._generations.get(output.request)
            if generation is None:
                continue
            if generation in others or not generation.feed_text(output, now):
                others.setdefault(generation, []).append(output)
        for generation, outputs in others.items():
            self._feed(generation, outputs, now)

    def _feed(self, generation: Generation, outputs: list[RowOutput], now: float) -> None:
        if ended := generation.feed(outputs, now):
            self._backlog.leave(ended)
        if generation.finished:
            del self._generations[generation.request.id]
        elif generation.overrun:
            self._drop(generation)
            generation.end("error", OVERRUN)

    def _cancel(self, generation: Generation) -> None:
        self._drop(generation)
        generation.end("cancelled")

    def _drop(self, generation: Generation) -> None:
        """Forget a generation and have the engine free its slots; late outputs find no reader."""
        del self._generations[generation.request.id]
        self._backlog.leave(generation.unfinished_rows)
        self._command(Cancel([generation.request.id]))

    def _lose(self, error: str) -> None:
        """End every generation: the engine that ran them is gone."""
        for generation in self._generations.values():
            self._backlog.leave(generation.unfinished_rows)
            generation.end("error", error)
        self._generations.clear()
        self._late_states.lose(error)
        self._compilations.lose(error)
        self._stats = Stats(slots=self._stats.slots, read_bandwidth=self._stats.read_bandwidth)

    def _command(self, command: Command) -> None:
        self._send(self._encoder.encode(command))

    def _send(self, frame: bytes, /) -> None:
        assert self._socket is not None
        self._socket.send(self._token, frame)

    def _load_failed(self, error: str) -> None:
        self.error = error
        self._load_error.set()
        if not self._restarts.was_ready:  # else the file was replaced by a bad one, or went away: it may come back
            self._give_up(error)

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
            "closed": self._closed_because,
        }
        return reasons[self.status]
