"""What the engine makes of tokens, with each kind of vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.text.pile import write_pile
from wingbeat.engine.engine import Engine
from wingbeat.engine.messages import EngineConfig, RowOutput
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.bpe import BpeTokenizer
from wingbeat.text.codes import CodeTokenizer
from wingbeat.text.midi import MidiTokenizer
from wingbeat.text.tokenizer import Tokenizer

from .helpers import Speller, answers, drain, request, stand_in


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> BpeTokenizer:
    return BpeTokenizer(write_pile(tmp_path_factory.mktemp("pile") / "20B_tokenizer.json"))


def spell(tokenizer: Tokenizer, ids: Sequence[int], rows: int, **sampling: object) -> tuple[list[str], RowOutput]:
    """The pieces of the text, and the whole answer, of a model that says ``ids`` after a prompt of one token."""
    engine = Engine(stand_in(Speller(ids, rows)), tokenizer, EngineConfig(model=""))
    params = SamplingParams(temperature=0, **sampling)  # pyright: ignore[reportArgumentType]
    engine.submit(request(engine, 1, [[5]], params))
    outputs = drain(engine)
    return [output.text for output in outputs], answers(outputs)[1, 0]


def test_characters_of_several_bpe_tokens_come_whole(pile: BpeTokenizer) -> None:
    text = "wing 🚀 世é  the beat"
    pieces, answer = spell(pile, pile.encode(text), 50304)
    assert answer.text == "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert (answer.finish_reason, answer.stop_reason, answer.token_ids[-1]) == ("stop", None, 0)


def test_stops_match_across_bpe_tokens(pile: BpeTokenizer) -> None:
    ids = [*pile.encode(" Hello."), *pile.encode_segments(["\n\n"]), *pile.encode("Bob: more")]
    pieces, answer = spell(pile, ids, 50277, stop=("\n\n", "\nBob:"))
    assert (answer.text, answer.stop_reason) == (" Hello.", "\n\n")
    assert "\n" not in "".join(pieces)
    half = pile.encode("世")[0]
    _, answer = spell(pile, [pile.encode("🚀")[0], half], 50277, stop=("世",))
    assert (answer.text, answer.stop_reason) == ("\ufffd", "世")


def test_rows_beyond_the_vocabulary_are_never_sampled(pile: BpeTokenizer) -> None:
    wing = pile.encode("wing")
    _, answer = spell(pile, [50300, *wing], 50304, max_tokens=2, ignore_eos=True)
    assert answer.token_ids == [0, *wing]  # all else was equally likely
    _, answer = spell(pile, [50276, *wing], 50304, max_tokens=2)
    assert (answer.token_ids, answer.text) == ([50276, *wing], "  wing")


def test_midi_words_are_joined_by_spaces() -> None:
    midi = MidiTokenizer("midi")
    ids = midi.encode("<start> v:5b:3 t125 <end>")
    pieces, answer = spell(midi, ids, 20096)
    assert pieces == [" <start>", " v:5b:3", " t125", " <end>", ""]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
    _, answer = spell(midi, ids, 20096, stop=("<end>",))
    assert answer.text == " <start> v:5b:3 t125 "


def test_abc_has_its_own_start_and_end() -> None:
    abc = CodeTokenizer("abc")
    speller = Speller([*abc.encode("X:1\n"), 0, 65, 3, 66], 129)
    engine = Engine(stand_in(speller), abc, EngineConfig(model=""))
    engine.submit(request(engine, 1, [[]], SamplingParams(temperature=0)))
    answer = answers(drain(engine))[1, 0]
    assert speller.batches[0].tokens.tolist() == [2]
    assert (answer.text, answer.token_ids[-3:]) == ("X:1\nA", [0, 65, 3])
    assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
    engine.submit(request(engine, 2, [[]], SamplingParams(temperature=0, ignore_eos=True, max_tokens=8)))
    assert answers(drain(engine))[2, 0].text == "X:1\nAB"
