"""Kills the engine under load, again and again, and takes away what the server needs.

    python benchmarks/faults.py [--kills 50] [--streams 32]

Starts `wingbeat serve` with the demo model and keeps it busy with streams and whole requests on every route that
generates. What must hold: each request that a killed engine ran ends with a clear error, never cut off and never as if
it were complete; the engine is started again; what is answered is to the letter what was answered before the first
kill; nothing is left behind: no process, no open file, no memory, no slot. Then the engine stands still for some
seconds, its model's file goes away, the server is told to stop, and is killed itself. Ends with status 1 when something
did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from questions import Load, ask_all
from served import SMALL_CACHE, Reply, Served, health, request, serving, wait_idle

from wingbeat.llm import demo_model_path

STILL_SECONDS = 2.0
GONE_SECONDS = 30.0
GROWTH_MB = 24.0


class Fault(Exception):  # noqa: N818 - what did not hold
    """The message says what did not hold."""


async def learn(served: Served, clients: int) -> list[Any]:
    """What each client is answered while nothing is wrong."""
    judgements = await ask_all(served.port, clients)
    check(all(outcome == "answered" for outcome, _ in judgements), f"at rest: {judgements}")
    return [answer for _, answer in judgements]


async def kill_engines(served: Served, kills: int, known: list[Any]) -> None:
    """SIGKILL the engine under load, `kills` times."""
    load, chance, ended, slowest = Load(served.port, known), random.Random(1), [], 0.0
    await until_answered(served)
    at_rest = early = served.footprint()
    async with load.running():
        for number in range(kills):
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            engine = served.engine
            assert engine is not None
            ended.append(engine)
            begun = time.monotonic()
            engine.kill()
            await until_answered(served)
            slowest = max(slowest, time.monotonic() - begun)
            if number == kills // 5:
                early = served.footprint()
    report, after = await wait_idle(served.port), served.footprint()
    print(f"{kills} kills, at most {slowest:.1f} s without answers:", dict(load.outcomes))
    print(f"at rest: {at_rest}; under load, after the first fifth: {early}; at rest again: {after}")
    check(not load.faults, f"{len(load.faults)} faults, such as {load.faults[:3]}")
    check(load.outcomes["failed in its stream"] > 0, "no stream was hit")
    check(not report["running"] and not report["waiting"], f"slots are taken: {report}")
    check(not any(engine.is_running() for engine in ended), "a killed engine is still there")
    check(len(served.api.children(recursive=True)) == 1, f"processes: {served.api.children(recursive=True)}")
    check(after.files <= at_rest.files + 4, "files are left open")
    check(after.api_mb <= early.api_mb + GROWTH_MB, "the API's memory grew")


async def stop_engine(served: Served, known: list[Any]) -> None:
    """The engine stands still: requests wait, and go on as if nothing had been."""
    load, engine = Load(served.port, known), served.engine
    assert engine is not None
    async with load.running():
        await asyncio.sleep(0.5)
        engine.suspend()
        for _ in range(10):
            await asyncio.sleep(STILL_SECONDS / 10)
            check((await health(served.port)).get("status") == "ok", "the API does not answer beside a still engine")
        engine.resume()
        before = load.outcomes["answered"]
        while load.outcomes["answered"] < before + len(known) and not load.faults:
            await asyncio.sleep(0.1)
    print(f"an engine that stood still for {STILL_SECONDS:.0f} s:", dict(load.outcomes))
    check(not load.faults and set(load.outcomes) == {"answered"}, f"{load.outcomes} {load.faults[:3]}")


async def lose_model(served: Served, model: Path) -> None:
    """The model's file is away when the engine has to start, and comes back."""
    hidden = model.rename(model.with_suffix(".hidden"))
    engine = served.engine
    assert engine is not None
    engine.kill()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        reply = await complete(served.port)
        check(reply.status == 503 and reply.error is not None, f"without its model it answers {reply}")
        await asyncio.sleep(0.1)
    report = await health(served.port)
    check(report["status"] == "restarting", f"without its model it is {report}")
    hidden.rename(model)
    await until_answered(served)
    print("a model that went away and came back: served again; meanwhile", report.get("error"))


async def end_server(served: Served, number: int, known: list[Any]) -> None:
    """The server itself ends, by a signal: nothing of it stays."""
    load, engine = Load(served.port, known), served.engine
    assert engine is not None
    async with load.running():
        await asyncio.sleep(0.5)
        load.over = True  # no more of them: who comes now is turned away
        served.process.send_signal(number)
        await asyncio.to_thread(served.process.wait, GONE_SECONDS)
        _, alive = await asyncio.to_thread(psutil.wait_procs, [engine], GONE_SECONDS)
    print(f"{signal.Signals(number).name} to the server: both processes gone;", dict(load.outcomes))
    check(not alive, f"still there: {alive}")
    cut = [fault for fault in load.faults if number != signal.SIGKILL or "cut off" not in fault]
    check(not cut, f"{cut[:3]}")
    if number == signal.SIGTERM:
        check(served.process.returncode == 0, f"it ended with status {served.process.returncode}")


async def complete(port: int) -> Reply:
    return await request(port, "POST", "/v1/completions", {"prompt": "wing", "max_tokens": 2})


async def until_answered(served: Served, seconds: float = 60.0) -> None:
    """Wait until a request is answered; whatever comes before that must be a clear refusal."""
    end = time.monotonic() + seconds
    while (reply := await complete(served.port)).status != 200:
        check(reply.status in (500, 503) and reply.error is not None, f"refused with {reply}")
        check(time.monotonic() < end, f"no engine for {seconds:.0f} s: {await health(served.port)}")
        await asyncio.sleep(0.05)


def check(holds: Any, why: str) -> None:
    if not holds:
        raise Fault(why)


def run(kills: int, clients: int) -> None:
    """Everything, one after the other. Raises Fault."""
    with tempfile.TemporaryDirectory() as folder:
        demo = demo_model_path()
        for file in demo.parent.glob(f"{demo.stem}.*"):  # the model and its vocabulary
            shutil.copy(file, folder)
        model = Path(folder, demo.name)
        with serving(*SMALL_CACHE, model=str(model)) as served:
            known = asyncio.run(learn(served, clients))
            asyncio.run(kill_engines(served, kills, known))
            asyncio.run(stop_engine(served, known))
            asyncio.run(lose_model(served, model))
            asyncio.run(end_server(served, signal.SIGTERM, known))
        with serving(*SMALL_CACHE, model=str(model)) as served:
            asyncio.run(end_server(served, signal.SIGKILL, known))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--streams", type=int, default=32, help="clients, which ask on every route that generates")
    args = parser.parse_args()
    try:
        run(args.kills, args.streams)
    except Fault as fault:
        raise SystemExit(f"This did not hold: {fault}") from None
    print("Everything held.")


if __name__ == "__main__":
    main()
