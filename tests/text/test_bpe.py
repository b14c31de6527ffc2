from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from wingbeat.text import bpe
from wingbeat.text.bpe import BpeTokenizer
from wingbeat.text.stream import StreamDecoder
from wingbeat.text.templates import RAVEN, Message
from wingbeat.text.vocab import VocabError

from .pile import BLANK_LINE, NEWLINE, pile_tokenizer, write_pile

TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(["the", " the", "wingbeat", "\n", "\n\n", "  ", " " * 30, "世", "é", "🚀", "'s", "."])
    ).map("".join),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pile(tmp_path_factory.mktemp("pile") / "20B_tokenizer.json")


@pytest.fixture(scope="module")
def pile(path: Path) -> BpeTokenizer:
    return BpeTokenizer(path)


@pytest.fixture(scope="module")
def oracle() -> Tokenizer:
    return pile_tokenizer()


def test_what_it_says_of_itself(pile: BpeTokenizer, path: Path) -> None:
    assert (pile.kind, pile.path, pile.vocab_size, pile.size) == ("20b", path, 50277, 50275)
    assert (pile.start, pile.end_of_text) == (0, 0)


@given(TEXTS)
def test_encodes_as_the_library_and_says_the_text(pile: BpeTokenizer, oracle: Tokenizer, text: str) -> None:
    ids = pile.encode(text)
    assert ids == oracle.encode(text, add_special_tokens=False).ids
    assert pile.decode(ids) == oracle.normalizer.normalize_str(text)


@given(TEXTS)
def test_long_texts_are_cut_where_it_does_not_show(pile: BpeTokenizer, text: str) -> None:
    whole = pile.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_PIECE", 3)
        assert pile.encode(text) == whole


def test_tokens_are_bytes_that_a_stream_joins(pile: BpeTokenizer) -> None:
    ids = pile.encode("🚀 世é\n\n  x")
    assert b"\xf0" in map(pile.token_bytes, ids)
    assert pile.token_bytes(pile.encode("世")[0]) == "世".encode()
    decoder = StreamDecoder()
    pieces = [decoder.push(pile.token_bytes(token)) for token in ids]
    assert "".join(pieces) + decoder.flush() == "🚀 世é\n\n  x"
    assert pieces[:4] == ["", "", "", "🚀"]


def test_tokens_without_text(pile: BpeTokenizer) -> None:
    assert [pile.token_bytes(token) for token in (0, 1, -1, 50277, 10**9)] == [b""] * 5
    assert pile.token_bytes(50276) == b"  "
    assert pile.token_bytes(50254) == b" " * 24


def test_the_name_of_a_special_token_is_a_text(pile: BpeTokenizer) -> None:
    for text in ("<|endoftext|>", "a<|padding|>b"):
        assert not {0, 1} & set(pile.encode(text))
        assert pile.decode(pile.encode(text)) == text


def test_a_prompt_that_ends_in_a_blank_line_ends_in_two_line_ends(pile: BpeTokenizer) -> None:
    assert pile.encode("a\n\n")[-1] == BLANK_LINE
    assert pile.encode_segments(["a\n\n"]) == [*pile.encode("a"), NEWLINE, NEWLINE]
    assert pile.encode_segments(["\n\n\n\n"]) == [BLANK_LINE, NEWLINE, NEWLINE]
    assert pile.encode_segments([]) == pile.encode_segments([""]) == []
    # Within a text the library itself leaves two before a word, so that a chat in pieces is the chat as a whole.
    segments = RAVEN.render([Message("user", "the wing"), Message("assistant", "beat"), Message("user", "hi")])
    assert pile.encode_segments(segments) == pile.encode("".join(segments))


def test_lone_surrogates_and_zero_bytes_never_fail(pile: BpeTokenizer) -> None:
    assert pile.decode(pile.encode("a\ud800b\udfff\x00c")) == "a?b?\x00c"


def test_threads_share_one_tokenizer(pile: BpeTokenizer) -> None:
    texts = [f"{n} the wing of thread {n}: 世界" * 200 for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(pile.encode, texts)) == [pile.encode(text) for text in texts]


def test_truncation_and_padding_of_the_file_do_not_count(tmp_path: Path) -> None:
    made = pile_tokenizer(600)
    made.enable_truncation(4)
    made.enable_padding(length=8)
    made.save(str(tmp_path / "t.json"))
    assert len(BpeTokenizer(tmp_path / "t.json").encode("no merge")) == 8 - made.encode("no merge").tokens.count("he")
    assert BpeTokenizer(tmp_path / "t.json").encode("wing") == made.encode("wing").ids[:1]


def test_other_byte_level_vocabularies(tmp_path: Path) -> None:
    alphabet = {character: n for n, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.save(str(tmp_path / "t.json"))
    other = BpeTokenizer(tmp_path / "t.json")
    assert (other.kind, other.vocab_size, other.end_of_text) == ("bpe", 256, 0)
    assert other.decode(other.encode_segments(["世\n\n"])) == "世\n\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a tokenizer.json file"),
        ("[]", "is not a tokenizer.json file"),
        ('{"model": 1, "pre_tokenizer": null, "decoder": null}', "is not a tokenizer.json file"),
        ("[" * 100_000, "is not a tokenizer.json file"),
        ({"model": {"type": "WordLevel"}}, "name the tokenizer midi or piano"),
        ({"model": {"type": "WordPiece"}}, "another kind .WordPiece.: wingbeat reads byte-level BPE"),
        ({"decoder": None, "pre_tokenizer": None}, "wingbeat reads byte-level BPE"),
        ({"added_tokens": 7}, "that can be used"),
        ({"added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}, "there must be some"),
        ({"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 2**31}, "merges": []}}, "must be from 0 to"),
        ({"added_tokens": [], "model": {"type": "BPE", "vocab": {"世": 3}, "merges": []}}, "stands for no byte"),
    ],
)
def test_files_that_are_of_no_use(tmp_path: Path, content: str | dict[str, object], message: str) -> None:
    if isinstance(content, dict):
        content = json.dumps({**json.loads(pile_tokenizer(600).to_str()), **content})
    (tmp_path / "t.json").write_text(content, encoding="utf-8")
    with pytest.raises(VocabError, match=message):
        BpeTokenizer(tmp_path / "t.json")
