"""What the server needs from this machine: settings, a port, a folder for sockets, open files."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import socket
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wingbeat.config import ConfigError, Settings, config_file, load_settings
from wingbeat.doctor.finding import Finding
from wingbeat.engine.socket_folder import SOCKET_NAME, make_folder

FEW_FILES = 4096
"""Open files below which a busy server may run out: each connection is one."""

HEALTH_SECONDS = 2.0
"""How long whoever holds the port may take to say whether it is a wingbeat server."""


def look_at_settings(file: Path | None) -> tuple[Settings | None, Finding]:
    """The settings that the server would use and where they come from; None when it could not use them."""
    try:
        path = config_file(file)
        settings = load_settings(file=file)
        sources = _sources(path)
    except ConfigError as error:
        fix = "correct it; docs/configuration.md lists every setting"
        return None, Finding("settings", "; ".join(str(error).splitlines()), "problem", fix)
    shown = {source: [name for name, s in sources.items() if s == source] for source in dict.fromkeys(sources.values())}
    text = "; ".join(f"{', '.join(names)} from {source}" for source, names in shown.items()) or "all defaults"
    details = {
        "file": str(path) if path else None,
        "sources": sources,
        "api_keys": len(settings.api_keys) + len(settings.keys),
    }
    if not settings.loopback and not settings.needs_key:
        text += f"; everyone who can reach {settings.host} can use the server"
        return settings, Finding("settings", text, "note", "set WINGBEAT_API_KEYS, or api_keys in the file", details)
    return settings, Finding("settings", text, details=details)


def _sources(path: Path | None) -> dict[str, str]:
    """Where each setting that is no default comes from."""
    in_file = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    in_environment = {name.upper() for name in os.environ}
    sources = {}
    for name in Settings.model_fields:
        if f"WINGBEAT_{name.upper()}" in in_environment:
            sources[name] = "the environment"
        elif name in in_file:
            sources[name] = str(path)
    return sources


def look_at_serving(settings: Settings) -> Iterator[Finding]:
    yield _port(settings.host, settings.port)
    yield _sockets()
    files = _open_files()
    if files is not None:
        yield files


def _port(host: str, port: int) -> Finding:
    where = f"{host} port {port}"
    details = {"host": host, "port": port}
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            fix = "choose an address of this machine with --host, and a port above 1023 with --port"
            return Finding("port", f"cannot listen on {where}: {error.strerror or error}", "problem", fix, details)
        if (status := _health(host, port)) is not None:
            text = f"a wingbeat server listens on {where} already ({status})"
            return Finding("port", text, "note", "another one needs its own: --port 8001", details)
        return Finding("port", f"another program uses {where}", "problem", "choose another with --port", details)
    return Finding("port", f"{where} is free", details=details)


def _health(host: str, port: int) -> str | None:
    """The status that a wingbeat server there reports; None when it is something else."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}
    try:
        connection = http.client.HTTPConnection(everywhere.get(host, host.strip("[]")), port, timeout=HEALTH_SECONDS)
        connection.request("GET", "/health")
        report: Any = json.loads(connection.getresponse().read(1 << 16))
        connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return str(report["status"]) if isinstance(report, dict) and {"status", "model"} <= report.keys() else None


def _sockets() -> Finding:
    """The engine is reached through a Unix socket in a private folder; try one."""
    place = tempfile.gettempdir()
    if not hasattr(socket, "AF_UNIX"):
        return Finding("sockets", "no Unix sockets here: the engine is reached over loopback TCP")
    try:
        folder = make_folder()
    except OSError as error:
        fix = "set TMPDIR to a folder that can be written"
        return Finding("sockets", f"no folder can be made in {place}: {error.strerror}", "problem", fix)
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(Path(folder, SOCKET_NAME)))
    except OSError as error:
        fix = "set TMPDIR to a short path on a local disk"
        return Finding("sockets", f"no socket can be made in {place}: {error}", "problem", fix)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Finding("sockets", f"can be made in {place}")


def _open_files() -> Finding | None:
    """The server raises the soft limit as far as the hard one lets."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    details = {"soft": soft, "hard": hard}
    if hard == resource.RLIM_INFINITY or hard >= FEW_FILES:
        shown = "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard:,}"
        return Finding("open files", shown, details=details)
    fix = "raise the hard limit: LimitNOFILE= of the service, --ulimit nofile= of the container, or limits.conf"
    text = f"at most {hard:,}: each connection takes one, so of many clients some would be refused"
    return Finding("open files", text, "note", fix, details)
