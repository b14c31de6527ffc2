"""Sends malformed requests to every route, and some good ones that must still be answered.

    python benchmarks/fuzz.py [--requests 100000] [--seed 1] [--only 4711] [--url http://127.0.0.1:8000]

Without --url it starts `wingbeat serve` with the demo model and watches its processes too. What must hold: no answer
of 500 or more; every refusal is OpenAI's error object; good requests are answered; at the end nothing runs, waits or
was logged as an error, the engine is the same process, and neither memory nor open files grew. Ends with status 1
when something does not. A request that failed is sent again by its number: --only N, with the same seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from fuzz_requests import Attempt, Requests
from served import SMALL_CACHE, Footprint, Reply, Served, connected, read_reply, request, serving, wait_idle

PATIENCE = 60.0
"""Seconds for an answer that must come."""
GENERATING = 0.3
"""Seconds for an answer that may take many tokens, before the client leaves."""
GROWTH_MB = 96.0
"""What each process may hold more at the end than after the first quarter, when each path was taken: a body of 32 MB is
held several times while it is read, and what is freed is not given back at once."""


class Tally:
    """What came of the attempts."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []

    def fail(self, attempt: Attempt, why: str) -> None:
        self.failures.append(f"request {attempt.index} ({attempt.kind}): {why}; it began {attempt.sent[:300]!r}")
        if len(self.failures) <= 20:
            print(self.failures[-1], file=sys.stderr, flush=True)


async def attempt_one(port: int, attempt: Attempt, tally: Tally) -> None:
    """Send it, and judge what comes."""
    patience = GENERATING if attempt.endless or attempt.incomplete else PATIENCE
    last: Reply | None = None
    try:
        async with connected(port) as (reader, writer), asyncio.timeout(patience):
            writer.write(attempt.sent)
            for _ in range(attempt.replies):
                last = await read_reply(reader, bodiless=attempt.bodiless)
                while last.status == 100:
                    last = await read_reply(reader)
                if why := judge(attempt, last):
                    tally.fail(attempt, why)
                tally.outcomes[str(last.status)] += 1
    except TimeoutError:
        tally.outcomes["left"] += 1
        if patience == PATIENCE:
            tally.fail(attempt, f"no answer in {PATIENCE:.0f} s")
    except ConnectionError as error:
        tally.outcomes["closed"] += 1
        announced = last is not None and (last.headers.get("connection") == "close" or last.status >= 400)
        if not (attempt.incomplete or announced):
            tally.fail(attempt, f"no answer: {error}")


def judge(attempt: Attempt, reply: Reply) -> str | None:
    """What is wrong with an answer."""
    if reply.status >= 500:
        return f"status {reply.status}: {reply.body[:300]!r}"
    if reply.status >= 400 and not attempt.bodiless and reply.error is None:
        return f"status {reply.status} without an error object: {reply.body[:300]!r}"
    if attempt.valid and (reply.status != 200 or b'"error": {' in reply.body or not reply.body):
        return f"a good request got {reply.status}: {reply.body[:300]!r}"
    streamed = reply.headers.get("content-type", "").startswith("text/event-stream")
    if streamed and not reply.body.endswith((b"data: [DONE]\n\n", b"}\n\n")):
        return f"a stream without an end: {reply.body[-300:]!r}"
    return None


async def send_all(port: int, requests: Requests, indices: Iterator[int], connections: int, tally: Tally) -> None:
    async def worker() -> None:
        for index in indices:
            await attempt_one(port, requests.make(index), tally)

    await asyncio.gather(*(worker() for _ in range(connections)))


async def fuzz(port: int, args: argparse.Namespace, served: Served | None) -> list[str]:
    """All requests in four quarters. Gives what did not hold."""
    document = json.loads((await request(port, "GET", "/openapi.json")).body)
    requests, tally = Requests(document, args.seed), Tally()
    numbers = [args.only] if args.only is not None else range(args.requests)
    footprints: list[Footprint] = []
    engine = served.engine if served else None
    for quarter in range(4):
        begun = time.monotonic()
        part = numbers[quarter * len(numbers) // 4 : (quarter + 1) * len(numbers) // 4]
        await send_all(port, requests, iter(part), args.connections, tally)
        report = await wait_idle(port)
        if served:
            footprints.append(served.footprint())
        rate = len(part) / (time.monotonic() - begun)
        print(f"{rate:.0f} requests/s; {footprints[-1] if served else report}", flush=True)
    print("answers:", ", ".join(f"{count} x {outcome}" for outcome, count in tally.outcomes.most_common()))
    wrong = list(tally.failures)
    if report.get("status") != "ok" or report["running"] or report["waiting"]:
        wrong.append(f"the server is not idle at the end: {report}")
    if served:
        wrong += check_process(served, engine, footprints)
    return wrong


def check_process(served: Served, engine: object, footprints: list[Footprint]) -> list[str]:
    """What the server's processes should not have done."""
    wrong = [f"logged: {line[:500]}" for line in served.complaints()]
    if served.engine != engine:
        wrong.append("the engine was started again")
    first, last = footprints[0], footprints[-1]
    if max(last.api_mb - first.api_mb, last.engine_mb - first.engine_mb) > GROWTH_MB:
        wrong.append(f"memory grew: {first}, then {last}")
    if last.files > first.files + 8:
        wrong.append(f"files are left open: {first}, then {last}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="send this one request")
    parser.add_argument("--connections", type=int, default=16, help="at once")
    parser.add_argument("--url", help="of a server that runs already")
    args = parser.parse_args()
    if args.url:
        wrong = asyncio.run(fuzz(urlsplit(args.url).port or 80, args, None))
    else:
        with serving(*SMALL_CACHE) as served:
            wrong = asyncio.run(fuzz(served.port, args, served))
    if wrong:
        print("\n".join([f"{len(wrong)} things are wrong:", *wrong[:20]]))
        raise SystemExit(1)
    print("Everything held.")


if __name__ == "__main__":
    main()
