from __future__ import annotations

from wingbeat.text.codes import CodeTokenizer


def test_abc() -> None:
    abc = CodeTokenizer("abc")
    assert (abc.kind, abc.vocab_size, abc.size, abc.start, abc.end_of_text) == ("abc", 128, 124, 2, 3)
    ids = abc.encode("\x02X:1\nK:C\n")
    assert ids == [2, 88, 58, 49, 10, 75, 58, 67, 10]
    assert abc.decode([*ids, 3]) == "X:1\nK:C\n"
    assert abc.encode_segments(["T:", "Café 世\ud800"]) == [84, 58, 67, 97, 102, 63, 32, 63, 63]
    assert [abc.token_bytes(token) for token in (-1, 0, 1, 2, 3, 128)] == [b""] * 6
    assert abc.decode(range(4, 128)) == "".join(map(chr, range(4, 128)))


def test_bytes() -> None:
    raw = CodeTokenizer("bytes")
    assert (raw.kind, raw.vocab_size, raw.size, raw.start, raw.end_of_text) == ("bytes", 256, 255, 0, 0)
    text = "a\n世🚀"
    assert raw.encode(text) == list(text.encode())
    assert raw.decode(raw.encode(text)) == text
    assert raw.encode("\ud800") == [63]
    assert raw.decode([65, 0, 228, 66]) == "A\ufffdB"
    assert raw.token_bytes(256) == raw.token_bytes(-1) == b""
