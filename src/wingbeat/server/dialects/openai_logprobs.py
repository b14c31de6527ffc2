"""Log-probabilities in OpenAI's two shapes: `logprobs` of a completion and of a chat choice.

They are rendered to JSON while they arrive, so that a long reply is not rendered in one piece at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from wingbeat.engine.messages import RowOutput, TokenLogprob
from wingbeat.server.dialects.openai_tokens import (
    PlacedToken,
    TextPlaces,
    TokenQueue,
    TokenTexts,
    bytes_json,
    number,
    text_json,
)

Columns = tuple[bytes, ...]
"""Some tokens as they stand inside JSON arrays, one item an array, without the brackets. Empty for no tokens."""

_encode = msgspec.json.Encoder().encode


class ChatLogprobs:
    """`logprobs` of a chat choice: the tokens of its content, in the same words.

    The content is the row's text without the reasoning before it and without white space at its ends. So tokens of
    these have no entry, and one that is only partly said has an entry for that part. An `exact` answer keeps the white
    space at its end, one without `trims_start` that at its beginning.
    """

    def __init__(self, texts: TokenTexts, *, exact: bool = False, trims_start: bool = True) -> None:
        self._texts = texts
        self._exact = exact
        self._trims_start = trims_start
        self._tokens = TokenQueue(texts.token_bytes)
        self._read = 0  # characters of the row's text so far
        self._end = 0  # where its last word so far ends
        self._start: int | None = None  # where the content begins
        self._said_any = False

    def push(self, row: RowOutput, content: str) -> Columns:
        """The tokens that this output, which adds `content` to the content, completes."""
        self._tokens.add(row.logprobs or ())
        word = len(row.text if self._exact else row.text.rstrip())
        if word:
            self._end = self._read + word
        self._read += len(row.text)
        if content and self._start is None:
            self._start = self._end - len(content)
        if self._start is None:
            return ()
        entries = [entry for token in self._shown(row) if (entry := self._entry(token, self._start)) is not None]
        return (",".join(entries).encode(),) if entries else ()

    def join(self, pieces: Iterable[Columns]) -> msgspec.Raw:
        """The field for these tokens."""
        content = b",".join(piece[0] for piece in pieces if piece)
        return msgspec.Raw(b'{"content":[' + content + b'],"refusal":null}')

    def _shown(self, row: RowOutput) -> list[PlacedToken]:
        end = self._end
        if row.finish_reason is not None:
            return self._tokens.take(lambda token: token.start < end)
        # White space at the end of a token may yet be said: it waits for the next word.
        return self._tokens.take(lambda token: token.start < end and token.end <= end)

    def _entry(self, token: PlacedToken, start: int) -> str | None:
        item = token.item
        skipped, dropped = max(0, start - token.start), max(0, token.end - self._end)
        if skipped and token.end <= start:
            return None
        first, self._said_any = self._trims_start and not self._said_any and start > 0, True
        names = self._names(item.token)
        if skipped or dropped:
            text = _text(self._texts.token_bytes(item.token))
            names = _names(text[skipped : len(text) - dropped])
        top = ",".join(self._alternative(*other, first=first) for other in item.top)
        return f'{{{names},"logprob":{number(item.logprob)},"top_logprobs":[{top}]}}'

    def _alternative(self, token: int, logprob: float, *, first: bool) -> str:
        data = self._texts.token_bytes(token) if first else b""
        said = _text(data).lstrip()  # at the beginning of the content, its white space would not have been said either
        names = self._names(token) if said == _text(data) else _names(said)
        return f'{{{names},"logprob":{number(logprob)}}}'

    def _names(self, token: int) -> str:
        return f'"token":{self._texts.text(token)},"bytes":{self._texts.byte_list(token)}'


def _text(data: bytes) -> str:
    """The characters of a token; each byte that is only part of one counts as one too."""
    return data.decode("utf-8", "surrogateescape")


def _names(text: str) -> str:
    """The fields of a token that says only `text`."""
    data = text.encode("utf-8", "surrogateescape")
    return f'"token":{text_json(data)},"bytes":{bytes_json(data)}'


class CompletionLogprobs:
    """`logprobs` of a completions choice: `wanted` alternatives; `offset` is where the answer begins in the text.

    Tokens of a stop text are no part of the answer. With `hold`, a token whose text is still held back waits until it
    is shown or turns out to be a stop. A token that ended the answer by itself comes last: evaluations count on it.
    """

    def __init__(self, texts: TokenTexts, wanted: int, offset: int = 0, *, hold: bool = False) -> None:
        self._texts = texts
        self._wanted = wanted
        self._offset = offset
        self._hold = hold
        self._tokens = TokenQueue(texts.token_bytes)
        self._characters = 0  # of the text so far

    def push(self, row: RowOutput) -> Columns:
        """The tokens that this output shows. `text_offset` is the place of the character in which each begins."""
        self._tokens.add(row.logprobs or ())
        self._characters += len(row.text)
        characters = self._characters
        held = self._hold and (row.finish_reason is None or isinstance(row.stop_reason, str))
        tokens = self._tokens.take(lambda token: not held or token.start < characters)
        return self._columns([(item.token, item, self._offset + start) for item, start, _ in tokens])

    def prompt(self, ids: Sequence[int], scores: Sequence[TokenLogprob | None]) -> Columns:
        """The tokens of the prompt that the text begins with; null for what nothing predicted, its first token."""
        places = TextPlaces(self._texts.token_bytes)
        return self._columns([(token, score, places.next(token)[0]) for token, score in zip(ids, scores, strict=True)])

    def join(self, pieces: Iterable[Columns]) -> msgspec.Raw:
        """The field for these tokens."""
        columns = list(zip(*(piece for piece in pieces if piece), strict=True)) or [()] * 4
        tokens, values, top, offsets = (b"[" + b",".join(column) + b"]" for column in columns)
        fields = {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
        if not self._wanted:
            fields["top_logprobs"] = b"null"
        return msgspec.Raw(_encode({name: msgspec.Raw(value) for name, value in fields.items()}))

    def _columns(self, tokens: Sequence[tuple[int, TokenLogprob | None, int]]) -> Columns:
        """Of tokens with their log-probability, if there is one, and their offset."""
        if not tokens:
            return ()
        columns = (
            (self._texts.text(token) for token, _, _ in tokens),
            ("null" if score is None else number(score.logprob) for _, score, _ in tokens),
            ("null" if score is None else self._top(score) for _, score, _ in tokens if self._wanted),
            (str(offset) for _, _, offset in tokens),
        )
        return tuple(",".join(column).encode() for column in columns)

    def _top(self, item: TokenLogprob) -> str:
        best: dict[str, str] = {}
        # OpenAI adds the chosen token when it is not among the most likely.
        for token, logprob in (*item.top[: self._wanted], (item.token, item.logprob)):
            best.setdefault(self._texts.text(token), number(logprob))
        return "{" + ",".join(f"{text}:{logprob}" for text, logprob in best.items()) + "}"
