"""What one client may use: requests and tokens a minute, and sequences at the same time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from wingbeat.engine.client import Generation
from wingbeat.server.errors import ApiError, bad_request, error_response
from wingbeat.server.tracking import current_request

RATE_LIMIT_HEADERS = tuple(
    f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)
"""Of replies where such limits are set; these are OpenAI's names."""

Clock = Callable[[], float]


class Limits(NamedTuple):
    """0 is no limit."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_running: int = 0

    def overridden(self, own: Mapping[str, Any]) -> Limits:
        """With those of `own` that are there and not None."""
        return self._replace(**{name: own[name] for name in self._fields if own.get(name) is not None})


class Bucket:
    """Holds up to `capacity`, refills as much a minute, and may be overdrawn by what could not be known before."""

    def __init__(self, capacity: int, clock: Clock) -> None:
        self.capacity = capacity
        self._clock = clock
        self._level = float(capacity)
        self._then = clock()

    @property
    def level(self) -> float:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._then) * self.capacity / 60)
        self._then = now
        return self._level

    def take(self, amount: float) -> None:
        self._level = self.level - amount

    def give_back(self, amount: float) -> None:
        self._level = min(self.capacity, self.level + amount)

    def wait(self, amount: float) -> float:
        """Seconds, to the microsecond, until `amount` is there, or all that ever is; 0 when it is there now."""
        return round(max(0.0, (min(amount, self.capacity) - self.level) * 60 / self.capacity), 6)


class Allowance:
    """One client's budgets.

    A prompt is charged when its generation begins, and generated tokens as they come, so that what was really used is
    what was charged, however a generation ends. Since nobody knows before how long an answer will be, the budget of
    tokens may be overdrawn; then nothing more begins until the debt is paid. A prompt longer than a minute's budget
    begins when that is full.
    """

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self._requests = Bucket(limits.requests_per_minute, clock) if limits.requests_per_minute else None
        self._tokens = Bucket(limits.tokens_per_minute, clock) if limits.tokens_per_minute else None
        self._max_running = limits.max_running
        self._running: dict[Generation, _Charge] = {}

    def admit_request(self) -> None:
        """Count one request. Raises ApiError (429)."""
        bucket = self._requests
        if bucket is None:
            return
        if wait := bucket.wait(1):
            raise _too_much(f"{bucket.capacity} requests a minute", wait)
        bucket.take(1)

    def admit(self, prompt_tokens: int, rows: int, param: str) -> None:
        """Raises ApiError: 429 when a generation of such a size may not begin now, 400 when it never may, which names
        the field `param` that asked for so many rows.

        Takes nothing; that is `begin`.
        """
        if self._max_running:
            self._admit_rows(rows, param)
        if self._tokens is not None:
            self._settle()
            if wait := self._tokens.wait(max(1, prompt_tokens)):
                raise _too_much(f"{self._tokens.capacity} tokens a minute", wait)

    def _admit_rows(self, rows: int, param: str) -> None:
        most = self._max_running
        if rows > most:
            message = f"{param}: this is {rows} sequences at the same time, and the limit is {most}. Ask in parts."
            raise bad_request(message, param)
        if sum(generation.unfinished_rows for generation in self._running) + rows > most:
            raise _too_much(f"{most} sequences at the same time", 1.0)

    def begin(self, generation: Generation, prompt_tokens: int) -> None:
        """Charge a prompt; `end` must follow."""
        self._running[generation] = _Charge(prompt_tokens)
        if self._tokens is not None:
            self._tokens.take(prompt_tokens)

    def end(self, generation: Generation) -> None:
        """The generation is over. One that failed before it brought anything costs nothing."""
        self._settle()
        charge = self._running.pop(generation)
        if self._tokens is not None and generation.finish_reason == "error" and not charge.generated:
            self._tokens.give_back(charge.prompt)

    def _settle(self) -> None:
        """Charge what was generated since the last time."""
        if self._tokens is None:
            return
        for generation, charge in self._running.items():
            self._tokens.take(generation.generated_tokens - charge.generated)
            charge.generated = generation.generated_tokens

    def headers(self) -> list[tuple[bytes, bytes]]:
        """How the limits that are set stand, as `RATE_LIMIT_HEADERS`."""
        self._settle()
        values: list[str | None] = []
        for bucket in (self._requests, self._tokens):
            if bucket is None:
                values += [None] * 3
            else:
                left = max(0, math.floor(bucket.level))
                values += [str(bucket.capacity), str(left), _duration(bucket.wait(bucket.capacity))]
        pairs = zip(RATE_LIMIT_HEADERS, values, strict=True)
        return [(name.encode(), value.encode()) for name, value in pairs if value is not None]


class _Charge:
    """Tokens of a generation that were taken from the budget."""

    __slots__ = ("generated", "prompt")

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self.generated = 0


class LimitGate:
    """ASGI middleware: requests that ask for work (POST) count against the key's allowance, or that of `everyone`.

    It comes after the key was recognised; `everyone` is for servers without keys.
    """

    def __init__(self, app: ASGIApp, everyone: Allowance | None) -> None:
        self.app = app
        self._everyone = everyone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = current_request()
        if scope["type"] == "http" and scope["method"] == "POST" and record is not None:
            record.allowance = self._everyone if record.key is None else record.key.allowance
            try:
                if record.allowance is not None:
                    record.allowance.admit_request()
            except ApiError as refusal:
                await error_response(scope["path"], refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _too_much(limit: str, wait: float) -> ApiError:
    message = f"The limit of {limit} is reached. Try again in {wait:.3g} s."
    headers = {"Retry-After": str(math.ceil(wait)), "Retry-After-Ms": str(math.ceil(wait * 1000))}
    return ApiError(429, message, code="rate_limit_exceeded", headers=headers)


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `7.66s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:.3g}s" if minutes else f"{rest:.4g}s"
