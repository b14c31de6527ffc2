"""Messages as they are typed: lines with editing and history at a terminal, plain lines from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import ModuleType

_CONTINUED = "\\"


class Keyboard:
    """Reads messages. A backslash at the end of a line, or a paste, makes a message of several lines."""

    def __init__(self, *, interactive: bool, commands: Iterable[str] = ()) -> None:
        """``interactive``: prompt, edit and remember lines. ``commands``: words that the Tab key completes."""
        self._interactive = interactive
        if interactive and (readline := _readline()) is not None:
            _set_up(readline, list(commands))

    def read(self) -> str | None:
        """The next message, without white space around it; None at the end of the input.

        Raises KeyboardInterrupt for Ctrl-C.
        """
        lines: list[str] = []
        while True:
            line = self._line("... " if lines else "> ")
            if line is None:
                return "\n".join(lines).strip() if lines else None
            if not line.endswith(_CONTINUED):
                return "\n".join([*lines, line]).strip()
            lines.append(line.removesuffix(_CONTINUED))

    def _line(self, prompt: str) -> str | None:
        if not self._interactive:
            line = sys.stdin.readline()
            return line.removesuffix("\n").removesuffix("\r") if line else None
        try:
            return input(prompt)
        except EOFError:
            print()
            return None


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:  # Windows
        return None
    return readline


def _set_up(readline: ModuleType, commands: list[str]) -> None:
    def complete(text: str, state: int) -> str | None:
        fitting = [f"{command} " for command in commands if text.startswith("/") and command.startswith(text)]
        return fitting[state] if state < len(fitting) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n")
    if "libedit" in (readline.__doc__ or ""):  # macOS
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("tab: complete")
        readline.parse_and_bind("set enable-bracketed-paste on")  # a paste of several lines is one message
