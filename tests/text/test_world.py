from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from wingbeat.text import world as world_module
from wingbeat.text.greedy import GreedyMatcher
from wingbeat.text.vocab import default_vocab_path, read_vocab
from wingbeat.text.world import WorldTokenizer

from .vocabs import SINGLE_BYTES, with_bytes, write_vocab

# From the published tokenizer.
VECTORS = [
    ("User: hi\n\nAssistant:", [24281, 59, 4571, 261, 5585, 41693, 59]),
    ("Assistant: <think", [5585, 41693, 59, 295, 35762]),
    ("<think>\n</think>\n", [61, 35762, 63, 11, 754, 35762, 63, 11]),
    ("</think>\n\n", [754, 35762, 63, 261]),
    (
        "Hello, world! 你好，世界 🚀",
        [33155, 45, 40213, 34, 33, 10464, 11685, 19137, 10267, 14610, 33, 3319, 155, 129],
    ),
    ("Привет\r\n\tмир", [27858, 27950, 27930, 3332, 42911]),
    (b"\xff\xfe\x80abc", [256, 255, 129, 6891]),
    (" User", [29956]),
    (" Assistant", [58683]),
    ("\n\n\n", [3328]),
    ("", []),
]

needs_native = pytest.mark.skipif(world_module._native is None, reason="the native module is not built")
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from("thea nd.\n:\"'0一的是Привет🚀<>")),
    st.lists(st.sampled_from(["User: ", "\n\n", "the ", "人工智能", "return ", "    ", "==", "https://", "ing"])).map(
        "".join
    ),
)
DATA = st.one_of(st.binary(), TEXTS.map(lambda text: text.encode("utf-8", "replace")))


@pytest.fixture(scope="module")
def twin() -> WorldTokenizer:
    return WorldTokenizer(default_vocab_path(), native=False)


@pytest.fixture(scope="module")
def oracle(subset_path: Path) -> TRIE_TOKENIZER:
    return TRIE_TOKENIZER(str(subset_path))


@pytest.mark.parametrize(("text", "ids"), VECTORS)
def test_published_vectors(world: WorldTokenizer, twin: WorldTokenizer, text: str | bytes, ids: list[int]) -> None:
    data = text.encode() if isinstance(text, str) else text
    for tokenizer in (world, twin):
        assert tokenizer.encode(text) == tokenizer.encode_bytes(data) == ids
        assert tokenizer.decode(ids) == data.decode("utf-8", "replace")


@needs_native
@given(DATA)
def test_native_and_python_agree_on_the_world_vocabulary(
    world: WorldTokenizer, twin: WorldTokenizer, data: bytes
) -> None:
    assert world.native
    assert not twin.native
    ids = world.encode_bytes(data)
    assert ids == twin.encode_bytes(data)
    assert world.decode_bytes(ids) == data


@given(DATA)
def test_agrees_with_the_official_tokenizer(subset: WorldTokenizer, oracle: TRIE_TOKENIZER, data: bytes) -> None:
    assert subset.encode_bytes(data) == oracle.encodeBytes(data)


@settings(max_examples=60)
@given(st.sets(st.binary(min_size=2, max_size=6), max_size=60), st.binary(max_size=80), st.data())
def test_any_vocabulary_is_greedy_longest_match(extra: set[bytes], noise: bytes, data: st.DataObject) -> None:
    tokens = with_bytes(sorted(extra), first_id=1000, step=3)
    ids = {token: token_id for token_id, token in tokens.items()}
    words = data.draw(st.lists(st.sampled_from(sorted(extra)), max_size=20)) if extra else []
    text = b"".join(words) + noise
    expected, at = [], 0
    while at < len(text):
        longest = max((token for token in ids if text.startswith(token, at)), key=len)
        expected.append(ids[longest])
        at += len(longest)
    assert GreedyMatcher(ids).encode(text) == expected
    if world_module._native is not None:
        assert world_module._native.Trie(ids).encode(text) == expected


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
def test_the_matchers_refuse_what_they_cannot_match(native: bool) -> None:
    matcher = world_module._native.Trie if native and world_module._native else GreedyMatcher
    ids = {token: token_id for token_id, token in SINGLE_BYTES.items()}
    with pytest.raises(ValueError, match="every single byte"):
        matcher({token: token_id for token, token_id in ids.items() if token != b"\x00"})
    with pytest.raises(ValueError, match="at least one byte"):
        matcher(ids | {b"": 300})
    with pytest.raises(ValueError, match="id above 0"):
        matcher(ids | {b"ab": 0})


def test_every_token_encodes_to_itself(world: WorldTokenizer) -> None:
    assert all(world.encode_bytes(world.token_bytes(i)) == [i] for i in range(1, world.vocab_size))


def test_ids_without_text_decode_to_nothing(world: WorldTokenizer) -> None:
    assert (world.size, world.vocab_size) == (65529, 65530)
    assert [world.token_bytes(i) for i in (0, -1, 65530, 65535, 10**9)] == [b""] * 5
    assert world.decode([0, 33155, 65535, 0]) == "Hello"
    assert world.decode([10268, 229]) == world.decode_bytes([10268, 229]).decode("utf-8", "replace")


def test_a_vocabulary_with_gaps(tmp_path: Path) -> None:
    tokenizer = WorldTokenizer(write_vocab(tmp_path / "v.txt", with_bytes([b"the", b"then"], first_id=900, step=50)))
    assert (tokenizer.size, tokenizer.vocab_size) == (258, 951)
    assert tokenizer.encode("thethenth") == [900, 950, 117, 105]
    assert tokenizer.token_bytes(901) == b""


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
def test_lone_surrogates_and_zero_bytes_never_fail(subset_path: Path, native: bool) -> None:
    tokenizer = WorldTokenizer(subset_path, native=native)
    assert tokenizer.decode(tokenizer.encode("a\ud800b\udfff\x00c")) == "a?b?\x00c"


def test_megabytes_of_text(world: WorldTokenizer) -> None:
    text = "The quick brown fox. 敏捷的棕色狐狸。\n" * 60_000
    once = world.encode("The quick brown fox. 敏捷的棕色狐狸。\n")
    assert world.encode(text) == once * 60_000


def test_segments_never_merge(world: WorldTokenizer) -> None:
    assert world.encode_segments(["User:", '"hi"']) == world.encode("User:") + world.encode('"hi"')
    assert world.encode_segments(["User:", '"hi"']) != world.encode('User:"hi"')
    assert world.encode_segments([]) == []


def test_threads_share_one_tokenizer(world: WorldTokenizer) -> None:
    texts = [f"{n} text of thread {n}: 你好" * 200 for n in range(16)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(world.encode, texts)) == [world.encode(text) for text in texts]


def test_a_missing_native_module_is_explained(monkeypatch: pytest.MonkeyPatch, subset_path: Path) -> None:
    monkeypatch.setattr(world_module, "_native", None)
    assert not WorldTokenizer(subset_path).native
    with pytest.raises(RuntimeError, match="C\\+\\+ compiler"):
        WorldTokenizer(subset_path, native=True)


def test_the_subset_is_a_subset(subset: WorldTokenizer) -> None:
    assert subset.size == len(read_vocab(subset.path)) < 6000
