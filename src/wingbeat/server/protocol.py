"""The HTTP edge: uvicorn's httptools protocol, with bounds on what a client may send and on how long it may take.

uvicorn leaves these to a proxy in front. Here they cost nothing for each chunk that is sent: they act where a request
arrives, and where a client stops reading.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from http import HTTPStatus
from typing import NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from wingbeat.server.errors import ApiError, openai_response
from wingbeat.server.step_writer import CYCLE

MAX_TARGET = 8 * 1024
"""Bytes of a request's path and query."""
MAX_HEADERS = 100
MAX_HEADER_BYTES = 64 * 1024
"""Of all names and values together."""
MAX_PIPELINE = 32
"""Requests that may wait on one connection behind the one that is being answered."""

REQUEST_SECONDS = 60.0
"""How long a request may take to arrive, and an idle connection to begin one."""
BODY_RATE = 1024.0
"""Bytes a second: a body has so much more time than `REQUEST_SECONDS`."""
UNREAD_SECONDS = 60.0
"""How long a client may leave unread what was sent to it, once the buffers are full."""
LINGER_SECONDS = 30.0
"""How long the rest of a refused request is taken and dropped. Closing at once could destroy the answer on its way."""

_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


class GuardedProtocol(HttpToolsProtocol):
    """One connection. What is not HTTP, too large or too slow gets an error object, and the connection is closed."""

    parser: httptools.HttpRequestParser

    _arriving = False  # a request has begun and is not complete
    _in_body = False  # its head is complete
    _since = 0.0  # when it began, or the connection did
    _body_bytes = 0
    _header_bytes = 0
    _silent_bytes = 0  # received since the parser last found anything in them
    _upgrading = False
    _problem: ApiError | None = None  # why a callback of the parser failed
    _refused = False  # what still comes is dropped
    _answered: RequestResponseCycle | None = None  # the first of those that wait; `cycle` is the last
    _arrival: TimerHandle | None = None
    _unread: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_arrival()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_arrival()
        self._forget_unread()
        self.pipeline.clear()
        if self._answered is not None:
            self._leave(self._answered)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._refused:
            return
        self._silent_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(self._problem or _malformed(error))
            return
        if self._silent_bytes > MAX_HEADER_BYTES:
            self._refuse(_large_headers())
        elif self._arrival is None and self._idle:  # after the rest of a body that was not waited for, or blank lines
            self._expect_arrival()

    @property
    def _idle(self) -> bool:
        return not self._arriving and (self.cycle is None or self.cycle.response_complete)

    # --- what the parser finds ----------------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        """Parse. A request to go on in another protocol (HTTP/2, WebSocket) is answered in this one, as HTTP allows."""
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        """The head that was just read, to be read again: the parser stopped after it as if it had no body."""
        self._upgrading = False
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.lower().split(b",")]
                value = b", ".join(token for token in tokens if token not in _UPGRADE_HEADERS)
            if name not in _UPGRADE_HEADERS:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._silent_bytes = self._header_bytes = self._body_bytes = 0
        self._arriving, self._in_body = True, False
        self._expect_arrival()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._silent_bytes = 0
        if len(self.url) > MAX_TARGET:
            self._fail(ApiError(414, f"The address is longer than {MAX_TARGET} bytes.", code="request_too_large"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._silent_bytes = 0
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._fail(_large_headers())
        if self._in_body:  # a trailer: nothing here wants one
            return
        if len(self.headers) == MAX_HEADERS:
            self._fail(ApiError(431, f"There are more than {MAX_HEADERS} headers.", code="request_too_large"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._silent_bytes = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._fail(ApiError(405, "CONNECT is not possible: this is no proxy.", code="method_not_allowed"))
            self._upgrading = True
            return
        self._check_encoding()
        if len(self.pipeline) >= MAX_PIPELINE:
            self._fail(ApiError(400, f"More than {MAX_PIPELINE} requests wait on this connection.", code="bad_http"))
        self._in_body = True
        super().on_headers_complete()
        self.cycle.scope.setdefault("state", {})[CYCLE] = self.cycle
        if not self.pipeline:
            self._answered = self.cycle

    def _check_encoding(self) -> None:
        """What the parser takes although a proxy in front might see another end of the body."""
        encodings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if encodings and (encodings != [b"chunked"] or self.parser.get_http_version() != "1.1"):
            message = "Transfer-Encoding may be 'chunked' and nothing else, in HTTP/1.1."
            self._fail(ApiError(400, message, code="bad_http"))

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        self._arriving = False
        self._forget_arrival()
        super().on_message_complete()

    def _fail(self, error: ApiError) -> NoReturn:
        self._problem = error
        raise error

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _refuse(self, error: ApiError) -> None:
        """Answer what cannot be read on, and close. An earlier request's answer is let out first."""
        self._refused = True
        self._forget_arrival()
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not self._in_body):
            self._answer(error)
        elif cycle.response_complete:  # the request was answered before its body was complete
            self._linger()
        elif not cycle.more_body:  # the fault is in a request behind this one
            cycle.keep_alive = False
        elif cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            self._leave(cycle)
            self._answer(error)

    @staticmethod
    def _leave(cycle: RequestResponseCycle) -> None:
        """Tell the application that nobody waits for its answer any more."""
        cycle.disconnected = True
        cycle.message_event.set()

    def _answer(self, error: ApiError) -> None:
        response = openai_response(error)
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self._linger()

    def _linger(self) -> None:
        """End the connection from this side, and take what still comes until the client ends it too."""
        self.transport.write_eof()
        self._arrival = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()
        if self._arriving and self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._forget_arrival()
            self._arrival = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    # --- deadlines ----------------------------------------------------------------------------------------------------

    def _expect_arrival(self) -> None:
        self._forget_arrival()
        self._since = self.loop.time()
        self._arrival = self.loop.call_later(REQUEST_SECONDS, self._check_arrival)

    def _forget_arrival(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _check_arrival(self) -> None:
        left = self._since + REQUEST_SECONDS + self._body_bytes / BODY_RATE - self.loop.time()
        if self.flow.read_paused:  # not the client's fault
            self._expect_arrival()
        elif left > 0:
            self._arrival = self.loop.call_later(left, self._check_arrival)
        elif self._arriving:
            self._refuse(ApiError(408, "The request took too long to arrive.", code="request_timeout"))
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._forget_unread()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_unread()

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the last answer was not read: closing would wait for that
            self.transport.abort()
        super().timeout_keep_alive_handler()


def _malformed(error: httptools.HttpParserError) -> ApiError:
    callback = isinstance(error, httptools.HttpParserCallbackError)
    reason = "its address cannot be read" if callback else str(error)
    return ApiError(400, f"This is not a valid HTTP request: {reason}.", code="bad_http")


def _large_headers() -> ApiError:
    return ApiError(431, f"The headers are longer than {MAX_HEADER_BYTES} bytes.", code="request_too_large")
