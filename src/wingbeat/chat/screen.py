"""What the chat writes: on a terminal with dimmed asides, into a pipe nothing but answers."""

from __future__ import annotations

import os
import re
import sys

DIM, RED, PLAIN = "\033[2m", "\033[31m", "\033[0m"

# A model may write anything; a terminal obeys escape sequences, so none get through.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Screen:
    """Answers go to standard output, piece by piece. Everything else, asides, goes to standard error."""

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        """Whether a person sits there: then the reasoning is shown, and empty lines set turns apart."""
        dumb = os.environ.get("TERM") == "dumb"
        self._styled = sys.stdout.isatty() and not dumb
        self._styled_asides = sys.stderr.isatty() and not dumb
        self._reasoning = False

    def reasoning(self, text: str) -> None:
        """A piece of what the model thinks before it answers."""
        if not text or not self.interactive:
            return
        self._reasoning = True
        text = _CONTROLS.sub("", text)
        self._write(f"{DIM}{text}{PLAIN}" if self._styled else text)

    def answer(self, text: str) -> None:
        """A piece of the answer."""
        if not text:
            return
        if self._reasoning:
            self._reasoning = False
            self._write("\n\n")
        self._write(_CONTROLS.sub("", text) if self.interactive else text)

    def end(self, note: str = "") -> None:
        """The answer is over."""
        self._reasoning = False
        self._write("\n")
        if note:
            self.aside(note)
        if self.interactive:
            self._write("\n")

    def aside(self, text: str) -> None:
        """Something that is no answer, such as what a command did."""
        self._beside(text, DIM)

    def error(self, text: str) -> None:
        self._beside(f"Error: {text}", RED)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _beside(self, text: str, style: str) -> None:
        print(f"{style}{text}{PLAIN}" if self._styled_asides else text, file=sys.stderr, flush=True)
