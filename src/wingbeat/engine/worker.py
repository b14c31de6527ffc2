"""The engine's process: ``python -m wingbeat.engine.worker``, started and owned by ``EngineClient``.

The parent writes a ``Bootstrap`` to standard input and leaves the pipe open: its end means that the parent is gone,
however it went, and ends this process at once. Frames go over one ZeroMQ socket. Sends never wait, so the API cannot
slow the engine down.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import msgspec
import zmq

from wingbeat.engine.bootstrap import LOAD_FAILED, Bootstrap, read_bootstrap
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import (
    Cancel,
    Command,
    Compile,
    EngineConfig,
    Event,
    Failed,
    Forget,
    Loading,
    LoadState,
    LogLine,
    Ready,
    RowOutput,
    StateLoaded,
    StepOutput,
    Stop,
    Submit,
)
from wingbeat.engine.vocabulary import load_tokenizer
from wingbeat.models import Model, load_model
from wingbeat.ops.cpu import CpuExecutable, read_bandwidth

log = logging.getLogger("wingbeat.engine.worker")  # __name__ is "__main__" here

PROGRESS_INTERVAL = 0.05  # seconds between Loading frames
PROBE_MEGABYTES = 96  # read to measure the memory's speed: beyond most caches, and done in a tenth of a second
PROBES = 2  # the first one also wakes the machine up
REST_SECONDS = 0.01  # between two pieces of work that is done when there is no other
LINGER_MS = 2000  # how long the last frame may take to leave


class Channel:
    """The worker's end of the socket."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.IDENTITY, bootstrap.token)
        self._socket.connect(bootstrap.address)
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, event: Event) -> None:
        self._socket.send(self._encoder.encode(event), zmq.NOBLOCK)

    def receive(self, seconds: float | None = 0.0) -> bytes | None:
        """The next command's frame; None when none comes within so many seconds. ``seconds`` None: wait for one."""
        if seconds:
            self._socket.poll(int(1000 * seconds))
        try:
            return self._socket.recv(0 if seconds is None else zmq.NOBLOCK)
        except zmq.Again:
            return None

    def close(self) -> None:
        self._socket.close()
        zmq.Context.instance().term()  # waits for the last frame, LINGER_MS at most


class ParentsLog(logging.Handler):
    """Sends what is logged to the parent, which has the user's level and format. For the main thread, as the socket."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send(LogLine(record.name, record.levelno, self.format(record)))


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which decides when this process ends
        signal.signal(number, signal.SIG_IGN)
    bootstrap = read_bootstrap()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    channel = Channel(bootstrap)
    logging.basicConfig(level=bootstrap.log_level, format="%(message)s", handlers=[ParentsLog(channel)])
    try:
        engine = _load(bootstrap.config, channel)
    except Exception as error:
        if not isinstance(error, ValueError | OSError):  # those say what to do, and the client logs that
            log.exception("cannot load %s", bootstrap.config.model)
        channel.send(Failed(str(error) or type(error).__name__))
        channel.close()
        sys.exit(LOAD_FAILED)
    engine.prepare()
    gc.freeze()  # the weights and the vocabulary stay: no collection need look at them again
    states = engine.initial_states
    channel.send(Ready(msgspec.to_builtins(engine.model.info), engine.stats(), states.names, states.default))
    serve(engine, channel)
    engine.close()
    os._exit(0)  # nothing is left to be said


def serve(engine: Engine, channel: Channel) -> None:
    """Take commands as they come, waiting only when there is nothing to run, until told to stop. One frame a step."""
    decoder = msgspec.msgpack.Decoder(Command)
    while True:
        frame = channel.receive(_patience(engine))
        while frame is not None:
            try:
                reply = _obey(engine, decoder, frame)
            except StopServing:
                return
            if reply is not None:
                channel.send(reply)
            frame = channel.receive()
        for compiled in engine.take_compiled():
            channel.send(compiled)
        if engine.has_work:
            channel.send(engine.step())


def _patience(engine: Engine) -> float | None:
    """How many seconds to wait for a command; None: until there is one."""
    if engine.has_work:
        return 0.0
    return REST_SECONDS if engine.rest() else None


class StopServing(Exception):  # noqa: N818 - what the parent wants
    """The parent has told the engine to end."""


def _obey(engine: Engine, decoder: msgspec.msgpack.Decoder[Command], frame: bytes) -> StepOutput | StateLoaded | None:
    try:
        command = decoder.decode(frame)
    except msgspec.ValidationError as error:  # a value of the wrong type: the fault of that request alone
        request = msgspec.msgpack.decode(frame)["request"]
        rows = [
            RowOutput(request["id"], i, finish_reason="error", error=str(error)) for i in range(len(request["rows"]))
        ]
        return StepOutput(rows, engine.stats())
    match command:
        case Submit():
            engine.submit(command.request)
        case Cancel():
            for request_id in command.ids:
                engine.cancel(request_id)
        case Forget():
            engine.forget(command.sessions)
        case LoadState():
            return _load_state(engine, command)
        case Compile():
            engine.compile(command)
        case Stop():
            raise StopServing
    return None


def _load_state(engine: Engine, command: LoadState) -> StateLoaded:
    states, error = engine.initial_states, None
    try:
        if command.path is None:
            states.drop(command.name)
        else:
            states.load(command.name, Path(command.path))
            if command.default:
                states.make_default(command.name)
    except Exception as failure:
        if not isinstance(failure, ValueError | OSError):
            log.exception("cannot load the state %s", command.path)
        error = str(failure) or type(failure).__name__
    return StateLoaded(command.id, states.names, states.default, error)


def _load(config: EngineConfig, channel: Channel) -> Engine:
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= PROGRESS_INTERVAL:
            last = now
            channel.send(Loading(done, total))

    model = load_model(
        config.model,
        dtype=config.dtype,
        quant=config.quant,
        quant_layers=config.quant_layers,
        strategy=config.strategy,
        threads=config.threads,
        backend=config.backend,
        cache_packed=config.cache_packed,
        gn_eps=config.gn_eps,
        adapters=config.adapters,
        progress=progress,
    )
    rows, metadata = model.info.vocab_size, model.info.metadata
    tokenizer = load_tokenizer(config.model, rows, config.tokenizer, metadata, config.models_folder)
    return Engine(model, tokenizer, config, _read_bandwidth(model))


def _read_bandwidth(model: Model) -> float:
    """Bytes a second that the machine reads at best; 0 where there are no native kernels to ask."""
    executable = model.executable
    if not isinstance(executable, CpuExecutable):
        return 0.0
    return max(read_bandwidth(executable.threads, executable.level, PROBE_MEGABYTES) for _ in range(PROBES))


def _die_with_parent() -> NoReturn:
    while os.read(0, 4096):  # not sys.stdin: its lock would still be held when the interpreter shuts down
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
