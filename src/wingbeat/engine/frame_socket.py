"""The API's end of the socket to the engine's process."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable

import zmq

from wingbeat.engine.socket_folder import SOCKET_NAME, make_folder

IPC_PATH_MAX_LEN = 107  # bytes of a socket's path, where zmq does not tell


class FrameSocket:
    """Frames to and from the process that connects to ``address``, within one event loop, whose selector it uses.

    Not zmq.asyncio: its futures and polls cost more than everything else that a frame of tokens needs. Frames that have
    come are handed to ``on_frame(sender, frame)`` one each turn of the loop, so that other tasks get theirs.
    """

    def __init__(self, on_frame: Callable[[bytes, bytes], None]) -> None:
        """Raises zmq.ZMQError or OSError when no address can be had."""
        self._on_frame = on_frame
        self._loop = asyncio.get_running_loop()
        self.folder: str | None = None  # where the socket's file lies
        self._reading = False  # a turn of the loop in which to read is on its way
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self._socket.set_hwm(0)
            self._socket.setsockopt(zmq.LINGER, 0)
            self.address = self._bind()
            self._loop.add_reader(self._socket.fileno(), self._read_soon)
        except BaseException:
            self._destroy()
            raise

    def send(self, receiver: bytes, frame: bytes) -> None:
        """Queue a frame; there is no high-water mark, so this never waits."""
        self._socket.send_multipart([receiver, frame], zmq.NOBLOCK)
        self._read_soon()  # sending may swallow the signal that a frame has come

    def close(self) -> None:
        """End it and remove its file. May be called twice."""
        if not self._socket.closed:
            self._loop.remove_reader(self._socket.fileno())
        self._destroy()

    def _bind(self) -> str:
        """The address: a socket file in a private folder, or a loopback port where there can be none."""
        if os.name == "posix" and zmq.has("ipc"):
            self.folder = make_folder()
            path = f"{self.folder}/{SOCKET_NAME}"
            if len(os.fsencode(path)) <= getattr(zmq, "IPC_PATH_MAX_LEN", IPC_PATH_MAX_LEN):
                self._socket.bind(f"ipc://{path}")
                return f"ipc://{path}"
            self._remove_folder()
        return f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def _read_soon(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._reading = False
        if self._socket.closed:
            return
        try:
            sender = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return  # the loop says when there is something
        part = self._socket.recv(zmq.NOBLOCK, copy=False)  # all parts of a message come together
        while part.more:
            part = self._socket.recv(zmq.NOBLOCK, copy=False)
        try:
            self._on_frame(sender, part.bytes)
        finally:
            self._read_soon()  # after those whom this frame has woken up

    def _destroy(self) -> None:
        self._context.destroy(linger=0)
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
