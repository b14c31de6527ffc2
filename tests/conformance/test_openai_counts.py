"""Texts, `finish_reason` and `usage` of real generations, held against a plain reading of the same tokens."""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from openai import OpenAI

from tests.live import VOCAB, WORDS, LiveServer, live_server, settings_for
from tests.random_models import random_rwkv7, write_safetensors
from tests.text.vocabs import with_bytes, write_vocab
from wingbeat.text.world import WorldTokenizer

CLOSE = 269
"""`</think>`, which the model says sometimes, as it does the end of text."""
BIAS = {"0": 2, str(CLOSE): 4.5, "266": 3, "261": 4}
MOST = 40
CHOICES = 3
MAX_TOKENS = [1, 7, MOST]
HELLO: Any = [{"role": "user", "content": "hello"}]
PROFILE_STOPS = ["\n\nUser:", "\nUser:"]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("g1")
    write_vocab(folder / "g1.vocab.txt", with_bytes([*WORDS, b"</think>"], first_id=261))
    model = write_safetensors(folder / "g1.safetensors", random_rwkv7(layers=2, width=64, vocab=VOCAB, seed=5))
    with live_server(settings_for(model)) as live:
        assert live.registry.models[0].profile.name == "g1"
        yield live


@pytest.fixture(scope="module")
def client(thinker: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{thinker.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tokenizer(thinker: LiveServer) -> WorldTokenizer:
    known = thinker.registry.models[0].tokenizer
    assert known is not None
    return known


class Told(NamedTuple):
    """What a choice comes to."""

    text: str
    tokens: int
    finish_reason: str


def sampled(client: OpenAI, ids: list[int], seed: int) -> list[list[bytes | None]]:
    """The tokens of each choice when nothing but their number ends it. The end of text is None."""
    reply = client.completions.create(
        model="model",
        prompt=ids,
        n=CHOICES,
        seed=seed,
        max_tokens=MOST,
        logprobs=0,
        logit_bias=BIAS,  # type: ignore[arg-type]
        extra_body={"ignore_eos": True},
    )
    shown = [choice.logprobs for choice in reply.choices]
    return [[token_bytes(token) for token in logprobs.tokens or []] for logprobs in shown if logprobs]


def token_bytes(shown: str) -> bytes | None:
    if shown == "<|endoftext|>":
        return None
    if shown.startswith("token_id:"):
        return b""
    if shown.startswith("bytes:"):
        return bytes(int(code, 16) for code in re.findall(r"\\x(..)", shown))
    return shown.encode()


def read(tokens: list[bytes | None], max_tokens: int, stops: list[str]) -> Told:
    """One token after the other, as a person would do it."""
    decoder, text = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for count, token in enumerate(tokens[:max_tokens], 1):
        if token is None:
            return Told(text + decoder.decode(b"", final=True), count, "stop")
        text += decoder.decode(token)
        found = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
        if found:
            end, length = min(found)
            return Told(text[: end + length], count, "stop")
    return Told(text + decoder.decode(b"", final=True), max_tokens, "length")


def across_a_border(tokens: list[bytes | None]) -> str:
    """A stop text that begins in one token and ends in the next."""
    for first, second in itertools.pairwise(tokens[2:]):
        try:
            if first and second:
                return first.decode()[-1] + second.decode()[0]
        except UnicodeDecodeError:
            continue
    raise AssertionError("no two tokens are whole characters")


def gather(chunks: Any, fields: tuple[str, ...]) -> tuple[list[dict[str, Any]], Any]:
    """The texts of each choice by field, with its only finish_reason, and the usage."""
    told: dict[int, dict[str, Any]] = {}
    usage = None
    for chunk in chunks:
        assert usage is None
        usage = chunk.usage
        for choice in chunk.choices:
            mine = told.setdefault(choice.index, {**dict.fromkeys(fields, ""), "finish_reason": None})
            assert mine["finish_reason"] is None
            said = getattr(choice, "delta", choice)
            for field in fields:
                mine[field] += getattr(said, field, None) or ""
            mine["finish_reason"] = choice.finish_reason
    return [told[index] for index in sorted(told)], usage


COMBINATIONS = [
    (seed, max_tokens, stops, stream)
    for seed in (1, 2)
    for max_tokens in MAX_TOKENS
    for stops in (False, True)
    for stream in (False, True)
]


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize(("seed", "max_tokens", "stops", "stream"), COMBINATIONS)
def test_completions(
    client: OpenAI, tokenizer: WorldTokenizer, seed: int, max_tokens: int, stops: bool, stream: bool, echo: bool
) -> None:
    ids = tokenizer.encode("the wing")
    rows = sampled(client, ids, seed)
    stop = [across_a_border(rows[0]), "世界世"] if stops else []
    wanted = [read(row, max_tokens, stop) for row in rows]
    body = {"model": "model", "prompt": "the wing", "n": CHOICES, "seed": seed, "max_tokens": max_tokens, "echo": echo}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    reply: Any = client.completions.create(**body, stop=stop or None, logit_bias=BIAS)  # type: ignore[arg-type]
    if stream:
        told, usage = gather(reply, ("text",))
    else:
        told, usage = [{"text": c.text, "finish_reason": c.finish_reason} for c in reply.choices], reply.usage
    start = "the wing" if echo else ""
    assert told == [{"text": start + want.text, "finish_reason": want.finish_reason} for want in wanted]
    check_usage(usage, len(ids), sum(want.tokens for want in wanted), 0)


OPENINGS = {None: [], True: [" <think"], False: [" <think>\n</think"]}


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize(("seed", "max_tokens", "stops", "stream"), COMBINATIONS)
def test_chats(
    client: OpenAI,
    tokenizer: WorldTokenizer,
    seed: int,
    max_tokens: int,
    stops: bool,
    stream: bool,
    thinking: bool | None,
) -> None:
    ids = tokenizer.encode_segments(["User:", " hello", "\n\n", "Assistant:", *OPENINGS[thinking]])
    rows = sampled(client, ids, seed)
    stop = [across_a_border(rows[0])] if stops else []
    wanted = [read(row, max_tokens, [*PROFILE_STOPS, *stop]) for row in rows]
    body: dict[str, Any] = {"model": "model", "messages": HELLO, "n": CHOICES, "seed": seed, "logit_bias": BIAS}
    if thinking is not None:
        body["extra_body"] = {"enable_thinking": thinking}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    reply: Any = client.chat.completions.create(**body, stop=stop or None, max_completion_tokens=max_tokens)
    fields = ("reasoning_content", "content")
    if stream:
        told, usage = gather(reply, fields)
    else:
        told = [
            {**{f: getattr(c.message, f, None) or "" for f in fields}, "finish_reason": c.finish_reason}
            for c in reply.choices
        ]
        usage = reply.usage
    parts = [apart(want.text, thinking) for want in wanted]
    assert told == [
        {"reasoning_content": thought, "content": answer, "finish_reason": want.finish_reason}
        for (thought, answer), want in zip(parts, wanted, strict=True)
    ]
    thoughts = [
        thought_tokens(row, want) if thought else 0 for row, want, (thought, _) in zip(rows, wanted, parts, strict=True)
    ]
    check_usage(usage, len(ids), sum(want.tokens for want in wanted), sum(thoughts))


def apart(text: str, thinking: bool | None) -> tuple[str, str]:
    """Reasoning and answer. The prompt ended in an open tag where the switch was used."""
    if thinking is not None:
        text = text.removeprefix(">")
    if not thinking:
        return "", text.strip()
    thought, _, answer = text.partition("</think>")
    return thought.strip(), answer.strip()


def thought_tokens(row: list[bytes | None], want: Told) -> int:
    """Tokens up to the one that completes the closing tag."""
    said = [token or b"" for token in row[: want.tokens]]
    return next((n for n in range(1, len(said) + 1) if b"</think>" in b"".join(said[:n])), len(said))


def check_usage(usage: Any, prompt: int, completion: int, reasoning: int) -> None:
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)
    assert usage.total_tokens == prompt + completion
    assert usage.completion_tokens_details.reasoning_tokens == reasoning
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= prompt


def test_what_need_not_be_read_is_counted(client: OpenAI, thinker: LiveServer) -> None:
    """Once for each prompt, however many answers it gets."""

    def counted(prompt: Any, **more: Any) -> int:
        reply = client.completions.create(model="model", prompt=prompt, max_tokens=1, n=2, extra_body=more)
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        return reply.usage.prompt_tokens_details.cached_tokens or 0

    def total() -> float:
        found = re.search(
            r"^wingbeat_cached_prompt_tokens_total\S* (\S+)$", thinker.http.get("/metrics").text, re.MULTILINE
        )
        assert found
        return float(found[1])

    ids = [[7, 7, 7, *range(20, 40)], [8, 8, 8, *range(30, 60)]]
    assert counted(ids, no_cache=True) == 0
    assert counted(ids) == 0
    before = total()
    assert counted(ids) == sum(map(len, ids))
    assert counted(ids, no_cache=True) == 0
    assert total() > before
    assert thinker.http.get("/stats").json()["models"][0]["cached_states"] > 0
    first, again = (client.responses.create(model="model", input="cached once", max_output_tokens=1) for _ in range(2))
    assert first.usage is not None
    assert again.usage is not None
    assert first.usage.input_tokens_details.cached_tokens < again.usage.input_tokens_details.cached_tokens
    assert again.usage.input_tokens_details.cached_tokens == again.usage.input_tokens


def test_the_generations_are_of_many_kinds(client: OpenAI, tokenizer: WorldTokenizer) -> None:
    """Else the tests above would prove little."""
    ids = tokenizer.encode_segments(["User:", " hello", "\n\n", "Assistant:", " <think"])
    rows = [row for seed in (1, 2) for row in sampled(client, ids, seed)]
    told = [read(row, max_tokens, PROFILE_STOPS) for row in rows for max_tokens in MAX_TOKENS]
    assert {want.finish_reason for want in told} == {"stop", "length"}
    assert {"</think>" in want.text for want in told} == {False, True}
