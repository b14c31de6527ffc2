"""What a request may ask of the sampler."""

from __future__ import annotations

import math
import sys
from typing import Literal, get_args

import msgspec

from wingbeat.sampling.constraint import Constraint

_FLOAT_MAX = sys.float_info.max
_INT32_MAX = 2**31 - 1

MAX_LOGPROBS = 256
"""The most alternatives a request may ask for at each token (a frame carries them all)."""

MAX_STOPS = 64
MAX_STOP_LENGTH = 1000
"""Characters of one stop text: the matcher's memory and the time to build it grow with their sum."""

SamplerName = Literal["nucleus", "typical", "mirostat", "mirostat_full", "noise"]
NucleusOrder = Literal["standard", "rwkv", "ai00", "joint"]
PenaltyStyle = Literal["counts", "counts_decay_first", "values"]
RepetitionSpan = Literal["all", "answer"]

DEFAULT_TAU: dict[SamplerName, float] = {"typical": 0.5, "mirostat": 3.0, "mirostat_full": 3.0}

MAX_BAD_WORDS = 256
MAX_BAD_WORD_LENGTH = 200
"""Characters of one text that is not wanted."""
MAX_BAD_WORDS_LENGTH = 2_000
"""Characters of all of them: what they take of memory and time grows with that."""


class ThinkingBudget(msgspec.Struct, frozen=True):
    """A limit to the reasoning that an answer begins with: after ``tokens`` of them those of ``closing`` follow.

    ``closing`` ends with what ends a reasoning, ``</think>``. ``begun``: the prompt has begun it. If not, it is what
    the answer may begin with ``<think>``.
    """

    tokens: int
    closing: tuple[int, ...]
    begun: bool = True


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of one sequence are drawn and when it ends.

    First tokens are banned (by a constraint, `min_tokens`, `no_repeat`), then come logit bias, penalties and the
    `sampler`; the plain one, nucleus in the standard order, is temperature, top_k, top_p, min_p and one draw.
    Ties are always won by the lower token id. The defaults are OpenAI's: the plain distribution of the model.
    docs/sampling.md has the formulae.
    """

    sampler: SamplerName = "nucleus"
    """How a token is drawn from the logits that bias and penalties leave."""

    order: NucleusOrder = "standard"
    """Which rules nucleus follows, and in which order; the other samplers do not look at it."""

    temperature: float = 1.0
    """Divides the logits, at the place that `sampler` and `order` give it; 0 takes the most likely token, whatever the
    sampler. mirostat has no other temperature."""

    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose mass reaches this; 1 is off, 0 keeps one token."""

    top_k: int = 0
    """Keep this many most likely tokens; 0 and -1 are off."""

    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""

    tau: float | None = None
    """typical: the mass to keep, nearest to the entropy first. mirostat: the surprise to aim at, in bits. None: 0.5 and
    3."""

    rate: float = 0.1
    """How fast mirostat follows the surprise of what it draws."""

    noise: float = 0.0
    """The noise sampler adds a number from 0 to this to each logit and takes the largest; 0 is greedy."""

    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token generated so far (prompt tokens do not count)."""

    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it was generated."""

    penalty_decay: float = 1.0
    """Multiplies what `penalties` says at every step; 1 forgets nothing, 0.5^(1/h) has a half-life of h tokens."""

    penalties: PenaltyStyle = "counts"
    """What decays. counts: how often a token was generated, before the newest is counted; presence does not decay.
    counts_decay_first: the newest is counted first. values: one sum for each token, which begins with the presence
    penalty and grows by the frequency penalty each further time."""

    penalty_free: tuple[int, ...] = ()
    """Tokens that the frequency penalty does not count."""

    penalty_free_presence: bool = False
    """The presence penalty is not for those tokens either."""

    penalty_history: tuple[int, ...] = ()
    """Tokens that the presence and frequency penalties count as generated before the answer begins, oldest first."""

    repetition_penalty: float = 1.0
    """Divides positive logits and multiplies negative ones of every token of the prompt and the answer."""

    repetition_over: RepetitionSpan = "all"
    """answer: the repetition penalty leaves the tokens of the prompt alone."""

    global_penalty: bool = False
    """Count the prompt's tokens for the presence and frequency penalties too, but for spaces, digits and marks; from
    the second token of the answer on, as RWKV Runner does."""

    no_repeat: tuple[int, ...] = ()
    """Tokens that never come twice in a row; the first token of an answer follows the prompt's last one."""

    logit_bias: dict[int, float] = {}
    """Added to the logits of these token ids; -100 bans a token for all practical purposes."""

    seed: int | None = None
    """The same seed, prompt and parameters give the same answer. None: the engine draws one."""

    max_tokens: int | None = None
    """The most tokens to generate. None: until a stop or the engine's limit."""

    min_tokens: int = 0
    """No end of text, stop token or stop text ends the answer before it has so many tokens."""

    stop: tuple[str, ...] = ()
    """Texts that end the answer and are left out of it; at most 64, of at most 1000 characters each."""

    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the answer."""

    shown_stops: tuple[str | int, ...] = ()
    """Those of `stop` and `stop_token_ids` that stay in the text which they end."""

    ignore_eos: bool = False
    """Go on after the model's own end of text."""

    skip_special_tokens: bool = True
    """False: the end of text is part of the text, as ``<|endoftext|>``, where the answer goes on after it."""

    thinking: ThinkingBudget | None = None
    """How long the model may reason; None: as long as it likes."""

    logprobs: int | None = None
    """None: off. k: the log-probability of each chosen token and of the k most likely (k may be 0), before
    bias, penalties and temperature."""

    constraint: Constraint | None = None
    """The form that the answer must have. While it holds, `stop` and `stop_token_ids` do not count; an answer to which
    nothing can be added ends."""

    bad_words: tuple[str, ...] = ()
    """Texts that the answer must not contain, whatever tokens they would come as; at most 256, of at most 200
    characters each."""

    allowed_token_ids: tuple[int, ...] | None = None
    """The answer is of these tokens only; None: of any. Not together with `constraint` or `bad_words`."""

    @property
    def counts_prompt(self) -> bool:
        """Whether what is drawn hangs on the tokens of the prompt, beside what the model makes of them."""
        return self.global_penalty or (self.repetition_penalty != 1 and self.repetition_over == "all")

    def validate(self, vocab_size: int | None = None) -> None:
        """Check every field; with `vocab_size`, also that token ids are inside the vocabulary.

        Raises:
            ValueError: names the field, the value and what is accepted. A ConstraintError for a constraint that cannot
                be right; what only compiling it finds is found later.
        """
        self._check_choices()
        _check_number("temperature", self.temperature, low=0.0)
        _check_number("top_p", self.top_p, low=0.0, high=1.0)
        _check_number("min_p", self.min_p, low=0.0, high=1.0)
        self._check_penalties()
        _check_integer("top_k", self.top_k, low=-1)
        if self.seed is not None:
            _check_integer("seed", self.seed, low=-(2**63), high=2**64 - 1)
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, low=0)
        _check_integer("min_tokens", self.min_tokens, low=0)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, low=0, high=MAX_LOGPROBS)
        if self.thinking is not None:
            _check_integer("thinking.tokens", self.thinking.tokens, low=0)
        self._check_stops()
        self._check_tokens(vocab_size)
        self._check_bad_words()
        self._check_allowed()
        if self.constraint is not None:
            self.constraint.check()

    def _check_choices(self) -> None:
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}")
        if self.tau is not None:
            _check_number("tau", self.tau, low=0.0, high=1000.0)
        _check_number("rate", self.rate, low=0.0, high=100.0)
        _check_number("noise", self.noise, low=0.0)

    def _check_penalties(self) -> None:
        _check_number("presence_penalty", self.presence_penalty)
        _check_number("frequency_penalty", self.frequency_penalty)
        _check_number("penalty_decay", self.penalty_decay, low=0.0, high=1.0)
        _check_number("repetition_penalty", self.repetition_penalty)
        for name in ("penalty_decay", "repetition_penalty"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)!r}")

    def _check_stops(self) -> None:
        if isinstance(self.stop, str):
            raise ValueError(f"stop must be a sequence of texts, not one text: write ({self.stop!r},)")
        if len(self.stop) > MAX_STOPS:
            raise ValueError(f"stop must hold at most {MAX_STOPS} texts, not {len(self.stop)}")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise ValueError(f"stop must hold texts that are not empty, not {text!r}")
            if len(text) > MAX_STOP_LENGTH:
                raise ValueError(f"stop must hold texts of at most {MAX_STOP_LENGTH} characters, not {len(text)}")

    def _check_bad_words(self) -> None:
        if isinstance(self.bad_words, str):
            raise ValueError(f"bad_words must be a sequence of texts, not one text: write ({self.bad_words!r},)")
        if len(self.bad_words) > MAX_BAD_WORDS:
            raise ValueError(f"bad_words must hold at most {MAX_BAD_WORDS} texts, not {len(self.bad_words)}")
        for text in self.bad_words:
            if not isinstance(text, str) or not 0 < len(text) <= MAX_BAD_WORD_LENGTH:
                raise ValueError(
                    f"bad_words must hold texts of 1 to {MAX_BAD_WORD_LENGTH} characters, not {text!r:.100}"
                )
        if sum(map(len, self.bad_words)) > MAX_BAD_WORDS_LENGTH:
            raise ValueError(f"bad_words must hold at most {MAX_BAD_WORDS_LENGTH} characters, all texts together")

    def _check_allowed(self) -> None:
        if self.allowed_token_ids is None:
            return
        if not self.allowed_token_ids:
            raise ValueError("allowed_token_ids must hold at least one token id")
        if self.constraint is not None or self.bad_words:
            raise ValueError("allowed_token_ids go together neither with a constraint nor with bad_words")

    def _check_tokens(self, vocab_size: int | None) -> None:
        for name in ("stop_token_ids", "no_repeat", "penalty_free", "penalty_history", "allowed_token_ids"):
            for token in getattr(self, name) or ():
                _check_token(name, token, vocab_size)
        for token in self.thinking.closing if self.thinking else ():
            _check_token("thinking.closing", token, vocab_size)
        for token, bias in self.logit_bias.items():
            _check_token("logit_bias", token, vocab_size)
            _check_number(f"logit_bias[{token}]", bias)


_CHOICES = {"sampler": SamplerName, "order": NucleusOrder, "penalties": PenaltyStyle, "repetition_over": RepetitionSpan}


def _check_number(name: str, value: object, *, low: float = -math.inf, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_FLOAT_MAX <= value <= _FLOAT_MAX:
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {_range(low, high)}, not {value!r}")


def _check_integer(name: str, value: object, *, low: int, high: int = _INT32_MAX) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {_range(low, high)}, not {value!r}")


def _check_token(name: str, token: object, vocab_size: int | None) -> None:
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= _INT32_MAX:
        raise ValueError(f"{name} must hold token ids (whole numbers from 0), not {token!r}")
    if vocab_size is not None and token >= vocab_size:
        raise ValueError(f"{name}: token id {token} is outside the vocabulary of {vocab_size} tokens")


def _range(low: float, high: float) -> str:
    return f"at least {low:g}" if math.isinf(high) else f"from {low} to {high}"
