"""`wingbeat chat` as a person or a script uses it: a terminal or a pipe, the keys, the commands."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from typer.testing import CliRunner, Result

from tests.live import write_model
from tests.random_models import random_rwkv7, write_safetensors
from wingbeat import LLM, SamplingParams
from wingbeat.chat.screen import Screen
from wingbeat.cli import app
from wingbeat.config import Settings
from wingbeat.engine.snapshot import StateSnapshot

GREEDY = ("--temperature", "0")
QUESTIONS = ("What is wingbeat?", "你好", "What is RWKV?")


@pytest.fixture(autouse=True)
def plain_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WINGBEAT_{name.upper()}", raising=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model; its greedy answers go round in circles for ever."""
    return write_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def answers() -> list[str]:
    """What the demo says to QUESTIONS, one after the other."""
    with LLM() as llm:
        messages: list[dict[str, str]] = []
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            reply = llm.chat(messages, SamplingParams(temperature=0, max_tokens=2048))
            messages.append({"role": "assistant", "content": reply.text})
        return [message["content"] for message in messages[1::2]]


def piped(text: str | bytes, *flags: str | Path) -> Result:
    result = CliRunner().invoke(app, ["chat", *map(str, flags)], input=text)
    assert "Traceback" not in result.output
    return result


def messages_in(path: Path) -> list[dict[str, str]]:
    return json.loads(StateSnapshot.load(path)[1]["conversation.messages"])


def test_a_pipe_gets_answers_and_nothing_else(answers: list[str]) -> None:
    result = piped("\n".join(QUESTIONS), *GREEDY)
    assert result.exit_code == 0
    assert result.stdout == "".join(f"{answer}\n" for answer in answers)
    assert result.stderr == "Loading wingbeat-demo ...\n"


def test_a_backslash_continues_a_line(tmp_path: Path) -> None:
    assert piped("one\\\r\ntwo\r\n\r\n/save talk.st\n").exit_code == 0
    assert messages_in(tmp_path / "talk.st")[0]["content"] == "one\ntwo"
    piped("one\\", *GREEDY, "--max-tokens", "2")


def test_what_is_no_utf8_is_read_all_the_same() -> None:
    assert piped(b"\xff\xfe hello\n", *GREEDY).exit_code == 0


def test_the_commands(tmp_path: Path, answers: list[str]) -> None:
    script = [
        "/system Be brief.",
        "What is wingbeat?",
        "/save first.st",
        "What is RWKV?",
        "/undo",
        "/save second.st",
        "/reset",
        "/system",
        "/load first.st",
        "/system off",
        "/save third.st",
        "//help",
        "/retry",
        "/save fourth.st",
        "/help",
        "/exit",
        "never read",
    ]
    result = piped("\n".join(script), *GREEDY)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 4
    first, second, third, fourth = (
        messages_in(tmp_path / f"{name}.st") for name in ("first", "second", "third", "fourth")
    )
    assert first == second == [{"role": "system", "content": "Be brief."}, *third]
    assert third[0] == {"role": "user", "content": "What is wingbeat?"}
    assert fourth[:3] == [*third, {"role": "user", "content": "/help"}]
    assert "System: Be brief." in result.stderr
    assert "There is no system message." in result.stderr
    assert "/save FILE" in result.stderr
    assert "Error" not in result.stderr


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("/nope", "there is no command /nope"),
        ("/load", "name a file: /load"),
        ("/save", "name a file: /save"),
        ("/load none.st", "there is no file none.st: name one that /save wrote"),
        ("/save no/such/folder/x.st", "no/such/folder/x.st cannot be written: No such file or directory"),
        ("/retry", "no message yet"),
        ("/undo", "no message yet"),
    ],
)
def test_a_command_that_fails_is_told_and_the_talk_goes_on(command: str, message: str, answers: list[str]) -> None:
    result = piped(f"{command}\n{QUESTIONS[0]}\n/save talk.st\n{command}\n", *GREEDY)
    assert result.exit_code == 0
    assert re.search(f"^Error: .*{re.escape(message)}", result.stderr, re.MULTILINE)
    assert result.stdout.startswith(answers[0])


def test_a_file_that_is_no_conversation_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"precious")
    result = piped("hi\n/save model.pth\n/save talk.st\n/save talk.st\n")
    assert "model.pth exists and is no saved conversation" in result.stderr
    assert (tmp_path / "model.pth").read_bytes() == b"precious"
    assert result.stderr.count("Saved in talk.st") == 2


def test_a_saved_conversation_can_be_gone_on_with(tiny: Path, answers: list[str]) -> None:
    piped(f"{QUESTIONS[0]}\n{QUESTIONS[1]}\n/save talk.st\n", *GREEDY)
    result = piped(f"{QUESTIONS[2]}\n", *GREEDY, "--load", "talk.st")
    assert result.stdout == f"{answers[2]}\n"
    refused = piped("hi\n", tiny, "--load", "talk.st")
    assert refused.exit_code == 1
    assert "saved with another model (wingbeat-demo)" in refused.stderr


def test_options_shape_the_answers(tmp_path: Path) -> None:
    once, again = (piped("Tell me a story\n", "--temperature", "2", "--seed", "5", "--max-tokens", "9") for _ in "ab")
    assert once.stdout == again.stdout
    assert "cut off after 9 tokens" in once.stderr
    result = piped("hi\n/save talk.st\n", "--system", "Be kind.", "--stats")
    assert messages_in(tmp_path / "talk.st")[0] == {"role": "system", "content": "Be kind."}
    assert re.search(r"\d+ tokens read in [\d.]+ s, \d+ written at [\d.,]+ tokens/s", result.stderr)


def test_the_settings_name_the_model(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "wingbeat.toml").write_text(f'model = "{tiny}"\ndtype = "float32"\n')
    assert "Loading tiny" in piped("").stderr


def test_reasoning_stays_out_of_a_pipe(tiny: Path) -> None:
    flags = ("--profile", "g1", "--thinking", *GREEDY, "--max-tokens", "20")
    assert piped("hi\n", tiny, *flags).stdout.strip() == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere.pth"], "There is no file nowhere.pth"),
        (["text.pth"], "text.pth is not a checkpoint"),
        (["--dtype", "int3"], "dtype: "),
        (["--temperature", "-1"], "temperature must be at least 0"),
        (["--load", "none.st"], "there is no file none.st"),
        (["--tokenizer", "none.txt"], "there is no tokenizer 'none.txt'"),
        (["--tokenizer", "text.pth"], "text.pth, line 1"),
        (["--profile", "robot"], "robot"),
        (["--config", "none.toml"], "none.toml does not exist"),
        (["odd.safetensors"], "--tokenizer FILE"),
    ],
)
def test_mistakes_are_told_in_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("just a text")
    write_safetensors(tmp_path / "odd.safetensors", random_rwkv7(layers=1, width=64, vocab=77))
    result = piped("hi\n", *flags)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("Loading")]
    assert line.startswith("Error: ")
    assert message in line


def test_a_reader_that_goes_away(tiny: Path) -> None:
    chat = shlex.join([sys.executable, "-m", "wingbeat", "chat", str(tiny), *GREEDY, "--max-tokens", "20000"])
    done = subprocess.run(f"echo hi | {chat} | head -c 20", shell=True, capture_output=True, timeout=30)
    assert len(done.stdout) == 20
    assert done.stderr.decode() == "Loading tiny ...\n"
    closed = subprocess.run(f"{chat} <&-", shell=True, capture_output=True, text=True, timeout=30)
    assert closed.returncode == 1
    assert closed.stderr.startswith("Error: ")


class Terminal:
    """`wingbeat chat` in a terminal, at its prompt."""

    def __init__(self, *flags: str) -> None:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        self.child = pexpect.spawn(
            sys.executable, ["-m", "wingbeat", "chat", *flags], encoding="utf-8", timeout=20, env=environment
        )
        self.greeting = self.prompt()

    def prompt(self) -> str:
        """What is written up to the next prompt."""
        self.child.expect(r"> $")
        return self.child.before or ""

    def ask(self, text: str) -> str:
        self.child.sendline(text)
        return self.prompt()

    def leave(self, key: str) -> int | None:
        self.child.sendcontrol(key)
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


def test_at_a_terminal(answers: list[str], tmp_path: Path) -> None:
    terminal = Terminal(*GREEDY)
    assert "Loading wingbeat-demo" in terminal.greeting
    assert "/help" in terminal.greeting
    assert answers[0] in terminal.ask(QUESTIONS[0])
    assert answers[1] in terminal.ask(QUESTIONS[1])
    terminal.child.send("\x1b[200~two\nlines\x1b[201~")
    terminal.child.expect("lines")
    terminal.ask("")
    terminal.child.send("/sa\t")  # the Tab key completes commands
    terminal.child.expect("/save ")
    terminal.ask("talk.st")
    assert [m["content"] for m in messages_in(tmp_path / "talk.st")][::2] == [*QUESTIONS[:2], "two\nlines"]
    terminal.child.sendline("a\\")
    terminal.child.expect(r"\.\.\. $")
    terminal.ask("b")
    assert terminal.leave("d") == 0


def test_ctrl_c_stops_the_reply_and_never_the_talk(tiny: Path, tmp_path: Path) -> None:
    terminal = Terminal(str(tiny), *GREEDY, "--max-tokens", "1000000", "--profile", "world")
    terminal.child.sendline("hi")
    terminal.child.expect("u")
    terminal.child.sendcontrol("c")
    assert "stopped" in terminal.prompt()
    for line in ("", "half a line", "one\\\r"):
        terminal.child.send(line)
        terminal.child.expect_exact("... " if line.endswith("\r") else line)
        terminal.child.sendcontrol("c")
        assert "Ctrl-D leaves" in terminal.prompt()
    terminal.ask("/save talk.st")
    assert terminal.leave("d") == 0
    assert "Traceback" not in (terminal.child.before or "")
    question, answer = messages_in(tmp_path / "talk.st")
    assert question["content"] == "hi"
    assert answer["content"]


def test_ctrl_c_stops_the_reading_of_a_prompt(tiny: Path) -> None:
    terminal = Terminal(str(tiny), "--profile", "world")
    terminal.child.send(f"\x1b[200~{'a b ' * 30000}\x1b[201~\r")  # more than is read while we look
    terminal.child.expect(r"\x1b\[\?2004l")  # the line is accepted
    terminal.child.sendcontrol("c")
    said = terminal.prompt()
    assert "the message is forgotten" in said or "Ctrl-D leaves" in said  # after the line was taken, or just before
    assert "nothing to save" in terminal.ask("/save talk.st")
    assert terminal.leave("d") == 0


def test_ctrl_c_ends_a_chat_that_reads_no_terminal(tiny: Path) -> None:
    chat = subprocess.Popen(
        [sys.executable, "-m", "wingbeat", "chat", str(tiny), *GREEDY, "--max-tokens", "1000000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert chat.stdin is not None
    assert chat.stdout is not None
    chat.stdin.write(b"hi\nyou\n")
    chat.stdin.flush()
    chat.stdout.read(1)
    chat.send_signal(signal.SIGINT)
    _, err = chat.communicate(timeout=20)
    assert chat.returncode != 0
    assert b"Traceback" not in err


def test_reasoning_is_dimmed_and_alone_is_no_answer(tiny: Path) -> None:
    terminal = Terminal(str(tiny), *GREEDY, "--max-tokens", "30", "--profile", "g1", "--thinking")
    shown = terminal.ask("hi")
    assert "\x1b[2m" in shown
    assert "cut off after 30 tokens" in shown
    terminal.leave("d")


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_model_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, FakeTerminal())
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    screen.reasoning("\x1b]0;title\x07 why\r")
    screen.answer("a\x1b[2J\tb\nc\x9b1m\x08世界")
    screen.end("done")
    assert sys.stdout.getvalue() == "]0;title why\n\na[2J\tb\nc1m世界\n\n"  # type: ignore[attr-defined]
    assert sys.stderr.getvalue() == "done\n"  # type: ignore[attr-defined]
