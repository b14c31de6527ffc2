from __future__ import annotations

import asyncio

import pytest

from wingbeat.services.queues import Queues


async def test_turns_come_in_order_and_names_do_not_wait_for_each_other() -> None:
    queues, order = Queues(), list[int]()

    async def take(number: int) -> None:
        await queues.enter("a")
        order.append(number)
        await asyncio.sleep(0)
        queues.leave("a")

    await queues.enter("a")
    waiting = [asyncio.create_task(take(number)) for number in range(5)]
    await asyncio.sleep(0)
    await queues.enter("b")
    assert (queues.names(), order) == ({"a", "b"}, [])
    queues.leave("b")
    queues.leave("a")
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    assert not queues.busy("a")
    assert queues.names() == set()


async def test_who_leaves_the_queue_gives_the_place_up() -> None:
    queues = Queues()
    await queues.enter("a")
    impatient, patient = (asyncio.create_task(queues.enter("a")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    queues.leave("a")
    await patient
    queues.leave("a")
    assert not queues.busy("a")
