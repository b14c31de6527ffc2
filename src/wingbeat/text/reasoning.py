"""Splits what a thinking model writes into its reasoning and its answer, while it is being written."""

from __future__ import annotations

from wingbeat.text.stream import Trimmer, overlap

_OPEN, _CLOSE = "<think>", "</think>"
LEADING_WHITE = " \t\r\n"
"""What may come before an answer that follows a grammar, and is no part of it."""


class ReasoningSplitter:
    """Turns generated text into (reasoning, answer) pieces, both without white space at their ends.

    It begins where the prompt stopped: inside the reasoning after "<think", after an empty one after "</think" (their
    missing ">" is the model's to write and is dropped), else at the answer, which a thinking model may still open with
    "<think>" of its own accord. The text of a continued message keeps its leading white space.
    """

    def __init__(
        self, last_segment: str = "", *, thinking: bool = True, exact: bool = False, white_is_said: bool = False
    ) -> None:
        """`last_segment` is the end of the prompt as `ChatTemplate.render` gave it; `thinking=False` for models whose
        replies are answers only. An `exact` answer follows a grammar: it opens no reasoning, and white space at its end
        belongs to it; with `white_is_said` that at its beginning, too."""
        self.exact = exact
        opening = last_segment.strip()
        continues = last_segment.startswith(" ")  # contents begin with a space, role labels do not
        opened = thinking and opening.startswith("<think")
        self._reasoning = opened and "</think" not in opening
        self._undecided = thinking and not continues and not exact
        self._tag_open = opened and opening.endswith("think")
        answer_starts = not continues or (opened and (self._reasoning or opening.endswith(("</think", _CLOSE))))
        self._reasoning_trimmer = Trimmer()
        self.trims_start = answer_starts and not (exact and white_is_said)
        """Whether white space at the beginning of the answer is no part of it."""
        ended = last_segment[-1:].isspace() and not self._reasoning
        self.has_room = answer_starts and not ended
        """Whether a model may well write white space before its answer."""
        white = LEADING_WHITE if exact else None
        self._answer_trimmer = Trimmer(leading=self.trims_start, trailing=not exact, white=white)
        self._held = ""

    @property
    def answering(self) -> bool:
        """Whether all that is still to come is part of the answer."""
        return not (self._reasoning or self._undecided or self._tag_open)

    @property
    def reasoning(self) -> bool:
        """Whether what comes next is part of the reasoning."""
        return self._reasoning

    @property
    def before_answer(self) -> str:
        """The text after which the answer begins; empty where it may begin at once."""
        if self._reasoning:
            return _CLOSE
        return ">" if self._tag_open else ""

    @property
    def opening(self) -> str:
        """The end of a prompt after which another splitter goes on where this one is."""
        if self._tag_open:
            return f" {_OPEN[:-1]}" if self._reasoning else f" {_OPEN}{_CLOSE[:-1]}"
        return f" {_OPEN}" if self._reasoning else " "

    def push_answer(self, text: str) -> str:
        """`push` for a text of which is known that it is part of the answer."""
        return self._answer_trimmer.push(text)

    def push(self, text: str) -> tuple[str, str]:
        """The reasoning and the answer that this piece of text adds, either possibly empty."""
        text = self._held + text
        self._held = ""
        if self._tag_open and text:
            text = text.removeprefix(">")
            self._tag_open = False
        if self._undecided:
            text = self._decide(text)
        if not self._reasoning:
            return "", self._answer_trimmer.push(text)
        reasoning, closed, answer = text.partition(_CLOSE)
        if closed:
            self._reasoning = False
            return self._reasoning_trimmer.push(reasoning), self._answer_trimmer.push(answer)
        border = len(text) - overlap(text, _CLOSE)
        self._held = text[border:]
        return self._reasoning_trimmer.push(text[:border]), ""

    def flush(self) -> tuple[str, str]:
        """The end of the text: what was held back as the beginning of a tag is text after all."""
        held, self._held, self._undecided = self._held, "", False
        if self._reasoning:
            return self._reasoning_trimmer.push(held), ""
        return "", self._answer_trimmer.push(held)

    def _decide(self, text: str) -> str:
        """Hold the beginning of the reply until it is clear whether it opens with a tag; returns what follows that."""
        start = text.lstrip()
        if start.startswith(_OPEN):
            self._undecided, self._reasoning = False, True
            return start.removeprefix(_OPEN)
        if _OPEN.startswith(start):
            self._held = start
            return ""
        self._undecided = False
        return text
