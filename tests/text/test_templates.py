from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingbeat.text.templates import G1, RAVEN, WORLD, ChatTemplate, Message, sanitise
from wingbeat.text.world import WorldTokenizer

TALK = [
    Message("system", "Be brief.\r\n\r\nBe kind."),
    Message("user", "  hi\n\n\nthere "),
    Message("assistant", " Hello. "),
    Message("user", "Why?"),
]
RENDERED = "System: Be brief.\nBe kind.\n\nUser: hi\nthere\n\nAssistant: Hello.\n\nUser: Why?\n\nAssistant:"


@pytest.mark.parametrize("template", [WORLD, G1])
def test_the_trained_format(template: ChatTemplate) -> None:
    assert "".join(template.render(TALK)) == RENDERED


def test_labels_texts_and_separators_are_segments() -> None:
    expected = ["User:", " hi", "\n\n", "Assistant:"]
    assert WORLD.render([Message("user", "hi")]) == expected
    assert WORLD.render([Message("USER", "hi")], thinking=True) == expected


def test_thinking_opens_the_reply() -> None:
    ask = [Message("user", "hi")]
    assert G1.render(ask, thinking=True)[-2:] == ["Assistant:", " <think"]
    assert G1.render(ask, thinking=False)[-2:] == ["Assistant:", " <think>\n</think"]
    assert G1.render(ask, thinking=None)[-1] == "Assistant:"
    assert (WORLD.can_think, G1.can_think) == (False, True)


def test_an_effort_is_hinted_at_the_end_of_what_the_user_says_last() -> None:
    talk = [Message("user", "hi"), Message("assistant", "Hello."), Message("user", "Why?")]
    hinted = G1.hinted(talk, "low")
    segments = G1.render(hinted, thinking=True)
    assert segments[-6:] == ["User:", " Why?", " (think a bit)", "\n\n", "Assistant:", " <think"]
    passing = G1.passing(hinted, True)
    following = G1.render([*talk, Message("assistant", "So."), Message("user", "Ah")])
    assert following[: len(segments) - passing] == segments[:-passing]
    assert G1.passing(G1.hinted(talk, "medium"), True) == 1
    for effort in ("medium", None, "none"):
        assert G1.hinted(talk, effort) == talk
    assert G1.hinted(talk[:2], "high") == talk[:2]
    assert WORLD.hinted(talk, "high") == talk


def test_roles() -> None:
    messages = [Message("developer", "d"), Message("tool", '{"t": 20}', name="weather"), Message("assistant", "")]
    assert "".join(WORLD.render(messages)) == (
        'System: d\n\nUser: Function output:\n{"t": 20}\n\nAssistant:\n\nAssistant:'
    )
    assert WORLD.render([Message("system", " \n"), Message("user", "x")])[0] == "User:"
    with pytest.raises(ValueError, match="unknown role 'robot': use one of system, "):
        WORLD.render([Message("robot", "x")])
    with pytest.raises(ValueError, match="at least one message"):
        WORLD.render([])


def test_sanitising() -> None:
    assert sanitise("\r\na\r\rb\n\n\n\nc\r\n\r\nd \n") == "a\nb\nc\nd"
    assert sanitise("    x\n    y") == "x\n    y"


@pytest.mark.parametrize("fence", ["```", "~~~"])
def test_code_keeps_its_blank_lines(fence: str) -> None:
    code = f"{fence}py\nx\n\n\ny\n  {fence}"
    assert sanitise(f"a\n\n{code}\n\nb") == f"a\n{code}\nb" == sanitise(f"a\n{code}\nb")
    assert sanitise(f"a\n\n{fence}\n\nb") == f"a\n{fence}\nb", "a fence that is never closed"
    assert sanitise(f"{fence}\n\nUser: x\n\nUserX: y\n{fence}") == f"{fence}\nUser: x\n\nUserX: y\n{fence}"
    assert sanitise(f"a {fence}\n\n{fence}") == f"a {fence}\n{fence}", "a fence begins its line"


def test_fences_without_end_cost_no_time() -> None:
    text = "~~~\n" + "`" * 100_000 + "\n" * 100_000 + "    " * 50_000
    assert len(sanitise(text)) == len("~~~\n") + 100_000


@given(st.text(alphabet="a \r\n\t", max_size=30))
def test_no_turn_holds_a_blank_line(text: str) -> None:
    clean = sanitise(text)
    assert "\n\n" not in clean
    assert "\r" not in clean
    assert clean == clean.strip() == sanitise(clean)


def test_earlier_turns_lose_their_reasoning() -> None:
    turns = [
        Message("user", "2+2?"),
        Message("assistant", "<think>\nEasy.\n</think>\n\nFour.\n\nReally.", reasoning_content="Easy."),
        Message("user", "Sure?"),
    ]
    assert "".join(G1.render(turns)) == "User: 2+2?\n\nAssistant: Four.\n\nReally.\n\nUser: Sure?\n\nAssistant:"
    cut_short = [Message("user", "a"), Message("assistant", "<think>never ended"), Message("user", "b")]
    assert "".join(G1.render(cut_short)) == "User: a\n\nAssistant:\n\nUser: b\n\nAssistant:"
    assert "".join(WORLD.render([Message("assistant", "<think>x</think>y")])).startswith("Assistant: <think>x</think>y")


def test_a_partial_reply_is_continued() -> None:
    ask = Message("user", "hi")
    assert WORLD.render([ask, Message("assistant", "The answer is ")], continue_final=True)[-2:] == [
        "Assistant:",
        " The answer is",
    ]
    assert WORLD.render([ask, Message("assistant", "")], continue_final=True)[-1] == "Assistant:"
    assert G1.render([ask, Message("assistant", "<think")], continue_final=True)[-1] == " <think"
    with pytest.raises(ValueError, match="only an assistant's message can be continued"):
        WORLD.render([ask], continue_final=True)


def test_partial_reasoning_is_continued() -> None:
    def last(content: str) -> str:
        return G1.render([Message("assistant", content, reasoning_content="Hm. ")], continue_final=True)[-1]

    assert last("") == " <think>\nHm."
    assert last("So") == " <think>\nHm.\n</think>\nSo"


@pytest.mark.parametrize("template", [WORLD, G1])
def test_token_ids_of_the_published_prompt(world: WorldTokenizer, template: ChatTemplate) -> None:
    ids = world.encode_segments(template.render([Message("user", "hi")]))
    assert ids == [24281, 59, 4571, 261, 5585, 41693, 59] == world.encode("User: hi\n\nAssistant:")


def test_token_ids_of_the_thinking_modes(world: WorldTokenizer) -> None:
    ask = [Message("user", "hi")]
    assert world.encode_segments(G1.render(ask, thinking=True))[4:] == [5585, 41693, 59, 295, 35762]
    off = world.encode_segments(G1.render(ask, thinking=False))
    assert off == world.encode("User: hi\n\nAssistant: <think>\n</think")


CONTENT = st.one_of(st.text(max_size=20), st.text(alphabet='a"“:\n .!User', max_size=12)).map(
    lambda text: text.encode("utf-8", "replace").decode()
)


@given(st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3), CONTENT)
@pytest.mark.parametrize("template", [WORLD, G1])
def test_a_longer_conversation_begins_with_the_tokens_of_the_shorter_and_its_reply(
    world: WorldTokenizer, template: ChatTemplate, turns: list[tuple[str, str]], question: str
) -> None:
    messages: list[Message] = []
    seen: list[int] = []  # what the model has been fed and has written so far
    for asked, answered in turns:
        messages.append(Message("user", asked))
        prompt = world.encode_segments(template.render(messages))
        assert prompt[: len(seen)] == seen
        # The model writes a space and its text; the client gets and sends back the text. "<" could open a reasoning.
        reply = sanitise(answered.replace("<", "(")) or "Yes."
        seen = prompt + world.encode(" " + reply)
        messages.append(Message("assistant", reply))
    longer = world.encode_segments(template.render([*messages, Message("user", question)]))
    assert longer[: len(seen) + 1] == [*seen, 261]


@given(CONTENT, CONTENT)
@pytest.mark.parametrize("template", [WORLD, G1, RAVEN])
def test_a_follow_up_reads_what_the_whole_conversation_would(template: ChatTemplate, asked: str, then: str) -> None:
    first = [Message("user", asked)]
    seen = [*template.render(first), " Yes."]  # the answer, without the blank line that ended it
    messages = [*first, Message("assistant", "Yes."), Message("user", then)]
    followed = seen + template.follow_up([messages[-1]])
    assert "".join(followed) == "".join(template.render(messages))


@given(CONTENT, CONTENT)
@pytest.mark.parametrize(
    ("template", "thinking", "reply"),
    [
        (WORLD, None, " Yes."),
        (RAVEN, None, " Yes.\n"),
        (G1, None, " Yes. "),
        (G1, True, "> Assistant: well\n\nnow</think>\nYes."),
        (G1, False, ">\nYes."),
        (G1, True, "> it never ends"),
    ],
)
def test_a_prompt_and_its_reply_are_recalled_as_messages(
    template: ChatTemplate, thinking: bool | None, reply: str, asked: str, then: str
) -> None:
    first = [Message("user", asked)]
    recalled = template.recalled("".join(template.render(first, thinking=thinking)), reply)
    answer = "Yes." if "Yes." in reply else ""
    whole = template.render([*first, Message("assistant", answer), Message("user", then)])
    assert "".join(whole) == recalled + "".join(template.follow_up([Message("user", then)]))


def test_what_is_no_prompt_of_the_template_is_recalled_as_it_is() -> None:
    assert WORLD.recalled("Once upon", " a  time\n\n") == "Once upon a  time\n\n"


@given(CONTENT)
def test_segments_give_the_ids_of_the_whole_text(world: WorldTokenizer, content: str) -> None:
    # The models were trained on text tokenised whole; in World no token crosses these borders.
    segments = WORLD.render([Message("system", content), Message("user", content), Message("assistant", content)])
    assert world.encode_segments(segments) == world.encode("".join(segments))


def test_raven_has_names_of_its_own_and_no_system() -> None:
    messages = [
        Message("system", "Be\n\nbrief."),
        Message("user", "hi"),
        Message("assistant", "Hello."),
        Message("user", "2"),
    ]
    rendered = "Be\nbrief.\n\nBob: hi\n\nAlice: Hello.\n\nBob: 2\n\nAlice:"
    assert "".join(RAVEN.render(messages)) == rendered
    assert RAVEN.render(messages[:3], continue_final=True)[-2:] == ["Alice:", " Hello."]
