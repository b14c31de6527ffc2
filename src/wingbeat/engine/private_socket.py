"""Where sockets between the processes of one user lie."""

from __future__ import annotations

import os
import shutil

import zmq

from wingbeat.engine.socket_folder import SOCKET_NAME, make_folder

IPC_PATH_MAX_LEN = 107  # bytes of a socket's path, where zmq does not tell


def bind_privately(socket: zmq.Socket[bytes]) -> tuple[str, str | None]:
    """Bind to a socket file in a private folder, or to a loopback port where there can be none.

    Returns the address, and the folder, which ``remove_folder`` removes. Raises zmq.ZMQError or OSError.
    """
    if os.name == "posix" and zmq.has("ipc"):
        folder = make_folder()
        path = f"{folder}/{SOCKET_NAME}"
        if len(os.fsencode(path)) <= getattr(zmq, "IPC_PATH_MAX_LEN", IPC_PATH_MAX_LEN):
            try:
                socket.bind(f"ipc://{path}")
            except BaseException:
                remove_folder(folder)
                raise
            return f"ipc://{path}", folder
        remove_folder(folder)
    return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}", None


def remove_folder(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
