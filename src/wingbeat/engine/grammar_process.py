"""The engine's end of a grammar process: starts it when it is needed first, and again after it has died.

Nothing here waits for the process, except where it is asked to: frames go out and come in when they are ready.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import subprocess
import sys
import time
from collections import deque

import msgspec
import zmq

from wingbeat.engine.bootstrap import frame_bootstrap
from wingbeat.engine.grammar_messages import (
    Alive,
    Command,
    Event,
    GrammarBootstrap,
    Hello,
    Library,
    Vocabulary,
)
from wingbeat.engine.private_socket import bind_privately, remove_folder
from wingbeat.engine.process import describe_exit

log = logging.getLogger(__name__)

SILENCE_SECONDS = 15.0
"""How long a process that owes an answer may say nothing before it is ended."""
LOOK_SECONDS = 0.25  # between looks whether a silent process lives


class GrammarProcess:
    """One process for one library. ``lost`` is what became of it, once, after it has ended by itself."""

    def __init__(self, library: Library, vocabulary: Vocabulary) -> None:
        self._library: Library = library
        self._vocabulary = vocabulary
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Event)
        self._process: subprocess.Popen[bytes] | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._folder: str | None = None
        self._token = b""
        self._early: deque[bytes] = deque()  # frames for a process that has not said hello
        self._greeted = False
        self._heard = self._looked = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def send(self, command: Command) -> None:
        """Raises OSError or zmq.ZMQError when no process can be started."""
        if self._process is None:
            self._start()
        frame = self._encoder.encode(command)
        if self._greeted:
            self._write(frame)
        else:
            self._early.append(frame)

    def expect(self) -> None:
        """From now on the process owes an answer."""
        self._heard = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Until something has come, but no longer."""
        if self._socket is not None:
            self._socket.poll(max(1, int(1000 * seconds)))

    def receive(self) -> list[Event]:
        """What has come."""
        events: list[Event] = []
        while self._socket is not None:
            try:
                sender, frame = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if sender != self._token:
                continue
            self._heard = time.monotonic()
            event = self._decoder.decode(frame)
            if isinstance(event, Hello):
                self._greet()
            elif not isinstance(event, Alive):
                events.append(event)
        return events

    def lost(self, *, owing: bool) -> str | None:
        """Why the process is gone, if it is; ``owing``: it has been asked something. Ends one that hangs."""
        now = time.monotonic()
        if self._process is None or now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        code = self._process.poll()
        if code is None and owing and now - self._heard > SILENCE_SECONDS:
            self.close()
            return f"the grammar process gave no answer for {SILENCE_SECONDS:.0f} s"
        if code is None:
            return None
        self.close()
        return f"the grammar process ended ({describe_exit(code)})"

    def close(self) -> None:
        """End the process. The next command starts another."""
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.wait()
            self._process = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = self._socket = None
        remove_folder(self._folder)
        self._folder, self._greeted = None, False
        self._early.clear()

    def _start(self) -> None:
        try:
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.ROUTER)
            self._socket.set_hwm(0)
            self._socket.setsockopt(zmq.LINGER, 0)
            address, self._folder = bind_privately(self._socket)
            self._token = secrets.token_bytes(16)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wingbeat.engine.grammar_worker"],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C and a closed terminal are its owner's business
            )
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # it has died already, which is noticed
                self._process.stdin.write(frame_bootstrap(GrammarBootstrap(address, self._token, self._library)))
                self._process.stdin.flush()
        except BaseException:
            self.close()
            raise
        self._heard = time.monotonic()

    def _greet(self) -> None:
        self._greeted = True
        self._write(self._encoder.encode(self._vocabulary))
        while self._early:
            self._write(self._early.popleft())

    def _write(self, frame: bytes) -> None:
        assert self._socket is not None
        with contextlib.suppress(zmq.ZMQError):  # the peer is gone, which is noticed
            self._socket.send_multipart([self._token, frame], zmq.NOBLOCK)
