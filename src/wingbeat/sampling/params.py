"""What a request may ask of the sampler."""

from __future__ import annotations

import math
import sys

import msgspec

_FLOAT_MAX = sys.float_info.max
_INT32_MAX = 2**31 - 1

MAX_LOGPROBS = 256
"""The most alternatives a request may ask for at each token (a frame carries them all)."""

MAX_STOPS = 64
MAX_STOP_LENGTH = 1000
"""Characters of one stop text: the matcher's memory and the time to build it grow with their sum."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of one sequence are drawn and when it ends.

    The filters run in this order: logit bias, penalties, temperature, top_k, top_p, min_p, one draw.
    Ties are always won by the lower token id. The defaults are OpenAI's: the plain distribution of the model.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""

    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose mass reaches this; 1 is off, 0 keeps one token."""

    top_k: int = 0
    """Keep this many most likely tokens; 0 and -1 are off."""

    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""

    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token generated so far (prompt tokens do not count)."""

    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it was generated."""

    repetition_penalty: float = 1.0
    """Divides positive logits and multiplies negative ones of every token of the prompt and the answer."""

    logit_bias: dict[int, float] = {}
    """Added to the logits of these token ids; -100 bans a token for all practical purposes."""

    seed: int | None = None
    """The same seed, prompt and parameters give the same answer. None: the engine draws one."""

    max_tokens: int | None = None
    """The most tokens to generate. None: until a stop or the engine's limit."""

    stop: tuple[str, ...] = ()
    """Texts that end the answer and are left out of it; at most 64, of at most 1000 characters each."""

    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the answer."""

    ignore_eos: bool = False
    """Go on after the model's own end of text."""

    logprobs: int | None = None
    """None: off. k: the log-probability of each chosen token and of the k most likely (k may be 0), before
    bias, penalties and temperature."""

    def validate(self, vocab_size: int | None = None) -> None:
        """Check every field; with `vocab_size`, also that token ids are inside the vocabulary.

        Raises:
            ValueError: names the field, the value and what is accepted.
        """
        _check_number("temperature", self.temperature, low=0.0)
        _check_number("top_p", self.top_p, low=0.0, high=1.0)
        _check_number("min_p", self.min_p, low=0.0, high=1.0)
        _check_number("presence_penalty", self.presence_penalty)
        _check_number("frequency_penalty", self.frequency_penalty)
        _check_number("repetition_penalty", self.repetition_penalty)
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be greater than 0, not {self.repetition_penalty!r}")
        _check_integer("top_k", self.top_k, low=-1)
        if self.seed is not None:
            _check_integer("seed", self.seed, low=-(2**63), high=2**64 - 1)
        if self.max_tokens is not None:
            _check_integer("max_tokens", self.max_tokens, low=0)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, low=0, high=MAX_LOGPROBS)
        self._check_stops(vocab_size)
        self._check_bias(vocab_size)

    def _check_stops(self, vocab_size: int | None) -> None:
        if isinstance(self.stop, str):
            raise ValueError(f"stop must be a sequence of texts, not one text: write ({self.stop!r},)")
        if len(self.stop) > MAX_STOPS:
            raise ValueError(f"stop must hold at most {MAX_STOPS} texts, not {len(self.stop)}")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise ValueError(f"stop must hold texts that are not empty, not {text!r}")
            if len(text) > MAX_STOP_LENGTH:
                raise ValueError(f"stop must hold texts of at most {MAX_STOP_LENGTH} characters, not {len(text)}")
        for token in self.stop_token_ids:
            _check_token("stop_token_ids", token, vocab_size)

    def _check_bias(self, vocab_size: int | None) -> None:
        for token, bias in self.logit_bias.items():
            _check_token("logit_bias", token, vocab_size)
            _check_number(f"logit_bias[{token}]", bias)


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
