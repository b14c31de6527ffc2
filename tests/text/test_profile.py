from __future__ import annotations

import pytest

from wingbeat.text.profile import PROFILES, choose_profile
from wingbeat.text.stream import StopMatcher
from wingbeat.text.templates import Message


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("rwkv7-g1-0.1b-20250307-ctx4096", "g1"),
        ("/models/rwkv7-g1a-0.4b-20250905-ctx4096.pth", "g1"),
        ("C:\\models\\RWKV7-G1d-2.9B.pth", "g1"),
        ("rwkv7a-g1b-0.1b-20250819-ctx4096", "g1"),
        ("rwkv7-g0a3-7.2b", "g1"),
        ("RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth", "world"),
        ("/g1/RWKV-x060-World-1B6-v2.1.pth", "world"),
        ("model.safetensors", "world"),
        ("something-16gb", "world"),
        ("big1-model", "world"),
        ("wingbeat-demo.safetensors", "demo"),
        ("rwkv-world-demo", "world"),
        ("democracy", "world"),
        ("", "world"),
    ],
)
def test_the_name_tells(name: str, profile: str) -> None:
    assert choose_profile(name).name == profile


@pytest.mark.parametrize(
    ("name", "kind", "profile"),
    [
        ("RWKV-4-Raven-7B-v12-Eng98%-Other2%-20230521-ctx8192.pth", "20b", "raven"),
        ("RWKV-4-Pile-169M-20220807-8023.pth", "20b", "plain"),
        ("RWKV-4-World-0.1B-v1-20230520-ctx4096.pth", "world", "world"),
        ("RWKV-4-MIDI-120M-v1-20230714-ctx4096.pth", "midi", "plain"),
        ("model", "piano", "plain"),
        ("RWKV-5-ABC-82M-v1-20230901-ctx1024.pth", "abc", "plain"),
        ("model", "bytes", "plain"),
        ("rwkv7-g1-0.1b", "bpe", "g1"),
        ("raven", "world", "world"),
    ],
)
def test_the_kind_of_tokenizer_tells(name: str, kind: str, profile: str) -> None:
    assert choose_profile(name, kind=kind).name == profile
    assert choose_profile(name, {"wingbeat.profile": "demo"}, kind=kind).name == "demo"
    assert choose_profile(name, override="g1", kind=kind).name == "g1"


def test_metadata_and_override_come_first() -> None:
    assert choose_profile("rwkv7-g1-0.1b", {"wingbeat.profile": "demo"}).name == "demo"
    assert choose_profile("rwkv7-g1-0.1b", {"format": "pt"}).name == "g1"
    assert choose_profile("rwkv7-g1-0.1b", {"wingbeat.profile": "demo"}, "World").name == "world"
    for metadata, override in (({"wingbeat.profile": "x"}, None), (None, "x")):
        with pytest.raises(ValueError, match="unknown model profile 'x': use one of world, g1, demo, raven, plain"):
            choose_profile("m", metadata, override)


def test_every_profile_is_usable() -> None:
    for name, profile in PROFILES.items():
        assert profile.name == name
        if profile.template is None:
            continue
        assert (profile.thinking == "optional") == profile.template.can_think
        assert StopMatcher(profile.stops).push(f"Hi.\n\n{profile.template.user}: x")[0] == "Hi."
        assert 0 < profile.sampling["top_p"] <= 1


def test_blank_lines_end_a_world_reply_and_not_a_g1_reply() -> None:
    reply = " One.\n\nTwo."
    assert StopMatcher(PROFILES["world"].stops).push(reply) == (" One.", "\n\n")
    assert StopMatcher(PROFILES["g1"].stops).push(reply) == (reply, None)


def test_thinking_has_its_own_sampling() -> None:
    g1, world = PROFILES["g1"], PROFILES["world"]
    assert g1.sampling_for(True)["top_k"] == 100
    assert g1.sampling_for(None) == g1.sampling_for(False) == g1.sampling
    assert world.sampling_for(True) == world.sampling


def test_the_splitter_continues_the_prompt() -> None:
    g1 = PROFILES["g1"]
    ask = [Message("user", "2+2?")]
    assert g1.splitter(g1.render(ask, thinking=True)).push(">Easy.</think>Four.") == ("Easy.", "Four.")
    assert g1.splitter(g1.render(ask, thinking=False)).push(">\nFour.") == ("", "Four.")
    assert g1.splitter(g1.render(ask)).push(" Four.") == ("", "Four.")
    world = PROFILES["world"]
    assert world.splitter(world.render(ask)).push(" Four.") == ("", "Four.")


def test_a_model_that_does_not_chat_says_so() -> None:
    plain = PROFILES["plain"]
    with pytest.raises(ValueError, match="does not chat"):
        plain.render([Message("user", "hi")])
    assert (plain.stops, dict(plain.sampling)) == ((), {})
