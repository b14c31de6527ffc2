"""Bytes to tokens, tokens to text, messages to prompts."""

from wingbeat.text.profile import PROFILES, ModelProfile, choose_profile
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.stream import StopMatcher, StreamDecoder, Trimmer
from wingbeat.text.templates import ChatTemplate, Message
from wingbeat.text.vocab import VocabError, default_vocab_path, find_vocab
from wingbeat.text.world import WorldTokenizer, tokenizer_for

__all__ = [
    "PROFILES",
    "ChatTemplate",
    "Message",
    "ModelProfile",
    "ReasoningSplitter",
    "StopMatcher",
    "StreamDecoder",
    "Trimmer",
    "VocabError",
    "WorldTokenizer",
    "choose_profile",
    "default_vocab_path",
    "find_vocab",
    "tokenizer_for",
]
