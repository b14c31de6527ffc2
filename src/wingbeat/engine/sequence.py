"""One row of a request while the engine works on it: what was fed, what was sampled, when it ends."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from wingbeat.engine.drafting import Drafter
from wingbeat.engine.guard import Guard
from wingbeat.engine.messages import FinishReason, GenerationRequest, RowOutput, TokenLogprob
from wingbeat.engine.origin import FRESH, NOTHING, Origin, Wanted
from wingbeat.engine.snapshot import Continuation, Reasoned
from wingbeat.engine.thinking import ThinkingLimit
from wingbeat.engine.transcript import Transcript
from wingbeat.ops.table import FloatArray, IntArray
from wingbeat.sampling.params import SamplingParams
from wingbeat.sampling.penalties import Memory, Penalties, Weights, counts_suffice
from wingbeat.sampling.results import Details, ScoreResult
from wingbeat.sampling.samplers import Sampler
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.world import END_OF_TEXT


class Finish(NamedTuple):
    reason: FinishReason
    detail: str | int | None = None  # the stop string or id that matched


class Sequence:
    """A prompt, a cursor through it, then sampled tokens, whose bytes become text without the stops.

    ``fed`` counts the tokens that the state has seen since the sequence began: while it generates, all but the last one
    (``pending``: or some more, see ``Speculation``). The position of a draw counts all tokens before it, those before
    the sequence too, so that it draws the same numbers whatever runs beside it, and wherever it was stopped and
    resumed. Sequences of one request with the same prompt share the array.
    """

    __slots__ = (
        *("_choice", "_continued", "_end_of_text", "_max_tokens", "_mu", "_path", "_reply", "_seed", "_stop_ids"),
        *("_thinking", "_token_bytes", "_transcript", "cacheable", "cached", "cuts", "drafter", "ending", "expected"),
        *("fed", "follow_to", "guard", "hidden_sum", "kept_at", "leader", "only_read", "origin", "predicted", "prompt"),
        *("request", "restrained", "row", "sampled", "sampling", "scored_from", "scores", "session", "slot"),
        *("guess_at", "relieved", "strikes", "to_read", "wanted", "_first_draw", "_unstopped", "_vocab_size"),
    )

    def __init__(
        self,
        request: GenerationRequest,
        row: int,
        prompt: IntArray,
        sampling: SamplingParams,
        tokenizer: Tokenizer | None,
        default_max_tokens: int,
        origin: Origin = FRESH,
        wanted: Wanted = NOTHING,
    ) -> None:
        self.request, self.row = request.id, row
        self.prompt = prompt  # int32 [T]; T is 0 only where an answer goes on
        self._first_draw = origin.position + len(prompt)
        self.sampling = sampling  # with a seed
        self.origin = origin
        self.wanted = wanted
        self.session = request.session
        self.only_read = request.kind != "generate"  # it ends where a generated token would be due
        # States of what is embedded would push out those of conversations, and means need every token.
        self.cacheable = request.cache and origin.key is not None and len(prompt) > 0 and request.kind != "embed"
        self.slot = -1
        self.guard: Guard | None = None  # of what may be said; see ``watch``
        self.leader: Sequence | None = None  # the one whose state this one takes over instead of reading the same
        self.follow_to = 0  # once the leader has read so many tokens
        mark = request.marks[request.rows[row].prompt] if request.marks else 0
        self.cuts = [mark] if 0 < mark < len(prompt) else []  # numbers of tokens after which a chunk of the prompt ends
        self.cached = 0  # tokens of the prompt that were not read, since a state was there that had seen them
        self.kept_at = 0  # tokens fed when the state was last kept
        self.predicted: FloatArray | None = None  # logits [V] after all that is to be read, where none of it need be
        # The prompt; after ``restart``, also what was sampled by then; see ``settle``, too. Of a prompt that is scored
        # only, nobody asks what its last token predicts.
        self.to_read = prompt[:-1] if request.kind == "score" else prompt
        self.fed = 0
        self.sampled: list[int] = []
        self.ending: RowOutput | None = None  # the last output, held back while the state is brought to the end
        self.expected = request.draft
        # The step of the engine's from which on guesses may be fed to it. Never where a grammar holds: what that allows
        # next is found out while a step runs, for one token.
        free = sampling.constraint is None and not sampling.bad_words and sampling.allowed_token_ids is None
        self.guess_at = 0 if free else math.inf
        self.drafter: Drafter | None = None  # which makes them
        self.strikes = 0  # steps with this sequence that threw, though none of its sequences did when alone
        self.scored_from = 1  # the first token of the prompt that is scored; nothing predicts that at 0
        # Of the prompt's tokens so far; None when they are not wanted (any more).
        self.scores: list[TokenLogprob | None] | None = None if wanted.prompt_logprobs is None else [None]
        if request.kind == "score":
            self.scored_from = request.score_from[request.rows[row].prompt]
            self.scores = []
            self.cuts = [self.scored_from - 1] if self.scored_from > 1 else []  # others begin with the same context
        self.hidden_sum: NDArray[np.float64] | None = None  # [D], of the prompt's hidden vectors so far
        continued = None if len(prompt) else origin.continuation
        self._continued = continued or Continuation(sampling.seed or 0, 0)
        # So many tokens are part of no stop; some of the answer's may have come before.
        self._unstopped = sampling.min_tokens - sum(self._continued.generated.values())
        self._mu: list[float] = []  # mirostat's value after each sampled token
        self._seed = self._continued.seed
        self._choice = self._continued.choice + request.rows[row].choice
        self._max_tokens = default_max_tokens if sampling.max_tokens is None else sampling.max_tokens
        self._stop_ids = frozenset(sampling.stop_token_ids)
        self._vocab_size = 2**31 if tokenizer is None else tokenizer.vocab_size
        end_of_text = END_OF_TEXT if tokenizer is None else tokenizer.end_of_text
        self._end_of_text = -1 if sampling.ignore_eos else end_of_text
        self._token_bytes = None if tokenizer is None else tokenizer.token_bytes
        self._transcript = Transcript(
            *(tokenizer, sampling.stop, self._continued.undecoded), special=not sampling.skip_special_tokens
        )
        self._thinking = self._new_limit()
        self.relieved = False  # stops have ceased to count, which the sampler is yet to be told
        self.restrained = self._thinking is not None  # whether some tokens may not come, now or later
        self._reply: list[int] | None = None  # of a sequence that has ended: the tokens that are shown
        self._path: bytes | None = None

    @property
    def decoding(self) -> bool:
        return self.fed >= len(self.to_read)

    @property
    def forced(self) -> int | None:
        """The token that must be the next one, whatever is predicted."""
        return None if self._thinking is None else self._thinking.forced

    @property
    def next_cut(self) -> int:
        """Where the next chunk of what is to be read ends at the latest."""
        return min((cut for cut in self.cuts if cut > self.fed), default=len(self.to_read))

    @property
    def position(self) -> int:
        """Tokens that the state has seen, before this sequence too."""
        return self.origin.position + self.fed

    @property
    def whole(self) -> bool:
        """Whether the state has seen all of the prompt."""
        return self.fed >= len(self.prompt)

    @property
    def next_draw(self) -> int:
        """The position of the next draw: the tokens before it."""
        return self._first_draw + len(self.sampled)

    @property
    def pending(self) -> list[int]:
        """Of one that is decoding: the sampled tokens that its state is yet to see."""
        return self.sampled[self.fed - len(self.prompt) :]

    @property
    def behind(self) -> int:
        """Of one that is decoding: how many these are beside the last one."""
        return len(self.prompt) + len(self.sampled) - self.fed - 1

    @property
    def tokens_left(self) -> int:
        """Tokens that it may still sample."""
        return self._max_tokens - len(self.sampled)

    @property
    def needs_reading(self) -> bool:
        """Whether its prompt must be read at all: there are tokens to sample, or other things to find out."""
        return self._max_tokens > 0 or self.wanted is not NOTHING

    @property
    def needs_sampling(self) -> bool:
        """Whether there are tokens to sample."""
        return self._max_tokens > 0 and not self.only_read

    @property
    def reusable(self) -> int:
        """How many tokens of its prompt it may skip, beginning from a state that has seen them."""
        if not self.cacheable:
            return 0
        return len(self.prompt) if self.scores is None else self.scored_from - 1

    @property
    def unscored(self) -> int:
        """Tokens that are still to be read before one that predicts a token to be scored."""
        return max(0, self.scored_from - 1 - self.fed)

    @property
    def path(self) -> bytes:
        """The prompt's tokens as the prefix cache knows them."""
        if self._path is None:
            self._path = self.prompt.tobytes()
        return self._path

    @property
    def seen(self) -> bytes:
        """The tokens that the state has seen since the sequence began."""
        said = self.sampled if self.ending is None else self.reply
        read = self.path[: 4 * self.fed]  # int32
        return read + np.array(said[: max(0, self.fed - len(self.prompt))], np.int32).tobytes()

    @property
    def reply(self) -> list[int]:
        """The tokens of the answer; of one that has ended, without what matched a stop."""
        return self.sampled if self._reply is None else self._reply

    @property
    def true_to_reply(self) -> bool:
        """Whether the state has seen nothing but the prompt and tokens of ``reply``."""
        fed = self.fed - len(self.prompt)
        return fed <= len(self.reply) and self.reply[:fed] == self.sampled[:fed]

    @property
    def settled(self) -> bool:
        """Whether the state, if it is wanted, has seen just the prompt and ``reply``."""
        return not self.wanted.state or (self.true_to_reply and self.fed == len(self.prompt) + len(self.reply))

    @property
    def continuation(self) -> Continuation:
        """What goes into a snapshot for the answer to go on from it."""
        seen = self.fed - len(self.prompt)
        reply = self.reply[:seen]
        generated = Counter(self._continued.generated)
        generated.update(reply)
        read = set(self._continued.read).union(np.unique(self.prompt).tolist())
        undecoded = self._transcript.undecoded if self._reply is None else b""
        if not seen:
            undecoded = self._continued.undecoded
        last = reply[-1] if reply else self._memory.last
        return Continuation(
            *(self._seed, self._choice, dict(generated), sorted(read), undecoded, last, self._weights_after(reply)),
            self._mu[: len(reply)][-1] if self._mu and reply else self._continued.mu,
            self._reasoned_after(reply),
        )

    @property
    def over(self) -> bool:
        """Whether nothing more is to be sampled: its grammar is complete, or has let it have its last token."""
        guard = self.guard
        return guard is not None and (guard.complete or (guard.spent and guard.ready))

    def watch(self, guard: Guard) -> None:
        """Say only what ``guard`` allows. Where a grammar holds, stops do not count, since all that it writes is one
        text, whole or not."""
        self.guard, self.restrained = guard, True
        if guard.holds:
            self._let_stops_go()

    def start_sampling(self, sampler: Sampler) -> None:
        """Tell the sampler of this sequence, and of the tokens sampled so far."""
        before, prompt = self._continued, self.prompt
        if before.read:
            prompt = np.array(before.read, np.int32)
        memory = self._memory
        if self._mu:
            memory = msgspec.structs.replace(memory, mu=self._mu[-1])
        sampling, self.relieved = self.sampling, False
        if sampling.stop_token_ids and not self._stop_ids:  # they end nothing, so that none need be held back
            sampling = msgspec.structs.replace(sampling, stop_token_ids=())
        sampler.start(self.slot, sampling, prompt, self._seed, self._choice, self.sampled, memory)

    @property
    def _memory(self) -> Memory:
        """What came before what this sequence samples."""
        before = self._continued
        last = int(self.prompt[-1]) if len(self.prompt) else before.last
        return Memory(before.generated, before.weights, last, before.mu)

    def _weights_after(self, reply: list[int]) -> Weights:
        """Those of the penalties, where counting the tokens would not tell."""
        if counts_suffice(self.sampling):
            return {}
        penalties = Penalties(self.sampling, self._memory, self._vocab_size)
        for token in reply:
            penalties.remember(token)
        return penalties.weights()

    def _new_limit(self) -> ThinkingLimit | None:
        """The limit to the reasoning, before anything is sampled."""
        budget = self.sampling.thinking
        return None if budget is None else ThinkingLimit(budget, self._continued.reasoned)

    def _reasoned_after(self, reply: list[int]) -> Reasoned | None:
        limit = self._new_limit()
        if limit is None or self.sampling.thinking is None:
            return self._continued.reasoned
        for token in reply:
            limit.push(token, self._bytes(token))
        return limit.reasoned(self.sampling.thinking)

    def begin_at(self, fed: int, predicted: FloatArray | None = None) -> None:
        """Begin from a state that has seen ``fed`` tokens of what is to be read; ``predicted`` [V]: the logits after
        all of them."""
        self.fed = self.kept_at = fed
        self.predicted = predicted

    def restart(self) -> None:
        """Go back to the origin: the prompt, and what was sampled after it, must be read again."""
        self.begin_at(0)
        self.cached = 0
        self.guess_at = math.inf  # whatever made it begin anew, guesses are not to do so again
        if self.sampled and self.ending is None:
            self.to_read = np.concatenate([self.prompt, np.array(self.sampled, np.int32)])
        self.hidden_sum = None
        if self.scores is not None:
            del self.scores[0 if self.only_read else 1 :]

    def add_scores(self, tokens: list[int], scored: ScoreResult) -> None:
        """Take what was predicted for the next ``tokens`` of the prompt."""
        assert self.scores is not None
        self.scores += map(TokenLogprob, tokens, scored.logprobs.tolist(), scored.top, scored.ranks.tolist())

    def add_hidden(self, rows: FloatArray) -> None:
        """Take the hidden vectors [n, D] of the next tokens of the prompt."""
        if self.hidden_sum is None:
            self.hidden_sum = np.zeros(rows.shape[1])
        for row in rows:  # one by one: a sum in another order, as of another chunk, would differ in the last bits
            self.hidden_sum += row

    def accept(self, token: int, details: Details | None) -> RowOutput:
        """Take the token sampled for this sequence; the output says whether it was the last one."""
        if self._max_tokens == 0:
            return self.end("length")
        self.sampled.append(token)
        if self._thinking is not None:
            self._thinking.push(token, self._bytes(token))
        self.leader = self.predicted = None  # from the first token on there is nothing to follow
        output = RowOutput(self.request, self.row, token_ids=[token])
        if details is not None:
            self._note(details, output)
        finish = self._stop_token(token)
        if finish is not None:
            self._reply = self.sampled[:-1]
            if finish.detail in self.sampling.shown_stops:
                output.text = self._transcript.push_last(token)
        else:
            guard, count = self.guard, len(self.sampled)
            early = count <= self._unstopped or (guard is not None and guard.waits)
            output.text, matched = self._transcript.push(token, stops=not early)
            if matched is not None:
                self._reply = self._transcript.before(self.sampled, matched)
                output.text += matched if matched in self.sampling.shown_stops else ""
                return self._close(output, Finish("stop", matched))
            if guard is not None:
                output.text += self._tell(guard, token)
            if count >= self._max_tokens:
                finish = Finish("length")
                if guard is not None and guard.holds:  # which may find that the text is whole
                    guard.spent, finish = True, None
        if finish is None:
            return output
        output.text += self._transcript.flush(goes_on=finish.reason == "length" and self.wanted.state)
        return self._close(output, finish)

    def before_end(self, tokens: list[int]) -> list[int]:
        """``tokens`` up to the first that would end the sequence."""
        for count, token in enumerate(tokens):
            if self._stop_token(token) is not None:
                return tokens[:count]
        return tokens

    def settle(self, output: RowOutput) -> bool:
        """Hold the last output back, to have the state see all of ``reply`` first, and nothing else.

        Returns whether the state must begin anew for that, since it has seen too much, or all and its logits are lost.
        """
        self.ending = output
        self.to_read = np.concatenate([self.prompt, np.array(self.reply, np.int32)])
        return not self.true_to_reply or self.fed == len(self.to_read)

    def conclude(self) -> RowOutput:
        """The last output of a sequence that is ``over``."""
        complete = self.guard is not None and self.guard.complete
        finish = Finish("stop" if complete else "length")
        output = RowOutput(self.request, self.row)
        output.text = self._transcript.flush(goes_on=not complete and self.wanted.state)
        return self._close(output, finish)

    def end(self, reason: FinishReason, error: str | None = None) -> RowOutput:
        """The last output of a sequence that ends without another token."""
        return self._close(RowOutput(self.request, self.row, error=error), Finish(reason))

    def _note(self, details: Details, output: RowOutput) -> None:
        """Keep and report what is to be known of the token that came last."""
        if details.mu is not None:
            self._mu.append(details.mu)
        if details.logprob is not None:
            output.logprobs = [TokenLogprob(self.sampled[-1], details.logprob, details.top)]

    def _stop_token(self, token: int) -> Finish | None:
        if token == self._end_of_text:
            return Finish("stop")
        if token in self._stop_ids:
            return Finish("stop", token)
        return None

    def _tell(self, guard: Guard, token: int) -> str:
        """Let the guard know of a token. Returns the text that was held back for a stop, where those end to count."""
        free = not guard.holds
        guard.accept(token, self._bytes(token))
        if not (free and guard.holds):
            return ""
        self.relieved = bool(self._stop_ids)
        return self._let_stops_go()

    def _bytes(self, token: int) -> bytes:
        return b"" if self._token_bytes is None else self._token_bytes(token)

    def _let_stops_go(self) -> str:
        self._stop_ids = frozenset()
        return self._transcript.without_stops()

    def _close(self, output: RowOutput, finish: Finish) -> RowOutput:
        output.finish_reason, output.stop_reason = finish
        output.prompt_tokens, output.completion_tokens = len(self.prompt), len(self.sampled)
        output.cached_tokens = self.cached
        return output
