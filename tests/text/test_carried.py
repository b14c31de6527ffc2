from __future__ import annotations

import pytest

from wingbeat.text.carried import carried_tokens
from wingbeat.text.choose import tokenizer_for
from wingbeat.text.vocab import VocabError
from wingbeat.text.world import WorldTokenizer

from .carried import written


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (rb"a", b"a"),
        (rb"\n\t\r", b"\n\t\r"),
        (rb"\\", b"\\"),
        (rb"\\n", b"\\n"),
        (rb"\'\"", b"'\""),
        (rb"\xe4\xB8x", b"\xe4\xb8x"),
        (rb"\xzz", b"xzz"),
        ("世 ".encode(), "世 ".encode()),
        (b"\\\n", b"\n"),
        (b"[PAD7] ", b"[PAD7] "),
    ],
)
def test_tokens_are_escaped_text(text: bytes, token: bytes) -> None:
    assert carried_tokens([b"<s>", text]) == {1: token}


def test_the_end_of_text_and_padding_are_no_tokens() -> None:
    assert carried_tokens([b"<s>", b"a", b"[PAD2]", b"", b"b"]) == {1: b"a", 4: b"b"}
    assert carried_tokens([]) == {}


def test_the_whole_world_vocabulary(world: WorldTokenizer) -> None:
    tokens = carried_tokens(written({i: world.token_bytes(i) for i in range(1, 65530)}, 65536))
    assert len(tokens) == world.size
    assert all(world.token_bytes(token_id) == token for token_id, token in tokens.items())


def test_a_model_that_carries_its_tokens(subset: WorldTokenizer) -> None:
    tokens = {i: token for i in range(subset.vocab_size) if (token := subset.token_bytes(i))}
    tokenizer = tokenizer_for("m.gguf", 65536, carried=lambda: tokens)
    assert tokenizer is not None
    assert (str(tokenizer.path), tokenizer.size) == ("m.gguf", subset.size)
    text = "User: hi\n\n世界"
    assert tokenizer.encode(text) == subset.encode(text)
    with pytest.raises(VocabError, match=r"the vocabulary in m\.gguf has token ids up to"):
        tokenizer_for("m.gguf", 300, carried=lambda: tokens)
    with pytest.raises(VocabError, match=r"m\.gguf: not a complete World vocabulary: every single byte"):
        tokenizer_for("m.gguf", 300, carried=lambda: {1: b"a"})
    world = tokenizer_for("m.gguf", 65536, carried=dict)
    assert world is not None
    assert world.size == 65529
