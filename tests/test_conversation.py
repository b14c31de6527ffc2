"""A conversation that keeps its state answers as one that is sent anew, and reads only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engine.helpers import Speller, assert_empty, stand_in
from tests.live import write_model
from tests.random_models import random_rwkv7, write_safetensors
from wingbeat import LLM, Conversation, SamplingParams
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.llm import GenerationError
from wingbeat.text.world import WorldTokenizer

SEEDED = SamplingParams(seed=7, max_tokens=24, temperature=1.3)
GREEDY = SamplingParams(temperature=0, max_tokens=60)
QUESTIONS = ("What is wingbeat?", "你好", "What is RWKV?\n\nSay it briefly.")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("conversation"))


@pytest.fixture(scope="module")
def demo() -> Iterator[LLM]:
    with LLM() as llm:
        yield llm


@pytest.fixture(scope="module", params=["world", "g1"])
def llm(request: pytest.FixtureRequest, tiny: Path) -> Iterator[LLM]:
    with LLM(tiny, dtype="float32", profile=request.param) as llm:
        yield llm


def fed(llm: LLM) -> int:
    """Prompt tokens that the engine has read so far."""
    return llm._shared.engine.stats().prompt_tokens


def as_if_sent_anew(conversation: Conversation, params: SamplingParams, thinking: bool | None = None) -> list[int]:
    """The tokens that ``LLM.chat`` answers the conversation's last message with."""
    return conversation._llm.chat(conversation.messages[:-1], params, thinking=thinking).token_ids


@pytest.mark.parametrize("thinking", [None, True, False])
def test_answers_are_those_of_the_whole_conversation_sent_anew(llm: LLM, thinking: bool | None) -> None:
    conversation = Conversation(llm, system="Be brief.")
    for question in QUESTIONS:
        reply = conversation.say(question, SEEDED, thinking=thinking).wait()
        assert reply.token_ids == as_if_sent_anew(conversation, SEEDED, thinking)
        assert len(conversation._seen) <= 3
    assert [message["role"] for message in conversation.messages] == ["system", *["user", "assistant"] * 3]
    assert_empty(llm._shared.engine)


@pytest.mark.parametrize("thinking", [None, True, False])
def test_what_comes_before_the_last_answer_is_read_once(llm: LLM, thinking: bool | None) -> None:
    """Random tokens are seldom those that their text has, so the state after the prompt is what the next turn has."""
    conversation = Conversation(llm)
    conversation.say(QUESTIONS[0], SEEDED, thinking=thinking).wait()
    known = len(llm.tokenizer.encode_segments(llm.profile.template.render(conversation._turns[:1])))
    before = fed(llm)
    reply = conversation.say(QUESTIONS[1], SEEDED, thinking=thinking).wait()
    assert fed(llm) - before <= len(reply.prompt_ids) - known


def test_only_what_is_new_is_read(demo: LLM) -> None:
    conversation = Conversation(demo)
    seen: list[int] = []
    for question in QUESTIONS:
        before = fed(demo)
        answer = conversation.say(question, GREEDY)
        reply = answer.wait()
        assert reply.prompt_ids[: len(seen)] == seen
        assert fed(demo) - before == answer.read == len(reply.prompt_ids) - len(seen)
        assert reply.token_ids == as_if_sent_anew(conversation, GREEDY)
        seen = [*reply.prompt_ids, *reply.token_ids[:-1]]


def test_the_pieces_of_a_reply(llm: LLM) -> None:
    conversation = Conversation(llm)
    reply = conversation.say("hi", SEEDED)
    chunks = list(reply)
    assert "".join(chunk.text for chunk in chunks) == reply.completion.text == conversation.messages[-1]["content"]
    assert [token for chunk in chunks for token in chunk.token_ids] == reply.completion.token_ids
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == reply.completion.finish_reason in ("length", "stop")


def test_a_reply_that_is_stopped_stays_as_far_as_it_came(demo: LLM) -> None:
    conversation = Conversation(demo)
    reply = conversation.say(QUESTIONS[0], GREEDY)
    for chunk in reply:
        if "engine" in reply.completion.text + chunk.text:
            reply.stop()
    assert reply.completion.finish_reason == "cancelled"
    said = conversation.messages[-1]["content"]
    assert said.startswith("Wingbeat is an inference")
    before = fed(demo)
    following = conversation.say(QUESTIONS[1], GREEDY).wait()
    assert (
        fed(demo) - before
        == len(following.prompt_ids) - len(reply.completion.prompt_ids + reply.completion.token_ids) + 1
    )
    assert following.token_ids == as_if_sent_anew(conversation, GREEDY)
    assert_empty(demo._shared.engine)


def test_a_reply_that_is_left_stays_as_far_as_it_came(demo: LLM) -> None:
    conversation = Conversation(demo)
    for chunk in conversation.say(QUESTIONS[0], GREEDY):
        if chunk.text:
            break
    following = conversation.say(QUESTIONS[1], GREEDY)
    assert [message["content"] for message in conversation.messages] == [QUESTIONS[0], "Wing"]
    assert_empty(demo._shared.engine)
    following.wait()
    assert following.completion.token_ids == as_if_sent_anew(conversation, GREEDY)


@pytest.mark.parametrize("thinking", [None, True])
def test_a_reply_that_is_stopped_before_its_first_word_leaves_nothing(llm: LLM, thinking: bool | None) -> None:
    conversation = Conversation(llm)
    conversation.say("hi", SEEDED).wait()
    before = conversation.messages
    reply = conversation.say("again", SEEDED, thinking=thinking)
    reply.stop()
    assert [chunk.finish_reason for chunk in reply] == ["cancelled"]
    assert conversation.messages == before
    conversation.say("again", SEEDED, thinking=thinking).wait()
    assert conversation.messages[:2] == before


def test_a_reply_that_fails_leaves_nothing(tiny: Path) -> None:
    tokenizer = WorldTokenizer(tiny.with_suffix(".vocab.txt"))
    (bad,) = tokenizer.encode("B")
    prompt = tokenizer.encode("User: a\n\nAssistant:")
    ids = [0] * (len(prompt) - 1) + tokenizer.encode(" wing\n\n") + [bad] * 99
    conversation = Conversation(LLM.from_model(stand_in(Speller(ids, 300, bad_token=bad)), tokenizer))
    assert conversation.say("a").wait().text == "wing"
    with pytest.raises(GenerationError, match="not finite"):
        (reply := conversation.say("b")).wait()
    assert reply.completion.text == "B"
    assert [message["content"] for message in conversation.messages] == ["a", "wing"]


def test_retry_undo_and_reset(demo: LLM) -> None:
    conversation = Conversation(demo, system="Be brief.")
    for nothing in (conversation.retry, conversation.undo):
        with pytest.raises(ValueError, match="no message yet"):
            nothing()
    first = conversation.say(QUESTIONS[0], GREEDY).wait()
    second = conversation.say(QUESTIONS[1], GREEDY).wait()
    before = fed(demo)
    again = conversation.retry(GREEDY).wait()
    assert again == second
    assert fed(demo) - before == len(second.prompt_ids) - len(first.prompt_ids + first.token_ids) + 1
    assert len(conversation.messages) == 5
    other = conversation.retry(SEEDED).wait()
    assert other.token_ids == as_if_sent_anew(conversation, SEEDED)
    conversation.undo()
    assert conversation.messages[-1]["content"] == first.text
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation.say(QUESTIONS[0], GREEDY).wait() == first


def test_another_system_message_holds_from_the_next_turn_on(llm: LLM) -> None:
    conversation = Conversation(llm)
    conversation.say("hi", SEEDED).wait()
    conversation.system = "Be kind."
    assert conversation.messages[0] == {"role": "system", "content": "Be kind."}
    reply = conversation.say("hi", SEEDED).wait()
    assert reply.token_ids == as_if_sent_anew(conversation, SEEDED)
    conversation.system = None
    assert conversation.messages[0]["role"] == "user"


def test_a_repetition_penalty_counts_all_of_the_conversation(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=20, repetition_penalty=1.8)
    conversation = Conversation(llm)
    for question in QUESTIONS:
        reply = conversation.say(question, params, thinking=True).wait()
        assert reply.token_ids == as_if_sent_anew(conversation, params, thinking=True)


def test_messages_said_before(demo: LLM) -> None:
    history = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": "An engine."}]
    conversation = Conversation(demo, history, system="Be brief.")
    assert conversation.messages[1:] == history
    assert conversation.say("hi", GREEDY).wait().token_ids == as_if_sent_anew(conversation, GREEDY)
    with pytest.raises(ValueError, match="unknown role"):
        Conversation(demo, [{"role": "robot", "content": "beep"}])
    with pytest.raises(ValueError, match="top_p"):
        conversation.say("hi", SamplingParams(top_p=3))


def test_a_saved_conversation_goes_on_where_it_was(demo: LLM, tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    conversation = Conversation(demo, system="Be brief.")
    with pytest.raises(ValueError, match="nothing to save"):
        conversation.save(path)
    conversation.say(QUESTIONS[0], GREEDY).wait()
    conversation.save(path)
    later = Conversation(demo)
    later.load(path)
    assert later.messages == conversation.messages
    before = fed(demo)
    expected = conversation.say(QUESTIONS[1], GREEDY).wait()
    once = fed(demo) - before
    assert later.say(QUESTIONS[1], GREEDY).wait() == expected
    assert fed(demo) - before == 2 * once < len(expected.prompt_ids)


def test_a_conversation_without_a_fitting_state_is_read_to_be_saved(llm: LLM, tmp_path: Path) -> None:
    conversation = Conversation(llm)
    conversation.say("hi", SEEDED).wait()
    conversation.system = "Be kind."
    conversation.save(tmp_path / "kind.safetensors")
    later = Conversation(llm)
    later.load(tmp_path / "kind.safetensors")
    assert later.system == "Be kind."
    before = fed(llm)
    reply = later.say("hi", SEEDED).wait()
    assert fed(llm) - before < len(reply.prompt_ids) / 2
    assert reply.token_ids == as_if_sent_anew(later, SEEDED)


def test_a_file_that_cannot_be_gone_on_with(demo: LLM, llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    other = Conversation(demo)
    other.say(QUESTIONS[0], GREEDY).wait()
    other.save(path)
    conversation = Conversation(llm)
    conversation.say("hi", SEEDED).wait()
    before = conversation.messages

    state = llm.stream([1], SamplingParams(max_tokens=0), keep=("prompt",)).__next__().prompt_state
    assert state is not None
    (broken := tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:-5])
    state.save(alone := tmp_path / "state.safetensors")
    extra = {"conversation.messages": '[{"role": "user", "content": "hi"}]', "conversation.tokens": "[1, 2]"}
    state.save(longer := tmp_path / "longer.safetensors", extra)
    state.save(strange := tmp_path / "strange.safetensors", {**extra, "conversation.messages": '[{"a": "b"}]'})
    fields = {"some": np.zeros(3, np.float32)}
    StateSnapshot.from_arrays(state.fingerprint, 1, fields).save(foreign := tmp_path / "foreign.safetensors", extra)
    for file, message in (
        (path, r"another model \(wingbeat-demo\)"),
        (broken, "damaged"),
        (tmp_path / "none.safetensors", "none.safetensors"),
        (Path(llm.info.path), "is not a saved state"),
        (alone, "no conversation"),
        (strange, "no conversation"),
        (longer, "1 tokens, but 2 are listed"),
        (foreign, "another version"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            conversation.load(file)
        assert conversation.messages == before
    reply = conversation.say("again", SEEDED).wait()
    assert reply.token_ids == as_if_sent_anew(conversation, SEEDED)


def test_a_model_without_a_tokenizer_cannot_talk(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "odd.safetensors", random_rwkv7(layers=1, width=64, vocab=77))
    with LLM(path) as llm, pytest.raises(ValueError, match="no tokenizer"):
        Conversation(llm)
