"""Keeps thousands of streams open at once, for minutes.

    python benchmarks/soak.py [--streams 2000] [--minutes 10] [--max-batch 64] [--model MODEL] [--dtype int8]

Starts `wingbeat serve` and opens all streams; each that ends is replaced by another. This client runs in a process of
its own and only counts bytes and looks at the ends. With fewer slots than streams the others wait their turn in the
queue. Prints figures while it runs. What must hold: no stream fails, is cut off or ends otherwise than complete; the
memory of both processes in the last tenth of the time is what it was in the first after all streams were open; when
all clients leave at once, no slot stays taken and no file open. Ends with status 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import statistics
import time
from collections import Counter

from served import HOST, SMALL_CACHE, Footprint, Served, head, request, serving, wait_idle

SAMPLE_SECONDS = 1.0
OPENED_AT_ONCE = 50
GROWTH_MB = 16.0
GROWTH_SHARE = 0.05


class Crowd:
    """The streams that are open, and what came of those that ended."""

    def __init__(self, port: int, tokens: int) -> None:
        self.port = port
        self.open: set[Stream] = set()
        self.completed = self.tokens = self.received = 0
        self.failures: Counter[str] = Counter()
        self.over = False
        self._tokens = tokens
        self._chance = random.Random(1)
        self._pending: set[asyncio.Task[object]] = set()

    def request(self) -> bytes:
        chance = self._chance
        body = {
            "prompt": "English: " + " ".join(chance.choices(("save", "open", "the file", "all"), k=4)) + "\n\nChinese:",
            "max_tokens": chance.randint(self._tokens // 4, 2 * self._tokens),
            "seed": chance.getrandbits(32),
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return head("POST", "/v1/completions", body)

    def add(self) -> None:
        """Open one more stream."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.create_connection(lambda: Stream(self), HOST, self.port))
        self._pending.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[object]) -> None:
        self._pending.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.failures[f"not connected: {error}"] += 1

    def ended(self, stream: Stream, tail: bytes) -> None:
        """A stream's connection is gone; its place is taken by another."""
        self.open.discard(stream)
        if self.over:
            return
        if b"data: [DONE]" in tail:
            usage = json.loads(tail.split(b"data: ")[-2].splitlines()[0])["usage"]
            self.completed += 1
            self.tokens += usage["completion_tokens"]
        else:
            self.failures[tail[-200:].decode(errors="replace") or "cut off"] += 1
        self.add()

    async def leave(self) -> None:
        """All clients leave at once."""
        self.over = True
        for task in self._pending:
            task.cancel()
        for stream in list(self.open):
            stream.transport.abort()
        await asyncio.sleep(0.1)


class Stream(asyncio.Protocol):
    """One streamed request on a connection of its own."""

    transport: asyncio.Transport

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._crowd.open.add(self)
        transport.write(self._crowd.request())

    def data_received(self, data: bytes) -> None:
        self._crowd.received += len(data)
        self._tail = (self._tail + data)[-1024:]
        if data.endswith(b"0\r\n\r\n") or b'"error":' in data:  # the last chunk of the reply, or a refusal
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.ended(self, self._tail)


async def soak(served: Served, args: argparse.Namespace) -> list[str]:
    """Gives what did not hold."""
    await asyncio.gather(*(request(served.port, "GET", "/health") for _ in range(20)))
    at_rest, crowd = served.footprint(), Crowd(served.port, args.tokens)
    begun = time.monotonic()
    for number in range(args.streams):
        crowd.add()
        if number % OPENED_AT_ONCE == 0:
            await asyncio.sleep(0.02)
    while len(crowd.open) < args.streams and not crowd.failures:
        await asyncio.sleep(0.05)
    print(f"{len(crowd.open)} streams open after {time.monotonic() - begun:.1f} s", flush=True)
    samples = await watch(served, crowd, begun + 60 * args.minutes, 60 * args.minutes / 10)
    fewest = min(count for count, _ in samples)
    await crowd.leave()
    report, after = await wait_idle(served.port), served.footprint()
    print(f"all left: {after}; {report['running']} running, {report['waiting']} waiting")
    wrong = [f"{count} x {why}" for why, count in crowd.failures.most_common(5)]
    wrong += [f"logged: {line[:300]}" for line in served.complaints()[:5]]
    wrong += check_memory([footprint for _, footprint in samples])
    if crowd.completed == 0:
        wrong.append("no stream was completed: the time is too short")
    if fewest < 0.95 * args.streams:  # those that end in the same step are replaced a moment later
        wrong.append(f"only {fewest} streams were open at once")
    if report["running"] or report["waiting"]:
        wrong.append(f"slots are taken though all clients left: {report}")
    if after.files > at_rest.files + 8:
        wrong.append(f"files are left open: {at_rest.files} before, {after.files} after")
    return wrong


async def watch(served: Served, crowd: Crowd, end: float, interval: float) -> list[tuple[int, Footprint]]:
    """Streams open and memory, each second until `end`; prints figures every `interval` seconds."""
    samples: list[tuple[int, Footprint]] = []
    reported, tokens, received = time.monotonic(), crowd.tokens, crowd.received
    while (now := time.monotonic()) < end:
        samples.append((len(crowd.open), served.footprint()))
        await asyncio.sleep(SAMPLE_SECONDS)
        if now - reported >= interval:
            seconds = now - reported
            print(
                f"{len(crowd.open)} open, {crowd.completed} completed, {sum(crowd.failures.values())} failed; "
                f"{(crowd.tokens - tokens) / seconds:.0f} tokens/s in completed ones, "
                f"{(crowd.received - received) / seconds / 1e6:.2f} MB/s; {samples[-1][1]}",
                flush=True,
            )
            reported, tokens, received = now, crowd.tokens, crowd.received
    return samples


def check_memory(samples: list[Footprint]) -> list[str]:
    """Whether the last tenth of the samples shows more than the second one, in which all streams are open."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth], samples[-tenth:]
    wrong = []
    for name in ("api_mb", "engine_mb"):
        before, after = (statistics.mean(getattr(sample, name) for sample in part) for part in (early, late))
        print(f"{name}: {before:.1f} early, {after:.1f} late")
        if after > before * (1 + GROWTH_SHARE) + GROWTH_MB:
            wrong.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=100, help="of a stream, roughly")
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--model", help="default: the bundled demo")
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flags = ["--max-batch", str(args.max_batch), "--max-queue", str(2 * args.streams), "--dtype", args.dtype]
    with serving(*SMALL_CACHE, *flags, model=args.model) as served:
        wrong = asyncio.run(soak(served, args))
    if wrong:
        raise SystemExit("\n".join(["This did not hold:", *wrong]))
    print("Everything held.")


if __name__ == "__main__":
    main()
