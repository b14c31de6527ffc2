"""Penalties that begin with the prompt: its tokens count as if they had been generated."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from wingbeat.ops.table import IntArray
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.tokenizer import Tokenizer

_UNCOUNTED = '\n 0123456789,.:?!"<>[]{}/\\|;~@#$%^&*()_+-=`，。：？！；“”'
"""Characters that every text needs again and again (RWKV Runner's list)."""


def with_prompt_counted(sampling: SamplingParams, prompt: IntArray, tokenizer: Tokenizer | None) -> SamplingParams:
    """``sampling``; where it has a global penalty, with the tokens of ``prompt`` [T] as the last of its history."""
    if not sampling.global_penalty:
        return sampling
    uncounted = frozenset[int]() if tokenizer is None else _uncounted(tokenizer)
    counted = [token for token in prompt.tolist() if token not in uncounted]
    return msgspec.structs.replace(sampling, penalty_history=(*sampling.penalty_history, *counted))


@lru_cache(maxsize=4)
def _uncounted(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that are one of these characters alone."""
    single = (tokenizer.encode(character) for character in _UNCOUNTED)
    return frozenset(ids[0] for ids in single if len(ids) == 1)
