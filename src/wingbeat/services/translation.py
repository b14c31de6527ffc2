"""Translation: texts are cut into pieces, all of which a model translates at once, and what went wrong is translated
again in smaller parts.

A piece that comes back without its marks is parted at them; one that had no end is parted into shorter ones. What has
no end even then is told, never cut off silently.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from wingbeat.services.cutting import CutText, cut_at_marks, cut_shorter, cut_text, keeps_marks, marks_in, one_line
from wingbeat.services.languages import names_for, same_language

LIMITS = (128, 512, 2_048)
"""Tokens of a translation, at most: a model that repeats itself must not go on for ever. A piece has the first one that
leaves a token for each of its bytes, several times what is needed, or else the last."""
_SPARE = 64
SHORTEST = 60
"""Characters of a piece that is not parted any more."""
_PARTS = 4
"""Into how many a piece without an end is parted, or a few more."""


class Job(NamedTuple):
    """A text, or a piece of one, and the codes or names of two languages."""

    text: str
    source: str
    target: str


class Outcome(NamedTuple):
    """A translation. `error`: what is wrong with it; `failed`: there is none."""

    text: str
    error: str | None = None
    failed: bool = False


class Form(NamedTuple):
    """What pieces have in common that are written in one batch. Nothing in it depends on other pieces, so that each is
    translated as it would be alone."""

    source: str
    target: str
    most_tokens: int

    @property
    def stops(self) -> tuple[str, ...]:
        """What ends the translation of a piece: a blank line, or the next example of the same kind."""
        return ("\n\n", f"\n{self.source}:", f"\n{self.target}:")

    def prompt(self, text: str) -> str:
        """As RWKV's World models were trained to translate, from one language to another by their names."""
        return f"{self.source}: {text}\n\n{self.target}:"


class Written(NamedTuple):
    """What a model wrote after a prompt. `ended`: by itself. `error`: why it could not."""

    text: str
    ended: bool = True
    error: str | None = None


class Write(Protocol):
    """Lets a model go on with each prompt, in the most likely way, up to one of the stops or so many tokens."""

    async def __call__(
        self, prompts: Sequence[str], stops: tuple[str, ...], most_tokens: int, /
    ) -> Sequence[Written]: ...


class TooManyPieces(Exception):  # noqa: N818 - a state of affairs, not a mistake
    """Texts have more pieces than may be: so many."""

    def __init__(self, pieces: int) -> None:
        super().__init__(f"{pieces} pieces")
        self.pieces = pieces


class Translator:
    """Translates texts by what `write` writes, which is asked for up to `most` rows at once."""

    def __init__(self, write: Write, most: int) -> None:
        self._write, self._most = write, most

    async def translate(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The translation of each text; one in the target's language stays as it is.

        Raises TooManyPieces when there are more than `most`, and what `write` does.
        """
        found = await self._translate_parts(jobs, await asyncio.to_thread(self._cut, jobs))
        return [_told(job, outcome) for job, outcome in zip(jobs, found, strict=True)]

    def _cut(self, jobs: Sequence[Job]) -> list[CutText]:
        cut, pieces = [], 0
        for job in jobs:
            cut.append(cut_text(job.text, max(0, self._most - pieces)))
            pieces += len(cut[-1].pieces) + cut[-1].more
        if pieces > self._most:
            raise TooManyPieces(pieces)
        return cut

    async def _translate_parts(self, jobs: Sequence[Job], cut: Sequence[CutText]) -> list[Outcome]:
        """The outcome of each job, from those of the pieces that it was cut into."""
        pieces = [job._replace(text=text) for job, whole in zip(jobs, cut, strict=True) for text in whole.pieces]
        found = iter(await self._translate_pieces(pieces))
        return [_join(whole, [next(found) for _ in whole.pieces]) for whole in cut]

    async def _translate_pieces(self, pieces: Sequence[Job]) -> list[Outcome]:
        """The translation of each piece, with all of its marks."""
        outcomes = [Outcome(piece.text) for piece in pieces]
        rows = [row for row, piece in enumerate(pieces) if not same_language(piece.source, piece.target)]
        again: dict[int, CutText] = {}
        for row, written in zip(rows, await self._ask([pieces[row] for row in rows]), strict=True):
            parts = _parts_to_try(pieces[row].text, written)
            if parts is None:
                outcomes[row] = _outcome(pieces[row].text, written)
            else:
                again[row] = parts
        if again:
            parted = await self._translate_parts([pieces[row] for row in again], list(again.values()))
            for row, outcome in zip(again, parted, strict=True):
                outcomes[row] = outcome
        return outcomes

    async def _ask(self, pieces: Sequence[Job]) -> list[Written]:
        written: list[Written] = []
        for begin in range(0, len(pieces), self._most):
            written += await self._ask_at_once(pieces[begin : begin + self._most])
        return written

    async def _ask_at_once(self, pieces: Sequence[Job]) -> list[Written]:
        forms: dict[Form, list[int]] = defaultdict(list)
        for row, piece in enumerate(pieces):
            forms[form_of(piece)].append(row)

        async def ask(form: Form, rows: Sequence[int]) -> dict[int, Written]:
            prompts = [form.prompt(pieces[row].text) for row in rows]
            return dict(zip(rows, await self._write(prompts, form.stops, form.most_tokens), strict=True))

        asked = [asyncio.ensure_future(ask(form, rows)) for form, rows in forms.items()]
        try:
            found = {row: written for rows in await asyncio.gather(*asked) for row, written in rows.items()}
        finally:
            for task in asked:
                task.cancel()
        return [found[row] for row in range(len(pieces))]


def form_of(piece: Job) -> Form:
    size = len(piece.text.encode()) + _SPARE
    most_tokens = next((limit for limit in LIMITS if size <= limit), LIMITS[-1])
    return Form(*names_for(piece.source, piece.target), most_tokens)


def _parts_to_try(piece: str, written: Written) -> CutText | None:
    """The parts of a piece to translate one by one instead, where that may help."""
    if written.error:
        return None
    if not written.ended and len(piece) > SHORTEST:
        parts = cut_shorter(piece, max(SHORTEST, len(piece) // _PARTS))
        if parts.pieces != [piece]:
            return parts
    if marks_in(piece) and not keeps_marks(piece, written.text):
        return cut_at_marks(piece)
    return None


def _outcome(piece: str, written: Written) -> Outcome:
    if written.error:
        return Outcome("", written.error, failed=True)
    text = one_line(written.text)
    if written.ended:
        return Outcome(text)
    return Outcome(text, f"The model found no end for the translation of {piece[:SHORTEST]!r}, which was cut off.")


def _told(job: Job, outcome: Outcome) -> Outcome:
    """The outcome of a whole text, which must not be lost without a word; a part of one may have no translation."""
    if outcome.error or outcome.text.strip() or not job.text.strip():
        return outcome
    return Outcome(outcome.text, f"The model wrote nothing for {job.text.strip()[:SHORTEST]!r}.")


def _join(whole: CutText, outcomes: Sequence[Outcome]) -> Outcome:
    error = next((outcome.error for outcome in outcomes if outcome.error), None)
    if any(outcome.failed for outcome in outcomes):
        return Outcome("", error, failed=True)
    return Outcome(whole.joined([outcome.text for outcome in outcomes]), error)
