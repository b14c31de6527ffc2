"""The engine's end of a grammar process: starts it when it is needed first, and again after it has died.

Nothing here waits for the process, except where it is asked to: frames go out and come in when they are ready.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import msgspec

from wingbeat.engine.bootstrap import frame_bootstrap
from wingbeat.engine.frame_pipe import FramePipe
from wingbeat.engine.grammar_messages import STUCK, Command, Event, GrammarBootstrap, Library, Vocabulary
from wingbeat.engine.process import describe_exit

SILENCE_SECONDS = 15.0
"""How long a process that owes an answer may say nothing before it is ended."""
COMPILE_SECONDS: dict[Library, float] = {"llguidance": 5.0, "kbnf": 10.0}
"""How long one constraint may be compiled; kbnf's are mostly stopped by their trial before."""
EXIT_SECONDS = 0.1  # how long one that has closed its socket may take to be gone


class Loss(NamedTuple):
    """How a process has come to its end."""

    reason: str
    hung: bool


class GrammarProcess:
    """One process for one library. ``lost`` says, once, that it has ended by itself."""

    def __init__(self, library: Library, vocabulary: Vocabulary, compile_seconds: float | None = None) -> None:
        self._library: Library = library
        self._compile_seconds = COMPILE_SECONDS[library] if compile_seconds is None else compile_seconds
        self._vocabulary = vocabulary
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Event)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: FramePipe | None = None
        self._heard = 0.0

    @property
    def pipe(self) -> FramePipe | None:
        """Where answers come from, while it runs."""
        return self._pipe

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> bool:
        """Whether there was one that runs no more."""
        return self._process is not None and self._process.poll() is not None

    def send(self, command: Command) -> None:
        """Raises OSError when no process can be started."""
        pipe = self._start() if self._pipe is None else self._pipe
        pipe.send(self._encoder.encode(command))

    def expect(self) -> None:
        """From now on the process owes an answer."""
        self._heard = time.monotonic()

    def receive(self) -> list[Event]:
        """What has come."""
        frames = [] if self._pipe is None else self._pipe.receive()
        if frames:
            self._heard = time.monotonic()
        return [self._decoder.decode(frame) for frame in frames]

    def lost(self) -> Loss | None:
        """How the process, which owes an answer, has come to its end, if it has. Ends one that hangs."""
        if self._process is None or self._pipe is None:
            return None
        if self._pipe.closed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_SECONDS)
            code = self._process.returncode
            self.close()
            return Loss(f"the grammar process ended ({_describe(code)})", hung=False)
        if time.monotonic() - self._heard > SILENCE_SECONDS:
            self.close()
            return Loss(f"the grammar process gave no answer for {SILENCE_SECONDS:.0f} s", hung=True)
        return None

    def close(self) -> None:
        """End the process. The next command starts another."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> FramePipe:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "wingbeat.engine.grammar_worker"],
                    stdin=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C and a closed terminal are its owner's business
                )
            except BaseException:
                ours.close()
                raise
            assert self._process.stdin is not None
            bootstrap = GrammarBootstrap(theirs.fileno(), self._library, self._compile_seconds)
            with contextlib.suppress(OSError):  # it has died already, which is noticed
                self._process.stdin.write(frame_bootstrap(bootstrap))
                self._process.stdin.flush()
        self._pipe = FramePipe(ours)
        self._heard = time.monotonic()
        self._pipe.send(self._encoder.encode(self._vocabulary))
        return self._pipe


def _describe(code: int | None) -> str:
    if code == STUCK:
        return "a constraint took too long to compile"
    return "it was closed" if code is None else describe_exit(code)
