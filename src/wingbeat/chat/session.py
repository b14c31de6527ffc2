"""The loop of the chat: read a message, obey it or have it answered."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from wingbeat.chat.keyboard import Keyboard
from wingbeat.chat.screen import Screen
from wingbeat.conversation import Conversation, Reply
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.llm import GenerationError
from wingbeat.sampling.params import SamplingParams


class Command(NamedTuple):
    """What follows a slash. ``run`` gets the rest of the line."""

    usage: str
    help: str
    run: Callable[[str], None]


class Session:
    """One conversation at the terminal, from the first prompt to the last."""

    def __init__(
        self,
        conversation: Conversation,
        params: SamplingParams,
        *,
        thinking: bool | None = None,
        stats: bool = False,
    ) -> None:
        self.conversation = conversation
        self._params = params
        self._thinking = thinking
        self._stats = stats
        self._over = self._broken_off = False
        self._at_prompt = self._interrupted = False
        self._reply: Reply | None = None
        self.commands = self._all_commands()
        self._screen = Screen()
        self._keyboard = Keyboard(interactive=self._screen.interactive, commands=self.commands)

    def run(self) -> None:
        """Talk until the input ends or the user leaves. At a terminal Ctrl-C ends a reply or a line, not the talk."""
        if not self._screen.interactive:
            with _ctrl_c(self._break_off):
                self._talk()
            if self._broken_off:
                raise KeyboardInterrupt
            return
        self._screen.aside("Type a message. /help lists the commands, Ctrl-D leaves.\n")
        with _ctrl_c(self._interrupt):
            self._talk()

    def _talk(self) -> None:
        while not self._over and (message := self._next()) is not None:
            self._obey(message)

    def _next(self) -> str | None:
        """The next message; an empty one when Ctrl-C took it back; None at the end of the input."""
        try:
            self._at_prompt = True
            message = self._keyboard.read()
            self._at_prompt = False
        except KeyboardInterrupt:
            self._at_prompt = False
            if not self._screen.interactive:
                raise
            self._screen.aside("\nCtrl-D leaves.")
            return ""
        return message

    def _break_off(self) -> None:
        self._over = self._broken_off = True  # should the exception be lost, as it is in a destructor
        raise KeyboardInterrupt

    def _interrupt(self) -> None:
        if self._at_prompt:
            raise KeyboardInterrupt
        self._interrupted = True  # a long message may still be on its way to a reply
        if self._reply is not None:
            self._reply.stop()

    def _obey(self, message: str) -> None:
        self._interrupted = False
        try:
            if message.startswith("//"):
                self._answer(self.conversation.say, message[1:])
            elif message.startswith("/"):
                self._command(message)
            elif message:
                self._answer(self.conversation.say, message)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._screen.error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except (GenerationError, ValueError) as error:
            self._screen.error(str(error))

    def _command(self, message: str) -> None:
        name, _, rest = message.partition(" ")
        command = self.commands.get(name)
        if command is None:
            raise ValueError(
                f"there is no command {name}; /help lists them, and //... sends a message that begins with /"
            )
        command.run(rest.strip())

    def _answer(self, ask: Callable[..., Reply], *message: str, params: SamplingParams | None = None) -> None:
        start = first = time.perf_counter()
        self._reply = reply = ask(*message, params or self._params, thinking=self._thinking)
        if self._interrupted:
            reply.stop()
        try:
            for chunk in reply:
                if len(reply.completion.token_ids) <= len(chunk.token_ids):
                    first = time.perf_counter()
                self._screen.reasoning(chunk.reasoning)
                self._screen.answer(chunk.text)
        finally:
            self._reply = None
        self._screen.end(self._note(reply, first - start, time.perf_counter() - first))

    def _note(self, reply: Reply, reading: float, writing: float) -> str:
        """What to say after a reply: why it is not whole, and with --stats how fast it came."""
        answer, parts = reply.completion, []
        if answer.finish_reason == "length":
            parts.append(f"cut off after {len(answer.token_ids)} tokens: --max-tokens")
        elif answer.finish_reason == "cancelled":
            parts.append("stopped" if answer.text else "stopped before its answer began: the message is forgotten")
        if self._stats and len(answer.token_ids) > 1:
            written = len(answer.token_ids)
            rate = (written - 1) / writing
            parts.append(f"{reply.read:,} tokens read in {reading:.2f} s, {written:,} written at {rate:,.1f} tokens/s")
        return "; ".join(parts)

    def _all_commands(self) -> dict[str, Command]:
        return {
            "/reset": Command("/reset", "forget the conversation, but not the system message", self._reset),
            "/system": Command("/system TEXT", "set the system message; `/system off` removes it", self._system),
            "/save": Command("/save FILE", "keep the conversation in a file", self._save),
            "/load": Command("/load FILE", "go on with a conversation that was saved", self._load),
            "/retry": Command("/retry", "answer the last message again", self._retry),
            "/undo": Command("/undo", "take the last message and its answer back", self._undo),
            "/help": Command("/help", "show this", self._help),
            "/exit": Command("/exit", "leave", self._exit),
        }

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        self._screen.aside("The conversation begins anew.")

    def _system(self, text: str) -> None:
        if text:
            self.conversation.system = None if text == "off" else text
        system = self.conversation.system
        self._screen.aside(f"System: {system}" if system else "There is no system message.")

    def _save(self, name: str) -> None:
        path = _path(name, "/save")
        if path.exists() and not _is_saved_state(path):
            raise ValueError(f"{path} exists and is no saved conversation: choose another name")
        try:
            self.conversation.save(path)
        except OSError as error:  # which names a file beside it that nobody knows
            raise ValueError(f"{path} cannot be written: {error.strerror}") from None
        self._screen.aside(f"Saved in {path}.")

    def _load(self, name: str) -> None:
        path = _path(name, "/load")
        if not path.is_file():
            raise ValueError(f"there is no file {path}: name one that /save wrote")
        self.conversation.load(path)
        self._screen.aside(f"Loaded a conversation of {len(self.conversation.messages)} messages.")

    def _retry(self, _: str) -> None:
        # With the seed of the first time the answer would be the same.
        self._answer(self.conversation.retry, params=msgspec.structs.replace(self._params, seed=None))

    def _undo(self, _: str) -> None:
        self.conversation.undo()
        self._screen.aside("The last message and its answer are forgotten.")

    def _help(self, _: str) -> None:
        width = max(len(command.usage) for command in self.commands.values())
        for command in self.commands.values():
            self._screen.aside(f"{command.usage:<{width}}  {command.help}")
        self._screen.aside("A backslash at the end of a line continues it. Ctrl-C stops a reply, Ctrl-D leaves.")

    def _exit(self, _: str) -> None:
        self._over = True


def _path(name: str, command: str) -> Path:
    if not name:
        raise ValueError(f"name a file: {command} talk.safetensors")
    return Path(name).expanduser()


def _is_saved_state(path: Path) -> bool:
    try:
        StateSnapshot.load(path)
    except (ValueError, OSError):
        return False
    return True


@contextmanager
def _ctrl_c(act: Callable[[], None]) -> Iterator[None]:
    """While the block runs, Ctrl-C calls ``act`` instead of ending the program."""
    before = signal.signal(signal.SIGINT, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
