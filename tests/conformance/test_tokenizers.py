"""The text routes with models whose vocabulary is not World's: MIDI, and a byte-level BPE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.live import LiveServer, live_server, settings_for
from tests.test_tokenizer_choice import write_model
from tests.text.pile import pile_tokenizer, write_pile
from wingbeat.text import MidiTokenizer

ROWS = 640  # of the BPE model: 600 tokens and padding


def client_of(server: LiveServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def post(server: LiveServer, path: str, **body: Any) -> dict[str, Any]:
    reply = server.http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.fixture(scope="module")
def piano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(settings_for(write_model(tmp_path_factory.mktemp("piano"), 2176))) as server:
        yield server


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("pile")
    write_pile(folder / "tiny.tokenizer.json", 600)
    with live_server(settings_for(write_model(folder, ROWS), profile="raven")) as server:
        yield server


def test_midi_is_completed_in_words(piano: LiveServer) -> None:
    ask: dict[str, Any] = {"model": "tiny", "prompt": "<pad> P:3C:A", "max_tokens": 12, "seed": 5, "temperature": 1}
    with client_of(piano) as client:
        whole = client.completions.create(**ask, extra_body={"ignore_eos": True})
        pieces = [
            c.choices[0].text for c in client.completions.create(**ask, stream=True, extra_body={"ignore_eos": True})
        ]
        echoed = client.completions.create(**ask, echo=True, logprobs=1, extra_body={"ignore_eos": True}).choices[0]
    text, tokenizer = whole.choices[0].text, MidiTokenizer("piano")
    assert "".join(pieces) == text
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (2, 12)
    assert echoed.text == f" p:3c:a{text}"
    assert echoed.logprobs.tokens[:2] == ["<|endoftext|>", " p:3c:a"]
    assert echoed.logprobs.text_offset[:3] == [0, 0, 7]


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/responses", "/v1/responses/input_tokens", "/tokenize"])
def test_a_model_without_a_chat_format_refuses_conversations(piano: LiveServer, route: str) -> None:
    said = [{"role": "user", "content": "hi"}]
    body = {"model": "tiny", "input" if "responses" in route else "messages": said}
    reply = piano.http.post(route, json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == ("model", "unsupported_value")
    assert "does not chat" in error["message"]


def test_midi_tokens(piano: LiveServer) -> None:
    ids = post(piano, "/tokenize", model="tiny", prompt="<start> p:3c:a <end>", return_token_strs=True)
    assert (ids["tokens"], ids["token_strs"]) == ([1, 1098, 2], [" <start>", " p:3c:a", " <end>"])
    assert post(piano, "/detokenize", model="tiny", tokens=[0, 1, 1098])["prompt"] == "<|endoftext|> <start> p:3c:a"
    assert piano.http.get("/tokenizer_info").json()["tokenizer_class"] == "MidiTokenizer"


def test_bpe_completions_stream_whole_characters(pile: LiveServer) -> None:
    half = pile_tokenizer(600).encode("🚀").ids[0]
    ask: dict[str, Any] = {"model": "tiny", "prompt": "the wing", "temperature": 0, "max_tokens": 3}
    ask["logit_bias"] = {str(half): 100}  # the same byte again and again is no character
    with client_of(pile) as client:
        text = client.completions.create(**ask).choices[0].text
        streamed = [chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True)]
        whole = client.completions.create(**ask, logprobs=1, echo=True).choices[0]
    assert text == "".join(streamed) == "\ufffd" * 3
    assert whole.text == "the wing" + text
    assert "".join(whole.logprobs.tokens[:-3]) == "the wing"
    assert whole.logprobs.tokens[-3:] == [r"bytes:\xf0"] * 3
    assert whole.logprobs.text_offset[-3:] == [8, 9, 10]


def test_padding_is_never_an_answer(pile: LiveServer) -> None:
    bias = {str(token): 100 for token in range(600, ROWS)}
    with client_of(pile) as client:
        reply = client.completions.create(
            model="tiny",
            prompt="the",
            max_tokens=8,
            seed=1,
            logprobs=5,
            logit_bias=bias,
            extra_body={"ignore_eos": True},
        )
    names = {name for tops in reply.choices[0].logprobs.top_logprobs for name in tops}
    assert not names & {f"token_id:{token}" for token in range(600, ROWS)}
    assert len(reply.choices[0].logprobs.tokens) == 8


def test_bpe_prompts_and_chats_are_tokenized_as_trained(pile: LiveServer) -> None:
    library = pile_tokenizer(600)
    assert post(pile, "/tokenize", model="tiny", prompt="wing\n\n")["tokens"] == [*library.encode("wing").ids, 187, 187]
    chat = post(pile, "/tokenize", model="tiny", messages=[{"role": "user", "content": "the wing"}])
    assert chat["tokens"] == library.encode("Bob: the wing\n\nAlice:").ids
    named = post(pile, "/tokenize", model="tiny", content=["<|endoftext|>", "a<|endoftext|>"], with_pieces=True)
    assert [piece["piece"] for piece in named["tokens"]] == ["<|endoftext|>", *"a<|endoftext|>"]
    assert post(pile, "/detokenize", model="tiny", tokens=[0, 187, 599])["content"] == "<|endoftext|>\n  "


def test_raven_answers_as_alice(pile: LiveServer) -> None:
    said: Any = [{"role": "user", "content": "the wing"}]
    with client_of(pile) as client:
        reply = client.chat.completions.create(
            model="tiny", messages=said, max_tokens=4, temperature=0, logit_bias={"187": 100}
        )
        with pytest.raises(BadRequestError, match="is not a token of this model"):
            client.completions.create(model="tiny", prompt=[ROWS])
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("", "stop")
    assert reply.usage.prompt_tokens == len(pile_tokenizer(600).encode("Bob: the wing\n\nAlice:").ids)
