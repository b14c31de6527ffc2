"""Chat messages to prompt text, in the format the models were trained on:

    System: <s>\\n\\nUser: <u>\\n\\nAssistant: <a>\\n\\nUser: <u>\\n\\nAssistant:

A prompt is a list of segments that are tokenised one by one: a role's label with its colon, the content with the space
before it, the blank line after it. So no token joins two of them, and the ids of a conversation begin with the ids of
the shorter conversation and the model's reply to it: what the cached state of the last turn has seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from wingbeat.text.tools import Tool, ToolCall, tool_list, written_calls

SEPARATOR = "\n\n"
_SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
_TOOL_RESULT = "Function output:\n"
TOOLS = "{tools}"
"""In a tool prompt, the place of the tools' list."""
_BLANK_LINES = re.compile(r"(?P<code>^[ \t]*(?P<fence>```|~~~).*?^[ \t]*(?P=fence))|\n{2,}", re.MULTILINE | re.DOTALL)
_BEFORE_LABEL = re.compile(r"\n{2,}(?=(?:System|User|Assistant|Bob|Alice):)")
_REASONING = re.compile(r"\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """system, developer, user, assistant, tool or function."""
    content: str
    name: str | None = None
    """Who speaks. The trained format has no place for it, so it does not reach the prompt."""
    reasoning_content: str | None = None
    """The reasoning of an assistant's turn. Left out of the prompt, except of a turn that is to be continued."""
    hint: str = ""
    """What follows the content, in a segment of its own: it is said to the model this once, and not when the message
    has become a part of the conversation."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What the assistant called, after the content."""


@dataclass(frozen=True)
class ChatTemplate:
    """How messages become a prompt. Immutable; the instances WORLD, G1 and RAVEN serve everyone."""

    reply_openings: Mapping[bool, str] | None = None
    """What follows the last "Assistant:" for thinking on (True) and off (False); None: the model cannot think."""
    effort_hints: Mapping[str, str] = field(default_factory=dict)
    """What the last message ends with for so much reasoning, by the names of efforts."""
    user: str = "User"
    assistant: str = "Assistant"
    system: str = "System"
    """The labels; an empty one stands for a text without label."""
    tool_prompt: str = (
        f"Tools:\n{TOOLS}\nWhen a tool is needed, reply only with a JSON function call in this form:\n"
        '```json\n{"name": "tool", "arguments": {}}\n```\nWhen no tool is needed, reply with a text.'
    )
    """What the system says of tools; `{tools}` in it stands for their JSON list."""

    def with_tools(self, messages: Sequence[Message], told: str) -> list[Message]:
        """The conversation in which the system says what was `told_of` tools, after what it says at the beginning."""
        if messages and _SPEAKERS.get(messages[0].role.lower()) == "system":
            first = messages[0]
            return [replace(first, content=f"{first.content}\n{told}"), *messages[1:]]
        return [Message("system", told), *messages]

    def told_of(self, tools: Sequence[Tool], tool_prompt: str | None = None) -> str:
        """What the system says of these tools, as it stands in a prompt; by `tool_prompt` instead of the template's."""
        return sanitise((tool_prompt or self.tool_prompt).replace(TOOLS, tool_list(tools)))

    @property
    def can_think(self) -> bool:
        """Whether replies may hold reasoning."""
        return self.reply_openings is not None

    def render(
        self, messages: Sequence[Message], *, thinking: bool | None = None, continue_final: bool = False
    ) -> list[str]:
        """The prompt, as segments to be tokenised one by one.

        `thinking` None leaves it to the model; models that cannot think ignore it. `continue_final` ends the prompt
        inside the last message, which must be the assistant's; white space at its end is dropped, because the model
        writes the space before its next word itself.
        Raises ValueError for an empty conversation, an unknown role, or a last message that cannot be continued.
        """
        if not messages:
            raise ValueError("messages must hold at least one message")
        if continue_final and messages[-1].role.lower() != "assistant":
            raise ValueError(
                f"only an assistant's message can be continued; the last one is of role {messages[-1].role!r}"
            )
        segments: list[str] = []
        for message in messages[:-1] if continue_final else messages:
            segments += self._turn(message)
        segments.append(f"{self.assistant}:")
        opening = self._partial(messages[-1]) if continue_final else self.opening(thinking)
        return [*segments, opening] if opening else segments

    def follow_up(
        self, messages: Sequence[Message], *, thinking: bool | None = None, continue_final: bool = False
    ) -> list[str]:
        """`render` of what is said after an answer whose tokens were read already, without the blank line after it."""
        return [SEPARATOR, *self.render(messages, thinking=thinking, continue_final=continue_final)]

    def recalled(self, prompt: str, reply: str) -> str:
        """A prompt that `render` made and the reply to it, as `render` writes both when the reply has become a message,
        but for the blank line at the end. Of another prompt and its continuation: their text."""
        label = f"{self.assistant}:"
        before, found, opening = prompt.rpartition(label)
        if not found:
            return prompt + reply
        answer = self._answer(opening + reply)
        return f"{before}{label} {answer}" if answer else before + label

    def _turn(self, message: Message) -> list[str]:
        speaker = _SPEAKERS.get(message.role.lower())
        if speaker is None:
            raise ValueError(f"unknown role {message.role!r}: use one of {', '.join(_SPEAKERS)}")
        content = self._content(message)
        if speaker == "system" and not content:
            return []
        label = {"system": self.system, "user": self.user, "assistant": self.assistant}[speaker]
        said = [f" {content}" if label else content] if content or not label else []
        return [*([f"{label}:"] if label else ()), *said, *([message.hint] if message.hint else ()), SEPARATOR]

    def _content(self, message: Message) -> str:
        match message.role.lower():
            case "assistant":
                return self._answer(_with_calls(message))
            case "tool" | "function":
                return _TOOL_RESULT + sanitise(message.content)
            case _:
                return sanitise(message.content)

    def _answer(self, content: str) -> str:
        if not self.can_think:
            return sanitise(content)
        reasoning = _REASONING.match(content)
        answer = content[reasoning.end() :] if reasoning else content
        # Thinking models do write blank lines into answers, and do not end there. Kept as written, the turn keeps the
        # tokens it was generated with.
        return normalise_line_ends(answer).strip()

    def hinted(self, messages: Sequence[Message], effort: str | None) -> list[Message]:
        """The messages, of which the last one, a user's, ends with what the model was trained to take for so much
        effort of reasoning."""
        told = list(messages)
        hint = self.effort_hints.get(effort or "", "")
        if hint and told and told[-1].role.lower() == "user":
            told[-1] = replace(told[-1], hint=hint)
        return told

    def passing(self, messages: Sequence[Message], thinking: bool | None) -> int:
        """How many segments at the end of what `render` makes of these messages the next prompt of the conversation
        will not begin with."""
        if messages[-1].hint:
            return 4 if self.opening(thinking) else 3  # the hint, the separator, the label, the opening
        return 1 if self.opening(thinking) else 0

    def opening(self, thinking: bool | None) -> str:
        """What comes after the last label, and is no part of the conversation as the next prompt has it."""
        return "" if self.reply_openings is None or thinking is None else self.reply_openings[thinking]

    def closed(self, segments: Sequence[str]) -> list[str]:
        """A prompt of `render` whose answer begins with the next token: an empty reasoning, whose end is left to the
        model, ends here."""
        opening = self.opening(thinking=False)
        if not opening or segments[-1] != opening:
            return list(segments)
        return [*segments[:-1], f"{opening}>\n"]

    def thinking_of(self, segments: Sequence[str], thought: str) -> list[str]:
        """A prompt of `render` whose reasoning, if there is one, begins with this thought."""
        opening = self.opening(thinking=True)
        if not opening or segments[-1] != opening:
            return list(segments)
        return [*segments[:-1], f"{opening}>{thought}"]

    def _partial(self, message: Message) -> str:
        content = normalise_line_ends(message.content).strip() if self.can_think else sanitise(message.content)
        if self.can_think and message.reasoning_content:
            reasoning = f"<think>\n{normalise_line_ends(message.reasoning_content).strip()}"
            content = f"{reasoning}\n</think>\n{content}" if content else reasoning
        return f" {content}" if content else ""


def _with_calls(message: Message) -> str:
    if not message.tool_calls:
        return message.content
    calls = written_calls(message.tool_calls)
    return f"{message.content.rstrip()}\n{calls}" if message.content.strip() else calls


def normalise_line_ends(text: str) -> str:
    """CR LF and CR to LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def sanitise(text: str) -> str:
    """A text as a turn may hold it: LF line ends, no white space at the ends, no blank line (it would end the turn) but
    those of code between fences."""
    return _BLANK_LINES.sub(_unless_code, normalise_line_ends(text)).strip()


def _unless_code(found: re.Match[str]) -> str:
    code = found["code"]
    return "\n" if code is None else _BEFORE_LABEL.sub("\n", code)  # nobody else's turn begins in code either


WORLD = ChatTemplate()
# "<think" lacks its ">" on purpose: the model writes it. An empty reasoning makes it answer at once, and well.
G1 = ChatTemplate(
    reply_openings={True: " <think", False: " <think>\n</think"},
    effort_hints={
        "think": " (think)",
        "low": " (think a bit)",
        "high": " (think a lot)",
        "xhigh": " (think a lot)",
        "max": " (think a lot)",
    },
    tool_prompt=f"Tools:\n{TOOLS}\nWhen a tool is needed, return only a JSON function call.",
)
RAVEN = ChatTemplate(user="Bob", assistant="Alice", system="")
