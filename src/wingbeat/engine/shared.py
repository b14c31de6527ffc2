"""An engine in this process. The threads that wait for answers take turns in running its steps, each for all."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import Compile, Compiled, GenerationRequest, RowOutput
from wingbeat.sampling.constraint import Constraint, ConstraintError

COMPILE_POLL = 0.002  # seconds between looks whether a constraint is compiled


class SharedEngine:
    """Runs requests of several threads together. It starts no thread of its own.

    ``lock`` is held during a step; whoever holds it may use the model's executable.
    """

    def __init__(self, engine: Engine) -> None:
        # Reentrant, because a stream may be closed by the garbage collector in the middle of this thread's own step.
        self.lock = threading.RLock()
        self._engine: Engine | None = engine
        self._ids = itertools.count(1)
        self._boxes: dict[int, deque[RowOutput]] = {}  # request id -> the outputs that its caller has yet to take
        self._cancelled: list[int] = []
        self._stepping = False
        self._compiled: dict[int, Compiled] = {}  # answers that another thread has taken

    @property
    def engine(self) -> Engine:
        """Raises ValueError once it was closed."""
        if self._engine is None:
            raise ValueError("the model was closed: load it again")
        return self._engine

    def new_id(self) -> int:
        """An id for a request."""
        return next(self._ids)

    def close(self) -> None:
        """Let the engine go; again does nothing. What runs and what comes later raises ValueError."""
        with self.lock:
            if self._engine is not None:
                self._engine.close()
            self._engine = None
            self._boxes.clear()

    def compile(self, constraint: Constraint) -> bool:
        """See that a constraint can be used, and whether a text of its form may begin with white space.

        Raises ConstraintError, RuntimeError when what compiles it has failed.
        """
        number = self.new_id()
        with self.lock:
            self.engine.compile(Compile(number, constraint))
        while True:
            with self.lock:
                self.engine.rest()
                self._compiled.update({compiled.id: compiled for compiled in self.engine.take_compiled()})
                answer = self._compiled.pop(number, None)
            if answer is None:
                time.sleep(COMPILE_POLL)
                continue
            if answer.error is None:
                return answer.begins_white
            raise RuntimeError(answer.error) if answer.away else ConstraintError(answer.error)

    def run(
        self, requests: Iterable[GenerationRequest], stop_when: Callable[[], bool] | None = None
    ) -> Iterator[RowOutput]:
        """The outputs of some requests until all have ended; cancels the rest when the caller leaves early.

        ``stop_when`` is asked before each step; once it says so, the requests end as cancelled.
        """
        box: deque[RowOutput] = deque()
        running: dict[int, int] = {}  # request id -> rows that have not ended
        try:
            for request in requests:
                with self.lock:
                    self.engine.submit(request)
                    self._boxes[request.id] = box
                    running[request.id] = len(request.rows)
            while running:
                with self.lock:
                    if stop_when is not None and stop_when():
                        stop_when = None
                        for request_id in running:
                            self.engine.cancel(request_id)
                    if not box:
                        self._beat()
                while box:
                    output = box.popleft()
                    if output.finish_reason is not None:
                        running[output.request] -= 1
                        if not running[output.request]:
                            del running[output.request]
                            self._boxes.pop(output.request, None)
                    yield output
        finally:
            self._cancel(running)

    def _beat(self) -> None:
        """One step of the engine for everybody; the lock is held."""
        engine = self.engine
        self._stepping = True
        try:
            outputs = engine.step().rows
        finally:
            self._stepping = False
        for output in outputs:
            if (box := self._boxes.get(output.request)) is not None:
                box.append(output)
        while self._cancelled:
            engine.cancel(self._cancelled.pop())

    def _cancel(self, request_ids: Iterable[int]) -> None:
        with self.lock:
            for request_id in request_ids:
                self._boxes.pop(request_id, None)
                if self._stepping:
                    self._cancelled.append(request_id)
                elif self._engine is not None:
                    self._engine.cancel(request_id)
