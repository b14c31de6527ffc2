"""What the ``chat`` command does with its flags: load the model, talk."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from wingbeat.chat.session import Session
from wingbeat.config import load_settings
from wingbeat.conversation import Conversation
from wingbeat.llm import LLM
from wingbeat.progress import progress_bar
from wingbeat.sampling.params import SamplingParams

DEFAULT_MAX_TOKENS = 2048
"""Of a reply. Ctrl-C ends a runaway too, but not one that writes into a pipe."""

TOKEN_BUDGET = 128
"""Tokens in a step: Ctrl-C waits for one, which should not take long even with a large model."""


def prepare(
    model_flags: dict[str, Any],
    sampling: dict[str, Any],
    config: Path | None = None,
    *,
    system: str | None = None,
    load: Path | None = None,
    thinking: bool | None = None,
    stats: bool = False,
) -> Session:
    """Load the model and what was said before. None in ``model_flags`` and ``sampling`` means not given.

    Raises ValueError, OSError or ConfigError with a message for the user when a flag or a file is of no use.
    """
    chosen = {name: value for name, value in sampling.items() if value is not None}
    SamplingParams(**chosen).validate()  # before anybody waits for the model
    if load is not None and not load.expanduser().is_file():
        raise ValueError(f"there is no file {load}: name one that /save wrote")
    llm = _load(model_flags, config)
    conversation = Conversation(llm)
    if load is not None:
        conversation.load(load.expanduser())
    if system is not None:
        conversation.system = system
    params = {"max_tokens": DEFAULT_MAX_TOKENS, **llm.profile.sampling_for(thinking), **chosen}
    return Session(conversation, SamplingParams(**params), thinking=thinking, stats=stats)


def _load(flags: dict[str, Any], config: Path | None) -> LLM:
    settings = load_settings(flags, config)
    path = settings.model_path()
    with (
        warnings.catch_warnings(record=True) as caught,
        progress_bar(f"Loading {path.stem}", in_bytes=True, plain=True) as progress,
    ):
        llm = LLM(
            path,
            dtype=settings.dtype,
            quant=settings.quant,
            quant_layers=settings.quant_layers,
            strategy=settings.strategy,
            tokenizer=settings.tokenizer,
            models_dir=settings.models_folder,
            threads=settings.threads,
            max_batch=1,
            token_budget=TOKEN_BUDGET,
            backend=settings.backend,
            profile=settings.profile,
            cache_packed=settings.cache_packed,
            gn_eps=settings.gn_eps,
            adapters=settings.adapters,
            states=settings.states,
            default_state=settings.default_state,
            progress=progress,
        )
    for warning in caught:
        print(f"Note: {warning.message}", file=sys.stderr)
    return llm
