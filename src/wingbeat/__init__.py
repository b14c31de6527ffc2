"""RWKV inference: one engine whose unit of work is a batch of fixed-size states.

``from wingbeat import LLM, SamplingParams, Conversation, Adapter`` is the Python API; these are loaded on first use, so
that importing a part of the package does not import the whole. ``__init__.pyi`` tells type checkers where they live.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "LLM": "wingbeat.llm",
    "Adapter": "wingbeat.adapter",
    "Conversation": "wingbeat.conversation",
    "SamplingParams": "wingbeat.sampling.params",
    "Tool": "wingbeat.text.tools",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wingbeat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
