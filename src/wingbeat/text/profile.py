"""What a model expects around its maths: chat template, stops, sampling defaults, whether it can think."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.templates import G1, RAVEN, WORLD, ChatTemplate, Message

METADATA_KEY = "wingbeat.profile"


@dataclass(frozen=True)
class ModelProfile:
    """Chosen when a model is loaded, from its file, with an override from the user."""

    name: str
    template: ChatTemplate | None
    """None for a model that continues texts and has no form for a conversation."""
    stops: tuple[str, ...] = ()
    """Strings that end a chat reply."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Chat defaults, by the field names of SamplingParams."""
    thinking: Literal["none", "optional"] = "none"
    thinking_sampling: Mapping[str, Any] = field(default_factory=dict)
    """Chat defaults for a request that turns thinking on."""

    def sampling_for(self, thinking: bool | None) -> Mapping[str, Any]:
        """The chat defaults of a request with this thinking mode."""
        return self.thinking_sampling if thinking and self.thinking != "none" else self.sampling

    def render(
        self, messages: Sequence[Message], *, thinking: bool | None = None, continue_final: bool = False
    ) -> list[str]:
        """`ChatTemplate.render` of the model's template. Raises ValueError also where the model has none."""
        return self.chat_template().render(messages, thinking=thinking, continue_final=continue_final)

    def follow_up(
        self, messages: Sequence[Message], *, thinking: bool | None = None, continue_final: bool = False
    ) -> list[str]:
        """`ChatTemplate.follow_up` of the model's template. Raises ValueError also where the model has none."""
        return self.chat_template().follow_up(messages, thinking=thinking, continue_final=continue_final)

    def chat_template(self) -> ChatTemplate:
        """Raises ValueError, saying what to do, for a model that does not chat."""
        if self.template is None:
            raise ValueError(
                f"this model continues texts and does not chat (its profile is {self.name!r}): ask for completions, or "
                "choose a chat format with the profile (--profile)"
            )
        return self.template

    def splitter(
        self, segments: Sequence[str], *, exact: bool = False, white_is_said: bool = False
    ) -> ReasoningSplitter:
        """A fresh splitter for the reply to a prompt that `render` made. The rest: see `ReasoningSplitter`."""
        opening, thinks = segments[-1] if segments else "", self.thinking != "none"
        return ReasoningSplitter(opening, thinking=thinks, exact=exact, white_is_said=white_is_said)


# As the models' authors chat with them. Half of a penalty is gone after 173 tokens.
_CHAT: Mapping[str, Any] = MappingProxyType(
    {
        "temperature": 1.0,
        "top_p": 0.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "penalty_decay": 0.996,
    }
)
_THINK: Mapping[str, Any] = MappingProxyType(
    {"temperature": 1.0, "top_p": 0.5, "top_k": 100, "presence_penalty": 0.0, "frequency_penalty": 0.0}
)
# As published for Raven. There the temperature comes after top_p.
_RAVEN: Mapping[str, Any] = MappingProxyType(
    {
        "order": "rwkv",
        "temperature": 1.2,
        "top_p": 0.5,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.4,
        "penalty_decay": 0.996,
    }
)
_DEMO: Mapping[str, Any] = MappingProxyType(
    {"temperature": 1.0, "top_p": 0.3, "presence_penalty": 0.0, "frequency_penalty": 0.0}
)

PROFILES: Mapping[str, ModelProfile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            # A blank line ends a turn in the training text. As a string, not as a token: it may come as two tokens.
            ModelProfile("world", WORLD, ("\n\n", "\nUser:"), _CHAT),
            # Blank lines belong to the answers here; the longer stop takes the blank line before the label with it.
            ModelProfile("g1", G1, ("\n\nUser:", "\nUser:"), _CHAT, "optional", _THINK),
            ModelProfile("demo", WORLD, ("\n\n",), _DEMO),
            ModelProfile("raven", RAVEN, ("\n\n", "\nBob:"), _RAVEN),
            # Of the Pile, of music: what they were trained on are texts.
            ModelProfile("plain", None),
        )
    }
)

# rwkv7-g1-0.1b-..., RWKV7-G1a-..., rwkv7a-g1d-..., rwkv7-g0a3-...
_G1_NAME = re.compile(r"(?<![a-z0-9])g\d+[a-z]?\d*(?![a-z0-9])")
_RAVEN_NAME = re.compile(r"(?<![a-z0-9])raven(?![a-z0-9])")
_TEXTS_ONLY = ("midi", "piano", "abc", "bytes")
_DEMO_NAME = re.compile(r"(?<![a-z0-9])demo(?![a-z0-9])")


def choose_profile(
    model_name: str,
    metadata: Mapping[str, str] | None = None,
    override: str | None = None,
    kind: str | None = None,
) -> ModelProfile:
    """The profile of a model: `override`, else what its file's metadata says under "wingbeat.profile", else what its
    kind of tokenizer and its name tell (a path will do), else World.

    Raises ValueError for an override or a metadata entry that names no profile.
    """
    chosen = override or (metadata or {}).get(METADATA_KEY)
    if chosen:
        if chosen.lower() not in PROFILES:
            raise ValueError(f"unknown model profile {chosen!r}: use one of {', '.join(PROFILES)}")
        return PROFILES[chosen.lower()]
    name = re.split(r"[/\\]", model_name.rstrip("/\\"))[-1].lower()
    if kind in _TEXTS_ONLY:
        return PROFILES["plain"]
    if kind == "20b":
        return PROFILES["raven" if _RAVEN_NAME.search(name) else "plain"]
    if _G1_NAME.search(name):
        return PROFILES["g1"]
    return PROFILES["demo"] if _DEMO_NAME.search(name) and "world" not in name else PROFILES["world"]
