"""Translation, as Immersive Translate asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.lightning import post, refused
from tests.live import LiveServer
from wingbeat.engine.messages import RowOutput
from wingbeat.text.world import WorldTokenizer

PATH = "/translate/v1/batch-translate"


def translate(server: LiveServer, texts: list[str], source: str = "en", target: str = "zh-CN") -> list[dict[str, Any]]:
    body = {"source_lang": source, "target_lang": target, "text_list": texts}
    return post(server, PATH, body)["translations"]


def test_texts_are_translated_in_order(server: LiveServer) -> None:
    """E1."""
    found = translate(server, ["Hello world!", "Good morning"])
    assert [entry["detected_source_lang"] for entry in found] == ["en", "en"]
    assert all(entry["text"] == entry["text"].strip() for entry in found)
    assert translate(server, ["Hello world!", "Good morning"]) == found
    assert translate(server, ["Good morning", "Hello world!"]) == found[::-1]
    assert [entry["detected_source_lang"] for entry in translate(server, ["你好世界", "早上好"], "zh-CN", "en")] == [
        "zh-CN",
        "zh-CN",
    ]


def test_it_is_the_prompt_that_world_models_know(server: LiveServer, tokenizer: WorldTokenizer) -> None:
    (entry,) = translate(server, ["Good morning"])
    prompt = "English: Good morning\n\nChinese:"
    limit = 64 + 4 * len(tokenizer.encode(prompt))
    body: dict[str, Any] = {"contents": [prompt], "noise": 0, "max_tokens": limit}
    body["stop_tokens"] = [0, "\n\n", "\nEnglish:", "\nChinese:"]
    written = post(server, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert entry["text"].split() == written.split()


def test_the_form_of_a_text_survives(server: LiveServer) -> None:
    text = "\n  One <b>bold</b> word, {0}.\r\n\r\n\tTwo &amp; three\n---\n"
    (entry,) = translate(server, [text])
    first, blank, second, last = entry["text"].replace("\r\n", "\n").split("\n")
    assert (blank, last) == ("", "---")
    assert second.startswith("\t")
    assert [mark for mark in ("<b>", "</b>", "{0}") if mark in first] == ["<b>", "</b>", "{0}"]
    assert first.index("<b>") < first.index("</b>") < first.index("{0}")
    assert "&amp;" in second


def test_nothing_to_translate(server: LiveServer) -> None:
    assert post(server, PATH, {"target_lang": "en", "text_list": []}) == {"translations": []}
    found = translate(server, ["", "  \n ", "...", "x"])
    assert [entry["text"] for entry in found[:3]] == ["", "", "..."]


def test_auto_is_what_each_text_is_in(server: LiveServer) -> None:
    """K14."""
    texts = ["The quick brown fox jumps over the lazy dog.", "今天天气很好", "おはようございます"]
    found = translate(server, texts, "auto", "en")
    assert [entry["detected_source_lang"] for entry in found] == ["en", "zh-CN", "ja"]
    assert found[0]["text"] == texts[0], "what is in the target's language stays as it is"


def test_a_text_that_fails_loses_no_other(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    want = translate(server, ["Hello", "Good morning"])
    client = server.registry.first.client
    feed = client._feed

    def failing(generation: Any, outputs: list[RowOutput], now: float) -> None:
        for output in outputs:
            if output.row == 0 and output.finish_reason is not None:
                output.finish_reason, output.error = "error", "the logits are not finite"
        feed(generation, outputs, now)

    monkeypatch.setattr(client, "_feed", failing)
    found = translate(server, ["Hello", "Good morning"])
    assert found[0] == {"detected_source_lang": "en", "text": "", "error": "the logits are not finite"}
    assert found[1] == want[1]
    status, said = refused(server, PATH, {"source_lang": "en", "target_lang": "zh-CN", "text_list": ["Hello"]})
    assert (status, said) == (500, {"error": "the logits are not finite"})


def test_what_is_wrong_is_named(server: LiveServer) -> None:
    assert refused(server, PATH, {"text_list": ["x"]}) == (400, {"error": "Missing target_lang parameter"})
    assert refused(server, PATH, {"target_lang": "en"}) == (400, {"error": "Missing text_list parameter"})
    status, said = refused(server, PATH, {"target_lang": "en", "text_list": [1]})
    assert status == 400
    assert "text_list[0]" in said["error"]


def test_null_and_nothing_are_auto(server: LiveServer) -> None:
    want = translate(server, ["今天天气很好"], "auto", "en")
    assert want[0]["detected_source_lang"] == "zh-CN"
    for source in (None, "", "Auto"):
        body = {"source_lang": source, "target_lang": "en", "text_list": "今天天气很好"}
        assert post(server, PATH, body)["translations"] == want


def test_a_text_of_more_lines_than_can_wait_is_refused(server: LiveServer) -> None:
    most = server.registry.first.config.max_queue + 8
    body = {"source_lang": "en", "target_lang": "zh-CN", "text_list": ["a\n" * (most + 1)]}
    status, said = refused(server, PATH, body)
    assert (status, said["request_bsz"], said["max_bsz"]) == (400, most + 1, most)
