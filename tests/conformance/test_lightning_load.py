"""rwkv_lightning's known defects K16 to K20 are not so here: long prompts, rows that share a batch, limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.lightning import metric, post, refused, texts
from tests.live import LiveServer, live_server, settings_for

V1_PATH, V2_PATH, V3_PATH = (f"/v{version}/chat/completions" for version in (1, 2, 3))
BIG, FIM, STATE, TREE = (
    *("/big_batch/completions", "/FIM/v1/batch-FIM"),
    *("/state/chat/completions", "/multi_state/chat/completions"),
)
GREEDY: dict[str, Any] = {"noise": 0, "stop_tokens": [], "ignore_eos": True}
ENDLESS: dict[str, Any] = {**GREEDY, "max_tokens": 1_000_000, "stream": True, "chunk_size": 1}


@contextlib.asynccontextmanager
async def running(http: httpx.AsyncClient, body: dict[str, Any]) -> Any:
    """The lines of a stream that has begun to answer, until its client leaves."""
    async with http.stream("POST", V1_PATH, json=body) as reply:
        lines = reply.aiter_lines()
        await anext(lines)
        yield lines


async def health(server: LiveServer, running: int, waiting: int = 0) -> tuple[int, int]:
    """How many rows run and wait, once that is as told, or in the end."""
    report = await asyncio.to_thread(server.wait_for, lambda h: (h["running"], h["waiting"]) == (running, waiting))
    return report["running"], report["waiting"]


@pytest.mark.parametrize("path", [V1_PATH, V2_PATH, STATE])
async def test_k16_a_long_prompt_holds_nobody_up(server: LiveServer, path: str) -> None:
    """While it is being read, others are answered."""
    before = metric(server, "prompt_tokens_total")
    body = {**GREEDY, "contents": ["0123456789" * 50_000], "max_tokens": 1}
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        long = asyncio.create_task(http.post(path, json=body))
        assert await health(server, 1) == (1, 0)
        for models in ("/v1/models", "/openai/v1/models"):
            assert (await http.get(models)).json()["object"] == "list"
        short = await http.post(path, json={**GREEDY, "contents": ["x"], "max_tokens": 3})
        assert short.json()["usage"]["completion_tokens"] == 3
        assert metric(server, "prompt_tokens_total") < before + 500_000
        assert not long.done()
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
    assert await health(server, 0) == (0, 0)


@pytest.mark.parametrize("path", [V1_PATH, V2_PATH, V3_PATH])
def test_k17_a_prompt_is_read_in_few_steps(server: LiveServer, path: str) -> None:
    """Of 512 tokens, and many prompts in one."""
    for rows, length in ((1, 4000), (8, 60)):
        steps, read = metric(server, "steps_total"), metric(server, "prompt_tokens_total")
        prompts = [f"{path} {row}".ljust(length, ".") for row in range(rows)]
        post(server, path, {**GREEDY, "contents": prompts, "max_tokens": 1, "pad_zero": False})
        assert metric(server, "prompt_tokens_total") - read >= 0.9 * rows * length
        assert metric(server, "steps_total") - steps <= 20


async def test_k18_a_row_that_has_ended_leaves_the_batch(server: LiveServer) -> None:
    """While the others of its request go on."""
    body = {**GREEDY, "contents": [f"{row}: " for row in range(8)], "max_tokens": 1000}
    free = texts(post(server, V1_PATH, body))
    stop = next(char for char in free[0] if char.isascii() and any(char not in text for text in free))
    ending = sum(stop in text for text in free)
    some_end = {**ENDLESS, "contents": body["contents"], "stop_tokens": [stop]}
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
        http.stream("POST", V1_PATH, json=some_end) as reply,
    ):
        lines, ended = reply.aiter_lines(), 0
        while ended < ending:
            ended += (await anext(lines)).count('"finish_reason"')
        assert await health(server, 8 - ending) == (8 - ending, 0)
        assert '"delta"' in await anext(lines) + await anext(lines)
    assert await health(server, 0) == (0, 0)


async def test_k18_requests_share_a_batch(server: LiveServer) -> None:
    """A request is answered while another one runs, and both of them in the same steps."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http, running(http, {**ENDLESS, "contents": "x"}):
        for path in (V1_PATH, V2_PATH, V3_PATH, BIG, STATE):
            body = {**GREEDY, "contents": ["the wing"], "max_tokens": 5, "stream": False}
            assert (await http.post(path, json=body)).json()["usage"]["completion_tokens"] == 5
        assert await health(server, 1) == (1, 0)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        steps = metric(server, "steps_total")
        body = {**GREEDY, "max_tokens": 1500}
        replies = await asyncio.gather(*(http.post(V2_PATH, json={**body, "contents": [str(n)]}) for n in range(4)))
        assert [reply.status_code for reply in replies] == [200] * 4
        assert metric(server, "steps_total") - steps < 3 * 1500


@pytest.fixture(scope="module")
def small(model_path: Path) -> Iterator[LiveServer]:
    """Two rows run, three wait, and prompts have up to a hundred tokens."""
    with live_server(settings_for(model_path, max_batch=2, max_queue=3, max_prompt_tokens=100)) as live:
        yield live


async def test_k19_everyone_is_answered_or_refused(small: LiveServer) -> None:
    """However many come at once."""
    async with httpx.AsyncClient(base_url=small.url, timeout=30) as http:

        async def ask(number: int) -> int:
            rows = 1 + number % 5
            reply = await http.post(V2_PATH, json={**GREEDY, "contents": ["x"] * rows, "max_tokens": 20})
            if reply.status_code == 200:
                assert len(texts(reply.json())) == rows
            else:
                assert int(reply.headers["retry-after"]) >= 1
                assert list(reply.json()) == ["error"]
            return reply.status_code

        assert set(await asyncio.gather(*map(ask, range(40)))) == {200, 429}
    assert await health(small, 0) == (0, 0)


async def test_k19_rows_that_run_do_not_count_twice(small: LiveServer) -> None:
    """The largest request is taken beside one that runs, and waits for nobody's end but that of its own rows."""
    async with httpx.AsyncClient(base_url=small.url, timeout=30) as http, running(http, {**ENDLESS, "contents": "x"}):
        reply = await http.post(V1_PATH, json={**GREEDY, "contents": ["x"] * 5, "max_tokens": 3})
        assert len(texts(reply.json())) == 5
        assert await health(small, 1) == (1, 0)


async def test_k19_who_waits_is_next(small: LiveServer) -> None:
    """As soon as there is room; and who leaves while waiting is in nobody's way."""
    body = {**GREEDY, "contents": ["x"], "max_tokens": 3}
    async with httpx.AsyncClient(base_url=small.url, timeout=30) as http, running(http, {**ENDLESS, "contents": "x"}):
        async with running(http, {**ENDLESS, "contents": "y"}):
            impatient = asyncio.create_task(http.post(V1_PATH, json=body))
            assert await health(small, 2, 1) == (2, 1)
            patient = asyncio.create_task(http.post(V1_PATH, json=body))
            assert await health(small, 2, 2) == (2, 2)
            impatient.cancel()
            await asyncio.gather(impatient, return_exceptions=True)
            assert await health(small, 2, 1) == (2, 1)
        assert (await patient).status_code == 200
    assert await health(small, 0) == (0, 0)


@pytest.mark.parametrize("path", [V1_PATH, V2_PATH, V3_PATH, BIG, FIM, STATE, TREE])
def test_k20_there_are_limits(small: LiveServer, path: str) -> None:
    """Of tokens, of prompts, each and together, and of rows: a text says what is too much."""

    def refusal(prompts: list[str], **more: Any) -> str:
        gaps = {"prefix": prompts, "suffix": [""] * len(prompts)}
        tree = {"session_id": "s", "dialogue_idx": 0}
        body = {"contents": prompts, **gaps, **tree, "stream": False, "max_tokens": 2, **more}
        status, said = refused(small, path, body)
        assert status == 400
        assert isinstance(said["error"], str)
        return said["error"]

    assert refusal(["x"], max_tokens=1_000_001) == "max_tokens: must be at most 1000000."
    assert "max_tokens" in refusal(["x"], max_tokens=-1)
    text = "prefix" if path == FIM else "contents"
    assert refusal(["0123456789" * 11]).startswith(f"{text}: 1")
    if path in (STATE, TREE):
        assert refusal(["x", "y"]) == "Request must be single prompt!"
    else:
        assert refusal(["0123456789" * 4] * 3).startswith(f"{text}: 1")
        assert refusal(["x"] * 6) == "bsz overflow, Max bsz=5"
    assert small.wait_idle()["running"] == 0
