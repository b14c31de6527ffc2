"""Translation, as Immersive Translate asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import httpx
import pytest

from tests.conformance.lightning import post, refused
from tests.live import LiveServer
from wingbeat.engine.messages import RowOutput
from wingbeat.services.cutting import marks_in

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


def test_it_is_the_prompt_that_world_models_know(server: LiveServer) -> None:
    (entry,) = translate(server, ["Good morning"])
    body: dict[str, Any] = {"contents": ["English: Good morning\n\nChinese:"], "noise": 0, "max_tokens": 128}
    body["stop_tokens"] = [0, "\n\n", "\nEnglish:", "\nChinese:"]
    written = post(server, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert entry["text"].split() == written.split()


def test_a_text_is_translated_as_it_would_be_alone(server: LiveServer) -> None:
    texts = ["Hi", "A longer text, which has a number of words in it. " * 5, "Good morning", "晚安"]
    alone = [translate(server, [text], "fr")[0] for text in texts]
    assert translate(server, texts, "fr") == alone


def test_what_has_no_end_is_told(server: LiveServer) -> None:
    """K14: a random model goes on and on, also with parts."""
    (entry,) = translate(server, ["the wing beats " * 20])
    assert entry["text"]
    assert "no end for the translation" in entry["error"]


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
    for wrong in (1, None, ["x"], {}):
        status, said = refused(server, PATH, {"target_lang": "en", "text_list": ["x", wrong]})
        assert status == 400
        assert "text_list[1]" in said["error"]


@pytest.mark.parametrize("field", ["source_lang", "target_lang"])
@pytest.mark.parametrize("name", ["en\n\nEnglish: a\n\nGerman", "a\u2028b", "a\tb", "x" * 65, "a: b", "12"])
def test_a_language_is_no_way_into_a_prompt(server: LiveServer, field: str, name: str) -> None:
    body = {"source_lang": "en", "target_lang": "de", "text_list": ["x"]} | {field: name}
    status, said = refused(server, PATH, body)
    assert status == 400
    assert field in said["error"]
    assert "code such as" in said["error"]


def test_codes_come_in_many_forms(server: LiveServer) -> None:
    want = translate(server, ["Good morning"])[0]["text"]
    for source, target in (("EN", "zh_CN"), ("en-US", "ZH-hans"), ("eng", "cmn"), ("English", "Chinese")):
        assert translate(server, ["Good morning"], source, target) == [
            {"detected_source_lang": source, "text": want}
            | {k: v for k, v in translate(server, ["Good morning"])[0].items() if k == "error"}
        ]
    same = [{"detected_source_lang": "pt-BR", "text": "Bom dia"}]
    assert translate(server, ["Bom dia"], "pt-BR", "por") == same


def test_a_browsers_extension_may_ask(server: LiveServer) -> None:
    """As Immersive Translate does: a preflight, then any content type."""
    origin = {"Origin": "chrome-extension://amkbmndfnliijdhojkpoglbnaaahippg"}
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    local = {"Access-Control-Request-Private-Network": "true"}
    preflight = server.http.options(PATH, headers=origin | wanted | local)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert {"content-type", "authorization"} <= set(preflight.headers["access-control-allow-headers"].split(","))
    for kind in ("application/json", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"):
        texts = ["{0} Hallo {1} Welt", "<b0></b0> Hallo <b1>Welt</b1>"]
        body = json.dumps({"source_lang": "auto", "target_lang": "en", "text_list": texts})
        reply = server.http.post(PATH, content=body, headers=origin | {"Content-Type": kind})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "*")
        first, second = reply.json()["translations"]
        assert first["detected_source_lang"] == second["detected_source_lang"] == "de"
        assert marks_in(first["text"]) == ["{0}", "{1}"]
        assert marks_in(second["text"]) == ["<b0>", "</b0>", "<b1>", "</b1>"]


def test_texts_of_all_kinds(server: LiveServer) -> None:
    still = ["🦊👩‍🚀", "?!… --", "\u200b\ufeff", "\x00\x01", "١٢٣ 42", "<b0></b0>", "{0}{1}", "&nbsp;"]
    found = translate(server, still, "auto", "zh-CN")
    assert [entry["text"] for entry in found] == still
    mixed = "a\r\nb\tc\r\n\r\n\u200bd\u200b\r\n"
    (entry,) = translate(server, [mixed])
    assert re.findall(r"[\r\n\t\u200b]+", entry["text"]) == ["\r\n", "\t", "\r\n\r\n\u200b", "\u200b"]


async def test_who_leaves_frees_all_rows(server: LiveServer) -> None:
    body = {"source_lang": "en", "target_lang": "zh-CN", "text_list": ["the wing beats, " * 40] * 40}
    async with httpx.AsyncClient(base_url=server.url) as http:
        asked = asyncio.create_task(http.post(PATH, json=body))
        await asyncio.to_thread(server.wait_for, lambda health: health["running"])
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
    health = await asyncio.to_thread(server.wait_idle)
    assert health["running"] == health["waiting"] == 0


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
