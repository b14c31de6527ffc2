"""Bytes to tokens, tokens to text, messages to prompts."""

from wingbeat.text.bpe import BpeTokenizer
from wingbeat.text.choose import advice, kind_of, tokenizer_for
from wingbeat.text.codes import CodeTokenizer
from wingbeat.text.midi import MidiTokenizer
from wingbeat.text.profile import PROFILES, ModelProfile, choose_profile
from wingbeat.text.reasoning import ReasoningSplitter
from wingbeat.text.stream import StopMatcher, StreamDecoder, Trimmer
from wingbeat.text.templates import ChatTemplate, Message
from wingbeat.text.tokenizer import Tokenizer
from wingbeat.text.vocab import VocabError, default_vocab_path, find_vocab
from wingbeat.text.world import WorldTokenizer

__all__ = [
    "PROFILES",
    "BpeTokenizer",
    "ChatTemplate",
    "CodeTokenizer",
    "Message",
    "MidiTokenizer",
    "ModelProfile",
    "ReasoningSplitter",
    "StopMatcher",
    "StreamDecoder",
    "Tokenizer",
    "Trimmer",
    "VocabError",
    "WorldTokenizer",
    "advice",
    "choose_profile",
    "default_vocab_path",
    "find_vocab",
    "kind_of",
    "tokenizer_for",
]
