from __future__ import annotations

import gc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wingbeat.text import stream
from wingbeat.text.stream import StopMatcher, StreamDecoder, Trimmer

BROKEN_UTF8 = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.sampled_from([b"\xe4", b"\xbd", b"\xa0", b"\xf0", b"\x9f", b"\xed", b"\xf4", b"\x90", b"a"])).map(
        b"".join
    ),
)
SHORT_TEXT = st.text(alphabet="ab\n", max_size=40)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), max_size=4)


def pieces(draw: st.DrawFn, whole: str | bytes) -> list:
    """The whole, cut at random places; empty pieces included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def cut(draw: st.DrawFn, wholes: st.SearchStrategy) -> list:
    return pieces(draw, draw(wholes))


@given(cut(BROKEN_UTF8))
@example([b"\xed", b"\xa0", b"\x80"])
def test_decoding_in_pieces_equals_decoding_at_once(data: list[bytes]) -> None:
    decoder = StreamDecoder()
    out, seen = "", b""
    for piece in data:
        out += decoder.push(piece)
        seen += piece
        assert len(decoder.pending) <= 3
        assert out + decoder.pending.decode("utf-8", "replace") == seen.decode("utf-8", "replace")
    assert out + decoder.flush() == seen.decode("utf-8", "replace")
    assert decoder.pending == b""


def test_never_half_a_character_and_no_stall() -> None:
    decoder = StreamDecoder()
    rocket = "🚀".encode()
    assert [decoder.push(rocket[i : i + 1]) for i in range(4)] == ["", "", "", "🚀"]
    assert decoder.push(b"\xff") == "\ufffd"
    assert decoder.push(b"\xe4\xbd") == ""
    assert decoder.push(b"A") == "\ufffdA"
    assert decoder.push(b"\xf0\x9f") == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(b"new") == "new"


def test_a_decoder_can_be_continued() -> None:
    first = StreamDecoder()
    first.push("é".encode()[:1])
    assert StreamDecoder(first.pending).push("é".encode()[1:]) == "é"


def naive_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Look at every beginning of the text; the first that ends in a stop ends there, the longest such stop wins."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(cut(SHORT_TEXT), STOPS)
def test_stops_match_like_the_naive_search(texts: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    out, seen, matched = "", "", None
    for piece in texts:
        emitted, matched = matcher.push(piece)
        out += emitted
        seen += piece
        if matched is None:
            held = seen[len(out) :]
            longest = max((n for stop in stops for n in range(len(stop)) if seen.endswith(stop[:n])), default=0)
            assert seen == out + held
            assert len(held) == longest
    out += matcher.flush()
    assert matched == matcher.matched
    assert (out, matched) == naive_stop("".join(texts), stops)


def test_a_stop_across_tokens_never_leaks() -> None:
    matcher = StopMatcher(["\n\nUser:", "\nUser:"])
    assert matcher.push(" Fine.\n") == (" Fine.", None)
    assert matcher.push("\nUs") == ("", None)
    assert matcher.push("er: next") == ("", "\n\nUser:")
    assert matcher.push("more") == ("", "\n\nUser:")
    assert matcher.flush() == ""


def test_what_was_no_stop_comes_out() -> None:
    matcher = StopMatcher(["\nUser:"])
    assert matcher.push("a\nUse") == ("a", None)
    assert matcher.push("less") == ("\nUseless", None)
    assert matcher.push("\n") == ("", None)
    assert matcher.flush() == "\n"
    assert matcher.push("User:") == ("User:", None)


def test_the_stop_that_completes_first_wins() -> None:
    assert StopMatcher(["abcd", "bc"]).push("xabcd") == ("xa", "bc")
    assert StopMatcher(["bc", "abc"]).push("xabcd") == ("x", "abc")
    assert StopMatcher([]).push("anything") == ("anything", None)


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])


@given(cut(st.text(alphabet="ab \n", max_size=30)), st.booleans())
def test_trimming_in_pieces_equals_trimming_at_once(texts: list[str], leading: bool) -> None:
    trimmer = Trimmer(leading=leading)
    whole = "".join(texts)
    assert "".join(map(trimmer.push, texts)) == (whole.strip() if leading else whole.rstrip())


def test_equal_stops_share_what_was_built_for_them_while_they_are_used() -> None:
    stops = ["shared stop"]
    first, second = StopMatcher(stops), StopMatcher(stops)
    assert first._automaton is second._automaton
    assert tuple(stops) in stream._automata
    del first, second
    gc.collect()
    assert tuple(stops) not in stream._automata
